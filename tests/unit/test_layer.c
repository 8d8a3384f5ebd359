/* test_layer.c - one decoder layer: against double precision, and that its bits depend on nothing but its numbers.
 *
 * Every property runs over every shape of layer_model.c. FITQ_TEST_SEED sets the seed, which is printed. */
#include <malloc.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "layer_model.h"
#include "model/work.h"
#include "support.h"

#define N_TOKEN 53          /* more than a tile of queries, of keys, and of tokens of a matrix product */
#define MAX_SPAN 6
#define SPAN_TOKENS 16
#define SPAN_PAST 40

static const fqi_order orders[] = { FQI_ORDER_FAST, FQI_ORDER_FIXED };

/* ---- running --------------------------------------------------------------------------------------------------- */

typedef struct runner { const fqt_layer *m; fqi_compute c; fqi_rope_table rope; fqi_layer_work *work; } runner;

/* Buffers are as small as they may be: parts that are too short overlap, which changes results. */
static runner start(const fqt_layer *m, fqi_order order, fq_dtype served, int n_thread, size_t n_token, size_t n_position)
{
    runner r = { .m = m };
    fq_err e;
    if (fqi_compute_create(order, served, n_thread, m->max_cols, &r.c, &e) != FQ_OK) fail_msg("%s", e.text);
    if (fqi_rope_table_create(&m->d.rope, (int64_t)n_position, served, &r.rope, &e) != FQ_OK) fail_msg("%s", e.text);
    if (fqi_layer_work_create(&m->d, &r.c, n_token, (int64_t)n_position, &r.work, &e) != FQ_OK) fail_msg("%s", e.text);
    return r;
}

static void stop(runner *r)
{
    fqi_layer_work_free(r->work);
    fqi_rope_table_free(&r->rope);
    fqi_compute_free(&r->c);
}

/* A cache that another sequence has used before: large finite numbers, which no result may show. */
static fqi_kv cache(const fqt_layer *m, int64_t n_position)
{
    size_t n = fqi_kv_floats(&m->d, n_position), bytes = (n * sizeof(float) + 63) / 64 * 64;
    float *memory = aligned_alloc(64, bytes);
    fqi_kv kv;
    assert_non_null(memory);
    for (size_t i = 0; i < bytes / sizeof(float); i++) memory[i] = i % 2 ? 1e30f : -1e30f;
    fqi_kv_place(&m->d, memory, n_position, &kv);
    assert_ptr_equal(kv.k, memory);
    assert_int_equal(kv.capacity % FQI_TILE, 0);
    return kv;
}

static float *random_rows(const fqt_layer *m, size_t n)
{
    float *x = calloc(n * (size_t)m->d.model.hidden_size, sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n * (size_t)m->d.model.hidden_size; i++) x[i] = (float)(rint(fqt_uniform(-2, 2) * 64) / 64);   /* in every type */
    return x;
}

static float *copy_of(const fqt_layer *m, const float *x, size_t n)
{
    size_t bytes = n * (size_t)m->d.model.hidden_size * sizeof *x;
    float *y = malloc(bytes + 1);   /* no rows are a copy, too */
    assert_non_null(y);
    memcpy(y, x, bytes);
    return y;
}

static fq_status forward(const runner *r, const fqi_span *span, size_t n_span, float *x, const fqi_tap *tap, fq_err *e)
{
    fqi_batch b = { .span = span, .n_span = n_span };
    for (size_t s = 0; s < n_span; s++) b.n_token += span[s].n;
    return fqi_layer_forward(&r->c, &r->m->d, &r->rope, &r->m->w, FQT_LAYER, &b, x, r->work, tap, e);
}

/* One sequence in calls of at most `piece` tokens (0: of random sizes). */
static float *run_pieces(const runner *r, const float *x, size_t n, size_t piece)
{
    const size_t hidden = (size_t)r->m->d.model.hidden_size;
    float *y = copy_of(r->m, x, n);
    fqi_span span = { .kv = cache(r->m, (int64_t)n) };
    fq_err e;
    for (size_t at = 0; at < n; at += span.n) {
        size_t want = piece ? piece : 1 + fqt_below(20);
        span.n = want < n - at ? want : n - at;
        span.pos = (int64_t)at;
        if (forward(r, &span, 1, y + at * hidden, NULL, &e) != FQ_OK) fail_msg("%s", e.text);
    }
    free(span.kv.k);
    return y;
}

