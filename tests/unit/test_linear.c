/* test_linear.c - fqi_matmul: right in both orders, and the same bits whatever they are stated not to depend on. */
#include <malloc.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "axis_random.h"
#include "kernel/linear.h"

static const fq_dtype dtypes[] = { FQ_DTYPE_F32, FQ_DTYPE_F16, FQ_DTYPE_BF16 };
static const size_t tokens[] = { 0, 1, 2, 4, 5, 8, 9, 11, 12, 13, 97, 200 };
static const int64_t sizes[] = { 1, 31, 32, 33, 64, 100, 513, 1000 };
#define N_OF(a) (sizeof(a) / sizeof(a)[0])
#define MAX_COLS 2048

typedef struct problem {
    fqi_matrix w;
    size_t n_token, ldy;
    float *weight, *x, *bias;   /* weight: what is stored, widened */
    void *data;
} problem;

static void *need(void *p)
{
    assert_non_null(p);
    return p;
}

static float uniform(rng *r) { return (float)((double)(rng_next(r) >> 11) * 0x1p-53 * 2 - 1); }

/* Only numbers that every dtype holds exactly, so that the three of them differ in nothing but how they are stored. */
static float coarse(rng *r)
{
    float v = (float)rng_in(r, -255, 255);
    return ldexpf(v, -(int)rng_in(r, 6, 10));
}

static void put(void *data, size_t i, float f, fq_dtype dtype)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t h = (uint16_t)(u >> 16);
    if (dtype == FQ_DTYPE_F16) h = (uint16_t)((u >> 16 & 0x8000) | (f == 0 ? 0 : ((u >> 23 & 255) - 112) << 10 | (u >> 13 & 0x3ff)));
    if (dtype == FQ_DTYPE_F32)
        memcpy((unsigned char *)data + 4 * i, &f, 4);
    else
        memcpy((unsigned char *)data + 2 * i, &h, 2);
}

static problem problem_of(rng *r, int64_t rows, int64_t cols, size_t n_token, fq_dtype dtype, bool bias)
{
    problem p = { .w = { .rows = rows, .cols = cols, .dtype = dtype }, .n_token = n_token, .ldy = (size_t)rows + (size_t)rng_in(r, 0, 2) * 3 };
    size_t n = (size_t)(rows * cols);
    p.weight = need(malloc(n * 4));
    p.data = need(malloc(n * (dtype == FQ_DTYPE_F32 ? 4 : 2)));
    p.x = need(malloc(n_token * (size_t)cols * 4 + 1));
    for (size_t i = 0; i < n; i++) put(p.data, i, p.weight[i] = coarse(r), dtype);
    for (size_t i = 0; i < n_token * (size_t)cols; i++) p.x[i] = uniform(r);
    if (bias) p.bias = need(malloc((size_t)rows * 4));
    for (size_t i = 0; bias && i < (size_t)rows; i++) p.bias[i] = uniform(r);
    p.w.data = p.data;
    return p;
}

static void problem_free(problem *p) { free(p->weight), free(p->data), free(p->x), free(p->bias); }

static fqi_compute compute_of(fqi_order order, fq_dtype served, int n_thread, int64_t max_cols)
{
    fqi_compute c;
    fq_err e = { 0 };
    if (fqi_compute_create(order, served, n_thread, max_cols, &c, &e)) fail_msg("%s", e.text);
    return c;
}

#define GAP 0x5a5a5a5a

static size_t y_size(const problem *p) { return p->n_token * p->ldy; }

/* y of the whole problem; what is between its rows must stay as it was. Caller frees. */
static float *run(const fqi_compute *c, const problem *p)
{
    float *y = need(malloc(y_size(p) * 4 + 1));
    memset(y, 0x5a, y_size(p) * 4);
    fqi_matmul(c, &p->w, p->bias, p->x, p->n_token, y, p->ldy);
    for (size_t t = 0; t < p->n_token; t++)
        for (size_t r = (size_t)p->w.rows; r < p->ldy; r++) {
            uint32_t u;
            memcpy(&u, y + t * p->ldy + r, 4);
            assert_true(u == GAP);
        }
    return y;
}

