/* bench_kernels.c - how far the kernels are from what the machine can do: memory bandwidth for few tokens, sgemm for many.
 *
 *     bench_kernels [matvec] [tile] [matmul] [small]      (none = all)
 *
 * Every figure stands beside its yardstick, measured in turn with it in the same run; the best of several rounds counts, because the other
 * work of a machine only ever takes away. Not a test. */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernel/linear.h"

#define N_THREAD 2
#define ROUNDS 7
#define POOL_BYTES ((size_t)1 << 30)   /* larger than any last-level cache */
#define N_TOKEN 2048

static const struct { int64_t rows, cols; } shape[] = { { 4864, 896 }, { 896, 4864 }, { 896, 896 }, { 128, 896 } };   /* Qwen2-0.5B */
static const struct { fq_dtype dtype; const char *name; size_t size; } type[] = {
    { FQ_DTYPE_BF16, "bf16", 2 }, { FQ_DTYPE_F16, "f16", 2 }, { FQ_DTYPE_F32, "f32", 4 },
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *need(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return p;
}

static float *random_floats(size_t n)
{
    float *f = need(n * sizeof *f);
    uint32_t s = 1;
    for (size_t i = 0; i < n; i++) {
        s = s * 1664525u + 1013904223u;
        f[i] = (float)(int32_t)s * 0x1p-31f;
    }
    return f;
}

static void least(double *best, double seconds)
{
    if (*best == 0 || seconds < *best) *best = seconds;
}

static fqi_compute compute_of(fqi_order order, int n_thread, const fqi_kernels *k)
{
    fqi_compute c;
    fq_err e;
    if (fqi_compute_create(order, FQ_DTYPE_F32, n_thread, 4864, &c, &e)) {
        fprintf(stderr, "%s\n", e.text);
        exit(1);
    }
    if (k) c.kernel = k;
    return c;
}

/* ---- few tokens: bandwidth ---------------------------------------------------------------------------------------- */

static volatile uint64_t sink;

/* A plain read: eight sums, so that nothing but memory is waited for. */
static double read_all(const unsigned char *p, size_t n)
{
    double t = now();
#pragma omp parallel for num_threads(N_THREAD) schedule(static)
    for (size_t block = 0; block < n >> 18; block++) {
        const uint64_t *v = (const uint64_t *)(const void *)(p + (block << 18));
        uint64_t s[8] = { 0 };
        for (size_t i = 0; i < (1 << 15); i += 8)
            for (size_t j = 0; j < 8; j++) s[j] += v[i + j];
        sink = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
    }
    return now() - t;
}

/* All matrices that the pool holds, one after the other. Bytes read in *bytes. */
static double read_weights(const fqi_compute *c, const unsigned char *pool, size_t d, size_t s, size_t n_token, const float *x, float *y, size_t *bytes)
{
    const size_t one = (size_t)(shape[s].rows * shape[s].cols) * type[d].size, n = POOL_BYTES / one;
    double t = now();
    for (size_t i = 0; i < n; i++) {
        fqi_matrix w = { pool + i * one, shape[s].rows, shape[s].cols, type[d].dtype };
        fqi_matmul(c, &w, NULL, x, n_token, y, (size_t)shape[s].rows);
    }
    *bytes = n * one;
    return now() - t;
}

static void matvec(void)
{
    unsigned char *pool = need(POOL_BYTES);
    float *x = random_floats(8 * 4864), *y = random_floats(8 * 4864);
    memset(pool, 0x3c, POOL_BYTES);   /* a small number in every type */
    printf("few tokens, %d threads, GB/s of weights (ratio to a plain read of the same bytes)\n", N_THREAD);
    printf("%-8s %-5s %12s %7s", "version", "type", "shape", "read");
    for (size_t n = 1; n <= 8; n *= 2) printf("  %6zu token%s", n, n > 1 ? "s" : " ");
    printf("\n");
    for (size_t v = 0; v < FQI_N_KERNELS; v++)
        for (size_t d = 0; fqi_kernels_at(v) && d < 3; d++)
            for (size_t s = 0; s < 2; s++) {
                fqi_compute c = compute_of(FQI_ORDER_FAST, N_THREAD, fqi_kernels_at(v));
                double plain = 0, best[9] = { 0 };
                size_t bytes = 1;
                for (int round = 0; round < (v ? ROUNDS : 1); round++) {
                    least(&plain, read_all(pool, POOL_BYTES));
                    for (size_t n = 1; n <= 8; n *= 2) least(&best[n], read_weights(&c, pool, d, s, n, x, y, &bytes));
                }
                printf("%-8s %-5s %6lld x%5lld %6.1f", c.kernel->name, type[d].name, (long long)shape[s].rows, (long long)shape[s].cols, (double)POOL_BYTES / plain / 1e9);
                for (size_t n = 1; n <= 8; n *= 2) printf("  %6.1f (%4.2f)", (double)bytes / best[n] / 1e9, (double)bytes / best[n] * plain / (double)POOL_BYTES);
                printf("\n");
                fqi_compute_free(&c);
            }
    free(pool), free(x), free(y);
}

/* ---- the tile of sequence order -------------------------------------------------------------------------------------- */

static void tile(void)
{
    enum { K = 512, M = 96, REPEAT = 2000 };
    float *a = random_floats(M * K), *b = random_floats(K * FQI_TILE), *c = random_floats(M * FQI_TILE), *big = random_floats(1024 * 1024);
    float *out = random_floats(1024 * 1024);
    const double flops = 2.0 * M * K * FQI_TILE * REPEAT, blas_flops = 2.0 * 1024 * 1024 * 1024 * 4;
    openblas_set_num_threads(1);
    printf("\ntile of sequence order, 1 thread, GFLOP/s (ratio to sgemm 1024 x 1024 x 1024)\n");
    for (size_t v = 0; v < FQI_N_KERNELS; v++) {
        const fqi_kernels *k = fqi_kernels_at(v);
        double best = 0, blas = 0;
        const int repeat = v ? REPEAT : REPEAT / 100;
        for (int round = 0; k && round < ROUNDS; round++) {
            double t = now();
            for (int i = 0; i < repeat; i++)
                for (size_t m = 0; m < M; m += FQI_TILE_ROWS) k->gemm_tile(FQI_TILE_ROWS, K, a + m * K, K, b, FQI_TILE, c + m * FQI_TILE, FQI_TILE, true, false);
            least(&best, (now() - t) * REPEAT / repeat);
            t = now();
            for (int i = 0; i < 4; i++)
                cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, 1024, 1024, 1024, 1, big, 1024, big, 1024, 0, out, 1024);
            least(&blas, now() - t);
        }
        if (k) printf("%-8s %7.1f (%4.2f of %.1f)\n", k->name, flops / best / 1e9, flops / best / (blas_flops / blas), blas_flops / blas / 1e9);
    }
    openblas_set_num_threads(N_THREAD);
    free(a), free(b), free(c), free(big), free(out);
}