static float *run_once(const fqt_layer *m, fqi_order order, fq_dtype served, int n_thread, const float *x, size_t n, size_t piece)
{
    runner r = start(m, order, served, n_thread, n, n);
    float *y = run_pieces(&r, x, n, piece);
    stop(&r);
    return y;
}

static void same_bits(const float *a, const float *b, size_t n, size_t hidden, const char *what, const char *shape)
{
    for (size_t i = 0; i < n * hidden; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0)
            fail_msg("%s: %s: token %zu, channel %zu: %.9g and %.9g", shape, what, i / hidden, i % hidden, (double)a[i], (double)b[i]);
}

/* ---- numbers --------------------------------------------------------------------------------------------------- */

/* Largest difference, of the largest value. */
static double distance(const float *y, const double *ref, size_t n)
{
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)y[i] - ref[i]));
        largest = fmax(largest, fabs(ref[i]));
    }
    return worst / largest;
}

/* Errors of sums of at most 128 products of floats, four deep: 84 units of the last place of the largest value. Seeds reach half of it; the
 * smallest fault tried (a scale of attention that is off by 1e-4) gives 20 times as much. */
#define FP32_TOLERANCE 5e-6

static void test_against_double(void **state)
{
    (void)state;
    for (size_t s = 0; s < fqt_n_shape; s++) {
        fqt_layer m;
        fqt_layer_random(&fqt_shapes[s], &m);
        const size_t n = N_TOKEN, count = n * (size_t)m.d.model.hidden_size;
        float *x = random_rows(&m, n);
        double *ref = calloc(count, sizeof *ref);
        assert_non_null(ref);
        fqt_reference(&m, FQ_DTYPE_F32, x, n, ref, NULL);
        for (size_t o = 0; o < 2; o++) {
            if (fqt_shapes[s].equal_experts && orders[o] == FQI_ORDER_FAST) continue;   /* equal rows need not give equal bits */
            static const size_t pieces[] = { N_TOKEN, 1, 7 };
            for (size_t i = 0; i < 3; i++) {
                float *y = run_once(&m, orders[o], FQ_DTYPE_F32, 1, x, n, pieces[i]);
                double d = distance(y, ref, count);
                if (!(d <= FP32_TOLERANCE))
                    fail_msg("%s: order %d, %zu tokens a call: %.3g of the largest value, expected %.3g", fqt_shapes[s].name, (int)orders[o], pieces[i], d,
                             FP32_TOLERANCE);
                free(y);
            }
        }
        free(x); free(ref);
        fqt_layer_free(&m);
    }
}

/* More keys than attention takes at once; angles of float tables at large positions cost digits. */
#define LONG 600
#define LONG_TOLERANCE 1e-5

static void test_long(void **state)
{
    (void)state;
    static const fqt_shape shapes[] = {
        { "long", 8, 2, 1, 6, 8, .dtype = FQ_DTYPE_BF16 },
        { "long, window", 8, 2, 2, 6, 8, .window = 290, .dtype = FQ_DTYPE_BF16 },
        { "long, short window", 8, 3, 1, 6, 8, .window = 33, .dtype = FQ_DTYPE_BF16 },
    };
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        fqt_layer m;
        fqt_layer_random(&shapes[s], &m);
        const size_t hidden = (size_t)m.d.model.hidden_size;
        float *x = random_rows(&m, LONG), *y = run_once(&m, FQI_ORDER_FIXED, FQ_DTYPE_F32, 2, x, LONG, LONG);
        float *cut = run_once(&m, FQI_ORDER_FIXED, FQ_DTYPE_F32, 1, x, LONG, 37);
        double *ref = calloc(LONG * hidden, sizeof *ref);
        assert_non_null(ref);
        fqt_reference(&m, FQ_DTYPE_F32, x, LONG, ref, NULL);
        double d = distance(y, ref, LONG * hidden);
        if (!(d <= LONG_TOLERANCE)) fail_msg("%s: %.3g of the largest value, expected %.3g", shapes[s].name, d, LONG_TOLERANCE);
        same_bits(y, cut, LONG, hidden, "in pieces", shapes[s].name);
        free(x); free(y); free(cut); free(ref);
        fqt_layer_free(&m);
    }
}

/* Rounds where the list in layer.h says, so results are the same numbers, except that now and then a sum in float falls on the other side
 * of a boundary than the one in double; early in a sequence that touches most of what follows. Such accidents do not happen in
 * each of a few short sequences; a rounding that is missing does. */
