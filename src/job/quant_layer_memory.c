/* quant_layer_memory.c - the peak of one layer's memory, by walking through what quant_layer.c allocates and frees, with lengths in place of data.
 *
 * Kept in step with it by the test that measures. What the forward pass and the passes hold is alive all the time; moments, factors and
 * work come and go; codes only come. */
#include <string.h>

#include "base/checked.h"
#include "base/fs_memory.h"
#include "job/quant_layer_private.h"

#define PAGE 4096

typedef fqi_quant_kind kind;

typedef struct walk {
    const fqi_quant_settings *s;
    int n_thread;
    bool large_pages;
    uint64_t live, peak;
} walk;

static uint64_t matrix(uint64_t rows, uint64_t cols) { return fqi_sat_mul(fqi_sat_mul(rows, cols), sizeof(float)); }

static void take(walk *w, uint64_t bytes)
{
    w->live = fqi_sat_add(w->live, bytes);
    if (w->live > w->peak) w->peak = w->live;
}

static void give(walk *w, uint64_t bytes)
{
    if (w->live != UINT64_MAX) w->live -= bytes;
}

/* Of a Hessian and of a factor the lower triangle is used: of each row of n so many bytes and the rest of two pages. */
static uint64_t triangle(const walk *w, uint64_t n)
{
    const uint64_t all = fqi_hessian_bytes((size_t)n), half = fqi_sat_add(all / 2, fqi_sat_mul(n, PAGE));
    return w->large_pages || half > all ? all : half;
}

static uint64_t moments(const walk *w, const kind *k)
{
    const uint64_t h = triangle(w, k->cols);
    return w->s->shift > 0 ? fqi_sat_add(h, matrix(k->drift == FQI_DRIFT_OUTPUT ? k->rows[0] : k->cols, k->cols)) : h;
}

static uint64_t wide_of(const kind *k)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < k->n_rows; i++) sum = fqi_sat_add(sum, matrix(k->rows[i], k->cols));
    return fqi_sat_mul(sum, k->n);
}

/* Padded columns make a few groups more; of one matrix, that is nothing. */
static uint64_t codes_of(const walk *w, uint64_t rows, uint64_t cols)
{
    const uint64_t group = w->s->group_size > 0 ? (uint64_t)w->s->group_size : cols;
    return fqi_codes_bytes((size_t)rows, (size_t)cols, (size_t)((cols + group - 1) / (group ? group : 1)));
}

static void solve(walk *w, const kind *k, bool keep)
{
    const bool factors = w->s->method == FQ_METHOD_GPTQ;
    const uint64_t shared = fqi_sat_add(factors ? triangle(w, k->cols) : 0, fqi_sat_mul(k->cols, 3 * sizeof(uint32_t)));
    take(w, shared);
    if (factors) {
        take(w, fqi_cholesky_bytes((size_t)k->cols, w->n_thread));
        give(w, fqi_cholesky_bytes((size_t)k->cols, w->n_thread));
    }
    for (size_t i = 0; i < k->n_rows; i++) {
        uint64_t work = factors ? fqi_gptq_bytes((size_t)k->rows[i], (size_t)k->cols, w->n_thread) : 0;   /* rounding works in tiles */
        const uint64_t shifting = w->s->shift > 0 ? fqi_shift_target_bytes((size_t)k->cols, w->n_thread) : 0;
        if (shifting > work) work = shifting;
        take(w, fqi_sat_add(matrix(k->rows[i], k->cols), codes_of(w, k->rows[i], k->cols)));
        take(w, work);
        give(w, work);
    }
    give(w, shared);
    for (size_t i = 0; i < k->n_rows && !keep; i++) give(w, matrix(k->rows[i], k->cols));
}

static void run_stage(walk *w, const kind *k, size_t n_kind, size_t stage)
{
    for (size_t i = 0; i < n_kind; i++)
        if (k[i].stage == stage) take(w, fqi_sat_mul(moments(w, &k[i]), k[i].n));
    for (size_t i = 0; i < n_kind; i++)   /* what an earlier stage left and this one's pass was the last to need */
        if (stage > 0 && stage <= 2 && k[i].stage == stage - 1) give(w, wide_of(&k[i]));
    for (size_t i = 0; i < n_kind; i++)
        for (uint64_t n = 0; k[i].stage == stage && n < k[i].n; n++) {
            solve(w, &k[i], true);
            give(w, moments(w, &k[i]));
        }
}

