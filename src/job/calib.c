/* calib.c - windows of ids to calibrate on: where they come from, and which of them (see calib.h).
 *
 * A file has more windows than are asked for, mostly: which ones are used is drawn, so that they are from all of it. */
#include "job/calib.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/mem.h"
#include "job/calib_private.h"
#include "job/vocab.h"

#define MAX_SEQLEN (INT64_C(1) << 24)
#define MAX_IDS (INT64_C(1) << 28)   /* 1 GiB of them; a thousand times of what is usual */

void fqi_calib_say(const fqi_calib_request *r, fq_log_level level, const char *line)
{
    if (r->run->log) r->run->log(r->run->user, level, line);
}

/* ---- the request ---- */

static fq_status fill_request(fqi_calib_request *r, fq_err *e)
{
    const fq_calib_options *o = r->o;
    int64_t samples = o->samples ? o->samples : FQI_CALIB_SAMPLES, seqlen = o->seqlen ? o->seqlen : FQI_CALIB_SEQLEN;
    if (o->file && o->ids) return fqi_fail(e, FQ_E_USAGE, NULL, "calibration", "found a text and a list of ids, expected one of them");
    if (seqlen < 2 || seqlen > MAX_SEQLEN)
        return fqi_fail(e, FQ_E_USAGE, NULL, "seqlen", "found windows of %lld tokens, expected 2 to %lld", (long long)seqlen, (long long)MAX_SEQLEN);
    if (samples < 1 || samples > MAX_IDS / seqlen)
        return fqi_fail(e, FQ_E_USAGE, NULL, "samples", "found %lld windows of %lld tokens, expected 1 to %lld", (long long)samples, (long long)seqlen, (long long)(MAX_IDS / seqlen));
    r->samples = (size_t)samples;
    r->seqlen = (size_t)seqlen;
    FQI_TRY(fqi_vocab_real(r->m->ckpt, &r->n_vocab, e));
    return fqi_ends_read(r->m->ckpt->dir, &r->m->decoder, r->n_vocab, &r->ends, e);
}

static void warn_length(const fqi_calib_request *r)
{
    int64_t most = r->m->decoder.model.max_position_embeddings;
    char line[160];
    if (most == 0 || (uint64_t)r->seqlen <= (uint64_t)most) return;
    snprintf(line, sizeof line, "calibration windows of %zu tokens are longer than the %lld that the model is made for (max_position_embeddings)", r->seqlen, (long long)most);
    fqi_calib_say(r, FQ_LOG_WARN, line);
}

/* ---- from a file ---- */

/* Algorithm S of Knuth, The Art of Computer Programming, volume 2, section 3.4.2: `want` of `have` windows, each set of them as likely as
 * any other, in the order of the file. They move to the front. */
static void draw_windows(uint32_t *ids, size_t have, size_t want, size_t seqlen, uint64_t seed)
{
    fqi_random random = fqi_random_seed(seed);
    size_t taken = 0;
    for (size_t i = 0; taken < want; i++) {
        if (fqi_random_below(&random, have - i) >= want - taken) continue;
        if (i != taken) memcpy(ids + taken * seqlen, ids + i * seqlen, seqlen * sizeof *ids);
        taken++;
    }
}

static void cut(const fqi_calib_request *r, const fqi_text_ids *t, fqi_calib *out)
{
    size_t have = t->n / r->seqlen, want = have < r->samples ? have : r->samples;
    char line[160];
    if (have < r->samples) {
        snprintf(line, sizeof line, "the calibration text has %zu windows of %zu tokens, fewer than the %zu asked for: all of them are used", have, r->seqlen, r->samples);
        fqi_calib_say(r, FQ_LOG_WARN, line);
    }
    draw_windows(t->ids, have, want, r->seqlen, r->o->seed);
    for (size_t i = 0; i < want && t->has_bos; i++) t->ids[i * r->seqlen] = t->bos;
    /* a shorter block cannot fail to be had, and if it did, the longer one serves */
    uint32_t *shorter = realloc(t->ids, want * r->seqlen * sizeof *t->ids);
    out->ids = shorter ? shorter : t->ids;
    out->n_window = want;
    out->n_token_file = t->n;
}

