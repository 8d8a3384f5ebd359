/* kernel_c.c - the kernels in plain C: what every processor runs, and what the vector versions are compared with. */
#include "kernel/instruction_sets.h"
#include "kernel/scalar.h"

static void widen(const void *src, fq_dtype dtype, float *dst, size_t n)
{
    for (size_t i = 0; i < n; i++) dst[i] = fqi_scalar_load(src, dtype, i);
}

static void round_to(float *x, fq_dtype dtype, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = fqi_scalar_round(x[i], dtype);
}

static void matvec(const fqi_matrix *w, int64_t r0, int64_t r1, const float *x, float *y)
{
    const size_t cols = (size_t)w->cols, row_bytes = cols * fqi_dtype_bytes(w->dtype);
    for (int64_t r = r0; r < r1; r++) {
        const unsigned char *row = (const unsigned char *)w->data + (size_t)r * row_bytes;
        float lane[FQI_LANES] = { 0 };
        for (size_t k = 0; k < cols; k++) lane[k % FQI_LANES] = fmaf(fqi_scalar_load(row, w->dtype, k), x[k], lane[k % FQI_LANES]);
        y[r] = fqi_scalar_lanes(lane);
    }
}

static void gemm_tile(size_t m, size_t k, const float *a, size_t lda, const float *b, size_t ldb, float *c, size_t ldc, bool accumulate, bool last)
{
    for (size_t i = 0; i < m; i++) {
        float acc[FQI_TILE] = { 0 };
        if (accumulate) memcpy(acc, c + i * ldc, sizeof acc);
        for (size_t kk = 0; kk < k; kk++)
            for (size_t j = 0; j < FQI_TILE; j++) acc[j] = fmaf(a[i * lda + kk], b[kk * ldb + j], acc[j]);
        for (size_t j = 0; j < FQI_TILE; j++) c[i * ldc + j] = last ? acc[j] + 0.0f : acc[j];
    }
}

static float sum_exp(const float *x, size_t n, float max)
{
    float lane[FQI_LANES] = { 0 };
    for (size_t i = 0; i < n; i++) lane[i % FQI_LANES] += fqi_scalar_exp(x[i] - max);
    return fqi_scalar_lanes(lane);
}

static void softmax(float *x, size_t n, float scale)
{
    float max = -INFINITY, lane[FQI_LANES] = { 0 };
    for (size_t i = 0; i < n; i++) {
        x[i] *= scale;
        if (x[i] > max) max = x[i];
    }
    for (size_t i = 0; i < n; i++) {
        x[i] = fqi_scalar_exp(x[i] - max);
        lane[i % FQI_LANES] += x[i];
    }
    float sum = fqi_scalar_lanes(lane);
    for (size_t i = 0; i < n; i++) x[i] /= sum;
}

static void rms_norm(const float *x, const float *w, float eps, fq_dtype served, float *y, size_t n)
{
    float lane[FQI_LANES] = { 0 };
    for (size_t i = 0; i < n; i++) lane[i % FQI_LANES] = fmaf(x[i], x[i], lane[i % FQI_LANES]);
    float scale = 1.0f / sqrtf(fqi_scalar_lanes(lane) / (float)n + eps);
    for (size_t i = 0; i < n; i++) y[i] = fqi_scalar_round(fqi_scalar_round(x[i] * scale, served) * w[i], served);
}

static void silu_mul(float *gate, const float *up, fq_dtype served, size_t n)
{
    for (size_t i = 0; i < n; i++) gate[i] = fqi_scalar_silu_mul(gate[i], up[i], served);
}

static bool all_finite(const void *x, fq_dtype dtype, size_t n, size_t *at, size_t *count)
{
    size_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        if (isfinite(fqi_scalar_load(x, dtype, i))) continue;
        if (bad == 0) *at = i;
        bad++;
    }
    if (bad) *count = bad;
    return bad == 0;
}

const fqi_kernels fqi_kernels_c = { "c", widen, round_to, matvec, gemm_tile, softmax, sum_exp, rms_norm, silu_mul, all_finite };
