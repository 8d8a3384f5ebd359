/* windows.c - a text, or a list of ids, cut into windows. See windows.h.
 *
 * The rules are llama.cpp's (tools/perplexity): the text is tokenized once, as one text; windows do not overlap; an incomplete last one is
 * left out; where the tokenizer begins a text with a token of its own, that token stands at place 0 of every window, over what was there.
 * Everything that can be wrong with a text is found here, before a weight is read. */
#include "job/windows.h"

#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "format/json_tree.h"

#define DEFAULT_CONTEXT 512
#define MAX_CONTEXT (INT64_C(1) << 24)
#define RANDOM_WINDOWS 2
#define RANDOM_MAX_IDS (UINT64_C(1) << 28)
#define MAX_JSON_BYTES (UINT64_C(16) << 20)

typedef struct making {
    const fq_text *t;
    const char *dir;
    int64_t vocab;
    fq_tokenizer *tokenizer;     /* NULL: not there, and not needed */
    bool has_bos; uint32_t bos;
    uint32_t *ids; size_t n;     /* of the whole text */
} making;

/* ---- beginning of text ---- */

/* A JSON object of the model's folder; *out NULL if there is no such file. */
static fq_status load_object(const char *dir, const char *name, json_t **out, fq_err *e)
{
    char *path = fqi_path_join(dir, name), *text = NULL;
    size_t n = 0;
    fq_status s = path ? FQ_OK : fqi_fail_nomem(e, name);
    *out = NULL;
    if (path && fqi_path_exists(path)) {
        s = fqi_file_slurp(path, MAX_JSON_BYTES, &text, &n, e);
        if (s == FQ_OK) s = fqi_json_parse(text, n, path, out, e);
        if (s == FQ_OK && !json_is_object(*out)) {
            json_decref(*out);
            *out = NULL;
        }
    }
    free(text);
    free(path);
    return s;
}

/* tokenizer_config.json's bos_token: a string, or an object with the string. */
static fq_status bos_of_tokenizer_config(making *m, fq_err *e)
{
    json_t *root;
    FQI_TRY(load_object(m->dir, "tokenizer_config.json", &root, e));
    const json_t *token = json_object_get(root, "bos_token");
    const char *content = json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
    m->has_bos = content && m->tokenizer && fq_tokenizer_find_added(m->tokenizer, content, &m->bos);
    json_decref(root);
    return FQ_OK;
}

static fq_status bos_of_config(making *m, fq_err *e)
{
    json_t *root;
    FQI_TRY(load_object(m->dir, "config.json", &root, e));
    const json_t *id = json_object_get(root, "bos_token_id");
    json_int_t v = json_integer_value(id);
    m->has_bos = json_is_integer(id) && v >= 0 && v <= UINT32_MAX;
    if (m->has_bos) m->bos = (uint32_t)v;
    json_decref(root);
    return FQ_OK;
}

static fq_status find_bos(making *m, fq_err *e)
{
    const fq_tokenizer_info *info = m->tokenizer ? fq_tokenizer_get_info(m->tokenizer) : NULL;
    if (m->t->bos == FQ_BOS_NEVER) return FQ_OK;
    if (info && info->n_prefix > 0) {
        m->has_bos = true;
        m->bos = info->prefix[0];
        return FQ_OK;
    }
    if (m->t->bos == FQ_BOS_AUTO) return FQ_OK;
    FQI_TRY(bos_of_tokenizer_config(m, e));
    if (!m->has_bos) FQI_TRY(bos_of_config(m, e));
    if (m->has_bos) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(m->dir), "bos-token", "found no beginning-of-text token in tokenizer.json, tokenizer_config.json or config.json, expected one");
}

/* A text needs it; ids only to know whether windows begin with a token of its own. */
static fq_status open_tokenizer(making *m, fq_err *e)
{
    if (m->t->ids) {
        char *path = fqi_path_join(m->dir, "tokenizer.json");
        if (!path) return fqi_fail_nomem(e, "tokenizer.json");
        bool there = fqi_path_exists(path);
        free(path);
        if (!there || m->t->bos == FQ_BOS_NEVER) return FQ_OK;
    }
    return fq_tokenizer_open(m->dir, &m->tokenizer, e);
}

/* ---- ids ---- */

/* "FILE: " before a message about a text, which has no file to it. */
static fq_status name_text(const char *path, fq_status s, const fq_err *why, fq_err *e)
{
    if (s == FQ_OK || !e) return s;
    *e = *why;
    if (s == FQ_E_NOMEM) return s;
    fqi_fail(e, s, FQI_FILE(path), NULL, "%s", why->text);
    memcpy(e->rule, why->rule, sizeof e->rule);
    return s;
}

static fq_status ids_of_text(making *m, fq_err *e)
{
    char *text = NULL;
    size_t n = 0;
    fq_err why = { 0 };
    const fq_encode_options o = { .add_special = m->t->bos != FQ_BOS_NEVER };
    FQI_TRY(fqi_file_slurp(m->t->text, FQI_TEXT_MAX_BYTES, &text, &n, e));
    fq_status s = fq_tokenizer_encode(m->tokenizer, text, n, &o, &m->ids, &m->n, &why);
    free(text);
    return name_text(m->t->text, s, &why, e);
}

