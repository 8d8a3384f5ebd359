/* lockstep.c - the run itself: embedding, layers, head; all streams side by side. See lockstep.h; memory is lockstep_plan.c's.
 *
 * Everything is a loop over batches: so many windows, or so many tokens of one window, go through a layer at once. The cache of keys and
 * values belongs to the batch: it is filled and used up within one layer, so it never holds more than the windows of one batch.
 * Numbers do not depend on how the plan cuts the work in fixed order; in fast order the BLAS may sum a block of another size in another
 * way. Threads share out tokens and rows, never a sum. */
#include "job/lockstep_private.h"
#include "job/rank_run.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/fs_memory.h"
#include "base/mem.h"

typedef struct model {
    fqi_weights *weights;
    fqi_rope_table rope;
    fqi_layer_work *work;
    uint64_t *layer_bytes;
    size_t n_stream;
} model;

typedef struct lockstep {
    const fqi_lockstep *l;
    const fqi_lockstep_plan *p;
    const fqi_lockstep_watch *watch;
    const fqi_kernels *kernel;
    fqi_compute compute[2]; bool has_compute[2];       /* by order */
    model model[FQI_MAX_MODEL];
    fqi_acts acts[FQI_MAX_STREAM]; bool has_acts[FQI_MAX_STREAM];
    float *buf[2];              /* hidden states of a batch, where they are on disk */
    float *kv; size_t kv_floats;
    fqi_span *span;
    fqi_row_diff *row;
    float *hidden[FQI_MAX_STREAM], *logits[FQI_MAX_STREAM];   /* of a block of scored positions */
    float *from_ranks;          /* logits on their way */
    uint32_t *target;
    uint64_t done, total;       /* progress: bytes of weights that were computed with */
    size_t done_items;
} lockstep;

typedef struct place { size_t window, n_window, pos, n; } place;   /* a batch: tokens pos .. pos + n - 1 of each of the windows */

/* ---- progress ------------------------------------------------------------------------------------------------------ */

static fq_status step(lockstep *s, const char *item, uint64_t part, fq_err *e)
{
    const fq_run *run = s->l->run;
    s->done += part;
    if (run->progress) {
        fq_progress r = { .phase = s->l->phase, .item = item, .done_bytes = s->done < s->total ? s->done : s->total, .total_bytes = s->total,
                          .done_items = s->done_items, .total_items = (size_t)s->l->decoder[0]->model.num_hidden_layers };
        run->progress(run->user, &r);
    }
    if (run->cancelled && run->cancelled(run->user)) return fqi_fail(e, FQ_E_CANCELLED, NULL, "cancelled", "stopped in %s", item);
    return FQ_OK;
}

static void name_layer(char out[32], int64_t layer) { snprintf(out, 32, "layer %lld", (long long)layer); }

/* ---- building up and taking down ----------------------------------------------------------------------------------- */

static void *aligned(uint64_t n, uint64_t size)
{
    uint64_t bytes;
    if (!fqi_mul_u64(n, size, &bytes) || bytes > PTRDIFF_MAX - 64) return NULL;
    return aligned_alloc(64, (size_t)((bytes + 63) / 64 * 64 + 64));
}

static fq_status make_model(lockstep *s, size_t i, fq_err *e)
{
    const fqi_lockstep *l = s->l;
    const fqi_decoder *d = l->decoder[i];
    model *m = &s->model[i];
    size_t n_layer = (size_t)d->model.num_hidden_layers;
    const fqi_weights_options o = { .n_slot = s->p->n_slot[i], .served = l->served, .head_rows = s->p->head_rows[i], .run = l->run, .slice = l->slice[i] };
    if (!fqi_lockstep_has(l, i)) return FQ_OK;
    m->layer_bytes = fqi_calloc(n_layer, sizeof *m->layer_bytes);
    if (!m->layer_bytes) return fqi_fail_nomem(e, "layers");
    fqi_lockstep_layer_bytes(l->ckpt[i], m->layer_bytes, n_layer);
    for (size_t k = 0; k < l->n_stream; k++) m->n_stream += l->stream[k].model == i;
    for (size_t k = 0; k < n_layer; k++) s->total += m->layer_bytes[k] * m->n_stream;
    s->total += s->p->head_bytes[i] * m->n_stream;
    FQI_TRY(fqi_rope_table_create(&d->rope, (int64_t)l->n_context, l->served, &m->rope, e));
    return fqi_weights_create(l->ckpt[i], d, &o, &m->weights, e);
}

