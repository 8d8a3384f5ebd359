/* test_gptq.c - the solve: the codes of the textbook (damped H, its inverse, the Cholesky factor of that, columns one after the other, all in
 * double), errors that are what they are said to be, rounding and refitting that keep what they promise.
 *
 * The textbook may round the other way only where its number lies at a tie to within single precision; it then goes on with the code (or
 * scale) that was found, so that every column is compared. How often that may happen is bounded. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernel/kernel.h"
#include "quant_problem.h"

#define N_OF(a) (sizeof(a) / sizeof(a)[0])
#define DAMP 0.01

static void *need(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    assert_non_null(p);
    return p;
}

/* A problem with its factor and what is asked. */
typedef struct job {
    problem p;
    float *l;
    fqi_solve s;
    fqi_codes codes;
    fqi_solve_result result;
} job;

static fqi_grid grid_of(int bits, bool sym)
{
    return (fqi_grid){ .bits = bits, .sym = sym, .rule = FQI_SCALE_MIN_MAX, .store = FQI_STORE_F16 };
}

static void job_start(job *j, problem p, fqi_grid grid, fqi_scales_from from)
{
    *j = (job){ .p = p };
    j->l = need(p.n_col * p.n_col, sizeof *j->l);
    j->s = (fqi_solve){ .la = problem_linalg(2), .grid = grid, .scales = from, .w = j->p.w, .n_row = p.n_row, .n_col = p.n_col, .l = j->l, .order = p.order };
    FQT_OK(fqi_cholesky(&j->s.la, &p.h, p.order, DAMP, j->l, &j->s.lambda, e));
}

static void job_solve(job *j)
{
    j->s.columns = &j->p.columns, j->s.h = &j->p.h;   /* here, as a job may have been moved */
    fqi_codes_free(&j->codes);
    FQT_OK(fqi_gptq(&j->s, &j->codes, &j->result, e));
}

static void job_free(job *j)
{
    problem_free(&j->p);
    fqi_codes_free(&j->codes);
    free(j->l);
}

/* ---- the textbook ------------------------------------------------------------------------------------------------------ */

/* Lower factor of a in place; the rest becomes 0. */
static void cholesky(double *a, size_t n)
{
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < n; i++) {
            if (i < j) {
                a[i * n + j] = 0;
                continue;
            }
            double s = a[i * n + j];
            for (size_t k = 0; k < j; k++) s -= a[i * n + k] * a[j * n + k];
            if (i == j) assert_true(s > 0);
            a[i * n + j] = i == j ? sqrt(s) : s / a[j * n + j];
        }
}

/* a = L L^T -> its inverse; l is destroyed. */
static void invert(double *l, size_t n, double *out)
{
    for (size_t c = 0; c < n; c++) {
        double *x = out + c * n;   /* symmetric: row c is column c */
        for (size_t i = 0; i < n; i++) {
            double s = i == c;
            for (size_t k = 0; k < i; k++) s -= l[i * n + k] * x[k];
            x[i] = s / l[i * n + i];
        }
        for (size_t i = n; i-- > 0;) {
            double s = x[i];
            for (size_t k = i + 1; k < n; k++) s -= l[k * n + i] * x[k];
            x[i] = s / l[i * n + i];
        }
    }
}

/* U upper with H^-1 = U^T U; columns in the order in which they are processed, first one first. */
static double *textbook_factor(const job *j)
{
    const problem *p = &j->p;
    const size_t n = p->n_col;
    double *h = need(n * n, sizeof *h), *u = need(n * n, sizeof *u);
    for (size_t a = 0; a < n; a++)
        for (size_t b = 0; b < n; b++) {
            h[a * n + b] = problem_h(p, p->order[n - 1 - a], p->order[n - 1 - b]);
            if (a == b) h[a * n + b] += j->s.lambda + (h[a * n + b] == 0 ? 1 : 0);
        }
    cholesky(h, n);
    invert(h, n, u);
    cholesky(u, n);   /* H^-1 = M M^T with M lower: U = M^T */
    for (size_t a = 0; a < n; a++)
        for (size_t b = 0; b < a; b++) u[b * n + a] = u[a * n + b], u[a * n + b] = 0;
    free(h);
    return u;
}

typedef struct count { size_t n_code, n_scale, code_ties, scale_ties; } count;

static bool close_to(double a, double b, double tolerance) { return fabs(a - b) <= tolerance * fmax(fabs(a), fabs(b)); }