/* Buffers of the passes. Of those of the layer's own work, the rows of attention are not touched: they are the caller's. */
static uint64_t pass_bytes(const fq_model *m, const fqi_quant_settings *s, size_t n_window, size_t seqlen, int n_thread)
{
    const fqi_decoder d = { .model = *m };
    const size_t windows = fqi_quant_batch_windows(n_window, seqlen);
    const uint64_t n = fqi_sat_mul(windows, seqlen), width = (uint64_t)(m->num_attention_heads * m->head_dim), hidden = (uint64_t)m->hidden_size;
    const uint64_t work = fqi_layer_work_bytes(&d, n_thread, (size_t)n, (int64_t)seqlen), attention = matrix(n, width);
    uint64_t sum = work == UINT64_MAX ? work : work - attention;
    sum = fqi_sat_add(sum, fqi_sat_mul(fqi_sat_mul(fqi_kv_floats(&d, (int64_t)seqlen), windows), sizeof(float)));
    if (!(s->shift > 0)) return sum;
    const uint64_t expert = m->n_moe_layer ? (uint64_t)m->moe_intermediate_size : 0;
    sum = fqi_sat_add(sum, fqi_sat_add(attention, fqi_sat_mul(fqi_plain_floats(m, (size_t)n), sizeof(float))));
    return fqi_sat_add(sum, matrix(n, expert > hidden ? expert : hidden));
}

uint64_t fqi_quant_disk_bytes(const fq_model *m, const fqi_quant_settings *s, size_t n_window, size_t seqlen)
{
    const uint64_t n = fqi_sat_mul(fqi_quant_batch_windows(n_window, seqlen), seqlen), streams = s->shift > 0 ? 2 : 1;
    if (s->method != FQ_METHOD_GPTQ) return 0;
    return matrix(n, fqi_sat_add(fqi_sat_mul(streams, (uint64_t)m->hidden_size), (uint64_t)(m->num_attention_heads * m->head_dim)));
}

static uint64_t layer_peak(const fqi_quant_settings *s, const kind *k, size_t n_kind, int n_thread, uint64_t always)
{
    walk w = { .s = s, .n_thread = n_thread, .large_pages = fqi_memory_large_pages(), .live = always, .peak = always };
    if (s->method == FQ_METHOD_GPTQ) {
        for (size_t stage = 0; stage < FQI_N_STAGE; stage++) run_stage(&w, k, n_kind, stage);
        return w.peak;
    }
    for (size_t i = 0; i < n_kind; i++)
        for (uint64_t n = 0; n < k[i].n; n++) solve(&w, &k[i], false);
    return w.peak;
}

size_t fqi_quant_kinds(const fq_model *m, bool is_sparse, fqi_quant_kind *out)
{
    const uint64_t hidden = (uint64_t)m->hidden_size, q = (uint64_t)(m->num_attention_heads * m->head_dim), kv = (uint64_t)(m->num_key_value_heads * m->head_dim);
    const uint64_t ff = (uint64_t)m->intermediate_size, moe = (uint64_t)m->moe_intermediate_size, shared = (uint64_t)m->shared_expert_intermediate_size;
    const uint64_t n_expert = (uint64_t)m->num_experts, has_shared = shared > 0;
    const fqi_drift in = FQI_DRIFT_INPUT, add = FQI_DRIFT_OUTPUT;
    const kind attention = { 0, in, false, 1, hidden, { q, kv, kv }, 3 }, o = { 1, add, false, 1, q, { hidden }, 1 };
    const kind dense[] = { attention, o, { 2, in, false, 1, hidden, { ff, ff }, 2 }, { 3, add, false, 1, ff, { hidden }, 1 } };
    const kind sparse[] = { attention, o, { 2, in, false, has_shared, hidden, { shared, shared }, 2 }, { 2, in, true, n_expert, hidden, { moe, moe }, 2 },
                            { 3, in, true, n_expert, moe, { hidden }, 1 }, { 3, in, false, has_shared, shared, { hidden }, 1 } };
    const size_t n = is_sparse ? sizeof sparse / sizeof sparse[0] : sizeof dense / sizeof dense[0];
    memcpy(out, is_sparse ? sparse : dense, n * sizeof *out);
    return n;
}

uint64_t fqi_quant_layer_bytes(const fq_model *m, const fqi_quant_settings *s, size_t n_window, size_t seqlen, int n_thread)
{
    kind dense[FQI_MAX_QUANT_KIND], sparse[FQI_MAX_QUANT_KIND];
    const size_t n_dense = fqi_quant_kinds(m, false, dense), n_sparse = fqi_quant_kinds(m, true, sparse);
    const uint64_t always = s->method == FQ_METHOD_GPTQ ? pass_bytes(m, s, n_window, seqlen, n_thread) : 0;
    const uint64_t a = m->n_dense_layer ? layer_peak(s, dense, n_dense, n_thread, always) : 0;
    const uint64_t b = m->n_moe_layer ? layer_peak(s, sparse, n_sparse, n_thread, always) : 0;
    return a > b ? a : b;
}