/* ---- many tokens ------------------------------------------------------------------------------------------------------ */

static void matmul_shape(size_t s, float *x, const float *weight, void *half, float *y)
{
    const int64_t rows = shape[s].rows, cols = shape[s].cols;
    const double flops = 2.0 * (double)rows * (double)cols * N_TOKEN;
    fqi_compute fast = compute_of(FQI_ORDER_FAST, N_THREAD, NULL), fixed = compute_of(FQI_ORDER_FIXED, N_THREAD, NULL);
    fqi_matrix wide = { weight, rows, cols, FQ_DTYPE_F32 }, stored = { half, rows, cols, FQ_DTYPE_BF16 };
    double blas = 0, ours = 0, ready = 0, sequence = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double t = now();
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, N_TOKEN, (blasint)rows, (blasint)cols, 1, x, (blasint)cols, weight, (blasint)cols, 0, y, (blasint)rows);
        least(&blas, now() - t);
        t = now();
        fqi_matmul(&fast, &stored, NULL, x, N_TOKEN, y, (size_t)rows);
        least(&ours, now() - t);
        t = now();
        fqi_matmul(&fast, &wide, NULL, x, N_TOKEN, y, (size_t)rows);
        least(&ready, now() - t);
        t = now();
        fqi_matmul(&fixed, &stored, NULL, x, N_TOKEN, y, (size_t)rows);
        least(&sequence, now() - t);
    }
    printf("%6lld x%5lld %8.1f  %6.1f (%4.2f)  %6.1f (%4.2f)  %6.1f (%4.2f)\n", (long long)rows, (long long)cols, flops / blas / 1e9, flops / ours / 1e9,
           blas / ours, flops / ready / 1e9, blas / ready, flops / sequence / 1e9, blas / sequence);
    fqi_compute_free(&fast), fqi_compute_free(&fixed);
}