static fq_status ids_of_file(making *m, fq_err *e)
{
    char *text = NULL;
    size_t n = 0;
    fq_err why = { 0 };
    FQI_TRY(fqi_file_slurp(m->t->ids, FQI_TEXT_MAX_BYTES, &text, &n, e));
    fq_status s = fq_ids_parse(text, n, &m->ids, &m->n, &why);
    free(text);
    return name_text(m->t->ids, s, &why, e);
}

static fq_status check_ids(const making *m, const char *path, fq_err *e)
{
    for (size_t i = 0; i < m->n; i++)
        if ((int64_t)m->ids[i] >= m->vocab)
            return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "token-id", "found id %u at place %zu, expected an id below %lld, the length of the vocabulary", m->ids[i], i,
                            (long long)m->vocab);
    if (m->has_bos && (int64_t)m->bos >= m->vocab)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(m->dir), "token-id", "found beginning-of-text token %u, expected an id below %lld, the length of the vocabulary", m->bos, (long long)m->vocab);
    return FQ_OK;
}

/* ---- windows ---- */

static fq_status check_request(const fq_text *t, bool random_ids, fq_err *e)
{
    bool random = !t->text && !t->ids;
    int64_t context = t->context ? t->context : DEFAULT_CONTEXT, least = t->score == FQ_SCORE_ALL ? 2 : 4;
    if (t->text && t->ids) return fqi_fail(e, FQ_E_USAGE, NULL, "text", "found a text and a list of ids, expected one of them");
    if (random && !random_ids) return fqi_fail(e, FQ_E_USAGE, NULL, "text", "found neither a text nor a list of ids, expected one of them");
    if (context < least || context > MAX_CONTEXT)
        return fqi_fail(e, FQ_E_USAGE, NULL, "context", "found a window of %lld tokens, expected %lld to %lld", (long long)context, (long long)least, (long long)MAX_CONTEXT);
    if (t->chunks < 0) return fqi_fail(e, FQ_E_USAGE, NULL, "chunks", "found %lld windows, expected a positive number", (long long)t->chunks);
    return FQ_OK;
}

/* splitmix64 (Steele, Lea, Flood 2014): the same ids on every machine. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static fq_status random_stream(making *m, size_t context, fq_err *e)
{
    uint64_t n = (uint64_t)(m->t->chunks ? m->t->chunks : RANDOM_WINDOWS), state = 1;
    if (n > RANDOM_MAX_IDS / context)
        return fqi_fail(e, FQ_E_USAGE, NULL, "chunks", "found %llu windows of %zu pseudo-random ids, expected at most %llu ids", (unsigned long long)n, context,
                        (unsigned long long)RANDOM_MAX_IDS);
    m->n = (size_t)n * context;
    m->ids = fqi_calloc(m->n, sizeof *m->ids);
    if (!m->ids) return fqi_fail_nomem(e, "token ids");
    for (size_t i = 0; i < m->n; i++) m->ids[i] = (uint32_t)(next_random(&state) % (uint64_t)m->vocab);
    return FQ_OK;
}

static fq_status make_stream(making *m, size_t context, fq_err *e)
{
    const char *path = m->t->text ? m->t->text : m->t->ids;
    if (!path) return random_stream(m, context, e);
    FQI_TRY(open_tokenizer(m, e));
    FQI_TRY(find_bos(m, e));
    FQI_TRY(m->t->text ? ids_of_text(m, e) : ids_of_file(m, e));
    FQI_TRY(check_ids(m, path, e));
    if (m->n >= context) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "text-length", "found %zu tokens, expected at least %zu: one window", m->n, context);
}

static void cut(making *m, size_t context, fqi_windows *out)
{
    fqi_windows w = { .ids = m->ids, .n_context = context, .n_window = m->n / context, .n_token = m->n, .bos = m->has_bos };
    if (m->t->chunks && (uint64_t)m->t->chunks < w.n_window) w.n_window = (size_t)m->t->chunks;
    w.first_scored = m->t->score == FQ_SCORE_ALL ? 0 : context / 2;
    w.n_scored = w.n_window * (context - 1 - w.first_scored);
    w.random = !m->t->text && !m->t->ids;
    for (size_t i = 0; i < w.n_window && w.bos; i++) w.ids[i * context] = m->bos;
    /* what is behind the last window is not needed any more; a shorter block cannot fail to be had, and if it did, the longer one serves */
    uint32_t *shorter = realloc(w.ids, w.n_window * context * sizeof *w.ids);
    if (shorter) w.ids = shorter;
    m->ids = NULL;
    *out = w;
}

fq_status fqi_windows_make(const fq_text *t, const char *model_dir, int64_t vocab, bool random_ids, fqi_windows *out, fq_err *e)
{
    FQI_TRY(check_request(t, random_ids, e));
    making m = { .t = t, .dir = model_dir, .vocab = vocab };
    size_t context = (size_t)(t->context ? t->context : DEFAULT_CONTEXT);
    fq_status s = make_stream(&m, context, e);
    if (s == FQ_OK) cut(&m, context, out);
    fq_tokenizer_close(m.tokenizer);
    free(m.ids);
    return s;
}

void fqi_windows_free(fqi_windows *w)
{
    if (!w) return;
    free(w->ids);
    *w = (fqi_windows){ 0 };
}