/* Min-max of the columns of a group as they are now. */
static void textbook_scale(const job *j, const double *w, const uint32_t *processed, size_t group, size_t row, count *n)
{
    const fqi_grid *g = &j->s.grid;
    const double top = (1 << g->bits) - 1, found = (double)j->codes.scale[group * j->p.n_row + row];
    const double zero_found = j->codes.zero[group * j->p.n_row + row];
    double lo = 0, hi = 0;
    for (size_t t = 0; t < j->p.n_col; t++)
        if (j->codes.group_of[processed[t]] == group) lo = fmin(lo, w[t]), hi = fmax(hi, w[t]);
    const double unit = g->sym ? 2 * fmax(hi, -lo) / top : (hi - lo) / top, stored = (double)fqi_scale_round(g->store, (float)unit);
    n->n_scale++;
    if (stored != found) {
        const double above = (double)fqi_scale_round(g->store, (float)(unit * (1 + 1e-5))), below = (double)fqi_scale_round(g->store, (float)(unit * (1 - 1e-5)));
        if (found != above && found != below) fail_msg("row %zu, group %zu: scale %.9g, expected %.9g of %.9g", row, group, found, stored, unit);
        n->scale_ties++;
    }
    if (g->sym) {
        assert_true(zero_found == 1 << (g->bits - 1));
        return;
    }
    const double exact = fmin(fmax(-lo / found, 0), top);
    if (zero_found != rint(exact) && fabs(exact - floor(exact) - 0.5) > 1e-3 * (1 + exact)) fail_msg("row %zu: zero %g, expected %g", row, zero_found, exact);
}

/* Codes of one row, column by column; every one must be the one that was found. */
static void textbook_row(const job *j, const double *u, size_t row, count *n)
{
    const problem *p = &j->p;
    const size_t n_col = p->n_col;
    const double top = (1 << j->s.grid.bits) - 1;
    double *w = need(n_col, sizeof *w);
    uint32_t *processed = need(n_col, sizeof *processed);
    bool *chosen = need(p->columns.n_group, sizeof *chosen);
    for (size_t t = 0; t < n_col; t++) processed[t] = p->order[n_col - 1 - t], w[t] = (double)p->w[row * n_col + processed[t]];
    for (size_t g = 0; g < p->columns.n_group && j->s.scales == FQI_SCALES_STATIC; g++) textbook_scale(j, w, processed, g, row, n), chosen[g] = true;
    for (size_t t = 0; t < n_col; t++) {
        const size_t k = processed[t], g = j->codes.group_of[k];
        if (!chosen[g]) textbook_scale(j, w, processed, g, row, n), chosen[g] = true;
        const double scale = (double)j->codes.scale[g * p->n_row + row], zero = j->codes.zero[g * p->n_row + row], found = j->codes.code[k * p->n_row + row];
        const double x = w[t] / scale, code = fmin(fmax(rint(x) + zero, 0), top);
        n->n_code++;
        if (code != found) {
            const double tolerance = 3e-5 * (1 + fabs(x));
            if (fabs(code - found) > 1 || fabs(x - floor(x) - 0.5) > tolerance)
                fail_msg("row %zu, column %zu (%zu-th): code %g, expected %g of %.9g", row, k, t, found, code, x + zero);
            n->code_ties++;
        }
        const double err = (w[t] - scale * (found - zero)) / u[t * n_col + t];
        for (size_t a = t + 1; a < n_col; a++) w[a] -= err * u[t * n_col + a];
    }
    free(w), free(processed), free(chosen);
}

static void compare_with_textbook(job *j, count *n)
{
    double *u = textbook_factor(j);
    for (size_t row = 0; row < j->p.n_row; row++) textbook_row(j, u, row, n);
    free(u);
}

