/* test_layer_step.c - a layer in steps is the layer: the same bits, the same inputs shown, nothing changed that a step does not own. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "layer_model.h"
#include "support.h"

#define N_SPAN 3
#define MAX_TOKEN 40
#define MAX_SEEN 96

/* ---- what is shown ---- */

typedef struct seen { fqi_tap_point point; int64_t expert; float *x; uint32_t *token; size_t n, cols; } seen;
typedef struct watcher { seen at[MAX_SEEN]; size_t n; } watcher;

static void watch(void *user, int64_t layer, fqi_tap_point point, int64_t expert, const float *x, const uint32_t *token, size_t n, size_t cols)
{
    watcher *w = user;
    assert_true(w->n < MAX_SEEN);
    assert_int_equal(layer, FQT_LAYER);
    seen *s = &w->at[w->n++];
    *s = (seen){ point, expert, malloc(n * cols * sizeof *x), calloc(n, sizeof *token), n, cols };
    assert_true(s->x && s->token);
    memcpy(s->x, x, n * cols * sizeof *x);
    for (size_t i = 0; i < n; i++) s->token[i] = token ? token[i] : (uint32_t)i;
}

static void forget(watcher *w)
{
    for (size_t i = 0; i < w->n; i++) {
        free(w->at[i].x);
        free(w->at[i].token);
    }
    w->n = 0;
}

static bool same_seen(const seen *a, const seen *b)
{
    return a->point == b->point && a->expert == b->expert && a->n == b->n && a->cols == b->cols && !memcmp(a->x, b->x, a->n * a->cols * sizeof *a->x) &&
           !memcmp(a->token, b->token, a->n * sizeof *a->token);
}

/* ---- running ---- */

typedef struct runner {
    fqt_layer m;
    fqi_compute c;
    fqi_rope_table rope;
    fqi_layer_work *work;
    fqi_span span[N_SPAN];
    fqi_batch batch;
    float *kv, *x, *attention;
    size_t hidden, width;
} runner;

static float *zeros(size_t n)
{
    float *p = aligned_alloc(64, (n * sizeof *p + 63) / 64 * 64 + 64);
    assert_non_null(p);
    memset(p, 0, n * sizeof *p);
    return p;
}

static void start(runner *r, const fqt_shape *shape, fqi_order order, fq_dtype served, int n_thread)
{
    static const size_t n[N_SPAN] = { 17, 1, 22 };
    *r = (runner){ 0 };
    fqt_layer_random(shape, &r->m);
    r->hidden = (size_t)r->m.d.model.hidden_size;
    r->width = (size_t)(r->m.d.model.num_attention_heads * r->m.d.model.head_dim);
    FQT_OK(fqi_compute_create(order, served, n_thread, r->m.max_cols, &r->c, e));
    FQT_OK(fqi_rope_table_create(&r->m.d.rope, MAX_TOKEN, served, &r->rope, e));
    FQT_OK(fqi_layer_work_create(&r->m.d, &r->c, MAX_TOKEN, MAX_TOKEN, &r->work, e));
    const size_t floats = fqi_kv_floats(&r->m.d, MAX_TOKEN);
    r->kv = zeros(N_SPAN * floats);
    r->batch = (fqi_batch){ .span = r->span, .n_span = N_SPAN };
    for (size_t i = 0; i < N_SPAN; i++) {
        r->span[i].n = n[i];
        fqi_kv_place(&r->m.d, r->kv + i * floats, MAX_TOKEN, &r->span[i].kv);
        r->batch.n_token += n[i];
    }
    r->x = zeros(r->batch.n_token * r->hidden);
    r->attention = zeros(r->batch.n_token * r->width);
    for (size_t i = 0; i < r->batch.n_token * r->hidden; i++) r->x[i] = (float)(rint(fqt_uniform(-2, 2) * 64) / 64);
}

static void stop(runner *r)
{
    fqi_layer_work_free(r->work);
    fqi_rope_table_free(&r->rope);
    fqi_compute_free(&r->c);
    fqt_layer_free(&r->m);
    free(r->kv);
    free(r->x);
    free(r->attention);
}

