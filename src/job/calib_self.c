/* calib_self.c - a calibration text that the model writes itself (see calib.h): what it says at temperature 1 is what it meets in use, as
 * far as anybody knows without a text. Not for models that do not fit into memory: their weights would be read once per token.
 *
 *     [beginning-of-text token, where the tokenizer puts one before a text]  an ordinary id, each as likely as the others  what follows
 *
 * A sequence in which the text ends goes on behind its end with another ordinary id, as documents follow one another in a file. Ordinary:
 * not special, and no end. Later ids are whatever the model wants, special ones too.
 *
 * Sequences are written side by side, a token of each at a time, so that weights that were fetched serve all of them. How many at once is
 * decided by their number and length alone, and each has a generator of random numbers of its own: with the same weights and options the text is the
 * same for any number of threads and any memory. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "base/mem.h"
#include "base/pipeline.h"
#include "job/calib_private.h"
#include "job/resident.h"
#include "job/sample.h"

#define MOST_AT_ONCE 64                 /* sequences: more do not make matrix products much faster */
#define CACHED_TOKENS ((size_t)1 << 15) /* of all sequences at once: what their caches are for, unless one alone is longer */

typedef struct writing {
    const fqi_calib_request *r;
    fq_tokenizer *tokenizer;            /* NULL: none; every id but ends is ordinary then */
    bool has_bos; uint32_t bos;
    uint32_t *ordinary; size_t n_ordinary;
    size_t at_once;
    fqi_resident held;
    fqi_random *random;                 /* at_once */
    fqi_feed *feed;                     /* at_once */
    uint32_t *token;                    /* at_once: of the step in hand */
    bool *failed;                       /* at_once */
    fqi_sampler *sampler; int n_sampler;   /* one per thread */
    size_t done;                        /* tokens written */
} writing;

/* ---- which ids begin ---- */

/* Writing needs no tokenizer: where it cannot be read, control tokens cannot be told from others, and that is said. */
static fq_status open_tokenizer(writing *w, fq_err *e)
{
    const char *dir = w->r->m->ckpt->dir;
    char *path = fqi_path_join(dir, "tokenizer.json");
    if (!path) return fqi_fail_nomem(e, "path");
    bool there = fqi_path_exists(path);
    free(path);
    if (!there) return FQ_OK;
    fq_err why = { 0 };
    fq_status s = fq_tokenizer_open(dir, &w->tokenizer, &why);
    if (s == FQ_E_INPUT) {
        fqi_calib_say(w->r, FQ_LOG_WARN, why.text);
        fqi_calib_say(w->r, FQ_LOG_WARN, "control tokens may begin a calibration text: the tokenizer that would tell them cannot be read");
        return FQ_OK;
    }
    if (s != FQ_OK && e) *e = why;
    return s;
}

static fq_status find_ordinary(writing *w, fq_err *e)
{
    const fqi_calib_request *r = w->r;
    size_t n = (size_t)r->n_vocab;
    FQI_TRY(open_tokenizer(w, e));
    const fq_tokenizer_info *info = w->tokenizer ? fq_tokenizer_get_info(w->tokenizer) : NULL;
    w->has_bos = info && info->n_prefix > 0;
    if (w->has_bos) w->bos = info->prefix[0];
    if (w->has_bos && w->bos >= n)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->m->ckpt->dir), "token-id", "found beginning-of-text token %u, expected an id below %zu, the length of the vocabulary", w->bos, n);
    if (info && info->n_vocab < n) n = info->n_vocab;   /* rows behind it are no tokens: vocabularies are rounded up */
    w->ordinary = fqi_calloc(n, sizeof *w->ordinary);
    if (!w->ordinary) return fqi_fail_nomem(e, "token ids");
    for (uint32_t id = 0; id < n; id++)
        if (!fqi_ends_has(&r->ends, id) && !(w->tokenizer && fq_tokenizer_is_special(w->tokenizer, id))) w->ordinary[w->n_ordinary++] = id;
    if (w->n_ordinary > 0) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->m->ckpt->dir), "token-id", "found a vocabulary of control tokens only, expected one that a text can begin with");
}

/* ---- memory ---- */

static fqi_resident_options resident_options(const writing *w, int n_thread)
{
    const fqi_calib_request *r = w->r;
    const size_t n = w->at_once;
    const uint64_t own = n * (sizeof *w->random + sizeof *w->feed + sizeof *w->token + sizeof *w->failed);
    return (fqi_resident_options){
        .ckpt = r->m->ckpt, .decoder = &r->m->decoder, .run = r->run, .order = FQI_ORDER_FAST, .served = FQ_DTYPE_F32, .n_thread = n_thread,
        .n_position = (int64_t)r->seqlen, .n_sequence = n, .n_token = n, .n_logit_row = n, .n_vocab = r->n_vocab,
        .extra_bytes = own + fqi_sampler_bytes(1, (size_t)r->n_vocab) * (uint64_t)n_thread, .free_quarters = 3,
    };
}

/* Appends the way out to a message of the budget. */
static fq_status advise(fq_status s, fq_err *e)
{
    if (s != FQ_E_NOMEM || !e || strcmp(e->rule, "memory-budget") != 0) return s;
    size_t n = strlen(e->text);
    snprintf(e->text + n, sizeof e->text - n, "; with --calib FILE the model need not write its calibration text, and a layer at a time is enough");
    return s;
}

