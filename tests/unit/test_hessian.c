/* test_hessian.c - second moments, the factor and the shifted target: against double precision, and the same bits for every number of
 * threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "quant/target.h"
#include "quant_problem.h"

#define N_OF(a) (sizeof(a) / sizeof(a)[0])

static void *need(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    assert_non_null(p);
    return p;
}

static float *random_rows(rng *r, size_t n)
{
    float *x = need(n, sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = (float)problem_gauss(r);
    return x;
}

/* ---- sums ------------------------------------------------------------------------------------------------------------ */

static const struct { size_t n, n_row, gap; } sums[] = { { 1, 1, 0 }, { 3, 7, 2 }, { 33, 100, 0 }, { 256, 65, 0 }, { 300, 513, 4 }, { 700, 40, 1 } };

static void moments_are_right(void **state)
{
    rng r = rng_start("moments");
    (void)state;
    for (size_t s = 0; s < N_OF(sums); s++) {
        const size_t n = sums[s].n, n_row = sums[s].n_row, ld = n + sums[s].gap;
        const fqi_linalg la = problem_linalg(2);
        fqi_hessian h;
        float *x = random_rows(&r, n_row * ld);
        FQT_OK(fqi_hessian_create(n, &h, e));
        fqi_hessian_add(&la, &h, x, n_row / 2, ld);
        fqi_hessian_add(&la, &h, x + n_row / 2 * ld, n_row - n_row / 2, ld);
        fqi_hessian_add(&la, &h, x, 0, ld);
        assert_int_equal(h.n_token, n_row);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++) {
                double sum = 0, size = 1;
                for (size_t t = 0; t < n_row; t++) {
                    sum += (double)x[t * ld + i] * (double)x[t * ld + j];
                    size += fabs((double)x[t * ld + j]) * 4;
                }
                if (j <= i) assert_true(fabs((double)h.h[i * n + j] - sum) < 1e-5 * size);
                if (j > i) assert_true(h.h[i * n + j] == 0);   /* the other triangle is nobody's */
            }
        fqi_hessian_free(&h);
        free(x);
    }
    fqi_hessian_free(NULL);
    assert_true(fqi_hessian_bytes(29568) == UINT64_C(29568) * 29568 * 4);
    assert_true(fqi_hessian_bytes(SIZE_MAX) == UINT64_MAX && fqi_cholesky_bytes(SIZE_MAX, 2) == UINT64_MAX);
    assert_true(fqi_cholesky_bytes(1000, 2) >= 1000 * (256 + 2 * 16 + 1) * 4);
}

static void cross_moments_are_right(void **state)
{
    static const struct { size_t m, n, n_row; } size[] = { { 1, 1, 1 }, { 3, 5, 7 }, { 300, 20, 513 }, { 20, 300, 100 }, { 256, 256, 256 }, { 257, 33, 300 } };
    rng r = rng_start("cross moments");
    (void)state;
    for (size_t s = 0; s < N_OF(size); s++) {
        const size_t m = size[s].m, n = size[s].n, n_row = size[s].n_row;
        const fqi_linalg la = problem_linalg(2);
        float *a = random_rows(&r, n_row * m), *b = random_rows(&r, n_row * m), *y = random_rows(&r, n_row * n), *c = need(m * n, sizeof *c);
        fqi_cross_add(&la, c, m, n, a, b, y, n_row);
        fqi_cross_add(&la, c, m, n, a, b, y, n_row);
        for (size_t i = 0; i < m; i++)
            for (size_t j = 0; j < n; j++) {
                double sum = 0, most = 1;
                for (size_t t = 0; t < n_row; t++) {
                    sum += 2 * ((double)a[t * m + i] - (double)b[t * m + i]) * (double)y[t * n + j];
                    most += fabs((double)y[t * n + j]) * 4;
                }
                assert_true(fabs((double)c[i * n + j] - sum) < 1e-5 * most);
            }
        free(a), free(b), free(y), free(c);
    }
}

static void too_large_is_an_error(void **state)
{
    fqi_hessian h;
    fq_err e;
    (void)state;
    assert_int_equal(fqi_hessian_create((size_t)1 << 40, &h, &e), FQ_E_NOMEM);
}

/* ---- the factor --------------------------------------------------------------------------------------------------------- */

/* |L (L^T x) - (P H P^T + lambda) x| against |H| |x|. */
static double factor_miss(const problem *p, const float *l, double lambda, rng *r)
{
    const size_t n = p->n_col;
    double *x = need(n, sizeof *x), *y = need(n, sizeof *y), miss = 0, size = 0;
    for (size_t i = 0; i < n; i++) x[i] = problem_gauss(r);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) y[j] += (double)l[i * n + j] * x[i];
    for (size_t i = 0; i < n; i++) {
        const double diag = problem_h(p, p->order[i], p->order[i]);
        double got = 0, want = (lambda + (diag == 0 ? 1 : 0)) * x[i], most = fabs(want);
        for (size_t j = 0; j <= i; j++) got += (double)l[i * n + j] * y[j];
        for (size_t j = 0; j < n; j++) {
            const double term = problem_h(p, p->order[i], p->order[j]) * x[j];
            want += term, most += fabs(term);
        }
        miss = fmax(miss, fabs(got - want));
        size = fmax(size, most);
    }
    free(x), free(y);
    return miss / size;
}