static float *copy_of(const runner *r)
{
    float *y = zeros(r->batch.n_token * r->hidden);
    memcpy(y, r->x, r->batch.n_token * r->hidden * sizeof *y);
    return y;
}

static fq_status step(runner *r, fqi_step s, float *x, watcher *w, fq_err *e)
{
    const bool attends = s == FQI_STEP_ATTENTION || s == FQI_STEP_O;
    return fqi_layer_step(&r->c, &r->m.d, &r->rope, &r->m.w, FQT_LAYER, &r->batch, s, x, attends ? r->attention : NULL, r->work,
                          w ? &(fqi_tap){ watch, w } : NULL, e);
}

static void same_rows(const runner *r, const float *a, const float *b, const char *shape, const char *what)
{
    if (memcmp(a, b, r->batch.n_token * r->hidden * sizeof *a) != 0) fail_msg("%s: %s: other bits", shape, what);
}

/* ---- the properties ---- */

/* The parts of one step among those of the whole pass, in their order. */
static bool belongs(fqi_step s, fqi_tap_point p)
{
    const bool mlp_in = p == FQI_TAP_MLP || p == FQI_TAP_EXPERT_MLP;
    switch (s) {
    case FQI_STEP_ATTENTION_IN: return p == FQI_TAP_ATTENTION;
    case FQI_STEP_ATTENTION: return p == FQI_TAP_ATTENTION || p == FQI_TAP_O;
    case FQI_STEP_O: return false;
    case FQI_STEP_MLP_IN: return mlp_in;
    default: return mlp_in || p == FQI_TAP_DOWN || p == FQI_TAP_EXPERT_DOWN || p == FQI_TAP_SHARED_DOWN;
    }
}

static void same_taps(const watcher *all, fqi_step s, const watcher *part, const char *shape)
{
    size_t at = 0;
    for (size_t i = 0; i < all->n; i++) {
        if (!belongs(s, all->at[i].point)) continue;
        if (at == part->n || !same_seen(&all->at[i], &part->at[at])) fail_msg("%s: step %d: input %zu is not the one of the whole pass", shape, (int)s, at);
        at++;
    }
    if (at != part->n) fail_msg("%s: step %d: %zu inputs were shown, expected %zu", shape, (int)s, part->n, at);
}

static void check_shape(const fqt_shape *shape, fqi_order order, fq_dtype served, int n_thread)
{
    static const fqi_step steps[] = { FQI_STEP_ATTENTION_IN, FQI_STEP_ATTENTION, FQI_STEP_O, FQI_STEP_MLP_IN, FQI_STEP_DOWN_IN, FQI_STEP_MLP };
    runner r;
    watcher all = { 0 }, part = { 0 };
    start(&r, shape, order, served, n_thread);
    float *whole = copy_of(&r), *x = copy_of(&r);
    FQT_OK(fqi_layer_forward(&r.c, &r.m.d, &r.rope, &r.m.w, FQT_LAYER, &r.batch, whole, r.work, &(fqi_tap){ watch, &all }, e));
    memset(r.kv, 0, N_SPAN * fqi_kv_floats(&r.m.d, MAX_TOKEN) * sizeof *r.kv);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        float *before = zeros(r.batch.n_token * r.hidden);
        memcpy(before, x, r.batch.n_token * r.hidden * sizeof *x);
        FQT_OK(step(&r, steps[i], x, &part, e));
        same_taps(&all, steps[i], &part, shape->name);
        if (steps[i] != FQI_STEP_O && steps[i] != FQI_STEP_MLP) same_rows(&r, before, x, shape->name, "a step that only reads");
        forget(&part);
        free(before);
    }
    same_rows(&r, whole, x, shape->name, "all steps");

    /* without the steps that only look */
    memcpy(x, r.x, r.batch.n_token * r.hidden * sizeof *x);
    FQT_OK(step(&r, FQI_STEP_ATTENTION, x, NULL, e));
    FQT_OK(step(&r, FQI_STEP_O, x, NULL, e));
    FQT_OK(step(&r, FQI_STEP_MLP, x, NULL, e));
    same_rows(&r, whole, x, shape->name, "attention, o, MLP");
    forget(&all);
    free(whole);
    free(x);
    stop(&r);
}

