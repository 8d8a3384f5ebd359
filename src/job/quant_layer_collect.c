/* quant_layer_collect.c - all windows through a part of a layer, and the moments of what its taps show.
 *
 * Batches follow from the number and length of the windows alone, so that sums are cut in the same places on every machine. KV caches live
 * for a batch: every window is whole, so nothing is looked up later.
 *
 * With a shifted target (quant/target.h) the unquantized model goes through the same batch first. Of o_proj and down_proj the stream that it
 * ends with is what is wanted: D += (stream_plain - stream)^T x. Of others its inputs are kept until the quantized one shows the
 * same input: C += (x_plain - x)^T x. Experts: what an expert's gate and up would have seen of a token is the norm's row, whoever
 * the token was routed to. Its down_proj saw a token only if the unquantized model sent it there; of others the difference is taken
 * to be none. */
#include "job/quant_layer_private.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"

size_t fqi_quant_batch_windows(size_t n_window, size_t seqlen)
{
    size_t n = seqlen < FQI_CALIB_BATCH_TOKENS ? FQI_CALIB_BATCH_TOKENS / (seqlen ? seqlen : 1) : 1;
    return n < n_window ? n : n_window;
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* ---- memory -------------------------------------------------------------------------------------------------------- */

static float *floats(uint64_t n)
{
    uint64_t bytes = fqi_sat_mul(n, sizeof(float));
    return bytes > PTRDIFF_MAX - 128 ? NULL : aligned_alloc(64, (size_t)(bytes + 127) / 64 * 64);
}

uint64_t fqi_plain_floats(const fq_model *m, size_t n_token)
{
    uint64_t width = (uint64_t)m->hidden_size;
    if (m->n_moe_layer > 0) {
        uint64_t sparse = fqi_sat_add(fqi_sat_mul((uint64_t)m->num_experts_per_tok, (uint64_t)m->moe_intermediate_size), (uint64_t)m->shared_expert_intermediate_size);
        if (sparse > width) width = sparse;
    }
    return fqi_sat_mul(width, n_token);
}

static fq_status make_plain(fqi_quantizing *q, size_t n_token, fq_err *e)
{
    const fq_model *m = &q->j->decoder->model;
    fqi_plain *p = &q->plain;
    p->cap = (size_t)fqi_plain_floats(m, n_token);
    p->token_cap = n_token * (size_t)(m->num_experts_per_tok + 2);
    p->shown_cap = (size_t)m->num_experts + 2;
    p->attention = floats(fqi_sat_mul(n_token, (uint64_t)(m->num_attention_heads * m->head_dim)));
    p->rows = floats(p->cap);
    p->token = fqi_calloc(p->token_cap, sizeof *p->token);
    p->shown = fqi_calloc(p->shown_cap, sizeof *p->shown);
    p->matched = floats(fqi_sat_mul(n_token, larger((size_t)m->hidden_size, (size_t)m->moe_intermediate_size)));
    return p->attention && p->rows && p->token && p->shown && p->matched ? FQ_OK : fqi_fail_nomem(e, "inputs of the unquantized model");
}

static bool on_disk(const fqi_acts *a) { return a && !a->memory; }

fq_status fqi_collect_begin(fqi_quantizing *q, fq_err *e)
{
    const fqi_layer_job *j = q->j;
    const fqi_decoder *d = j->decoder;
    const size_t seqlen = j->calib->seqlen;
    q->batch_window = fqi_quant_batch_windows(j->calib->n_window, seqlen);
    const size_t n_token = q->batch_window * seqlen;
    FQI_TRY(fqi_layer_work_create(d, j->compute, n_token, (int64_t)seqlen, &q->work, e));
    q->kv_floats = fqi_kv_floats(d, (int64_t)seqlen);
    q->kv = floats(fqi_sat_mul(q->kv_floats, q->batch_window));
    q->span = fqi_calloc(q->batch_window, sizeof *q->span);
    if (!q->kv || !q->span) return fqi_fail_nomem(e, "caches");
    memset(q->kv, 0, q->batch_window * q->kv_floats * sizeof *q->kv);
    if (on_disk(j->x) && !(q->x = floats(fqi_sat_mul(n_token, j->x->cols)))) return fqi_fail_nomem(e, "hidden states");
    if (on_disk(j->attention) && !(q->attention = floats(fqi_sat_mul(n_token, j->attention->cols)))) return fqi_fail_nomem(e, "hidden states");
    if (on_disk(j->x_plain) && !(q->x_plain = floats(fqi_sat_mul(n_token, j->x_plain->cols)))) return fqi_fail_nomem(e, "hidden states");
    return j->x_plain ? make_plain(q, n_token, e) : FQ_OK;
}

void fqi_collect_end(fqi_quantizing *q)
{
    fqi_layer_work_free(q->work);
    q->work = NULL;
    float **all[] = { &q->kv, &q->x, &q->attention, &q->x_plain, &q->plain.attention, &q->plain.rows, &q->plain.matched };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(*all[i]);
        *all[i] = NULL;
    }
    free(q->span);
    free(q->plain.token);
    free(q->plain.shown);
    q->span = NULL;
    q->plain = (fqi_plain){ 0 };
}