#define EQUAL_BF16 0.97
#define EQUAL_F16 0.85
#define SERVED_TRIES 4
#define SERVED_TOKENS 24

static void check_served(const fqt_shape *s, fq_dtype served, double unit, double want)
{
    const size_t n = SERVED_TOKENS;
    double best = 0, worst = 0;
    const fqi_kernels *k;
    assert_int_equal(fqi_kernels_choose(&k, NULL), FQ_OK);
    for (int try = 0; try < SERVED_TRIES; try++) {
        fqt_layer m;
        fqt_layer_random(s, &m);
        const size_t count = n * (size_t)m.d.model.hidden_size;
        float *x = random_rows(&m, n), *y = run_once(&m, FQI_ORDER_FIXED, served, 1, x, n, n), *again = copy_of(&m, y, n);
        double *ref = calloc(count, sizeof *ref);
        assert_non_null(ref);
        fqt_reference(&m, served, x, n, ref, NULL);
        k->round_to(again, served, count);
        same_bits(y, again, n, (size_t)m.d.model.hidden_size, "the type holds it", s->name);
        size_t equal = 0;
        for (size_t i = 0; i < count; i++) equal += (double)y[i] == ref[i];
        best = fmax(best, (double)equal / (double)count);
        worst = fmax(worst, distance(y, ref, count));
        free(x); free(y); free(again); free(ref);
        fqt_layer_free(&m);
    }
    if (best < want || worst > 8 * unit)
        fail_msg("%s: %s: %.3f of the results are equal, largest difference %.3g; expected %.2f and %.3g", s->name, served == FQ_DTYPE_F16 ? "fp16" : "bf16",
                 best, worst, want, 8 * unit);
}

static void test_served(void **state)
{
    (void)state;
    for (size_t s = 0; s < fqt_n_shape; s++) {
        check_served(&fqt_shapes[s], FQ_DTYPE_BF16, 0x1p-8, EQUAL_BF16);
        check_served(&fqt_shapes[s], FQ_DTYPE_F16, 0x1p-11, EQUAL_F16);
    }
}

/* ---- bits ------------------------------------------------------------------------------------------------------ */

/* Fixed order: a token's bits are those of the whole prompt at once, however the prompt is cut. */
static void test_pieces(void **state)
{
    (void)state;
    static const fq_dtype types[] = { FQ_DTYPE_F32, FQ_DTYPE_BF16 };
    for (size_t s = 0; s < fqt_n_shape; s++) {
        fqt_layer m;
        fqt_layer_random(&fqt_shapes[s], &m);
        for (size_t i = 0; i < 2; i++) {
            float *x = random_rows(&m, N_TOKEN), *whole = run_once(&m, FQI_ORDER_FIXED, types[i], 1, x, N_TOKEN, N_TOKEN);
            float *single = run_once(&m, FQI_ORDER_FIXED, types[i], 1, x, N_TOKEN, 1), *cut = run_once(&m, FQI_ORDER_FIXED, types[i], 1, x, N_TOKEN, 0);
            same_bits(whole, single, N_TOKEN, (size_t)m.d.model.hidden_size, "token by token", fqt_shapes[s].name);
            same_bits(whole, cut, N_TOKEN, (size_t)m.d.model.hidden_size, "in pieces", fqt_shapes[s].name);
            free(x); free(whole); free(single); free(cut);
        }
        fqt_layer_free(&m);
    }
}

/* Sequences of random lengths, some of which have a past; *n_token: of the batch. */
static size_t random_spans(const runner *r, fqi_span *span, float **past, size_t *n_token)
{
    const size_t n = 2 + fqt_below(MAX_SPAN - 1);
    fq_err e;
    *n_token = 0;
    for (size_t s = 0; s < n; s++) {
        size_t before = fqt_below(2) ? fqt_below(SPAN_PAST) : 0;
        span[s] = (fqi_span){ .n = before, .kv = cache(r->m, SPAN_PAST + SPAN_TOKENS) };
        past[s] = random_rows(r->m, before ? before : 1);
        if (before && forward(r, &span[s], 1, past[s], NULL, &e) != FQ_OK) fail_msg("%s", e.text);
        span[s].pos = (int64_t)before;
        span[s].n = fqt_below(3) ? fqt_below(SPAN_TOKENS) : 1;   /* 0 is a span, too */
        *n_token += span[s].n;
    }
    return n;
}

static void free_spans(fqi_span *span, float **past, size_t n)
{
    for (size_t s = 0; s < n; s++) {
        free(span[s].kv.k);
        free(past[s]);
    }
}