static void codes_are_the_textbooks(void **state)
{
    static const int bits[] = { 2, 3, 4, 8 };
    static const struct { size_t n_row, n_col; int64_t group; size_t n_gap, n_dead; } shape[] = {
        { 40, 96, 32, 0, 0 },  { 33, 200, 64, 56, 3 }, { 7, 300, 128, 84, 0 }, { 20, 130, -1, 0, 2 },
        { 3, 300, -1, 4, 0 },  { 1, 33, 32, 95, 0 },   { 3, 1, 32, 0, 0 },     { 270, 64, 32, 0, 0 },
    };
    rng r = rng_start("textbook");
    count n = { 0 };
    (void)state;
    for (size_t s = 0; s < N_OF(shape); s++)
        for (size_t b = 0; b < N_OF(bits); b++)
            for (int k = 0; k < 5; k++) {   /* static in three orders; dynamic in those that keep groups together */
                const order_kind order = k < 3 ? (order_kind)k : k == 3 ? NATURAL : BY_GROUP;
                job j;
                job_start(&j, problem_make(&r, shape[s].n_row, shape[s].n_col, shape[s].group, shape[s].n_gap, shape[s].n_dead, order),
                          grid_of(bits[b], (s + b + (size_t)k) % 2), k < 3 ? FQI_SCALES_STATIC : FQI_SCALES_DYNAMIC);
                job_solve(&j);
                compare_with_textbook(&j, &n);
                const double direct = problem_error(&j.p, j.p.w, &j.codes, 0);
                if (!close_to(direct, j.result.error, 1e-4)) fail_msg("error %.9g, expected %.9g", j.result.error, direct);
                job_free(&j);
            }
    printf("%zu codes, %zu at ties; %zu scales, %zu at ties\n", n.n_code, n.code_ties, n.n_scale, n.scale_ties);
    assert_true(n.n_code > 500000 && n.code_ties * 5000 < n.n_code && n.scale_ties * 200 < n.n_scale);
}

/* Several segments of the solve, several tiles, a group beyond a block: on fewer rows. */
static void wide_matrices_are_the_textbooks(void **state)
{
    static const struct { int64_t group; order_kind order; fqi_scales_from from; } way[] = {
        { 128, NATURAL, FQI_SCALES_DYNAMIC }, { 96, BY_GROUP, FQI_SCALES_DYNAMIC }, { -1, NATURAL, FQI_SCALES_DYNAMIC }, { 64, PERMUTED, FQI_SCALES_STATIC },
    };
    rng r = rng_start("wide");
    count n = { 0 };
    (void)state;
    for (size_t k = 0; k < N_OF(way); k++) {
        job j;
        job_start(&j, problem_make(&r, 6, 640, way[k].group, 40, 2, way[k].order), grid_of(4, true), way[k].from);
        job_solve(&j);
        compare_with_textbook(&j, &n);
        const double direct = problem_error(&j.p, j.p.w, &j.codes, 0);
        if (!close_to(direct, j.result.error, 1e-4)) fail_msg("error %.9g, expected %.9g", j.result.error, direct);
        job_free(&j);
    }
    assert_true(n.code_ties * 2000 < n.n_code && n.scale_ties * 100 < n.n_scale + 100);
}

/* ---- sums ------------------------------------------------------------------------------------------------------------------ */

/* Up to 32 rows every row is a sample: the sampled error is the error, and the energy that of the whole matrix. */
static void samples_are_rows(void **state)
{
    rng r = rng_start("samples");
    (void)state;
    for (size_t n_row = 1; n_row <= 41; n_row += 10) {
        job j;
        job_start(&j, problem_make(&r, n_row, 270, 32, 0, 2, PERMUTED), grid_of(4, true), FQI_SCALES_STATIC);
        for (int refit = 0; refit < 2; refit++) {
            j.s.n_refit = refit;
            job_solve(&j);
            fqi_codes zero = j.codes;   /* every code its zero point: E = W */
            zero.code = need(n_row * 270, 1);
            for (size_t k = 0; k < 270; k++) memcpy(zero.code + k * n_row, zero.zero + zero.group_of[k] * n_row, n_row);
            if (n_row <= 32) {
                assert_true(close_to(j.result.error_sampled, j.result.error, 1e-4));
                assert_true(close_to(j.result.energy, problem_error(&j.p, j.p.w, &zero, 0), 1e-4));
            }
            assert_true(j.result.error_sampled > 0 && j.result.error_sampled < 0.1 * j.result.energy);
            free(zero.code);
        }
        job_free(&j);
    }
}

