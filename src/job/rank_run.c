/* rank_run.c - the ranks of a job that runs a model (see rank_run.h). */
#include "job/rank_run.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "base/checked.h"
#include "base/mem.h"

#define SCRATCH_FLOATS ((size_t)1 << 20)   /* of logits that come from other ranks at once; a row at least */

void fqi_rank_run(const fqi_comm *c, const fq_run *run, fq_run *out)
{
    *out = *run;
    if (!c) return;
    out->n_thread = fqi_comm_n_thread(c, run->n_thread);
    if (fqi_comm_rank(c) > 0) {
        out->progress = NULL;
        out->log = NULL;
    }
    if (!fqi_comm_callbacks(c)) out->cancelled = NULL;
}

fq_status fqi_rank_same_model(fqi_comm *c, const fq_ckpt *ckpt, fq_err *e)
{
    fqi_str all = { 0 };
    if (!c) return FQ_OK;
    fqi_str_add(&all, ckpt->config.text, ckpt->config.n_text);
    for (size_t i = 0; i < ckpt->n_shard; i++)
        fqi_str_printf(&all, "\n%s %" PRIu64 " %016" PRIx64, ckpt->shard[i].name, ckpt->shard[i].bytes, ckpt->shard[i].header_hash);
    char shown[FQI_NAME_MAX + 1], what[FQI_NAME_MAX + 16];
    (void)snprintf(what, sizeof what, "model at %s", fqi_escape(shown, ckpt->info.path));
    const fq_status s = all.failed ? fqi_fail_nomem(e, "identity of the model") : fqi_comm_same(c, what, all.s, all.len, e);
    fqi_str_free(&all);
    return s;
}

fq_status fqi_rank_slice(const fqi_comm *c, const fq_run *run, const fqi_runnable *r, fqi_slice *out, fq_err *e)
{
    return fqi_slice_make(&r->decoder, fqi_comm_rank(c), fqi_comm_size(c), run->expert_parallel, r->ckpt->info.path, out, e);
}

fq_status fqi_rank_windows(fqi_comm *c, fqi_windows *w, fq_err *e)
{
    size_t n;
    if (!c) return FQ_OK;
    fqi_windows said = *w;
    FQI_TRY(fqi_comm_broadcast(c, 0, &said, sizeof said, e));
    if (fqi_comm_rank(c) > 0) {
        *w = said;
        w->ids = fqi_mul_size(said.n_window, said.n_context, &n) ? fqi_calloc(n, sizeof *w->ids) : NULL;
        if (!w->ids) return fqi_fail_nomem(e, "token ids");
    }
    return fqi_comm_broadcast(c, 0, w->ids, said.n_window * said.n_context * sizeof *w->ids, e);
}

/* ---- logits -------------------------------------------------------------------------------------------------------- */

fqi_range fqi_rank_vocab(const fqi_comm *c, int rank, int64_t vocab, int64_t limit)
{
    fqi_range r = fqi_slice_vocab(vocab, rank, fqi_comm_size(c));
    if (r.first + r.n > limit) r.n = r.first < limit ? limit - r.first : 0;
    return r;
}

static size_t rows_at_once(size_t n, int64_t limit)
{
    const size_t fit = SCRATCH_FLOATS / (size_t)limit;
    return n < fit ? n : fit > 0 ? fit : 1;
}

size_t fqi_rank_logit_floats(const fqi_comm *c, size_t n, int64_t limit)
{
    size_t out;
    if (fqi_comm_size(c) == 1 || fqi_comm_rank(c) > 0) return 0;
    return fqi_mul_size(rows_at_once(n, limit), (size_t)limit, &out) ? out : SIZE_MAX;
}

fq_status fqi_rank_collect(fqi_comm *c, const fqi_rank_logits *l, fq_err *e)
{
    const int n_rank = fqi_comm_size(c), me = fqi_comm_rank(c);
    const size_t most = rows_at_once(l->n, l->limit), here = (size_t)fqi_rank_vocab(c, me, l->vocab, l->limit).n;
    size_t *bytes = fqi_calloc((size_t)n_rank, sizeof *bytes);
    fq_status s = bytes ? FQ_OK : fqi_fail_nomem(e, "logits");
    for (size_t at = 0, n; s == FQ_OK && at < l->n; at += n) {
        n = l->n - at < most ? l->n - at : most;
        for (int r = 1; r < n_rank; r++) bytes[r] = n * (size_t)fqi_rank_vocab(c, r, l->vocab, l->limit).n * sizeof(float);
        s = fqi_comm_gather_to(c, 0, me > 0 ? l->mine + at * here : NULL, bytes, l->scratch, e);
        const float *from = l->scratch;
        for (int r = 1; me == 0 && s == FQ_OK && r < n_rank; r++) {
            const fqi_range part = fqi_rank_vocab(c, r, l->vocab, l->limit);
            for (size_t i = 0; i < n; i++, from += part.n) memcpy(l->logits + (at + i) * (size_t)l->limit + part.first, from, (size_t)part.n * sizeof(float));
        }
    }
    free(bytes);
    return s;
}