static fq_status make_streams(lockstep *s, fq_err *e)
{
    const fqi_lockstep *l = s->l;
    for (size_t k = 0; k < l->n_stream; k++) {
        fqi_order order = l->stream[k].order;
        if (!fqi_lockstep_has(l, l->stream[k].model)) continue;
        size_t hidden = (size_t)l->decoder[l->stream[k].model]->model.hidden_size;
        if (!s->has_compute[order]) {
            FQI_TRY(fqi_compute_create(order, l->served, s->p->n_thread, fqi_lockstep_max_cols(l), &s->compute[order], e));
            s->has_compute[order] = true;
        }
        FQI_TRY(fqi_acts_create(l->n_window * l->n_context, hidden, s->p->acts_in_memory, l->scratch_dir, &s->acts[k], e));
        s->has_acts[k] = true;
    }
    return FQ_OK;
}

/* What only the layers need. */
static fq_status make_layer_buffers(lockstep *s, fq_err *e)
{
    const fqi_lockstep *l = s->l;
    size_t tokens = s->p->batch_window * s->p->block_tokens, cells = tokens * fqi_lockstep_max_hidden(l);
    for (size_t i = 0; i < l->n_model; i++) {
        const fqi_compute *c = s->has_compute[FQI_ORDER_FAST] ? &s->compute[FQI_ORDER_FAST] : &s->compute[FQI_ORDER_FIXED];
        if (!fqi_lockstep_has(l, i)) continue;
        FQI_TRY(fqi_layer_work_create(fqi_lockstep_local(l, i), c, tokens, (int64_t)l->n_context, &s->model[i].work, e));
        if (l->slice[i]) fqi_layer_work_share(s->model[i].work, l->comm);
    }
    s->kv_floats = fqi_lockstep_kv_floats(l);
    s->kv = aligned(s->p->batch_window, s->kv_floats * sizeof(float));
    s->span = fqi_calloc(s->p->batch_window, sizeof *s->span);
    s->row = fqi_calloc(tokens, sizeof *s->row);
    if (!s->kv || !s->span || !s->row) return fqi_fail_nomem(e, "caches");
    memset(s->kv, 0, s->p->batch_window * s->kv_floats * sizeof(float));
    for (size_t i = 0; i < 2 && !s->p->acts_in_memory; i++) {
        if (i == 1 && l->n_pair == 0) break;
        s->buf[i] = aligned(cells, sizeof(float));
        if (!s->buf[i]) return fqi_fail_nomem(e, "hidden states");
    }
    return FQ_OK;
}

static void free_layer_buffers(lockstep *s)
{
    for (size_t i = 0; i < FQI_MAX_MODEL; i++) {
        fqi_layer_work_free(s->model[i].work);
        s->model[i].work = NULL;
    }
    for (size_t i = 0; i < 2; i++) {
        free(s->buf[i]);
        s->buf[i] = NULL;
    }
    free(s->kv);
    free(s->span);
    free(s->row);
    s->kv = NULL;
    s->span = NULL;
    s->row = NULL;
}