static void expect_same(const problem *p, const float *a, const float *b, const char *what)
{
    for (size_t i = 0; i < y_size(p); i++)
        if (memcmp(a + i, b + i, 4) != 0)
            fail_msg("%s: %lld x %lld, %zu tokens, token %zu row %zu: %a, %a", what, (long long)p->w.rows, (long long)p->w.cols, p->n_token, i / p->ldy,
                     i % p->ldy, (double)a[i], (double)b[i]);
}

/* ---- right ------------------------------------------------------------------------------------------------------- */

static double half_ulp(fq_dtype d) { return d == FQ_DTYPE_F32 ? 0 : d == FQ_DTYPE_F16 ? 0x1p-11 : 0x1p-8; }

static void expect_right(const problem *p, const fqi_compute *c, const float *y)
{
    const size_t cols = (size_t)p->w.cols;
    for (size_t t = 0; t < p->n_token; t++)
        for (size_t r = 0; r < (size_t)p->w.rows; r++) {
            const float *w = p->weight + r * cols, *x = p->x + t * cols;
            double sum = p->bias ? (double)p->bias[r] : 0, size = fabs(sum), found = (double)y[t * p->ldy + r];
            float acc = 0;
            for (size_t k = 0; k < cols; k++) {
                sum += (double)w[k] * (double)x[k];
                size += fabs((double)w[k] * (double)x[k]);
                acc = fmaf(x[k], w[k], acc);
            }
            double bound = ((double)cols + 2) * 0x1p-24 * size;   /* any order of summation */
            bound += half_ulp(c->served) * (fabs(sum) + bound) + (c->served == FQ_DTYPE_F16 ? 0x1p-25 : 0);
            if (!(fabs(found - sum) <= bound))
                fail_msg("%lld x %lld, %zu tokens, token %zu row %zu: found %.9g, expected %.9g within %.3g", (long long)p->w.rows, (long long)p->w.cols,
                         p->n_token, t, r, found, sum, bound);
            acc += 0.0f;
            if (p->bias) acc += p->bias[r];
            fqi_kernels_at(0)->round_to(&acc, c->served, 1);
            if (c->order == FQI_ORDER_FIXED) assert_memory_equal(&acc, y + t * p->ldy + r, 4);   /* the order of kernel.h, exactly */
        }
}

static void products_are_right(void **state)
{
    rng r = rng_start("products");
    size_t round = 0;
    (void)state;
    for (size_t t = 0; t < N_OF(tokens); t++)
        for (size_t i = 0; i < N_OF(sizes); i++)
            for (size_t j = 0; j < N_OF(sizes); j++) {
                if ((int64_t)tokens[t] * sizes[i] * sizes[j] > 400000 && round++ % 16) continue;   /* quick */
                fq_dtype stored = dtypes[round % 3], served = dtypes[round / 3 % 3];
                problem p = problem_of(&r, sizes[i], sizes[j], tokens[t], stored, rng_in(&r, 0, 1));
                for (fqi_order o = FQI_ORDER_FAST; o <= FQI_ORDER_FIXED; o++) {
                    if ((int64_t)tokens[t] * sizes[i] * sizes[j] > 4000000 && o == FQI_ORDER_FAST && round % 3) continue;
                    fqi_compute c = compute_of(o, served, 2, sizes[j]);
                    float *y = run(&c, &p);
                    expect_right(&p, &c, y);
                    free(y);
                    fqi_compute_free(&c);
                }
                problem_free(&p);
                round++;
            }
}

/* ---- the same bits ------------------------------------------------------------------------------------------------ */

/* Shapes with few panels, with many, and with one row; tokens around every limit. */
static problem varied(rng *r, size_t round, bool *odd)
{
    static const struct { int64_t rows, cols; } shape[] = { { 1, 1000 }, { 33, 31 }, { 128, 896 }, { 130, 1100 }, { 1100, 70 }, { 300, 513 } };
    size_t s = round % N_OF(shape), t = round / N_OF(shape) % N_OF(tokens);
    *odd = t % 2;
    return problem_of(r, shape[s].rows, shape[s].cols, tokens[t], dtypes[rng_in(r, 0, 2)], rng_in(r, 0, 1));
}