static void factors_are_right(void **state)
{
    static const size_t size[] = { 1, 2, 31, 32, 33, 64, 255, 256, 257, 600 };
    rng r = rng_start("factors");
    (void)state;
    for (size_t s = 0; s < N_OF(size); s++)
        for (order_kind o = 0; o < N_ORDER; o++) {
            const size_t n = size[s], n_dead = n > 30 ? 3 : 0;
            problem p = problem_make(&r, 1, n, 32, 0, n_dead, o);
            float *l = need(n * n, sizeof *l), *again = need(n * n, sizeof *l);
            double lambda, mean = 0;
            const fqi_linalg one = problem_linalg(1), three = problem_linalg(3);
            FQT_OK(fqi_cholesky(&three, &p.h, p.order, 0.01, l, &lambda, e));
            for (size_t i = 0; i < n; i++) mean += (problem_h(&p, i, i) == 0 ? 1 : problem_h(&p, i, i)) / (double)n;
            assert_true(fabs(lambda - 0.01 * mean) < 1e-9 * mean);
            const double miss = factor_miss(&p, l, lambda, &r);
            if (!(miss < 1e-6)) fail_msg("n %zu, order %d: off by %g", n, (int)o, miss);
            FQT_OK(fqi_cholesky(&one, &p.h, p.order, 0.01, again, &lambda, e));
            for (size_t i = 0; i < n; i++) assert_memory_equal(l + i * n, again + i * n, (i + 1) * sizeof *l);
            problem_free(&p);
            free(l), free(again);
        }
}

/* Wide enough for tiles of several blocks. */
static void a_wide_factor_is_right(void **state)
{
    rng r = rng_start("wide factor");
    const size_t n = 2100;
    const fqi_linalg la = problem_linalg(2);
    problem p = { .n_row = 1, .n_col = n };
    float *x = random_rows(&r, n * 64), *l = need(n * n, sizeof *l);
    double lambda;
    (void)state;
    p.order = need(n, sizeof *p.order);
    for (size_t i = 0; i < n; i++) p.order[i] = (uint32_t)((i * 1009 + 5) % n);
    FQT_OK(fqi_hessian_create(n, &p.h, e));
    fqi_hessian_add(&la, &p.h, x, 64, n);
    FQT_OK(fqi_cholesky(&la, &p.h, p.order, 0.02, l, &lambda, e));
    assert_true(factor_miss(&p, l, lambda, &r) < 1e-6);
    fqi_hessian_free(&p.h);
    free(x), free(l), free(p.order);
}

/* A matrix that is not positive definite at one column: which one, and its pivot. */
static void a_failing_pivot_is_named(void **state)
{
    static const struct { size_t n, column; float diag; const char *pivot; } bad[] = {
        { 5, 2, -4.0f, "-4" }, { 300, 290, -4.0f, "-4" }, { 600, 7, -4.0f, "-4" }, { 300, 100, NAN, "nan" }, { 40, 39, INFINITY, "inf" },
    };
    (void)state;
    for (size_t b = 0; b < N_OF(bad); b++) {
        const size_t n = bad[b].n;
        const fqi_linalg la = problem_linalg(2);
        fqi_hessian h;
        fq_err err;
        char column[64], pivot[64];
        double lambda;
        float *l = need(n * n, sizeof *l);
        uint32_t *order = need(n, sizeof *order);
        FQT_OK(fqi_hessian_create(n, &h, e));
        for (size_t i = 0; i < n; i++) h.h[i * n + i] = 2, order[i] = (uint32_t)(n - 1 - i);
        h.h[bad[b].column * n + bad[b].column] = bad[b].diag;
        assert_int_equal(fqi_cholesky(&la, &h, order, 0, l, &lambda, &err), FQ_E_NUMERIC);
        (void)snprintf(column, sizeof column, "cholesky: column %zu: found pivot ", bad[b].column);
        (void)snprintf(pivot, sizeof pivot, "found pivot %s", bad[b].pivot);
        if (isfinite(bad[b].diag) && (!strstr(err.text, column) || !strstr(err.text, pivot))) fail_msg("%s", err.text);
        fqi_hessian_free(&h);
        free(l), free(order);
    }
}