static fq_status make_head_buffers(lockstep *s, fq_err *e)
{
    const fqi_lockstep *l = s->l;
    size_t n = s->p->logit_rows;
    s->target = fqi_calloc(n, sizeof *s->target);
    if (!s->target) return fqi_fail_nomem(e, "logits");
    if (!s->p->acts_in_memory && !(s->buf[0] = aligned(n, fqi_lockstep_max_hidden(l) * sizeof(float)))) return fqi_fail_nomem(e, "hidden states");
    size_t floats = 0;
    for (size_t k = 0; k < l->n_stream; k++) {
        const size_t i = l->stream[k].model;
        if (!fqi_lockstep_has(l, i)) continue;
        s->hidden[k] = aligned(n, (uint64_t)l->decoder[i]->model.hidden_size * sizeof(float));
        s->logits[k] = aligned(n, (uint64_t)fqi_lockstep_logits(l, i) * sizeof(float));
        if (!s->hidden[k] || !s->logits[k]) return fqi_fail_nomem(e, "logits");
        if (l->slice[i] && fqi_rank_logit_floats(l->comm, n, l->decoder[i]->model.vocab_size) > floats) floats = fqi_rank_logit_floats(l->comm, n, l->decoder[i]->model.vocab_size);
    }
    if (floats > 0 && !(s->from_ranks = aligned(floats, sizeof(float)))) return fqi_fail_nomem(e, "logits");
    return FQ_OK;
}

static void free_all(lockstep *s)
{
    free_layer_buffers(s);
    for (size_t k = 0; k < FQI_MAX_STREAM; k++) {
        free(s->hidden[k]);
        free(s->logits[k]);
        if (s->has_acts[k]) fqi_acts_free(&s->acts[k]);
    }
    free(s->target);
    free(s->from_ranks);
    for (size_t i = 0; i < FQI_MAX_MODEL; i++) {
        fqi_weights_free(s->model[i].weights);
        fqi_rope_table_free(&s->model[i].rope);
        free(s->model[i].layer_bytes);
    }
    for (size_t i = 0; i < 2; i++)
        if (s->has_compute[i]) fqi_compute_free(&s->compute[i]);
    free(s);
}

/* ---- batches ------------------------------------------------------------------------------------------------------- */

/* The batch behind `at`; false past the end. Start with zeros. */
static bool next_batch(const lockstep *s, place *at)
{
    const fqi_lockstep *l = s->l;
    bool first = at->n == 0;
    at->pos += at->n;
    if (first || at->pos >= l->n_context) {
        at->window += first ? 0 : at->n_window;
        at->pos = 0;
    }
    if (at->window >= l->n_window) return false;
    size_t windows = l->n_window - at->window, tokens = l->n_context - at->pos;
    at->n_window = windows < s->p->batch_window ? windows : s->p->batch_window;
    at->n = tokens < s->p->block_tokens ? tokens : s->p->block_tokens;
    return true;
}

/* Several windows at once are whole ones: rows of a batch are always in one piece. */
static size_t first_row(const lockstep *s, const place *at) { return at->window * s->l->n_context + at->pos; }
static size_t n_row(const place *at) { return at->n_window * at->n; }

/* Which model and where it was, for a failure that only knows the layer. */
static fq_status name_model(const lockstep *s, size_t i, fq_status status, const fq_err *why, fq_err *e)
{
    if (status == FQ_OK) return status;
    return fqi_fail_at(e, status, status == FQ_E_NUMERIC ? FQI_FILE(s->l->ckpt[i]->info.path) : NULL, why);
}

/* ---- the three parts ----------------------------------------------------------------------------------------------- */

static fq_status embed(lockstep *s, fq_err *e)
{
    const fqi_lockstep *l = s->l;
    for (size_t k = 0; k < l->n_stream; k++) {
        const size_t i = l->stream[k].model;
        for (place at = { 0 }; fqi_lockstep_has(l, i) && next_batch(s, &at);) {
            float *x;
            FQI_TRY(fqi_acts_get(&s->acts[k], first_row(s, &at), n_row(&at), s->buf[0], &x, e));
            FQI_TRY(fqi_weights_embed(s->model[i].weights, l->ids + first_row(s, &at), n_row(&at), x, e));
            if (l->slice[i]) FQI_TRY(fqi_comm_sum_float(l->comm, x, n_row(&at) * s->acts[k].cols, e));
            FQI_TRY(fqi_acts_put(&s->acts[k], first_row(s, &at), n_row(&at), x, e));
            FQI_TRY(step(s, "embedding", 0, e));
        }
    }
    return FQ_OK;
}