/* ---- the unquantized model ----------------------------------------------------------------------------------------- */

static const fqi_plain_rows *shown(const fqi_plain *p, fqi_tap_point point, int64_t expert)
{
    for (size_t i = 0; i < p->n_shown; i++)
        if (p->shown[i].point == point && p->shown[i].expert == expert) return &p->shown[i];
    return NULL;
}

/* Rows of an expert's gate and up are rows of the norm: kept once. */
static void keep(void *user, int64_t layer, fqi_tap_point point, int64_t expert, const float *x, const uint32_t *token, size_t n, size_t cols)
{
    fqi_quantizing *q = user;
    fqi_plain *p = &q->plain;
    (void)layer;
    if (!fqi_stage_has(q->stage, point) || point == FQI_TAP_EXPERT_MLP || fqi_drift_of(point) == FQI_DRIFT_OUTPUT) return;
    fqi_plain_rows *r = &p->shown[p->n_shown++];
    *r = (fqi_plain_rows){ .point = point, .expert = expert, .at = p->n_float, .n = n, .cols = cols, .token = p->n_token };
    memcpy(p->rows + p->n_float, x, n * cols * sizeof *x);
    for (size_t i = 0; i < n; i++) p->token[p->n_token++] = token ? token[i] : (uint32_t)i;
    p->n_float += n * cols;
}

/* The rows that the unquantized model had where the quantized one has x, in its order. Tokens ascend in both. */
static const float *match(fqi_quantizing *q, fqi_tap_point point, int64_t expert, const float *x, const uint32_t *token, size_t n, size_t cols)
{
    fqi_plain *p = &q->plain;
    const fqi_plain_rows *r = shown(p, point == FQI_TAP_EXPERT_MLP ? FQI_TAP_MLP : point, point == FQI_TAP_EXPERT_MLP ? -1 : expert);
    if (r && !token) return p->rows + r->at;
    for (size_t i = 0, k = 0; i < n; i++) {
        while (r && k < r->n && p->token[r->token + k] < token[i]) k++;
        const bool same = r && k < r->n && p->token[r->token + k] == token[i];
        memcpy(p->matched + i * cols, same ? p->rows + r->at + k * cols : x + i * cols, cols * sizeof *x);
    }
    return p->matched;
}

/* ---- the quantized one --------------------------------------------------------------------------------------------- */

static fqi_quant_input *input_of(fqi_quantizing *q, fqi_tap_point point, int64_t expert)
{
    for (size_t i = 0; i < q->n_input; i++)
        if (q->input[i].point == point && q->input[i].expert == expert) return &q->input[i];
    return NULL;
}

/* A bias is added to the stream as well, and is not W's to make up for. */
static const float *stream_before(fqi_quantizing *q, fqi_tap_point point, size_t n)
{
    const float *bias = point == FQI_TAP_O ? q->w.o_bias : q->w.mlp.down_bias;
    const size_t hidden = (size_t)q->j->decoder->model.hidden_size;
    if (!bias) return q->before;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < hidden; k++) q->plain.matched[i * hidden + k] = q->before[i * hidden + k] + bias[k];
    return q->plain.matched;
}