/* A sum over some rows: a single row may be unlucky. */
static void never_worse_than_rounding(void **state)
{
    static const int bits[] = { 2, 3, 4, 8 };
    rng r = rng_start("never worse");
    (void)state;
    for (int i = 0; i < 100; i++) {
        const size_t n_row = (size_t)rng_in(&r, 20, 60), n_col = (size_t)rng_in(&r, 32, 140);
        job j;
        fqi_codes rounded;
        fqi_solve_result plain;
        job_start(&j, problem_make(&r, n_row, n_col, i % 3 ? 32 : -1, 0, 0, (order_kind)(i % N_ORDER)), grid_of(bits[i % 4], i % 5 != 0), FQI_SCALES_STATIC);
        if (i % 7 == 0) j.s.grid.rule = FQI_SCALE_WEIGHTED, j.s.grid.signed_scale = j.s.grid.sym;
        job_solve(&j);
        FQT_OK(fqi_round_to_nearest(&j.s, &rounded, &plain, e));
        /* sums of the search are made in the order of processing, so its last bits differ */
        if (j.s.grid.rule == FQI_SCALE_MIN_MAX) assert_memory_equal(rounded.scale, j.codes.scale, rounded.n_group * n_row * sizeof(float));
        if (!(j.result.error <= plain.error)) fail_msg("case %d: %zu x %zu: %g, rounding %g", i, n_row, n_col, j.result.error, plain.error);
        assert_true(close_to(plain.error, problem_error(&j.p, j.p.w, &rounded, 0), 1e-4));
        fqi_codes_free(&rounded);
        job_free(&j);
    }
}

/* ---- rounding -------------------------------------------------------------------------------------------------------------- */

static void rounding_is_to_the_nearest(void **state)
{
    rng r = rng_start("rounding");
    (void)state;
    for (int data = 0; data < 2; data++) {
        problem p = problem_make(&r, 70, 100, 32, 28, 0, NATURAL);
        fqi_solve s = { .la = problem_linalg(2), .grid = grid_of(4, true), .w = p.w, .n_row = 70, .n_col = 100, .columns = &p.columns, .h = data ? &p.h : NULL };
        fqi_codes c;
        fqi_solve_result result;
        double error = 0, energy = 0;
        float *q = need(70 * 100, sizeof *q);
        FQT_OK(fqi_round_to_nearest(&s, &c, &result, e));
        fqi_codes_widen(&c, 2, q);
        for (size_t row = 0; row < 70; row++)
            for (size_t k = 0; k < 100; k++) {
                const float scale = c.scale[c.group_of[k] * 70 + row], w = p.w[row * 100 + k];
                assert_int_equal(c.group_of[k], p.columns.slot_of[k] / 32);
                assert_true(q[row * 100 + k] == scale * (float)(c.code[k * 70 + row] - 8));
                if (c.code[k * 70 + row] < 15) assert_true(fabs((double)(w - q[row * 100 + k])) <= 0.5000001 * (double)scale);
                error += ((double)w - (double)q[row * 100 + k]) * ((double)w - (double)q[row * 100 + k]);
                energy += (double)w * (double)w;
            }
        assert_true(close_to(result.error, data ? problem_error(&p, p.w, &c, 0) : error, 1e-4));
        if (!data) assert_true(close_to(result.energy, energy, 1e-6) && result.error_sampled == result.error);
        fqi_codes_free(&c);
        problem_free(&p);
        free(q);
    }
}

static void empty_groups_are_neutral(void **state)
{
    rng r = rng_start("empty groups");
    (void)state;
    problem p = problem_make(&r, 9, 32, 32, 96, 0, NATURAL);
    for (size_t k = 0; k < 32; k++) p.columns.slot_of[k] = (uint32_t)(64 + k);   /* all in the third of four groups */
    job j;
    job_start(&j, p, grid_of(4, true), FQI_SCALES_DYNAMIC);
    for (int refit = 0; refit < 2; refit++) {
        j.s.n_refit = refit;
        job_solve(&j);
        assert_int_equal(j.codes.n_group, 4);
        for (size_t g = 0; g < 4; g++)
            for (size_t row = 0; row < 9 && g != 2; row++) assert_true(j.codes.scale[g * 9 + row] == 1 && j.codes.zero[g * 9 + row] == 8);
    }
    job_free(&j);
}

/* ---- refit ------------------------------------------------------------------------------------------------------------------ */

static void expect_storable(const job *j)
{
    const int top = (1 << j->s.grid.bits) - 1;
    for (size_t i = 0; i < j->codes.n_group * j->p.n_row; i++) {
        const float scale = j->codes.scale[i];
        assert_true(fqi_scale_round(j->s.grid.store, scale) == scale);
        assert_true(scale > 0 || (scale < 0 && j->s.grid.signed_scale));
    }
    for (size_t i = 0; i < j->p.n_row * j->p.n_col; i++) assert_true(j->codes.code[i] <= top);
}

