/* layer.c - the order of the parts of one decoder layer, and the buffers they share. See layer.h for the picture.
 *
 * Nothing is allocated during the pass. Each token's row is computed from its own row and its own cache, so how tokens are batched
 * and dealt to threads cannot change a result beyond the order of summation that fqi_matmul states. */
#include "model/work.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/checked.h"

#define LINE_FLOATS 16       /* buffers begin on cache lines */
#define FEW_PIECES 8         /* below: a parallel region costs more than it saves */

void fqi_pass_tap(const fqi_pass *p, fqi_tap_point point, int64_t expert, const float *x, const uint32_t *token, size_t n, size_t cols)
{
    if (p->tap && p->tap->watch) p->tap->watch(p->tap->user, p->layer, point, expert, x, token, n, cols);
}

int fqi_pass_threads(const fqi_pass *p, size_t n)
{
    return n < 2 ? 1 : n < (size_t)p->c->n_thread ? (int)n : p->c->n_thread;
}

/* ---- buffers --------------------------------------------------------------------------------------------------- */

typedef struct part { float **at; uint64_t n; } part;

static uint64_t whole_lines(uint64_t n) { return n > UINT64_MAX - LINE_FLOATS ? UINT64_MAX : (n + LINE_FLOATS - 1) / LINE_FLOATS * LINE_FLOATS; }

#define N_PART 16
static void parts_of(const fqi_decoder *d, int n_thread, size_t n_token, int64_t n_position, fqi_layer_work *w, part out[N_PART])
{
    const fq_model *m = &d->model;
    const uint64_t n = n_token, hidden = fqi_sat_mul(n, (uint64_t)m->hidden_size);
    const uint64_t q = fqi_sat_mul(n, (uint64_t)(m->num_attention_heads * m->head_dim));   /* 2^32 channels at most: 2^16 heads of 2^16 */
    const uint64_t kv = fqi_sat_mul(n, (uint64_t)(m->num_key_value_heads * m->head_dim));
    const bool moe = m->n_moe_layer > 0;
    uint64_t width = (uint64_t)(m->n_dense_layer > 0 ? m->intermediate_size : 0);
    if (moe && (uint64_t)m->moe_intermediate_size > width) width = (uint64_t)m->moe_intermediate_size;
    if (moe && (uint64_t)m->shared_expert_intermediate_size > width) width = (uint64_t)m->shared_expert_intermediate_size;
    const uint64_t experts = moe ? fqi_sat_mul(n, (uint64_t)m->num_experts) : 0, sparse = moe ? n : 0;
    const uint64_t chosen = moe ? fqi_sat_mul(n, (uint64_t)m->num_experts_per_tok) : 0, wide = fqi_sat_mul(n, width);
    w->thread_floats = (size_t)whole_lines(fqi_attention_floats(d, n_position));
    const part all[N_PART] = {
        { &w->norm, hidden }, { &w->q, q }, { &w->k, kv }, { &w->v, kv }, { &w->attention, q }, { &w->out, hidden }, { &w->gate, wide }, { &w->up, wide },
        { &w->per_thread, fqi_sat_mul((uint64_t)n_thread, w->thread_floats) }, { &w->routed, experts }, { &w->choice_weight, chosen },
        { (float **)(void *)&w->choice, chosen }, { (float **)(void *)&w->expert_token, sparse }, { &w->expert_weight, sparse },
        { &w->gathered, moe ? hidden : 0 }, { &w->expert_out, moe ? hidden : 0 },
    };
    for (size_t i = 0; i < N_PART; i++) out[i] = all[i];
}

static uint64_t bytes_of(const part all[N_PART])
{
    uint64_t n = 0;
    for (size_t i = 0; i < N_PART; i++) n = fqi_sat_add(n, whole_lines(all[i].n));
    return fqi_sat_mul(n, sizeof(float));
}

uint64_t fqi_layer_work_bytes(const fqi_decoder *d, int n_thread, size_t n_token, int64_t n_position)
{
    fqi_layer_work w;
    part all[N_PART];
    parts_of(d, n_thread, n_token, n_position, &w, all);
    return bytes_of(all);
}

fq_status fqi_layer_work_create(const fqi_decoder *d, const fqi_compute *c, size_t n_token, int64_t n_position, fqi_layer_work **out, fq_err *e)
{
    part all[N_PART];
    fqi_layer_work *w = fqi_calloc(1, sizeof *w);
    if (!w) return fqi_fail_nomem(e, "buffers of a layer");
    w->n_token = n_token;
    w->n_position = n_position;
    parts_of(d, c->n_thread, n_token, n_position, w, all);
    uint64_t bytes = bytes_of(all);
    w->memory = bytes <= PTRDIFF_MAX ? aligned_alloc(64, (size_t)bytes) : NULL;
    if (!w->memory) {
        free(w);
        return fqi_fail_nomem(e, "buffers of a layer");
    }
    float *at = w->memory;
    for (size_t i = 0; i < N_PART; i++) {
        *all[i].at = at;
        at += whole_lines(all[i].n);
    }
    *out = w;
    return FQ_OK;
}