static void matmul(void)
{
    float *x = random_floats((size_t)N_TOKEN * 4864), *weight = random_floats(4864 * 896), *y = random_floats((size_t)N_TOKEN * 4864);
    uint16_t *half = need(4864 * 896 * 2);
    for (size_t i = 0; i < 4864 * 896; i++) memcpy(half + i, (const unsigned char *)(weight + i) + 2, 2);
    openblas_set_num_threads(N_THREAD);
    printf("\n%d tokens, %d threads, GFLOP/s (ratio to sgemm with ready fp32 weights)\n", N_TOKEN, N_THREAD);
    printf("%13s %8s  %13s  %13s  %13s\n", "shape", "sgemm", "fast, bf16", "fast, f32", "fixed, bf16");
    for (size_t s = 0; s < 4; s++) matmul_shape(s, x, weight, half, y);
    free(x), free(weight), free(y), free(half);
}

/* ---- small products -------------------------------------------------------------------------------------------------- */

static void small(void)
{
    static const int64_t side[] = { 16, 32, 64, 128, 256, 512, 896 };
    float *x = random_floats(4864 * 32), *y = random_floats(4864 * 32), *weight = random_floats(4864 * 896);
    printf("\nbf16 in cache, microseconds with 1 thread and with %d\n%10s %16s %16s %16s\n", N_THREAD, "side", "1 token", "16 tokens, fast", "16 tokens, fixed");
    for (size_t s = 0; s < sizeof side / sizeof side[0]; s++) {
        fqi_matrix w = { weight, side[s], side[s], FQ_DTYPE_BF16 };
        printf("%10lld", (long long)side[s]);
        for (size_t what = 0; what < 3; what++) {
            for (int n = 1; n <= N_THREAD; n++) {
                fqi_compute c = compute_of(what == 2 ? FQI_ORDER_FIXED : FQI_ORDER_FAST, n, NULL);
                double best = 0;
                for (int round = 0; round < ROUNDS; round++) {
                    double t = now();
                    for (int i = 0; i < 50; i++) fqi_matmul(&c, &w, NULL, x, what ? 16 : 1, y, (size_t)side[s]);
                    least(&best, (now() - t) / 50);
                }
                printf("%s%8.2f", n == 1 ? " " : "", best * 1e6);
                fqi_compute_free(&c);
            }
        }
        printf("\n");
    }
    free(x), free(y), free(weight);
}

int main(int argc, char **argv)
{
    static const struct { const char *name; void (*run)(void); } part[] = { { "matvec", matvec }, { "tile", tile }, { "matmul", matmul }, { "small", small } };
    for (size_t p = 0; p < 4; p++) {
        bool wanted = argc < 2;
        for (int i = 1; i < argc; i++) wanted = wanted || strcmp(argv[i], part[p].name) == 0;
        if (wanted) part[p].run();
    }
    return 0;
}
