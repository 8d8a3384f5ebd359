/* windows.c - a text, or a list of ids, cut into windows. See windows.h.
 *
 * The rules are llama.cpp's (tools/perplexity): the text is tokenized once, as one text; windows do not overlap; an incomplete last one is
 * left out; where the tokenizer begins a text with a token of its own, that token stands at place 0 of every window, over what was there.
 * Everything that can be wrong with a text is found here, before a weight is read. */
#include "job/windows.h"

#include <stdlib.h>

#include "base/fs.h"
#include "base/random.h"
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
    fqi_text_ids s;              /* of the whole text */
} making;

/* ---- beginning of text ---- */

/* A JSON file of the model's folder; *root NULL if there is none. The caller frees both, also on failure. */
static fq_status load_object(const char *dir, const char *name, char **path, json_t **root, fq_err *e)
{
    char *text = NULL;
    size_t n = 0;
    *root = NULL;
    *path = fqi_path_join(dir, name);
    if (!*path) return fqi_fail_nomem(e, name);
    if (!fqi_path_exists(*path)) return FQ_OK;
    fq_status s = fqi_file_slurp(*path, MAX_JSON_BYTES, &text, &n, e);
    if (s == FQ_OK) s = fqi_json_parse(text, n, *path, root, e);
    free(text);
    if (s != FQ_OK || json_is_object(*root)) return s;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(*path), "json-type", "found a file that is no JSON object, expected an object");
}

/* bos_token: a string, or an object with the string. null and no key say nothing; what cannot be read is refused, since the next file may
 * name another token. Without a tokenizer nobody knows its id. */
static fq_status take_bos_token(making *m, const json_t *token, const char *file, fq_err *e)
{
    char shown[FQI_NAME_MAX + 1];
    if (!token || json_is_null(token)) return FQ_OK;
    const char *content = json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
    if (!content) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "bos-token", "bos_token: found neither a string nor an object with one as \"content\", expected the beginning-of-text token");
    if (!m->tokenizer) return FQ_OK;
    m->s.has_bos = fq_tokenizer_find_added(m->tokenizer, content, &m->s.bos);
    if (m->s.has_bos) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "bos-token", "bos_token: found \"%s\", expected one of the added tokens of tokenizer.json", fqi_escape(shown, content));
}

static fq_status take_bos_id(making *m, const json_t *id, const char *file, fq_err *e)
{
    if (!id || json_is_null(id)) return FQ_OK;
    json_int_t v = json_integer_value(id);
    m->s.has_bos = json_is_integer(id) && v >= 0 && v < m->vocab;
    if (m->s.has_bos) m->s.bos = (uint32_t)v;
    if (m->s.has_bos) return FQ_OK;
    if (!json_is_integer(id)) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "bos-token", "bos_token_id: found no integer, expected the id of the beginning-of-text token");
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "bos-token", "bos_token_id: found %lld, expected an id from 0 to %lld", (long long)v, (long long)m->vocab - 1);
}

/* The first of the two files that names it, as transformers has it: the tokenizer's own word goes before the model's. */
static fq_status bos_of_configs(making *m, fq_err *e)
{
    static const struct { const char *file, *key; fq_status (*take)(making *, const json_t *, const char *, fq_err *); } source[] = {
        { "tokenizer_config.json", "bos_token", take_bos_token }, { "config.json", "bos_token_id", take_bos_id },
    };
    fq_status s = FQ_OK;
    for (size_t i = 0; s == FQ_OK && !m->s.has_bos && i < sizeof source / sizeof source[0]; i++) {
        char *path;
        json_t *root;
        s = load_object(m->dir, source[i].file, &path, &root, e);
        if (s == FQ_OK) s = source[i].take(m, json_object_get(root, source[i].key), path, e);
        json_decref(root);
        free(path);
    }
    return s;
}

static fq_status find_bos(making *m, fq_err *e)
{
    const fq_tokenizer_info *info = m->tokenizer ? fq_tokenizer_get_info(m->tokenizer) : NULL;
    if (m->t->bos == FQ_BOS_NEVER) return FQ_OK;
    if (info && info->n_prefix > 0) {
        m->s.has_bos = true;
        m->s.bos = info->prefix[0];
        return FQ_OK;
    }
    if (m->t->bos == FQ_BOS_AUTO) return FQ_OK;
    FQI_TRY(bos_of_configs(m, e));
    if (m->s.has_bos) return FQ_OK;
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

static fq_status slurp_ids(making *m, const char *path, fq_err *e)
{
    char *text = NULL;
    size_t n = 0;
    fq_err why = { 0 };
    const fq_encode_options o = { .add_special = m->t->bos != FQ_BOS_NEVER };
    FQI_TRY(fqi_file_slurp(path, FQI_TEXT_MAX_BYTES, &text, &n, e));
    fq_status s = m->t->text ? fq_tokenizer_encode(m->tokenizer, text, n, &o, &m->s.ids, &m->s.n, &why) : fq_ids_parse(text, n, &m->s.ids, &m->s.n, &why);
    free(text);
    return s == FQ_OK ? FQ_OK : fqi_fail_at(e, s, FQI_FILE(path), &why);   /* neither knows the file */
}

fq_status fqi_text_ids_check(const fqi_text_ids *t, const char *path, const char *model_dir, int64_t vocab, size_t least, fq_err *e)
{
    for (size_t i = 0; i < t->n; i++)
        if ((int64_t)t->ids[i] >= vocab)
            return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "token-id", "found id %u at place %zu, expected an id below %lld, the length of the vocabulary", t->ids[i], i,
                            (long long)vocab);
    if (t->has_bos && (int64_t)t->bos >= vocab)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(model_dir), "token-id", "found beginning-of-text token %u, expected an id below %lld, the length of the vocabulary", t->bos,
                        (long long)vocab);
    if (t->n >= least) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "text-length", "found %zu tokens, expected at least %zu: one window", t->n, least);
}