static void refit_never_raises(void **state)
{
    static const int bits[] = { 2, 3, 4, 8 };
    static const struct { size_t n_row, n_col; int64_t group; size_t n_gap; } shape[] = {
        { 40, 96, 32, 0 }, { 65, 200, 64, 60 }, { 9, 300, 128, 84 }, { 20, 130, -1, 0 }, { 34, 530, -1, 5 }, { 10, 600, 96, 0 }, { 1, 1, 32, 0 },
    };
    rng r = rng_start("refit");
    double gain = 0, all = 0;   /* of f */
    (void)state;
    for (size_t s = 0; s < N_OF(shape); s++)
        for (size_t b = 0; b < N_OF(bits); b++) {
            job j;
            const bool sym = (s + b) % 2;
            job_start(&j, problem_make(&r, shape[s].n_row, shape[s].n_col, shape[s].group, shape[s].n_gap, shape[s].n_col > 90 ? 2 : 0, (order_kind)((s + b) % N_ORDER)),
                      grid_of(bits[b], sym), FQI_SCALES_STATIC);
            if (b % 2) j.s.grid.rule = FQI_SCALE_WEIGHTED, j.s.grid.signed_scale = sym;
            double before = 0, first = 0;
            for (int refit = 0; refit < 4; refit++) {
                j.s.n_refit = refit;
                job_solve(&j);
                const double damped = problem_error(&j.p, j.p.w, &j.codes, j.s.lambda), direct = problem_error(&j.p, j.p.w, &j.codes, 0);
                if (!close_to(direct, j.result.error, 2e-4)) fail_msg("shape %zu, %d bits, %d rounds: error %.9g, expected %.9g", s, bits[b], refit, j.result.error, direct);
                if (refit > 0 && !(damped <= before * (1 + 1e-12))) fail_msg("shape %zu, %d bits, round %d: %.9g after %.9g", s, bits[b], refit, damped, before);
                expect_storable(&j);
                before = damped;
                if (refit == 0) first = damped;
            }
            gain += (first - before) / first, all += 1;
            job_free(&j);
        }
    printf("%.1f %% gained on average\n", 100 * gain / all);
    assert_true(gain / all > 0.02);
}

/* All weights of a row alike, inputs that have nothing in common: min-max puts every weight at 7.5 steps, where the largest code is 7. No
 * other code helps; the scale that fits is weight / 7. */
static void refit_repairs_scales(void **state)
{
    rng r = rng_start("repair");
    (void)state;
    for (int wide = 0; wide < 2; wide++) {
        problem p = problem_make(&r, 20, 300, wide ? -1 : 64, 0, 0, PERMUTED);
        for (size_t row = 0; row < 20; row++)
            for (size_t k = 0; k < 300; k++) p.w[row * 300 + k] = 0.01f * (float)(row + 1);
        for (size_t i = 0; i < 300 * 300; i++)
            if (i / 300 != i % 300) p.h.h[i] = 0;
        job j;
        job_start(&j, p, grid_of(4, true), FQI_SCALES_STATIC);
        job_solve(&j);
        assert_true(j.result.error_sampled > 1e-3 * j.result.energy);
        j.s.n_refit = 1;
        job_solve(&j);
        if (!(j.result.error_sampled < 1e-6 * j.result.energy)) fail_msg("%g of %g is left", j.result.error_sampled, j.result.energy);
        job_free(&j);
    }
}

/* ---- what must not matter ------------------------------------------------------------------------------------------------------ */

static void expect_same(const fqi_codes *a, const fqi_codes *b, const fqi_solve_result *ra, const fqi_solve_result *rb)
{
    assert_memory_equal(a->code, b->code, a->n_row * a->n_col);
    assert_memory_equal(a->scale, b->scale, a->n_row * a->n_group * sizeof(float));
    assert_memory_equal(a->zero, b->zero, a->n_row * a->n_group);
    assert_memory_equal(ra, rb, sizeof *ra);
}

