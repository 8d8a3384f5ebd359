/* bench_quant.c - what quantizing a matrix costs, each part beside its yardstick in one run.
 *
 *     bench_quant [hessian] [solve] [ROWS COLUMNS]      (none = all, 4096 x 4096 and 4096 x 11008)
 *
 *     hessian   fqi_hessian_add beside cblas_ssyrk on the same threads
 *     solve     fqi_cholesky + fqi_gptq beside the textbook's way with the same BLAS (Cholesky, inverse, Cholesky, then columns in blocks of 128, each
 *               quantized and taken off the rest of its block, one sgemm behind each block), the same with a block's columns fused, and beside
 *               what sgemm would need for n^3/3 + rows n^2 operations
 *
 * Two clocks: the wall's, best of the rounds, and the processor's, for machines that have other work. Not a test. */
#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "quant/gptq.h"

#define N_THREAD 2
#define ROUNDS 3
#define TOKENS 2048
#define GROUP 128
#define BLOCK 128

void spotrf_(const char *uplo, const int *n, float *a, const int *lda, int *info);
void spotri_(const char *uplo, const int *n, float *a, const int *lda, int *info);

typedef struct clocks { double wall, cpu; } clocks;

static clocks now(void)
{
    struct timespec w, c;
    clock_gettime(CLOCK_MONOTONIC, &w);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &c);
    return (clocks){ (double)w.tv_sec + 1e-9 * (double)w.tv_nsec, (double)c.tv_sec + 1e-9 * (double)c.tv_nsec };
}

/* The best of the rounds so far, each clock for itself. */
static clocks since(clocks start, clocks *best)
{
    clocks t = now();
    t.wall -= start.wall, t.cpu -= start.cpu;
    if (best->wall == 0 || t.wall < best->wall) best->wall = t.wall;
    if (best->cpu == 0 || t.cpu < best->cpu) best->cpu = t.cpu;
    return t;
}

static void *need(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    memset(p, 0, bytes);
    return p;
}

static void must(fq_status s, const fq_err *e)
{
    if (!s) return;
    fprintf(stderr, "%s\n", e->text);
    exit(1);
}

static float *random_floats(size_t n, uint32_t s)
{
    float *f = need(n * sizeof *f);
    for (size_t i = 0; i < n; i++) {
        s = s * 1664525u + 1013904223u;
        f[i] = (float)(int32_t)s * 0x1p-31f;
    }
    return f;
}

#define SIDE 2048

/* The yardstick: one square product on all threads. x: two matrices. */
static void time_sgemm(float *x, clocks *best)
{
    clocks t = now();
    cblas_sgemm(CblasColMajor, CblasNoTrans, CblasTrans, SIDE, SIDE, SIDE, 1, x, SIDE, x, SIDE, 0, x + SIDE * SIDE, SIDE);
    (void)since(t, best);
}
static const double sgemm_operations = 2.0 * SIDE * SIDE * SIDE;

/* ---- second moments --------------------------------------------------------------------------------------------------------- */

static void hessian(const fqi_linalg *la, size_t n)
{
    fqi_hessian h;
    fq_err e;
    float *x = random_floats(TOKENS * n, 1), *plain = need(n * n * sizeof *plain);
    clocks ours = { 0 }, blas = { 0 };
    must(fqi_hessian_create(n, &h, &e), &e);
    for (int round = 0; round < ROUNDS * 2; round++) {
        clocks t = now();
        cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, (blasint)n, TOKENS, 1, x, (blasint)n, 1, plain, (blasint)n);
        (void)since(t, &blas);
        t = now();
        fqi_hessian_add(la, &h, x, TOKENS, n);
        (void)since(t, &ours);
    }
    const double operations = (double)n * (double)n * TOKENS;
    printf("hessian  n %5zu, %d rows        %6.1f GFLOP/s   of cblas_ssyrk's %6.1f: %4.2f   (processor time: %4.2f)\n", n, TOKENS, operations / ours.wall * 1e-9,
           operations / blas.wall * 1e-9, blas.wall / ours.wall, blas.cpu / ours.cpu);
    fqi_hessian_free(&h);
    free(x), free(plain);
}

/* ---- the textbook's way --------------------------------------------------------------------------------------------------------- */