static fq_status make_ids(making *m, size_t least, fq_err *e)
{
    const char *path = m->t->text ? m->t->text : m->t->ids;
    FQI_TRY(open_tokenizer(m, e));
    FQI_TRY(find_bos(m, e));
    FQI_TRY(slurp_ids(m, path, e));
    return fqi_text_ids_check(&m->s, path, m->dir, m->vocab, least, e);
}

/* *m as it was made by the two callers; on failure nothing is left in it. */
static fq_status finish(making *m, fq_status s)
{
    fq_tokenizer_close(m->tokenizer);
    m->tokenizer = NULL;
    if (s == FQ_OK) return FQ_OK;
    free(m->s.ids);
    m->s.ids = NULL;
    return s;
}

fq_status fqi_text_ids_make(const fq_text *t, const char *model_dir, int64_t vocab, size_t least, fqi_text_ids *out, fq_err *e)
{
    making m = { .t = t, .dir = model_dir, .vocab = vocab };
    FQI_TRY(finish(&m, make_ids(&m, least, e)));
    *out = m.s;
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
        return fqi_fail(e, FQ_E_USAGE, NULL, "context", "found a window of %lld tokens, expected %lld to %lld%s", (long long)context, (long long)least, (long long)MAX_CONTEXT,
                        least == 4 && context >= 2 && context < 4 ? " (2 is enough where every prediction counts: --score all)" : "");
    if (t->chunks < 0) return fqi_fail(e, FQ_E_USAGE, NULL, "chunks", "found %lld windows, expected a positive number", (long long)t->chunks);
    return FQ_OK;
}

static fq_status random_stream(making *m, size_t context, fq_err *e)
{
    uint64_t n = (uint64_t)(m->t->chunks ? m->t->chunks : RANDOM_WINDOWS), state = 1;
    if (n > RANDOM_MAX_IDS / context)
        return fqi_fail(e, FQ_E_USAGE, NULL, "chunks", "found %llu windows of %zu pseudo-random ids, expected at most %llu ids", (unsigned long long)n, context,
                        (unsigned long long)RANDOM_MAX_IDS);
    m->s.n = (size_t)n * context;
    m->s.ids = fqi_calloc(m->s.n, sizeof *m->s.ids);
    if (!m->s.ids) return fqi_fail_nomem(e, "token ids");
    for (size_t i = 0; i < m->s.n; i++) m->s.ids[i] = (uint32_t)(fqi_splitmix(&state) % (uint64_t)m->vocab);
    return FQ_OK;
}

static void cut(const making *m, size_t context, fqi_windows *out)
{
    fqi_windows w = { .ids = m->s.ids, .n_context = context, .n_window = m->s.n / context, .n_token = m->s.n, .bos = m->s.has_bos };
    if (m->t->chunks && (uint64_t)m->t->chunks < w.n_window) w.n_window = (size_t)m->t->chunks;
    w.first_scored = m->t->score == FQ_SCORE_ALL ? 0 : context / 2;
    w.n_scored = w.n_window * (context - 1 - w.first_scored);
    w.random = !m->t->text && !m->t->ids;
    for (size_t i = 0; i < w.n_window && w.bos; i++) w.ids[i * context] = m->s.bos;
    /* what is behind the last window is not needed any more; a shorter block cannot fail to be had, and if it did, the longer one serves */
    uint32_t *shorter = realloc(w.ids, w.n_window * context * sizeof *w.ids);
    if (shorter) w.ids = shorter;
    *out = w;
}

fq_status fqi_windows_make(const fq_text *t, const char *model_dir, int64_t vocab, bool random_ids, fqi_windows *out, fq_err *e)
{
    FQI_TRY(check_request(t, random_ids, e));
    making m = { .t = t, .dir = model_dir, .vocab = vocab };
    size_t context = (size_t)(t->context ? t->context : DEFAULT_CONTEXT);
    FQI_TRY(finish(&m, t->text || t->ids ? make_ids(&m, context, e) : random_stream(&m, context, e)));
    cut(&m, context, out);
    return FQ_OK;
}

void fqi_windows_free(fqi_windows *w)
{
    if (!w) return;
    free(w->ids);
    *w = (fqi_windows){ 0 };
}