/* Fixed order: sequences in one batch, each with the bits that it has alone; both orders: with the bits of any number of threads. */
static void check_batch(const fqt_shape *shape, fqi_order order)
{
    fqt_layer m;
    fqt_layer_random(shape, &m);
    const size_t hidden = (size_t)m.d.model.hidden_size;
    runner r = start(&m, order, FQ_DTYPE_F32, 1, MAX_SPAN * SPAN_TOKENS, SPAN_PAST + SPAN_TOKENS);
    fqi_span span[MAX_SPAN];
    float *past[MAX_SPAN];
    fq_err e;
    size_t n_token, n = random_spans(&r, span, past, &n_token);
    float *x = random_rows(&m, n_token ? n_token : 1), *batch = copy_of(&m, x, n_token);
    assert_int_equal(forward(&r, span, n, batch, NULL, &e), FQ_OK);
    for (int threads = 2; threads <= 4; threads++) {
        runner t = start(&m, order, FQ_DTYPE_F32, threads, n_token ? n_token : 1, SPAN_PAST + SPAN_TOKENS);
        float *y = copy_of(&m, x, n_token);
        assert_int_equal(forward(&t, span, n, y, NULL, &e), FQ_OK);   /* writes the same keys again */
        same_bits(batch, y, n_token, hidden, "threads", shape->name);
        free(y);
        stop(&t);
    }
    size_t at = 0;
    for (size_t s = 0; s < n && order == FQI_ORDER_FIXED; s++) {
        float *y = copy_of(&m, x + at * hidden, span[s].n);
        assert_int_equal(forward(&r, &span[s], 1, y, NULL, &e), FQ_OK);
        same_bits(batch + at * hidden, y, span[s].n, hidden, "alone", shape->name);
        at += span[s].n;
        free(y);
    }
    free(x); free(batch);
    free_spans(span, past, n);
    stop(&r);
    fqt_layer_free(&m);
}

static void test_batches(void **state)
{
    (void)state;
    for (size_t s = 0; s < fqt_n_shape; s++)
        for (size_t o = 0; o < 2; o++) check_batch(&fqt_shapes[s], orders[o]);
}

static void test_instruction_sets(void **state)
{
    (void)state;
    for (size_t s = 0; s < fqt_n_shape; s++) {
        fqt_layer m;
        fqt_layer_random(&fqt_shapes[s], &m);
        float *x = random_rows(&m, N_TOKEN), *first = NULL;
        for (size_t i = 0; i < FQI_N_KERNELS; i++) {
            if (!fqi_kernels_at(i)) continue;
            runner r = start(&m, FQI_ORDER_FIXED, FQ_DTYPE_F32, 1, N_TOKEN, N_TOKEN);
            r.c.kernel = fqi_kernels_at(i);
            float *y = run_pieces(&r, x, N_TOKEN, N_TOKEN);
            if (first) same_bits(first, y, N_TOKEN, (size_t)m.d.model.hidden_size, r.c.kernel->name, fqt_shapes[s].name);
            stop(&r);
            if (first)
                free(y);
            else
                first = y;
        }
        free(x); free(first);
        fqt_layer_free(&m);
    }
}

/* ---- twins with zeros inserted --------------------------------------------------------------------------------- */

static const fqt_padding paddings[] = {
    { FQT_TAIL, 11, 0, 1 }, { FQT_FRONT, 3, 0, 1 }, { FQT_ALTERNATE, 19, 0, 1 }, { FQT_RANDOM, 23, 0, 1 },
    { FQT_TAIL, 0, 1, 1 }, { FQT_TAIL, 0, 3, 1 }, { FQT_TAIL, 0, 0, 2 }, { FQT_TAIL, 0, 1, 3 }, { FQT_RANDOM, 13, 2, 4 },
};