void fqi_layer_work_share(fqi_layer_work *w, fqi_comm *comm) { w->comm = comm; }

void fqi_layer_work_free(fqi_layer_work *w)
{
    if (!w) return;
    free(w->memory);
    free(w);
}

/* ---- the parts ------------------------------------------------------------------------------------------------- */

static int threads_for_rows(const fqi_pass *p) { return p->batch->n_token < FEW_PIECES ? 1 : fqi_pass_threads(p, p->batch->n_token); }

static void norm_rows(const fqi_pass *p, const float *x, const float *weight)
{
    const size_t hidden = (size_t)p->d->model.hidden_size;
#pragma omp parallel for num_threads(threads_for_rows(p)) schedule(static)
    for (size_t t = 0; t < p->batch->n_token; t++)
        p->c->kernel->rms_norm(x + t * hidden, weight, (float)p->d->rms_norm_eps, p->c->served, p->work->norm + t * hidden, hidden);
}

/* work->out of all ranks together. */
static fq_status sum_ranks(const fqi_pass *p, fq_err *e)
{
    const size_t n = p->batch->n_token * (size_t)p->d->model.hidden_size;
    if (!p->work->comm) return FQ_OK;
    FQI_TRY(fqi_comm_sum_float(p->work->comm, p->work->out, n, e));
    p->c->kernel->round_to(p->work->out, p->c->served, n);
    return FQ_OK;
}

static void add_rows(const fqi_pass *p, float *x)
{
    const size_t hidden = (size_t)p->d->model.hidden_size;
#pragma omp parallel for num_threads(threads_for_rows(p)) schedule(static)
    for (size_t t = 0; t < p->batch->n_token; t++) {
        float *row = x + t * hidden;
        const float *add = p->work->out + t * hidden;
        for (size_t i = 0; i < hidden; i++) row[i] += add[i];
        p->c->kernel->round_to(row, p->c->served, hidden);
    }
}

/* Norm of each head where the family has one, then rotation. */
static void rotate(const fqi_pass *p, const fqi_rope_table *rope, const float *norm, int64_t position, float *x, size_t n_head)
{
    const size_t hd = (size_t)p->d->model.head_dim;
    for (size_t h = 0; norm && h < n_head; h++)
        p->c->kernel->rms_norm(x + h * hd, norm, (float)p->d->rms_norm_eps, p->c->served, x + h * hd, hd);
    fqi_rope_apply(rope, position, x, n_head, hd);
    p->c->kernel->round_to(x, p->c->served, n_head * hd);
}

static const fqi_span *span_of(const fqi_batch *b, size_t token, int64_t *position)
{
    const fqi_span *s = b->span;
    for (; token >= s->n; s++) token -= s->n;
    *position = s->pos + (int64_t)token;
    return s;
}

static void attention_input(const fqi_pass *p, const float *x)
{
    norm_rows(p, x, p->w->input_norm);
    fqi_pass_tap(p, FQI_TAP_ATTENTION, -1, p->work->norm, NULL, p->batch->n_token, (size_t)p->d->model.hidden_size);
}

static void attention(const fqi_pass *p, const fqi_rope_table *rope)
{
    const fqi_layer_weights *w = p->w;
    const fqi_layer_work *b = p->work;
    const size_t n = p->batch->n_token, heads = (size_t)p->d->model.num_attention_heads, kv = (size_t)p->d->model.num_key_value_heads;
    const size_t q_width = (size_t)w->q.rows, kv_width = (size_t)w->k.rows;
    fqi_matmul(p->c, &w->q, w->q_bias, b->norm, n, b->q, q_width);
    fqi_matmul(p->c, &w->k, w->k_bias, b->norm, n, b->k, kv_width);
    fqi_matmul(p->c, &w->v, w->v_bias, b->norm, n, b->v, kv_width);
#pragma omp parallel for num_threads(threads_for_rows(p)) schedule(static)
    for (size_t t = 0; t < n; t++) {
        int64_t position;
        const fqi_span *span = span_of(p->batch, t, &position);
        rotate(p, rope, w->q_norm, position, b->q + t * q_width, heads);
        rotate(p, rope, w->k_norm, position, b->k + t * kv_width, kv);
        fqi_attention_append(p, &span->kv, t, position);
    }
    fqi_attention_run(p);
    fqi_pass_tap(p, FQI_TAP_O, -1, p->attention, NULL, n, q_width);
}