static void watch(void *user, int64_t layer, fqi_tap_point point, int64_t expert, const float *x, const uint32_t *token, size_t n, size_t cols)
{
    fqi_quantizing *q = user;
    fqi_quant_input *in = input_of(q, point, expert);
    (void)layer;
    if (!in || !in->h.h) return;
    const double begin = fqi_now_seconds();
    fqi_hessian_add(&q->la, &in->h, x, n, cols);
    if (in->moment && fqi_drift_of(point) == FQI_DRIFT_OUTPUT)
        fqi_cross_add(&q->la, in->moment, (size_t)q->j->decoder->model.hidden_size, cols, q->plain.after, stream_before(q, point, n), x, n);
    else if (in->moment)
        fqi_cross_add(&q->la, in->moment, cols, cols, match(q, point, expert, x, token, n, cols), x, x, n);
    q->hessian_seconds += fqi_now_seconds() - begin;
}

/* ---- batches ------------------------------------------------------------------------------------------------------- */

typedef struct place { size_t row, n_row; fqi_batch batch; } place;

static fq_status step(fqi_quantizing *q, const fqi_layer_weights *w, fqi_step s, const place *at, float *x, float *attention, const fqi_tap *tap, fq_err *e)
{
    const fqi_layer_job *j = q->j;
    return fqi_layer_step(j->compute, j->decoder, j->rope, w, q->layer, &at->batch, s, x, attention, q->work, tap, e);
}

static bool writes_x(fqi_step s) { return s == FQI_STEP_O || s == FQI_STEP_MLP; }

static fq_status run_plain(fqi_quantizing *q, const place *at, fq_err *e)
{
    fqi_acts *acts = q->j->x_plain;
    const fqi_tap tap = { keep, q };
    float *x;
    bool changed = false;
    q->plain.n_shown = q->plain.n_float = q->plain.n_token = 0;
    if (!acts || q->stage->n_plain == 0) return FQ_OK;
    FQI_TRY(fqi_acts_get(acts, at->row, at->n_row, q->x_plain, &x, e));
    for (size_t i = 0; i < q->stage->n_plain; i++) {
        FQI_TRY(step(q, q->original, q->stage->plain[i], at, x, q->plain.attention, &tap, e));
        changed = changed || writes_x(q->stage->plain[i]);
    }
    q->plain.after = x;
    return changed ? fqi_acts_put(acts, at->row, at->n_row, x, e) : FQ_OK;
}

static fq_status run_quantized(fqi_quantizing *q, const place *at, fq_err *e)
{
    const fqi_layer_job *j = q->j;
    const fqi_tap tap = { watch, q };
    float *x, *attention = NULL;
    bool changed = false;
    FQI_TRY(fqi_acts_get(j->x, at->row, at->n_row, q->x, &x, e));
    q->before = x;
    for (size_t i = 0; i < q->stage->n_step; i++) {
        const fqi_step s = q->stage->step[i];
        if (s == FQI_STEP_ATTENTION && j->attention->memory) FQI_TRY(fqi_acts_get(j->attention, at->row, at->n_row, NULL, &attention, e));
        if (s == FQI_STEP_ATTENTION && !j->attention->memory) attention = q->attention;
        if (s == FQI_STEP_O) FQI_TRY(fqi_acts_get(j->attention, at->row, at->n_row, q->attention, &attention, e));
        FQI_TRY(step(q, &q->w, s, at, x, attention, &tap, e));
        if (s == FQI_STEP_ATTENTION) FQI_TRY(fqi_acts_put(j->attention, at->row, at->n_row, attention, e));
        changed = changed || writes_x(s);
    }
    return changed ? fqi_acts_put(j->x, at->row, at->n_row, x, e) : FQ_OK;
}

static fq_status check_cancelled(const fqi_quantizing *q, fq_err *e)
{
    const fq_run *run = q->j->run;
    if (!run->cancelled || !run->cancelled(run->user)) return FQ_OK;
    return fqi_fail(e, FQ_E_CANCELLED, NULL, "cancelled", "stopped in layer %lld", (long long)q->layer);
}