static void test_padding(void **state)
{
    (void)state;
    for (size_t s = 0; s < fqt_n_shape; s++) {
        fqt_layer m;
        fqt_layer_random(&fqt_shapes[s], &m);
        const size_t hidden = (size_t)m.d.model.hidden_size;
        float *x = random_rows(&m, N_TOKEN), *exact = run_once(&m, FQI_ORDER_FIXED, FQ_DTYPE_F32, 1, x, N_TOKEN, N_TOKEN);
        float *half = run_once(&m, FQI_ORDER_FIXED, FQ_DTYPE_BF16, 1, x, N_TOKEN, N_TOKEN);
        for (size_t i = 0; i < sizeof paddings / sizeof paddings[0]; i++) {
            fqt_layer twin;
            char what[80];
            fqt_layer_pad(&m, &paddings[i], &twin);
            snprintf(what, sizeof what, "padding %zu", i);
            float *y = run_once(&twin, FQI_ORDER_FIXED, FQ_DTYPE_F32, 1, x, N_TOKEN, N_TOKEN);
            float *single = run_once(&twin, FQI_ORDER_FIXED, FQ_DTYPE_F32, 1, x, N_TOKEN, 1);
            float *served = run_once(&twin, FQI_ORDER_FIXED, FQ_DTYPE_BF16, 1, x, N_TOKEN, N_TOKEN);
            same_bits(exact, y, N_TOKEN, hidden, what, fqt_shapes[s].name);
            same_bits(exact, single, N_TOKEN, hidden, what, fqt_shapes[s].name);
            same_bits(half, served, N_TOKEN, hidden, what, fqt_shapes[s].name);
            free(y); free(single); free(served);
            fqt_layer_free(&twin);
        }
        free(x); free(exact); free(half);
        fqt_layer_free(&m);
    }
}

/* ---- taps ------------------------------------------------------------------------------------------------------ */

#define MAX_SEEN 64

typedef struct seen { fqi_tap_point point; int64_t expert; float *x; uint32_t *token; size_t n, cols; } seen;
typedef struct watcher { seen at[MAX_SEEN]; size_t n; int64_t layer; } watcher;

static void watch(void *user, int64_t layer, fqi_tap_point point, int64_t expert, const float *x, const uint32_t *token, size_t n, size_t cols)
{
    watcher *w = user;
    assert_true(w->n < MAX_SEEN);
    assert_true(n > 0);
    seen *s = &w->at[w->n++];
    *s = (seen){ point, expert, malloc(n * cols * sizeof *x), malloc(n * sizeof *token), n, cols };
    assert_non_null(s->x);
    assert_non_null(s->token);
    memcpy(s->x, x, n * cols * sizeof *x);
    for (size_t i = 0; i < n; i++) s->token[i] = token ? token[i] : (uint32_t)i;
    w->layer = layer;
}

static const seen *find(const watcher *w, fqi_tap_point point, int64_t expert)
{
    const seen *found = NULL;
    for (size_t i = 0; i < w->n; i++) {
        if (w->at[i].point != point || w->at[i].expert != expert) continue;
        assert_null(found);   /* once */
        found = &w->at[i];
    }
    return found;
}

static const seen *expect(const watcher *w, fqi_tap_point point, int64_t expert, size_t n, int64_t cols)
{
    const seen *s = find(w, point, expert);
    assert_non_null(s);
    assert_int_equal(s->n, n);
    assert_int_equal(s->cols, cols);
    for (size_t i = 0; i < n && expert < 0; i++) assert_int_equal(s->token[i], i);
    return s;
}

static float *multiply(const runner *r, const fqi_matrix *w, const float *bias, const seen *s)
{
    float *y = malloc(s->n * (size_t)w->rows * sizeof *y);
    assert_non_null(y);
    assert_int_equal(s->cols, w->cols);
    fqi_matmul(&r->c, w, bias, s->x, s->n, y, (size_t)w->rows);
    return y;
}

/* The input of down_proj is silu(gate) * up of what the tap before it showed. Returns down_proj's output. */
static float *follow_mlp(const runner *r, const fqi_mlp_weights *w, const seen *in, const seen *down, const char *shape)
{
    const size_t width = (size_t)w->gate.rows;
    float *gate = multiply(r, &w->gate, w->gate_bias, in), *up = multiply(r, &w->up, w->up_bias, in);
    assert_int_equal(down->n, in->n);
    assert_memory_equal(down->token, in->token, in->n * sizeof *in->token);
    for (size_t t = 0; t < in->n; t++) r->c.kernel->silu_mul(gate + t * width, up + t * width, r->c.served, width);
    same_bits(gate, down->x, in->n, width, "input of down_proj", shape);
    free(gate); free(up);
    return multiply(r, &w->down, w->down_bias, down);
}