/* Two inputs that are always equal: singular, and damping is what saves it. */
static void damping_saves_what_is_singular(void **state)
{
    const fqi_linalg la = problem_linalg(1);
    fqi_hessian h;
    fq_err err;
    float x[4] = { 1, 1, 1, 2 }, l[16];
    uint32_t order[4] = { 0, 1, 2, 3 };
    double lambda;
    (void)state;
    FQT_OK(fqi_hessian_create(4, &h, e));
    fqi_hessian_add(&la, &h, x, 1, 4);
    assert_int_equal(fqi_cholesky(&la, &h, order, 0, l, &lambda, &err), FQ_E_NUMERIC);
    FQT_OK(fqi_cholesky(&la, &h, order, 0.01, l, &lambda, e));
    assert_true(fabs(lambda - 0.0175) < 1e-9);
    fqi_hessian_free(&h);
}

/* ---- shifted target -------------------------------------------------------------------------------------------------------- */

#define EMPTY_ROW 3   /* of zeros, which stays so */

/* (W* - W) (H + lambda) = a M, which needs no inverse. M: W C, or D - W H. */
static double moment_at(const problem *p, const fqi_shift *s, size_t row, size_t j)
{
    const size_t n = p->h.n;
    double sum = s->drift == FQI_DRIFT_OUTPUT ? (double)s->moment[row * n + j] : 0;
    for (size_t k = 0; k < n; k++) {
        const double w = (double)p->w[row * n + k];
        sum += s->drift == FQI_DRIFT_OUTPUT ? -w * problem_h(p, k, j) : w * (double)s->moment[k * n + j];
    }
    return sum;
}

static void check_target(const problem *p, const fqi_shift *s, size_t n_row, double lambda, const float *out)
{
    const size_t n = p->h.n;
    for (size_t row = 0; row < n_row; row++)
        for (size_t j = 0; j < n; j++) {
            double got = 0, most = 1;
            const double want = row == EMPTY_ROW && n_row > 1 ? 0 : s->a * moment_at(p, s, row, j);
            for (size_t k = 0; k < n; k++) {
                const double d = (double)out[row * n + k] - (double)p->w[row * n + k], h = problem_h(p, k, j) + (k == j ? lambda : 0);
                got += d * h;
                most += fabs(d * h) + fabs((double)p->w[row * n + k] * h) * 1e-3;   /* W* itself is rounded to float */
            }
            if (!(fabs(got - want) < 3e-4 * most)) fail_msg("%zu x %zu, row %zu, column %zu: %g, expected %g of %g", n_row, n, row, j, got, want, most);
        }
}

static void targets_are_right(void **state)
{
    static const struct { size_t n_row, n_col; } size[] = { { 1, 1 }, { 5, 40 }, { 130, 70 }, { 129, 300 } };
    rng r = rng_start("targets");
    (void)state;
    for (size_t s = 0; s < 2 * N_OF(size); s++) {
        const size_t n = size[s / 2].n_col, n_row = size[s / 2].n_row, n_c = s % 2 ? n_row : n;
        problem p = problem_make(&r, n_row, n, 32, 0, n > 30, PERMUTED);
        if (n_row > 1) memset(p.w + EMPTY_ROW * n, 0, n * sizeof *p.w);
        const fqi_linalg one = problem_linalg(1), la = problem_linalg(3);
        float *c = random_rows(&r, n_c * n), *l = need(n * n, sizeof *l), *out = need(n_row * n, sizeof *out), *same = need(n_row * n, sizeof *out);
        double lambda;
        for (size_t i = 0; i < n_c; i++)
            for (size_t j = 0; j < n; j++) c[i * n + j] *= problem_h(&p, j, j) == 0 ? 0 : 10;   /* an input that is 0 correlates with nothing */
        FQT_OK(fqi_cholesky(&la, &p.h, p.order, 0.01, l, &lambda, e));
        const fqi_shift shift = { s % 2 ? FQI_DRIFT_OUTPUT : FQI_DRIFT_INPUT, c, p.h.h, l, p.order, 0.25, 0, 0 };
        FQT_OK(fqi_shift_target(&la, &shift, p.w, n_row, n, out, e));
        memcpy(same, p.w, n_row * n * sizeof *same);
        FQT_OK(fqi_shift_target(&one, &shift, same, n_row, n, same, e));
        assert_memory_equal(out, same, n_row * n * sizeof *same);
        check_target(&p, &shift, n_row, lambda, out);
        problem_free(&p);
        free(c), free(l), free(out), free(same);
    }
    assert_true(fqi_shift_target_bytes(SIZE_MAX, 2) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moments_are_right), cmocka_unit_test(cross_moments_are_right),           cmocka_unit_test(too_large_is_an_error), cmocka_unit_test(factors_are_right),
        cmocka_unit_test(a_wide_factor_is_right),      cmocka_unit_test(a_failing_pivot_is_named),
        cmocka_unit_test(damping_saves_what_is_singular), cmocka_unit_test(targets_are_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