static void threads_do_not_show(void **state)
{
    static const int n_thread[] = { 2, 3, 5 };
    rng r = rng_start("threads");
    bool odd;
    (void)state;
    for (size_t round = 0; round < N_OF(tokens) * 6; round++) {
        problem p = varied(&r, round, &odd);
        for (fqi_order o = FQI_ORDER_FAST; o <= FQI_ORDER_FIXED; o++) {
            fqi_compute c = compute_of(o, FQ_DTYPE_F32, 1, p.w.cols);
            float *one = run(&c, &p);
            fqi_compute_free(&c);
            for (size_t i = 0; i < N_OF(n_thread); i++) {
                c = compute_of(o, FQ_DTYPE_F32, n_thread[i], MAX_COLS);   /* a larger panel than needed does not show either */
                float *y = run(&c, &p);
                expect_same(&p, y, one, o == FQI_ORDER_FAST ? "threads, fast" : "threads, fixed");
                free(y);
                fqi_compute_free(&c);
            }
            free(one);
        }
        problem_free(&p);
    }
}

/* Fixed order on any processor; in fast order few tokens, for which no BLAS is asked. */
static void instruction_sets_do_not_show(void **state)
{
    rng r = rng_start("instruction sets");
    bool odd;
    (void)state;
    for (size_t round = 0; round < N_OF(tokens) * 6; round++) {
        problem p = varied(&r, round, &odd);
        for (fqi_order o = FQI_ORDER_FAST; o <= FQI_ORDER_FIXED; o++) {
            fqi_compute c = compute_of(o, odd ? FQ_DTYPE_BF16 : FQ_DTYPE_F32, 2, p.w.cols);
            if (o == FQI_ORDER_FAST && p.n_token > FQI_FEW_TOKENS) {
                fqi_compute_free(&c);
                continue;
            }
            c.kernel = fqi_kernels_at(0);
            float *plain = run(&c, &p);
            for (size_t v = 1; v < FQI_N_KERNELS; v++) {
                if (!fqi_kernels_at(v)) continue;
                c.kernel = fqi_kernels_at(v);
                float *y = run(&c, &p);
                expect_same(&p, y, plain, c.kernel->name);
                free(y);
            }
            free(plain);
            fqi_compute_free(&c);
        }
        problem_free(&p);
    }
}

/* Fixed order: a token's row is the same alone, in any batch, and at any place of it. Fast order: for as long as tokens are few. */
static void batches_do_not_show(void **state)
{
    rng r = rng_start("batches");
    bool odd;
    (void)state;
    for (size_t round = 0; round < N_OF(tokens) * 6; round++) {
        problem p = varied(&r, round, &odd);
        for (fqi_order o = FQI_ORDER_FAST; o <= FQI_ORDER_FIXED; o++) {
            if (o == FQI_ORDER_FAST && p.n_token > FQI_FEW_TOKENS) continue;
            fqi_compute c = compute_of(o, FQ_DTYPE_F32, 2, p.w.cols);
            float *whole = run(&c, &p), *parts = need(malloc(y_size(&p) * 4 + 1));
            memcpy(parts, whole, y_size(&p) * 4);
            for (size_t t = 0, n; t < p.n_token; t += n) {
                n = (size_t)rng_in(&r, 1, (int64_t)(p.n_token - t < 30 ? p.n_token - t : 30));
                for (size_t i = t; i < t + n; i++) memset(parts + i * p.ldy, 0, (size_t)p.w.rows * 4);
                fqi_matmul(&c, &p.w, p.bias, p.x + t * (size_t)p.w.cols, n, parts + t * p.ldy, p.ldy);
            }
            expect_same(&p, parts, whole, "batches");
            free(whole), free(parts);
            fqi_compute_free(&c);
        }
        problem_free(&p);
    }
}