/* y = what the layer adds after attention, from the taps and the reference's routing weights. Returns how many experts no token chose. */
static size_t follow_mixture(const runner *r, const watcher *w, const seen *in, const double *weight, double *y, const char *shape)
{
    const fq_model *f = &r->m->d.model;
    const size_t hidden = (size_t)f->hidden_size, n_expert = (size_t)f->num_experts;
    size_t idle = 0;
    for (size_t e = 0; e < n_expert; e++) {
        size_t n = 0;
        for (size_t t = 0; t < in->n; t++) n += weight[t * n_expert + e] > 0;
        if (n == 0) {
            assert_null(find(w, FQI_TAP_EXPERT_MLP, (int64_t)e));
            assert_null(find(w, FQI_TAP_EXPERT_DOWN, (int64_t)e));
            idle++;
            continue;
        }
        const seen *x = expect(w, FQI_TAP_EXPERT_MLP, (int64_t)e, n, f->hidden_size);
        float *out = follow_mlp(r, &r->m->w.expert[e], x, expect(w, FQI_TAP_EXPERT_DOWN, (int64_t)e, n, f->moe_intermediate_size), shape);
        for (size_t i = 0; i < n; i++) {
            assert_true(i == 0 || x->token[i] > x->token[i - 1]);
            assert_true(weight[x->token[i] * n_expert + e] > 0);
            same_bits(in->x + x->token[i] * hidden, x->x + i * hidden, 1, hidden, "token of an expert", shape);
            for (size_t c = 0; c < hidden; c++) y[x->token[i] * hidden + c] += weight[x->token[i] * n_expert + e] * (double)out[i * hidden + c];
        }
        free(out);
    }
    if (!r->m->w.has_shared) return idle;
    float *out = follow_mlp(r, &r->m->w.shared, in, expect(w, FQI_TAP_SHARED_DOWN, -1, in->n, f->shared_expert_intermediate_size), shape);
    float *gate = r->m->w.shared_gate.data ? multiply(r, &r->m->w.shared_gate, NULL, in) : NULL;
    for (size_t i = 0; i < in->n * hidden; i++) y[i] += (double)out[i] * (gate ? 1 / (1 + exp(-(double)gate[i / hidden])) : 1);
    free(out); free(gate);
    return idle;
}

static void check_taps(const fqt_shape *shape)
{
    fqt_layer m;
    fqt_layer_random(shape, &m);
    const fq_model *f = &m.d.model;
    const size_t n = 19, hidden = (size_t)f->hidden_size, width = (size_t)(f->num_attention_heads * f->head_dim);
    runner r = start(&m, FQI_ORDER_FIXED, FQ_DTYPE_F32, 1, n, n);
    watcher w = { .layer = -1 };
    fqi_span span = { .n = n, .kv = cache(&m, (int64_t)n) };
    fq_err e;
    float *x = random_rows(&m, n), *y = copy_of(&m, x, n), *norm = malloc(n * hidden * sizeof *norm);
    double *ref = calloc(n * hidden, sizeof *ref), *weight = calloc(n * (size_t)f->num_experts + 1, sizeof *weight), *added = calloc(n * hidden, sizeof *added);
    assert_true(norm && ref && weight && added);
    fqt_reference(&m, FQ_DTYPE_F32, x, n, ref, weight);
    assert_int_equal(forward(&r, &span, 1, y, &(fqi_tap){ watch, &w }, &e), FQ_OK);
    assert_int_equal(w.layer, FQT_LAYER);

    const seen *in = expect(&w, FQI_TAP_ATTENTION, -1, n, f->hidden_size);
    for (size_t t = 0; t < n; t++) r.c.kernel->rms_norm(x + t * hidden, m.w.input_norm, 1e-6f, FQ_DTYPE_F32, norm + t * hidden, hidden);
    same_bits(norm, in->x, n, hidden, "input of q, k, v", shape->name);
    float *middle = multiply(&r, &m.w.o, m.w.o_bias, expect(&w, FQI_TAP_O, -1, n, (int64_t)width));
    for (size_t i = 0; i < n * hidden; i++) middle[i] = x[i] + middle[i];
    in = expect(&w, FQI_TAP_MLP, -1, n, f->hidden_size);
    for (size_t t = 0; t < n; t++) r.c.kernel->rms_norm(middle + t * hidden, m.w.post_attention_norm, 1e-6f, FQ_DTYPE_F32, norm + t * hidden, hidden);
    same_bits(norm, in->x, n, hidden, "input of the MLP", shape->name);
    size_t idle = 0, expected;
    if (m.w.sparse) {
        idle = follow_mixture(&r, &w, in, weight, added, shape->name);
        for (size_t i = 0; i < n * hidden; i++) added[i] += (double)middle[i];
        assert_true(distance(y, added, n * hidden) < FP32_TOLERANCE);
        expected = 3 + 2 * ((size_t)f->num_experts - idle) + m.w.has_shared;
    } else {
        float *out = follow_mlp(&r, &m.w.mlp, in, expect(&w, FQI_TAP_DOWN, -1, n, f->intermediate_size), shape->name);
        for (size_t i = 0; i < n * hidden; i++) out[i] = middle[i] + out[i];
        same_bits(out, y, n, hidden, "output", shape->name);
        free(out);
        expected = 4;
    }
    if (w.n != expected) fail_msg("%s: %zu inputs were shown, expected %zu", shape->name, w.n, expected);
    if (shape->equal_experts) assert_true(idle > 0);   /* the third of three equal ones is never among two */
    for (size_t i = 0; i < w.n; i++) {
        free(w.at[i].x);
        free(w.at[i].token);
    }
    free(x); free(y); free(norm); free(ref); free(weight); free(added); free(middle); free(span.kv.k);
    stop(&r);
    fqt_layer_free(&m);
}