static fq_status forward(lockstep *s, size_t k, const fqi_layer_weights *w, int64_t layer, const place *at, fq_err *e)
{
    const fqi_lockstep *l = s->l;
    size_t i = l->stream[k].model;
    float *x;
    for (size_t b = 0; b < at->n_window; b++) {
        s->span[b] = (fqi_span){ .n = at->n, .pos = (int64_t)at->pos };
        fqi_kv_place(fqi_lockstep_local(l, i), s->kv + b * s->kv_floats, fqi_lockstep_capacity(l), &s->span[b].kv);
    }
    const fqi_batch batch = { .span = s->span, .n_span = at->n_window, .n_token = n_row(at) };
    fq_err why = { 0 };
    FQI_TRY(fqi_acts_get(&s->acts[k], first_row(s, at), n_row(at), s->buf[0], &x, e));
    fq_status status = fqi_layer_forward(&s->compute[l->stream[k].order], fqi_lockstep_local(l, i), &s->model[i].rope, w, layer, &batch, x, s->model[i].work,
                                         k == 0 ? l->tap : NULL, &why);
    if (status != FQ_OK) return name_model(s, i, status, &why, e);
    return fqi_acts_put(&s->acts[k], first_row(s, at), n_row(at), x, e);
}

static fq_status run_layer(lockstep *s, size_t i, int64_t layer, fq_err *e)
{
    const fqi_lockstep *l = s->l;
    const fqi_layer_weights *w;
    char item[32];
    name_layer(item, layer);
    if (layer >= l->decoder[i]->model.num_hidden_layers || !fqi_lockstep_has(l, i)) return FQ_OK;
    fqi_comm_phase(l->comm, item);
    FQI_TRY(fqi_weights_layer(s->model[i].weights, layer, &w, e));
    uint64_t bytes = s->model[i].layer_bytes[layer];
    for (size_t k = 0; k < l->n_stream; k++) {
        uint64_t before = s->done;
        if (l->stream[k].model != i) continue;
        for (place at = { 0 }; next_batch(s, &at);) {
            FQI_TRY(forward(s, k, w, layer, &at, e));
            double part = (double)n_row(&at) / (double)(l->n_window * l->n_context);
            FQI_TRY(step(s, item, (uint64_t)((double)bytes * part), e));
        }
        s->done = before + bytes;
    }
    return FQ_OK;
}

/* ---- comparing hidden states --------------------------------------------------------------------------------------- */

static fqi_row_diff compare_row(const float *a, const float *b, size_t n)
{
    fqi_row_diff r = { .same = memcmp(a, b, n * sizeof *a) == 0 };
    for (size_t i = 0; i < n; i++) {
        double x = (double)a[i], y = (double)b[i], d = y - x;
        r.d2 += d * d;
        r.a2 += x * x;
        r.b2 += y * y;
        r.ab += x * y;
        if (fabs(d) > r.max) r.max = fabs(d);
    }
    return r;
}

/* Rows are compared by any thread and added in their own order. */
static fq_status compare_pair(lockstep *s, size_t pair, fqi_layer_diff *out, fq_err *e)
{
    size_t ka = s->l->pair[pair].a, kb = s->l->pair[pair].b, cols = s->acts[ka].cols;
    fqi_row_diff sum = { .same = true };
    for (place at = { 0 }; next_batch(s, &at);) {
        float *a, *b;
        size_t n = n_row(&at);
        FQI_TRY(fqi_acts_get(&s->acts[ka], first_row(s, &at), n, s->buf[0], &a, e));
        FQI_TRY(fqi_acts_get(&s->acts[kb], first_row(s, &at), n, s->buf[1], &b, e));
#pragma omp parallel for num_threads(s->p->n_thread) schedule(static)
        for (size_t i = 0; i < n; i++) s->row[i] = compare_row(a + i * cols, b + i * cols, cols);
        for (size_t i = 0; i < n; i++) {
            sum.d2 += s->row[i].d2;
            sum.a2 += s->row[i].a2;
            sum.b2 += s->row[i].b2;
            sum.ab += s->row[i].ab;
            sum.max = s->row[i].max > sum.max ? s->row[i].max : sum.max;
            sum.same = sum.same && s->row[i].same;
        }
    }
    *out = (fqi_layer_diff){ .max_abs = sum.max, .same_bits = sum.same, .cosine = 1 };
    if (!(sum.d2 <= 0)) {
        out->relative = sqrt(sum.d2) / sqrt(sum.a2);
        out->cosine = sum.ab / (sqrt(sum.a2) * sqrt(sum.b2));
    }
    return FQ_OK;
}