static fq_status ids_of_text(const fqi_calib_request *r, fqi_text_ids *out, fq_err *e)
{
    const fq_text t = { .text = r->o->file, .ids = r->o->ids };
    return fqi_text_ids_make(&t, r->m->ckpt->dir, r->n_vocab, r->seqlen, out, e);
}

static bool ends_in(const char *path, const char *suffix)
{
    size_t n = strlen(path), k = strlen(suffix);
    return n >= k && strcasecmp(path + n - k, suffix) == 0;
}

static fq_status refuse(const fqi_calib_request *r, fqi_text_ids *out, fq_err *e)
{
    (void)out;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->o->file), "calibration", "found a .json file, expected .jsonl, with an object on each line, or a text");
}

typedef struct kind {
    const char *suffix, *name;
    fq_status (*read)(const fqi_calib_request *r, fqi_text_ids *out, fq_err *e);
} kind;

/* The first whose suffix the name has. */
static const kind kinds[] = {
    { ".jsonl", "jsonl", fqi_calib_jsonl },
    { ".json", "json", refuse },             /* its brackets and quotes would be taken for prose */
    { "", "text", ids_of_text },
};
static const kind kind_ids = { "", "ids", ids_of_text };

static fq_status from_file(const fqi_calib_request *r, fqi_calib *out, fq_err *e)
{
    const kind *k = r->o->ids ? &kind_ids : kinds;
    fqi_text_ids t = { 0 };
    while (!r->o->ids && !ends_in(r->o->file, k->suffix)) k++;
    FQI_TRY(k->read(r, &t, e));
    cut(r, &t, out);
    snprintf(out->source, sizeof out->source, "%s", k->name);
    return FQ_OK;
}

/* ---- from the model ---- */

static fq_status from_model(const fqi_calib_request *r, fqi_calib *out, fq_err *e)
{
    uint32_t *ids = fqi_calloc(r->samples * r->seqlen, sizeof *ids);
    if (!ids) return fqi_fail_nomem(e, "calibration text");
    fq_status s = fqi_calib_self(r, ids, e);
    if (s != FQ_OK) {
        free(ids);
        return s;
    }
    out->ids = ids;
    out->n_window = r->samples;
    snprintf(out->source, sizeof out->source, "written by the model");
    return FQ_OK;
}

/* ---- all ---- */

/* Ids are below n_vocab: one bit for each. */
static fq_status count_distinct(const fqi_calib_request *r, fqi_calib *c, fq_err *e)
{
    unsigned char *seen = fqi_calloc((size_t)r->n_vocab / 8 + 1, 1);
    if (!seen) return fqi_fail_nomem(e, "token counts");
    for (size_t i = 0; i < c->n_window * c->seqlen; i++) {
        unsigned char *byte = &seen[c->ids[i] / 8], bit = (unsigned char)(1u << c->ids[i] % 8);
        c->n_distinct += !(*byte & bit);
        *byte |= bit;
    }
    free(seen);
    return FQ_OK;
}

fq_status fqi_calib_make(const fq_calib_options *o, const fqi_runnable *m, const fq_run *run, fqi_calib *out, fq_err *e)
{
    static const fq_run default_run;
    fqi_calib_request r = { .o = o, .m = m, .run = run ? run : &default_run };
    FQI_TRY(fill_request(&r, e));
    warn_length(&r);
    fqi_calib c = { .seqlen = r.seqlen };
    FQI_TRY(o->file || o->ids ? from_file(&r, &c, e) : from_model(&r, &c, e));
    fq_status s = count_distinct(&r, &c, e);
    if (s != FQ_OK) {
        fqi_calib_free(&c);
        return s;
    }
    c.hash = XXH3_64bits(c.ids, c.n_window * c.seqlen * sizeof *c.ids);
    *out = c;
    return FQ_OK;
}

void fqi_calib_free(fqi_calib *c)
{
    if (!c) return;
    free(c->ids);
    *c = (fqi_calib){ 0 };
}