static void test_taps(void **state)
{
    (void)state;
    for (size_t s = 0; s < fqt_n_shape; s++) check_taps(&fqt_shapes[s]);
}

/* ---- numbers that are not finite ------------------------------------------------------------------------------- */

/* Routing by NaN must not choose an expert twice for a token: its tokens would not fit the buffers of the batch. */
static void count_tokens(void *user, int64_t layer, fqi_tap_point point, int64_t expert, const float *x, const uint32_t *token, size_t n, size_t cols)
{
    (void)layer; (void)point; (void)expert; (void)x; (void)cols;
    assert_true(n <= *(size_t *)user);
    for (size_t i = 1; token && i < n; i++) assert_true(token[i] > token[i - 1]);
}

/* Token `bad` of the second of two sequences gets `value` in one channel: it is named, not one that shares its tile. */
static void check_not_finite(const fqt_shape *shape, fqi_order order, float value, size_t bad)
{
    fqt_layer m;
    fqt_layer_random(shape, &m);
    size_t both = 5 + 17;
    const size_t first = 5, second = 17, hidden = (size_t)m.d.model.hidden_size;
    runner r = start(&m, order, FQ_DTYPE_F32, 1, first + second, second);
    fqi_span span[2] = { { .n = 3, .kv = cache(&m, 3 + (int64_t)first) }, { .n = second, .kv = cache(&m, (int64_t)second) } };
    fq_err e;
    float *x = random_rows(&m, first + second);
    assert_int_equal(forward(&r, span, 1, x, NULL, &e), FQ_OK);
    span[0].pos = 3;
    span[0].n = first;
    x[(first + bad) * hidden + hidden / 2] = value;
    assert_int_equal(forward(&r, span, 2, x, &(fqi_tap){ count_tokens, &both }, &e), FQ_E_NUMERIC);
    char want[80];
    snprintf(want, sizeof want, "activation: layer %d, token at position %zu: found ", FQT_LAYER, bad);
    if (!strstr(e.text, want)) fail_msg("%s: found \"%s\", expected \"%s\"", shape->name, e.text, want);
    free(x); free(span[0].kv.k); free(span[1].kv.k);
    stop(&r);
    fqt_layer_free(&m);
}

static void test_not_finite(void **state)
{
    (void)state;
    for (size_t s = 0; s < fqt_n_shape; s++)
        for (size_t o = 0; o < 2; o++) {
            check_not_finite(&fqt_shapes[s], orders[o], NAN, 0);
            check_not_finite(&fqt_shapes[s], orders[o], NAN, 11);
            check_not_finite(&fqt_shapes[s], orders[o], INFINITY, 16);
        }
}