/* A second moment of TOKENS random rows, damped; lower triangle. */
static void problem(const fqi_linalg *la, size_t n, fqi_hessian *h)
{
    fq_err e;
    must(fqi_hessian_create(n, h, &e), &e);
    for (uint32_t i = 0; i * TOKENS < 2 * n; i++) {
        float *x = random_floats(TOKENS * n, i + 1);
        fqi_hessian_add(la, h, x, TOKENS, n);
        free(x);
    }
}

/* U of H^-1 = U^T U, row-major, in `a`. LAPACK's upper is our lower. */
static void textbook_factor(const fqi_hessian *h, float *a)
{
    const size_t n = h->n;
    const int order = (int)n;
    int info;
    double mean = 0;
    memcpy(a, h->h, n * n * sizeof *a);
    for (size_t i = 0; i < n; i++) mean += (double)a[i * n + i] / (double)n;
    for (size_t i = 0; i < n; i++) a[i * n + i] += (float)(0.01 * mean);
    spotrf_("U", &order, a, &order, &info);
    spotri_("U", &order, a, &order, &info);
#pragma omp parallel for num_threads(N_THREAD) schedule(dynamic, 64)
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) a[j * n + i] = a[i * n + j];
    spotrf_("L", &order, a, &order, &info);   /* column-major lower = row-major upper */
    if (info) {
        fprintf(stderr, "the textbook's factor fails\n");
        exit(1);
    }
}

/* What the published loop keeps of a block, each [rows][BLOCK]: a copy of the weights, what they became, errors, losses. */
typedef struct published { float *w, *q, *err, *loss, *scale; } published;

/* One column of a block, as published: quantize it in all rows, then take the error off the rest of the block (a rank-one update). */
static void textbook_column(const published *p, size_t rows, size_t n, size_t i, size_t width, const float *u)
{
    const float d = u[i * n + i];
#pragma omp parallel for num_threads(N_THREAD) schedule(static)
    for (size_t r = 0; r < rows; r++) {
        const float x = p->w[r * BLOCK + i];
        float q = x / p->scale[r];
        q = (q + 12582912.0f) - 12582912.0f;
        q = (q < -8 ? -8 : q > 7 ? 7 : q) * p->scale[r];
        p->q[r * BLOCK + i] = q;
        p->loss[r * BLOCK + i] = (x - q) * (x - q) / (d * d);
        p->err[r * BLOCK + i] = (x - q) / d;
    }
    cblas_sger(CblasRowMajor, (blasint)rows, (blasint)(width - i), -1, p->err + i, BLOCK, u + i * n + i, 1, p->w + i, BLOCK);
}

/* [rows][width] between matrices of these strides. */
static void copy_block(const float *from, size_t ld_from, float *to, size_t ld_to, size_t rows, size_t width)
{
#pragma omp parallel for num_threads(N_THREAD) schedule(static)
    for (size_t r = 0; r < rows; r++) memcpy(to + r * ld_to, from + r * ld_from, width * sizeof *to);
}

/* A block made faster than published: a few rows go through all of its columns while they are in cache. */
static void fused_rows(float *w, size_t r0, size_t r1, size_t n, size_t width, const float *u, float *err, const float *scale)
{
    for (size_t i = 0; i < width; i++) {
        const float d = 1 / u[i * n + i];
        for (size_t r = r0; r < r1; r++) {
            float *row = w + r * n, q = row[i] / scale[r];
            q = (q + 12582912.0f) - 12582912.0f;
            q = q < -8 ? -8 : q > 7 ? 7 : q;
            const float e = (row[i] - q * scale[r]) * d;
            row[i] = q * scale[r];
            err[r * BLOCK + i] = e;
            for (size_t j = i + 1; j < width; j++) row[j] -= e * u[i * n + j];
        }
    }
}

static void textbook_scales(const float *w, size_t rows, size_t n, size_t width, float *scale)
{
#pragma omp parallel for num_threads(N_THREAD) schedule(static)
    for (size_t r = 0; r < rows; r++) {
        float most = 0;
        for (size_t j = 0; j < width; j++) {
            const float a = w[r * n + j] < 0 ? -w[r * n + j] : w[r * n + j];
            most = a > most ? a : most;
        }
        scale[r] = most > 0 ? most / 7.5f : 1;
    }
}