static fq_status make_samplers(writing *w, int n_thread, fq_err *e)
{
    w->sampler = fqi_calloc((size_t)n_thread, sizeof *w->sampler);
    if (!w->sampler) return fqi_fail_nomem(e, "sampler");
    for (; w->n_sampler < n_thread; w->n_sampler++) FQI_TRY(fqi_sampler_create(1, 0, 0, (size_t)w->r->n_vocab, &w->sampler[w->n_sampler], e));
    return FQ_OK;
}

static fq_status open_model(writing *w, fq_err *e)
{
    const size_t fit = CACHED_TOKENS / w->r->seqlen, most = w->r->samples < MOST_AT_ONCE ? w->r->samples : MOST_AT_ONCE;
    const int n_thread = fqi_n_thread(w->r->run->n_thread);
    fqi_resident_size size;
    w->at_once = fit < 1 ? 1 : fit < most ? fit : most;
    const fqi_resident_options o = resident_options(w, n_thread);
    FQI_TRY(fqi_resident_measure(&o, &size, e));
    FQI_TRY(advise(fqi_resident_check(&o, &size, e), e));
    w->random = fqi_calloc(w->at_once, sizeof *w->random);
    w->feed = fqi_calloc(w->at_once, sizeof *w->feed);
    w->token = fqi_calloc(w->at_once, sizeof *w->token);
    w->failed = fqi_calloc(w->at_once, sizeof *w->failed);
    if (!w->random || !w->feed || !w->token || !w->failed) return fqi_fail_nomem(e, "sequences");
    FQI_TRY(make_samplers(w, n_thread, e));
    return fqi_resident_create(&o, &size, &w->held, e);
}

/* ---- writing ---- */

static uint32_t draw_ordinary(writing *w, size_t s) { return w->ordinary[fqi_random_below(&w->random[s], w->n_ordinary)]; }

static fq_status choose_with(writing *w, fqi_sampler *p, size_t s, fq_err *e)
{
    p->random = w->random[s];
    fq_status status = fqi_sampler_choose(p, w->held.logits + s * (size_t)w->r->n_vocab, &w->token[s], e);
    w->random[s] = p->random;
    return status;
}

/* Behind each token the next one. */
static fq_status choose_all(writing *w, size_t n, fq_err *e)
{
    FQI_TRY(fqi_resident_logits(&w->held, 0, n, e));
#pragma omp parallel for num_threads(w->n_sampler) schedule(static)
    for (size_t s = 0; s < n; s++) {
        w->failed[s] = false;
        if (fqi_ends_has(&w->r->ends, w->token[s])) w->token[s] = draw_ordinary(w, s);
        else w->failed[s] = choose_with(w, &w->sampler[omp_get_thread_num()], s, NULL) != FQ_OK;
    }
    for (size_t s = 0; s < n; s++) {
        fq_err why = { 0 };
        if (!w->failed[s]) continue;
        fq_status status = choose_with(w, &w->sampler[0], s, &why);   /* the first of them says it again */
        return fqi_fail_at(e, status, FQI_FILE(w->r->m->ckpt->info.path), &why);
    }
    return FQ_OK;
}

static void report(const writing *w)
{
    const uint64_t all = (uint64_t)w->r->samples * w->r->seqlen;
    const fq_progress p = { .phase = "writing", .item = "calibration text", .done_bytes = w->done * sizeof(uint32_t), .total_bytes = all * sizeof(uint32_t), .done_items = w->done,
                            .total_items = (size_t)all };
    if (w->r->run->progress) w->r->run->progress(w->r->run->user, &p);
}

/* Sequences first .. first + n - 1 at once. */
static fq_status write_some(writing *w, size_t first, size_t n, uint32_t *ids, fq_err *e)
{
    const size_t seqlen = w->r->seqlen;
    uint64_t seed = w->r->o->seed;
    const uint64_t base = fqi_splitmix(&seed);   /* so that sequences of neighbouring seeds have nothing in common */
    for (size_t s = 0; s < n; s++) w->random[s] = fqi_random_seed(base + first + s);
    for (size_t pos = 0; pos < seqlen; pos++) {
        const bool drawn = pos == w->has_bos;    /* the place of the first ordinary id */
        if (pos > 0 && !drawn) FQI_TRY(choose_all(w, n, e));
        for (size_t s = 0; s < n; s++) {
            if (drawn) w->token[s] = draw_ordinary(w, s);
            else if (pos == 0) w->token[s] = w->bos;
            ids[(first + s) * seqlen + pos] = w->token[s];
            w->feed[s] = (fqi_feed){ .sequence = s, .n = 1, .pos = (int64_t)pos };
        }
        w->done += n;
        report(w);
        if (pos + 1 < seqlen) FQI_TRY(fqi_resident_feed(&w->held, w->token, w->feed, n, e));
    }
    return FQ_OK;
}

static fq_status write_all(writing *w, uint32_t *ids, fq_err *e)
{
    const size_t samples = w->r->samples;
    FQI_TRY(find_ordinary(w, e));
    FQI_TRY(open_model(w, e));
    for (size_t first = 0; first < samples; first += w->at_once)
        FQI_TRY(write_some(w, first, samples - first < w->at_once ? samples - first : w->at_once, ids, e));
    return FQ_OK;
}

fq_status fqi_calib_self(const fqi_calib_request *r, uint32_t *ids, fq_err *e)
{
    writing w = { .r = r };
    fq_status s = write_all(&w, ids, e);
    fqi_resident_free(&w.held);
    for (int i = 0; i < w.n_sampler; i++) fqi_sampler_free(&w.sampler[i]);
    free(w.sampler);
    free(w.random);
    free(w.feed);
    free(w.token);
    free(w.failed);
    free(w.ordinary);
    fq_tokenizer_close(w.tokenizer);
    return s;
}