/* 65504 is the largest half: a residual sum beyond it is an infinity that a run in fp32 would not show. */
static void test_overflow_of_half(void **state)
{
    (void)state;
    fqt_layer m;
    fqt_layer_random(&fqt_shapes[0], &m);
    const size_t hidden = (size_t)m.d.model.hidden_size;
    float *x = random_rows(&m, 4);
    for (size_t i = 0; i < hidden; i++) x[2 * hidden + i] = 65500;
    float *o_bias = calloc(hidden, sizeof *o_bias);
    assert_non_null(o_bias);
    for (size_t i = 0; i < hidden; i++) o_bias[i] = 64;
    m.w.o_bias = o_bias;
    static const struct { fq_dtype served; fq_status want; } cases[] = {
        { FQ_DTYPE_F32, FQ_OK }, { FQ_DTYPE_BF16, FQ_OK }, { FQ_DTYPE_F16, FQ_E_NUMERIC },
    };
    for (size_t i = 0; i < 3; i++) {
        runner r = start(&m, FQI_ORDER_FIXED, cases[i].served, 1, 4, 4);
        fqi_span span = { .n = 4, .kv = cache(&m, 4) };
        float *y = copy_of(&m, x, 4);
        fq_err e;
        assert_int_equal(forward(&r, &span, 1, y, NULL, &e), cases[i].want);
        if (cases[i].want != FQ_OK) assert_non_null(strstr(e.text, "token at position 2"));
        free(y); free(span.kv.k);
        stop(&r);
    }
    free(x); free(o_bias);
    fqt_layer_free(&m);
}

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static void test_memory(void **state)
{
    (void)state;
    for (size_t s = 0; s < fqt_n_shape; s++) {
        fqt_layer m;
        fqt_layer_random(&fqt_shapes[s], &m);
        runner r = start(&m, FQI_ORDER_FIXED, FQ_DTYPE_BF16, 1, 31, 75);
        uint64_t bytes = fqi_layer_work_bytes(&m.d, 1, 31, 75);
        size_t usable = malloc_usable_size(r.work->memory);
        assert_true(usable >= bytes && usable < bytes + 128);
        fqi_span span = { .n = 31, .kv = cache(&m, 31) };
        float *x = random_rows(&m, 31);
        fq_err e;
        assert_int_equal(forward(&r, &span, 1, x, NULL, &e), FQ_OK);   /* the runtime of OpenMP may allocate once */
        size_t before = mallinfo2().uordblks;
        assert_int_equal(forward(&r, &span, 1, x, NULL, &e), FQ_OK);
        assert_int_equal(mallinfo2().uordblks, before);
        free(x); free(span.kv.k);
        stop(&r);
        fqt_layer_free(&m);
    }
}

/* Lengths of a hostile config and a huge --context: no wrap to a small number, and an allocation that fails is an error. */
static void test_sizes_do_not_wrap(void **state)
{
    (void)state;
    fqt_layer m;
    fqt_layer_random(&fqt_shapes[1], &m);
    fqi_layer_work *work = NULL;
    fqi_compute c = { .n_thread = 2 };
    fq_err e;
    static const size_t tokens[] = { 1, SIZE_MAX / 128, SIZE_MAX };
    for (size_t i = 0; i < 3; i++) {
        if (i > 0) assert_true(fqi_layer_work_bytes(&m.d, 2, tokens[i], 32) == UINT64_MAX);
        if (i > 0) assert_int_equal(fqi_layer_work_create(&m.d, &c, tokens[i], 32, &work, &e), FQ_E_NOMEM);
    }
    m.d.model.num_attention_heads = m.d.model.num_key_value_heads = m.d.model.head_dim = 65536;
    assert_true(fqi_kv_floats(&m.d, INT64_C(1) << 40) == SIZE_MAX);
    assert_true(fqi_layer_work_bytes(&m.d, 2, 1, 32) > (uint64_t)65536 * 65536 * 4 * sizeof(float));
    assert_true(fqi_layer_work_bytes(&m.d, 2, (size_t)1 << 40, INT64_C(1) << 40) == UINT64_MAX);
    assert_null(work);
    fqt_layer_free(&m);
}

static void test_nothing_to_do(void **state)
{
    (void)state;
    fqt_layer m;
    fqt_layer_random(&fqt_shapes[0], &m);
    runner r = start(&m, FQI_ORDER_FAST, FQ_DTYPE_F32, 2, 1, 1);
    fqi_span span = { .n = 0 };
    fq_err e;
    assert_int_equal(forward(&r, &span, 1, NULL, NULL, &e), FQ_OK);
    assert_int_equal(forward(&r, NULL, 0, NULL, NULL, &e), FQ_OK);
    fqi_layer_work_free(NULL);
    stop(&r);
    fqt_layer_free(&m);
}

int main(void)
{
    fqt_state = fqt_seed(20261122);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double), cmocka_unit_test(test_long), cmocka_unit_test(test_served), cmocka_unit_test(test_pieces), cmocka_unit_test(test_batches),
        cmocka_unit_test(test_instruction_sets), cmocka_unit_test(test_padding), cmocka_unit_test(test_taps), cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_overflow_of_half), cmocka_unit_test(test_memory), cmocka_unit_test(test_sizes_do_not_wrap),
        cmocka_unit_test(test_nothing_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