static void threads_change_nothing(void **state)
{
    rng r = rng_start("threads");
    (void)state;
    for (int k = 0; k < 4; k++) {
        job j;
        job_start(&j, problem_make(&r, 300, 310, k == 3 ? -1 : 64, 10, 1, k == 0 ? NATURAL : BY_GROUP), grid_of(3, k % 2), k < 2 ? FQI_SCALES_DYNAMIC : FQI_SCALES_STATIC);
        j.s.n_refit = k % 2 + (k == 2);
        job_solve(&j);
        for (int n_thread = 1; n_thread <= 5; n_thread += 2) {
            fqi_solve s = j.s;
            fqi_codes c, plain[2];
            fqi_solve_result result, rounded[2];
            s.la.n_thread = n_thread;
            FQT_OK(fqi_gptq(&s, &c, &result, e));
            expect_same(&c, &j.codes, &result, &j.result);
            FQT_OK(fqi_round_to_nearest(&s, &plain[0], &rounded[0], e));
            FQT_OK(fqi_round_to_nearest(&j.s, &plain[1], &rounded[1], e));
            expect_same(&plain[0], &plain[1], &rounded[0], &rounded[1]);
            fqi_codes_free(&c), fqi_codes_free(&plain[0]), fqi_codes_free(&plain[1]);
        }
        job_free(&j);
    }
}

/* Plain C, AVX2 and AVX-512 choose the same codes. */
static void instruction_sets_change_nothing(void **state)
{
    rng r = rng_start("instruction sets");
    char *usual = getenv("FITQ_KERNEL") ? strdup(getenv("FITQ_KERNEL")) : NULL;
    job j;
    (void)state;
    job_start(&j, problem_make(&r, 45, 310, 64, 10, 1, NATURAL), grid_of(4, true), FQI_SCALES_DYNAMIC);
    j.s.n_refit = 1;
    job_solve(&j);
    for (size_t i = 0; i < FQI_N_KERNELS && fqi_kernels_at(i); i++) {
        fqi_codes c;
        fqi_solve_result result;
        assert_int_equal(setenv("FITQ_KERNEL", fqi_kernels_at(i)->name, 1), 0);
        FQT_OK(fqi_gptq(&j.s, &c, &result, e));
        expect_same(&c, &j.codes, &result, &j.result);
        fqi_codes_free(&c);
    }
    assert_int_equal(usual ? setenv("FITQ_KERNEL", usual, 1) : unsetenv("FITQ_KERNEL"), 0);
    free(usual);
    job_free(&j);
}

/* ---- what is refused -------------------------------------------------------------------------------------------------------------- */

static void groups_that_cannot_wait_are_refused(void **state)
{
    static const struct { size_t n_col; int64_t group; order_kind order; const char *found; } bad[] = {
        { 100, 32, PERMUTED, "scattered" }, { 640, 320, NATURAL, "found a group of 320 columns" },
    };
    rng r = rng_start("refused");
    (void)state;
    for (size_t b = 0; b < N_OF(bad); b++) {
        job j;
        fq_err err;
        job_start(&j, problem_make(&r, 3, bad[b].n_col, bad[b].group, 0, 0, bad[b].order), grid_of(4, true), FQI_SCALES_DYNAMIC);
        j.s.columns = &j.p.columns, j.s.h = &j.p.h;
        assert_int_equal(fqi_gptq(&j.s, &j.codes, &j.result, &err), FQ_E_USAGE);
        if (!strstr(err.text, bad[b].found)) fail_msg("%s", err.text);
        assert_null(j.codes.code);
        job_free(&j);
    }
}

static void sizes_are_counted(void **state)
{
    (void)state;
    assert_true(fqi_gptq_bytes(SIZE_MAX, SIZE_MAX, 8) == UINT64_MAX);
    assert_true(fqi_codes_bytes(SIZE_MAX, SIZE_MAX, 3) == UINT64_MAX);
    /* a copy of the matrix in floats, the columns of one block, and little else */
    const double bytes = (double)fqi_gptq_bytes(8192, 29568, 1), floats = 8192.0 * 29568 * 4;
    assert_true(bytes > floats && bytes < 1.1 * floats);
    assert_int_equal(fqi_codes_bytes(10, 20, 2), 10 * 20 + 2 * 10 * 5 + 20 * 4);
    fqi_codes_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_are_the_textbooks),
        cmocka_unit_test(wide_matrices_are_the_textbooks),
        cmocka_unit_test(samples_are_rows),
        cmocka_unit_test(never_worse_than_rounding),
        cmocka_unit_test(rounding_is_to_the_nearest),
        cmocka_unit_test(empty_groups_are_neutral),
        cmocka_unit_test(refit_never_raises),
        cmocka_unit_test(refit_repairs_scales),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(instruction_sets_change_nothing),
        cmocka_unit_test(groups_that_cannot_wait_are_refused),
        cmocka_unit_test(sizes_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