static void test_steps_are_the_layer(void **state)
{
    (void)state;
    static const struct { fqi_order order; fq_dtype served; int n_thread; } ways[] = {
        { FQI_ORDER_FAST, FQ_DTYPE_F32, 2 }, { FQI_ORDER_FIXED, FQ_DTYPE_F32, 1 }, { FQI_ORDER_FIXED, FQ_DTYPE_BF16, 1 },
    };
    for (size_t s = 0; s < fqt_n_shape; s++)
        for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) check_shape(&fqt_shapes[s], ways[i].order, ways[i].served, ways[i].n_thread);
}

/* Rows of attention that are kept let O be done batch by batch later, when the buffers hold other tokens. */
static void test_attention_is_the_callers(void **state)
{
    (void)state;
    runner r;
    start(&r, &fqt_shapes[0], FQI_ORDER_FAST, FQ_DTYPE_F32, 1);
    float *whole = copy_of(&r), *x = copy_of(&r), *other = copy_of(&r);
    FQT_OK(fqi_layer_forward(&r.c, &r.m.d, &r.rope, &r.m.w, FQT_LAYER, &r.batch, whole, r.work, NULL, e));
    FQT_OK(step(&r, FQI_STEP_ATTENTION, x, NULL, e));
    for (size_t i = 0; i < r.batch.n_token * r.hidden; i++) other[i] *= 3;
    FQT_OK(fqi_layer_forward(&r.c, &r.m.d, &r.rope, &r.m.w, FQT_LAYER, &r.batch, other, r.work, NULL, e));
    FQT_OK(step(&r, FQI_STEP_O, x, NULL, e));
    FQT_OK(step(&r, FQI_STEP_MLP, x, NULL, e));
    same_rows(&r, whole, x, fqt_shapes[0].name, "with another batch between the steps");
    free(whole);
    free(x);
    free(other);
    stop(&r);
}

/* The result of a step is what is checked, and the token is named by its position in its own sequence. */
static void test_not_finite(void **state)
{
    (void)state;
    static const struct { fqi_step step; bool in_attention; } cases[] = {
        { FQI_STEP_ATTENTION, false }, { FQI_STEP_O, true }, { FQI_STEP_MLP, false },
    };
    for (size_t s = 0; s < fqt_n_shape; s++) {
        if (fqt_shapes[s].window == 1) continue;
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            runner r;
            fq_err e = { 0 };
            start(&r, &fqt_shapes[s], FQI_ORDER_FIXED, FQ_DTYPE_F32, 1);
            const size_t bad = 17 + 1 + 9;   /* position 9 of the third sequence */
            if (cases[i].in_attention) r.attention[bad * r.width] = NAN;
            else r.x[bad * r.hidden] = NAN;
            assert_int_equal(step(&r, cases[i].step, r.x, NULL, &e), FQ_E_NUMERIC);
            if (!strstr(e.text, "layer 2, token at position 9: found NaN")) fail_msg("%s: step %d: found \"%s\"", fqt_shapes[s].name, (int)cases[i].step, e.text);
            stop(&r);
        }
    }
}

static void test_nothing_to_do(void **state)
{
    (void)state;
    runner r;
    start(&r, &fqt_shapes[0], FQI_ORDER_FAST, FQ_DTYPE_F32, 1);
    r.batch = (fqi_batch){ 0 };
    for (fqi_step s = FQI_STEP_ATTENTION_IN; s <= FQI_STEP_MLP; s++) FQT_OK(step(&r, s, NULL, NULL, e));
    stop(&r);
}

int main(void)
{
    fqt_state = fqt_seed(20261124);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps_are_the_layer), cmocka_unit_test(test_attention_is_the_callers), cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_nothing_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