static fq_status compare_all(lockstep *s, int64_t layer, fq_err *e)
{
    fqi_layer_diff diff[FQI_MAX_STREAM] = { 0 };
    bool any = false;
    for (size_t i = 0; i < s->l->n_pair && fqi_comm_rank(s->l->comm) == 0; i++) {
        if (!fqi_lockstep_comparable(s->l, i)) continue;
        FQI_TRY(compare_pair(s, i, &diff[i], e));
        any = true;
    }
    if (any && s->watch->layer) s->watch->layer(s->watch->user, layer, diff);
    return FQ_OK;
}

static fq_status run_layers(lockstep *s, fq_err *e)
{
    const fqi_lockstep *l = s->l;
    int64_t n_layer = 0;
    for (size_t i = 0; i < l->n_model; i++)
        if (l->decoder[i]->model.num_hidden_layers > n_layer) n_layer = l->decoder[i]->model.num_hidden_layers;
    FQI_TRY(make_layer_buffers(s, e));
    FQI_TRY(embed(s, e));
    FQI_TRY(compare_all(s, -1, e));
    for (int64_t layer = 0; layer < n_layer; layer++) {
        for (size_t i = 0; i < l->n_model; i++) FQI_TRY(run_layer(s, i, layer, e));
        FQI_TRY(compare_all(s, layer, e));
        s->done_items++;
    }
    free_layer_buffers(s);
    fqi_memory_trim();   /* the plan counts on it: head and layers are never there together */
    return FQ_OK;
}

/* ---- logits --------------------------------------------------------------------------------------------------------- */

static size_t scored_row(const fqi_lockstep *l, size_t i)
{
    size_t per = fqi_lockstep_scored(l);
    return i / per * l->n_context + l->first_scored + i % per;
}

/* Final norm of n scored positions of stream k. */
static fq_status gather(lockstep *s, size_t k, size_t first, size_t n, fq_err *e)
{
    const fqi_lockstep *l = s->l;
    size_t i = l->stream[k].model, cols = s->acts[k].cols, per = fqi_lockstep_scored(l);
    const float *norm = fqi_weights_final_norm(s->model[i].weights, e);
    float eps = (float)l->decoder[i]->rms_norm_eps, *to = s->hidden[k];
    if (!norm) return e ? e->code : FQ_E_IO;
    for (size_t done = 0, run; done < n; done += run) {
        float *x;
        run = per - (first + done) % per;   /* the rest of a window is in one piece */
        if (run > n - done) run = n - done;
        FQI_TRY(fqi_acts_get(&s->acts[k], scored_row(l, first + done), run, s->buf[0], &x, e));
#pragma omp parallel for num_threads(s->p->n_thread) schedule(static)
        for (size_t r = 0; r < run; r++) s->kernel->rms_norm(x + r * cols, norm, eps, l->served, to + (done + r) * cols, cols);
    }
    return FQ_OK;
}

static fq_status check_finite(const lockstep *s, size_t k, size_t first, size_t n, fq_err *e)
{
    const fqi_lockstep *l = s->l;
    const fq_ckpt *c = l->ckpt[l->stream[k].model];
    size_t vocab = (size_t)l->decoder[l->stream[k].model]->model.vocab_size, bad = SIZE_MAX;
#pragma omp parallel for num_threads(s->p->n_thread) schedule(static) reduction(min : bad)
    for (size_t r = 0; r < n; r++) {
        size_t at, count;
        if (!s->kernel->all_finite(s->logits[k] + r * vocab, FQ_DTYPE_F32, vocab, &at, &count) && r < bad) bad = r;
    }
    if (bad == SIZE_MAX) return FQ_OK;
    size_t row = scored_row(l, first + bad);
    return fqi_fail(e, FQ_E_NUMERIC, FQI_FILE(c->info.path), "logits", "found NaN or infinity at token %zu of window %zu, expected finite numbers", row % l->n_context, row / l->n_context);
}