static fq_status run_batch(fqi_quantizing *q, const fqi_quant_share *share, size_t batch, fq_err *e)
{
    const fqi_layer_job *j = q->j;
    const size_t seqlen = j->calib->seqlen, n_row = fqi_quant_batch_rows(share, batch), n = n_row / seqlen;
    for (size_t i = 0; i < n; i++) {
        q->span[i] = (fqi_span){ .n = seqlen };
        fqi_kv_place(j->decoder, q->kv + i * q->kv_floats, (int64_t)seqlen, &q->span[i].kv);
    }
    const place at = { .row = fqi_quant_batch_at(share, j->comm, batch), .n_row = n_row, .batch = { .span = q->span, .n_span = n, .n_token = n_row } };
    FQI_TRY(run_plain(q, &at, e));
    return run_quantized(q, &at, e);
}

fq_status fqi_collect_run(fqi_quantizing *q, const fqi_stage *stage, fq_err *e)
{
    const fqi_layer_job *j = q->j;
    const size_t seqlen = j->calib->seqlen;
    const fqi_quant_share share = fqi_quant_share_of(j->comm, j->calib->n_window, seqlen);
    const size_t size = (size_t)fqi_comm_size(j->comm), me = (size_t)fqi_comm_rank(j->comm);
    q->stage = stage;
    for (size_t round = 0; round < share.n_batch; round += size) {
        FQI_TRY(check_cancelled(q, e));
        if (round + me < share.n_batch) FQI_TRY(run_batch(q, &share, round + me, e));
        FQI_TRY(fqi_round_sum(q, round + size >= share.n_batch, e));
    }
    return FQ_OK;
}

/* ---- the output head ----------------------------------------------------------------------------------------------- */

static fq_status norm_rows(fqi_quantizing *q, fqi_acts *acts, size_t row, size_t n, const float *weight, float *out, fq_err *e)
{
    const fqi_layer_job *j = q->j;
    const size_t hidden = acts->cols;
    float *x;
    FQI_TRY(fqi_acts_get(acts, row, n, out, &x, e));
#pragma omp parallel for num_threads(q->la.n_thread) schedule(static)
    for (size_t i = 0; i < n; i++)
        j->compute->kernel->rms_norm(x + i * hidden, weight, (float)j->decoder->rms_norm_eps, j->compute->served, out + i * hidden, hidden);
    return FQ_OK;
}

static fq_status head_batches(fqi_quantizing *q, const float *weight, float *norm, float *plain, fq_err *e)
{
    const fqi_layer_job *j = q->j;
    const fqi_quant_share share = fqi_quant_share_of(j->comm, j->calib->n_window, j->calib->seqlen);
    const size_t size = (size_t)fqi_comm_size(j->comm), me = (size_t)fqi_comm_rank(j->comm);
    fqi_quant_input *in = &q->input[0];
    for (size_t round = 0; round < share.n_batch; round += size) {
        const size_t batch = round + me, n = batch < share.n_batch ? fqi_quant_batch_rows(&share, batch) : 0;
        const size_t row = n ? fqi_quant_batch_at(&share, j->comm, batch) : 0;
        FQI_TRY(check_cancelled(q, e));
        FQI_TRY(norm_rows(q, j->x, row, n, weight, norm, e));
        if (in->moment) FQI_TRY(norm_rows(q, j->x_plain, row, n, weight, plain, e));
        fqi_hessian_add(&q->la, &in->h, norm, n, in->cols);
        if (in->moment) fqi_cross_add(&q->la, in->moment, in->cols, in->cols, plain, norm, norm, n);
        FQI_TRY(fqi_round_sum(q, round + size >= share.n_batch, e));
    }
    return FQ_OK;
}

fq_status fqi_collect_head(fqi_quantizing *q, const float *final_norm, fq_err *e)
{
    const fqi_layer_job *j = q->j;
    const uint64_t n = fqi_sat_mul(fqi_quant_batch_windows(j->calib->n_window, j->calib->seqlen) * j->calib->seqlen, q->input[0].cols);
    float *norm = floats(n), *plain = floats(q->input[0].moment ? n : 0);
    fq_status s = norm && plain ? head_batches(q, final_norm, norm, plain, e) : fqi_fail_nomem(e, "hidden states");
    free(norm);
    free(plain);
    return s;
}