/* Fixed order: columns of zeros put in anywhere, x there being anything finite, or x zero and the weights anything. */
static void zeros_do_not_show(void **state)
{
    rng r = rng_start("zeros");
    bool odd;
    (void)state;
    for (size_t round = 0; round < N_OF(tokens) * 6; round++) {
        problem p = varied(&r, round, &odd);
        int64_t cols = p.w.cols, wide = 0, *from = need(malloc((size_t)(2 * cols + 40) * sizeof *from));
        for (int64_t k = 0; k <= cols; k++) {
            while (wide < k + cols + 32 && rng_in(&r, 0, 9) == 0)
                for (int64_t n = rng_in(&r, 1, 32); n > 0 && wide < k + cols + 32; n--) from[wide++] = -1;
            if (k < cols) from[wide++] = k;
        }
        problem q = problem_of(&r, p.w.rows, wide, p.n_token, p.w.dtype, false);
        q.ldy = p.ldy;
        q.bias = p.bias;
        for (int64_t k = 0; k < wide; k++) {
            const bool zero_weight = !odd || k % 2;
            for (int64_t i = 0; i < p.w.rows && (from[k] >= 0 || zero_weight); i++)
                put(q.data, (size_t)(i * wide + k), from[k] < 0 ? 0.0f : p.weight[i * cols + from[k]], p.w.dtype);
            for (size_t t = 0; t < p.n_token; t++)
                if (from[k] >= 0 || !zero_weight) q.x[t * (size_t)wide + (size_t)k] = from[k] < 0 ? -0.0f : p.x[t * (size_t)cols + (size_t)from[k]];
        }
        fqi_compute c = compute_of(FQI_ORDER_FIXED, FQ_DTYPE_F32, 2, wide);
        float *plain = run(&c, &p), *padded = run(&c, &q);
        expect_same(&p, padded, plain, "zeros");
        free(plain), free(padded), free(from);
        fqi_compute_free(&c);
        q.bias = NULL;
        problem_free(&p), problem_free(&q);
    }
}

/* ---- memory ------------------------------------------------------------------------------------------------------- */

static void memory_is_what_is_said(void **state)
{
    (void)state;
    for (int n = 1; n <= 7; n += 3)
        for (int64_t cols = 1; cols < 300000; cols = cols * 7 + 3) {
            fqi_compute c = compute_of(FQI_ORDER_FIXED, FQ_DTYPE_F32, n, cols);
            uint64_t said = fqi_compute_bytes(n, cols), blas = said - (uint64_t)n * c.panel_floats * 4;
            assert_int_equal((uintptr_t)c.panel % 64, 0);
            assert_true(malloc_usable_size(c.panel) >= (size_t)n * c.panel_floats * 4);
            assert_true(blas % (uint64_t)n == 0 && blas / (uint64_t)n <= (UINT64_C(32) << 20));   /* the part of the BLAS, by thread */
            fqi_compute_free(&c);
            assert_null(c.panel);
            fqi_compute_free(&c);   /* twice is nothing */
        }
    fqi_compute_free(NULL);
}

static void more_than_there_is_is_an_error(void **state)
{
    static const int64_t cols[] = { INT64_MAX, INT64_MAX / 32, INT64_C(1) << 59, INT64_C(1) << 58 };
    (void)state;
    for (size_t i = 0; i < N_OF(cols); i++) {
        fqi_compute c = { .panel = NULL };
        fq_err e = { 0 };
        assert_int_equal(fqi_compute_create(FQI_ORDER_FAST, FQ_DTYPE_F32, 1 << 20, cols[i], &c, &e), FQ_E_NOMEM);
        assert_null(c.panel);
        assert_true(fqi_compute_bytes(1 << 20, cols[i]) == UINT64_MAX);   /* more than any budget, not a small number again */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_right),
        cmocka_unit_test(threads_do_not_show),
        cmocka_unit_test(instruction_sets_do_not_show),
        cmocka_unit_test(batches_do_not_show),
        cmocka_unit_test(zeros_do_not_show),
        cmocka_unit_test(memory_is_what_is_said),
        cmocka_unit_test(more_than_there_is_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