static fq_status output_projection(const fqi_pass *p, float *x, fq_err *e)
{
    fqi_matmul(p->c, &p->w->o, p->w->o_bias, p->attention, p->batch->n_token, p->work->out, (size_t)p->d->model.hidden_size);
    FQI_TRY(sum_ranks(p, e));
    add_rows(p, x);
    return FQ_OK;
}

/* x is changed by the last step only. */
static fq_status feed_forward(const fqi_pass *p, float *x, fq_err *e)
{
    const size_t hidden = (size_t)p->d->model.hidden_size, n = p->batch->n_token;
    norm_rows(p, x, p->w->post_attention_norm);
    fqi_pass_tap(p, FQI_TAP_MLP, -1, p->work->norm, NULL, n, hidden);
    if (p->w->sparse)
        fqi_moe_run(p);
    else if (p->step != FQI_STEP_MLP_IN)
        fqi_mlp_run(p, &p->w->mlp, p->work->norm, NULL, n, p->work->out, FQI_TAP_DOWN, -1);
    if (p->step != FQI_STEP_MLP) return FQ_OK;
    FQI_TRY(sum_ranks(p, e));
    add_rows(p, x);
    return FQ_OK;
}

/* The token that is to blame: one whose values are not finite spoils earlier tokens of its tile, whose weight for it is 0, too. */
static size_t first_bad(const fqi_pass *p, size_t token)
{
    const size_t width = (size_t)p->w->v.rows;
    size_t at, count;
    if (p->c->kernel->all_finite(p->work->v, FQ_DTYPE_F32, p->batch->n_token * width, &at, &count)) return token;
    return at / width;
}

/* rows: what came out, `cols` wide. attended: attention was part of it, and work->v is of this batch. */
static fq_status check_finite(const fqi_pass *p, const float *rows, size_t cols, bool attended, fq_err *e)
{
    size_t at = 0, count = 0;
    int64_t position;
    if (p->c->kernel->all_finite(rows, FQ_DTYPE_F32, p->batch->n_token * cols, &at, &count)) return FQ_OK;
    (void)span_of(p->batch, attended ? first_bad(p, at / cols) : at / cols, &position);
    return fqi_fail(e, FQ_E_NUMERIC, NULL, "activation",
                    "layer %" PRId64 ", token at position %" PRId64 ": found %s (%zu of %zu values are not finite), expected finite numbers",
                    p->layer, position, isnan(rows[at]) ? "NaN" : "infinity", count, p->batch->n_token * cols);
}

fq_status fqi_layer_forward(const fqi_compute *c, const fqi_decoder *d, const fqi_rope_table *rope, const fqi_layer_weights *w, int64_t layer,
                            const fqi_batch *batch, float *x, fqi_layer_work *work, const fqi_tap *tap, fq_err *e)
{
    const fqi_pass p = { .c = c, .d = d, .w = w, .batch = batch, .tap = tap, .work = work, .layer = layer, .step = FQI_STEP_MLP,
                         .attention = work ? work->attention : NULL };
    if (batch->n_token == 0) return FQ_OK;
    attention_input(&p, x);
    attention(&p, rope);
    FQI_TRY(output_projection(&p, x, e));
    FQI_TRY(feed_forward(&p, x, e));
    return check_finite(&p, x, (size_t)d->model.hidden_size, true, e);
}

fq_status fqi_layer_step(const fqi_compute *c, const fqi_decoder *d, const fqi_rope_table *rope, const fqi_layer_weights *w, int64_t layer,
                         const fqi_batch *batch, fqi_step step, float *x, float *rows, fqi_layer_work *work, const fqi_tap *tap, fq_err *e)
{
    const fqi_pass p = { .c = c, .d = d, .w = w, .batch = batch, .tap = tap, .work = work, .layer = layer, .step = step, .attention = rows };
    const size_t hidden = (size_t)d->model.hidden_size;
    if (batch->n_token == 0) return FQ_OK;
    switch (step) {
    case FQI_STEP_ATTENTION_IN:
        attention_input(&p, x);
        return FQ_OK;
    case FQI_STEP_ATTENTION:
        attention_input(&p, x);
        attention(&p, rope);
        return check_finite(&p, rows, (size_t)(d->model.num_attention_heads * d->model.head_dim), true, e);
    case FQI_STEP_O:
        FQI_TRY(output_projection(&p, x, e));
        return check_finite(&p, x, hidden, false, e);
    case FQI_STEP_MLP_IN:
    case FQI_STEP_DOWN_IN:
        return feed_forward(&p, x, e);
    default:
        FQI_TRY(feed_forward(&p, x, e));
        return check_finite(&p, x, hidden, false, e);
    }
}