static fq_status head_of_model(lockstep *s, size_t i, size_t first, size_t n, fq_err *e)
{
    const fqi_lockstep *l = s->l;
    int64_t vocab = fqi_lockstep_vocab(l, i), rows;
    if (!fqi_lockstep_has(l, i)) return FQ_OK;
    double share = (double)n / (double)(l->n_window * fqi_lockstep_scored(l)) * (double)s->model[i].n_stream;
    for (int64_t row = 0; row < vocab; row += rows) {
        fqi_matrix head;
        rows = vocab - row < s->p->head_rows[i] ? vocab - row : s->p->head_rows[i];
        FQI_TRY(fqi_weights_head(s->model[i].weights, row, rows, &head, e));
        for (size_t k = 0; k < l->n_stream; k++)
            if (l->stream[k].model == i)
                fqi_matmul(&s->compute[l->stream[k].order], &head, NULL, s->hidden[k], n, s->logits[k] + row, (size_t)fqi_lockstep_logits(l, i));
        FQI_TRY(step(s, "output head", (uint64_t)(share * (double)s->p->head_bytes[i] * (double)rows / (double)vocab), e));
    }
    for (size_t k = 0; k < l->n_stream; k++) {
        if (l->stream[k].model != i) continue;
        const int64_t all = l->decoder[i]->model.vocab_size;
        const fqi_rank_logits part = { .vocab = all, .limit = all, .n = n, .mine = s->logits[k], .logits = s->logits[k], .scratch = s->from_ranks };
        if (l->slice[i]) FQI_TRY(fqi_rank_collect(l->comm, &part, e));
        if (fqi_comm_rank(l->comm) == 0) FQI_TRY(check_finite(s, k, first, n, e));
    }
    return FQ_OK;
}

static fq_status run_head(lockstep *s, fq_err *e)
{
    const fqi_lockstep *l = s->l;
    size_t total = l->n_window * fqi_lockstep_scored(l);
    fqi_comm_phase(l->comm, "output head");
    FQI_TRY(make_head_buffers(s, e));
    for (size_t first = 0, n; first < total; first += n) {
        n = total - first < s->p->logit_rows ? total - first : s->p->logit_rows;
        for (size_t k = 0; k < l->n_stream; k++)
            if (fqi_lockstep_has(l, l->stream[k].model)) FQI_TRY(gather(s, k, first, n, e));
        for (size_t i = 0; i < l->n_model; i++) FQI_TRY(head_of_model(s, i, first, n, e));
        for (size_t r = 0; r < n; r++) s->target[r] = l->ids[scored_row(l, first + r) + 1];
        if (fqi_comm_rank(l->comm) == 0) FQI_TRY(s->watch->logits(s->watch->user, first, n, (const float *const *)s->logits, s->target, e));
    }
    return FQ_OK;
}

/* ---- the run ---------------------------------------------------------------------------------------------------------- */

static fq_status run_all(lockstep *s, fq_err *e)
{
    FQI_TRY(fqi_kernels_choose(&s->kernel, e));
    for (size_t i = 0; i < s->l->n_model; i++) FQI_TRY(make_model(s, i, e));
    FQI_TRY(make_streams(s, e));
    FQI_TRY(run_layers(s, e));
    return run_head(s, e);
}

fq_status fqi_lockstep_run(const fqi_lockstep *l, const fqi_lockstep_plan *p, const fqi_lockstep_watch *w, fq_err *e)
{
    lockstep *s = fqi_calloc(1, sizeof *s);
    if (!s) return fqi_fail_nomem(e, "run");
    s->l = l;
    s->p = p;
    s->watch = w;
    fq_err own = { 0 };
    fq_status status = run_all(s, &own);
    if (status != FQ_OK && e) *e = own;
    free_all(s);
    return status;
}