static void textbook_block(float *w, size_t rows, size_t n, size_t first, const float *u, const published *p, bool fused)
{
    const size_t width = n - first < BLOCK ? n - first : BLOCK;
    const float *ub = u + first * n + first;
    textbook_scales(w + first, rows, n, width, p->scale);
    if (fused) {
#pragma omp parallel for num_threads(N_THREAD) schedule(static)
        for (size_t r = 0; r < rows; r += 64) fused_rows(w + first, r, r + 64 < rows ? r + 64 : rows, n, width, ub, p->err, p->scale);
    } else {
        copy_block(w + first, n, p->w, BLOCK, rows, width);
        for (size_t i = 0; i < width; i++) textbook_column(p, rows, n, i, width, ub);
        copy_block(p->q, BLOCK, w + first, n, rows, width);
    }
    if (first + width < n)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)(n - first - width), (blasint)width, -1, p->err, BLOCK, ub + width,
                    (blasint)n, 1, w + first + width, (blasint)n);
}

/* ---- the solve ----------------------------------------------------------------------------------------------------------------- */

typedef struct timing { clocks factor, solve[2]; } timing;

static void textbook(const fqi_hessian *h, const float *w, size_t rows, float *a, float *copy, timing *best)
{
    const size_t bytes = rows * BLOCK * sizeof *w;
    const published p = { need(bytes), need(bytes), need(bytes), need(bytes), need(rows * sizeof *w) };
    clocks t = now();
    textbook_factor(h, a);
    (void)since(t, &best->factor);
    for (int fused = 0; fused < 2; fused++) {
        memcpy(copy, w, rows * h->n * sizeof *copy);
        t = now();
        for (size_t first = 0; first < h->n; first += BLOCK) textbook_block(copy, rows, h->n, first, a, &p, fused);
        (void)since(t, &best->solve[fused]);
    }
    free(p.w), free(p.q), free(p.err), free(p.loss), free(p.scale);
}

static const struct { const char *name; fqi_scales_from from; fqi_scale_rule rule; int n_refit; bool sign; } way[] = {
    { "min-max, dynamic", FQI_SCALES_DYNAMIC, FQI_SCALE_MIN_MAX, 0, false },
    { "min-max, static", FQI_SCALES_STATIC, FQI_SCALE_MIN_MAX, 0, false },
    { "min-max, one refit", FQI_SCALES_STATIC, FQI_SCALE_MIN_MAX, 1, false },
    { "weighted, signed", FQI_SCALES_STATIC, FQI_SCALE_WEIGHTED, 0, true },
};
#define N_WAY (sizeof way / sizeof way[0])

static void ours(const fqi_linalg *la, const fqi_hessian *h, const fqi_columns *columns, const uint32_t *order, const float *w, size_t rows, float *l,
                 clocks *factor, clocks *solve, double *relative)
{
    fqi_solve s = { .la = *la, .n_row = rows, .n_col = h->n, .columns = columns, .h = h, .l = l, .order = order, .w = w };
    fqi_codes codes;
    fqi_solve_result result;
    fq_err e;
    clocks t = now();
    must(fqi_cholesky(la, h, order, 0.01, l, &s.lambda, &e), &e);
    (void)since(t, factor);
    for (size_t i = 0; i < N_WAY; i++) {
        s.grid = (fqi_grid){ .bits = 4, .sym = true, .signed_scale = way[i].sign, .rule = way[i].rule, .store = FQI_STORE_F16 };
        s.scales = way[i].from, s.n_refit = way[i].n_refit;
        t = now();
        must(fqi_gptq(&s, &codes, &result, &e), &e);
        (void)since(t, &solve[i]);
        relative[i] = result.error_sampled / result.energy;
        fqi_codes_free(&codes);
    }
}

static void report(size_t rows, size_t n, clocks sgemm, const timing *book, clocks factor, const clocks *each, const double *relative)
{
    const double share = ((double)n * (double)n * (double)n / 3 + (double)rows * (double)n * (double)n) / sgemm_operations;
    printf("\nsolve    %zu x %zu, 4 bits, groups of %d, %d threads. sgemm %.1f GFLOP/s: n^3/3 + rows n^2 takes it %.3f s\n", rows, n, GROUP, N_THREAD,
           sgemm_operations / sgemm.wall * 1e-9, share * sgemm.wall);
    printf("  %-20s %8s = %7s + %7s     times as fast as    of sgemm     by processor time       error\n", "", "seconds", "factor", "columns");
    printf("  %-20s %8s   %7s   %7s     textbook, fused                 textbook, fused, sgemm\n", "", "", "", "");
    for (int i = 0; i < 2; i++)
        printf("  %-20s %8.3f = %7.3f + %7.3f\n", i ? "textbook, fused" : "textbook", book->factor.wall + book->solve[i].wall, book->factor.wall,
               book->solve[i].wall);
    for (size_t i = 0; i < N_WAY; i++) {
        const double wall = factor.wall + each[i].wall, cpu = factor.cpu + each[i].cpu;
        printf("  %-20s %8.3f = %7.3f + %7.3f     %5.2f   %5.2f      %5.0f %%     %5.2f   %5.2f   %3.0f %%      %.3g\n", way[i].name, wall, factor.wall,
               each[i].wall, (book->factor.wall + book->solve[0].wall) / wall, (book->factor.wall + book->solve[1].wall) / wall,
               100 * share * sgemm.wall / wall, (book->factor.cpu + book->solve[0].cpu) / cpu, (book->factor.cpu + book->solve[1].cpu) / cpu,
               100 * share * sgemm.cpu / cpu, relative[i]);
    }
}

static void solve(const fqi_linalg *la, size_t rows, size_t n)
{
    fqi_hessian h;
    fqi_columns columns = { .n_col = n, .n_col_pad = n, .group_size = GROUP, .n_group = (n + GROUP - 1) / GROUP };
    float *w = random_floats(rows * n, 7), *a = need(n * n * sizeof *a), *copy = need(rows * n * sizeof *copy), *square = random_floats(2 * SIDE * SIDE, 9);
    uint32_t *order = need(n * sizeof *order);
    clocks factor = { 0 }, each[N_WAY] = { { 0 } }, sgemm = { 0 };
    double relative[N_WAY];
    timing book = { 0 };
    columns.slot_of = need(n * sizeof *order);
    for (size_t i = 0; i < n; i++) columns.slot_of[i] = (uint32_t)i, order[i] = (uint32_t)(n - 1 - i);
    problem(la, n, &h);
    for (int round = 0; round < (n > 8192 ? 2 : ROUNDS); round++) {
        time_sgemm(square, &sgemm);
        textbook(&h, w, rows, a, copy, &book);
        time_sgemm(square, &sgemm);
        ours(la, &h, &columns, order, w, rows, a, &factor, each, relative);
    }
    report(rows, n, sgemm, &book, factor, each, relative);
    fqi_hessian_free(&h);
    free(columns.slot_of), free(w), free(a), free(copy), free(order), free(square);
}

int main(int argc, char **argv)
{
    size_t number[2] = { 0 }, n_number = 0;
    bool named = false, part[2] = { false };
    fqi_blas blas;
    fq_err e;
    for (int i = 1; i < argc; i++) {
        const bool a = strcmp(argv[i], "hessian") == 0, b = strcmp(argv[i], "solve") == 0;
        part[0] |= a, part[1] |= b, named |= a || b;
        if (!a && !b && n_number < 2) number[n_number++] = strtoul(argv[i], NULL, 10);
    }
    must(fqi_blas_load(&blas, &e), &e);
    openblas_set_num_threads(N_THREAD);
    const fqi_linalg la = { &blas, N_THREAD };
    const bool own = n_number == 2 && number[0] > 0 && number[1] > 0;
    static const size_t usual[][2] = { { 4096, 4096 }, { 4096, 11008 } };
    for (size_t i = 0; i < 2 && (!named || part[0]); i++) hessian(&la, own ? number[i] : i ? 11008 : 896);
    for (size_t i = 0; i < 2 && (!named || part[1]); i++)
        if (!own || i == 0) solve(&la, own ? number[0] : usual[i][0], own ? number[1] : usual[i][1]);
    return 0;
}
