/* kernel.h - the inner loops of the forward pass: plain C, AVX2 + FMA + F16C, AVX-512, chosen at run time.
 *
 * Every kernel has one order of operations, written down here, and all three versions follow it: the same inputs give the
 * same bits on every instruction set (tested). So a model says the same on every machine, and a fixed summation order costs
 * no second set of kernels. Compiled with -ffp-contract=off: an FMA is where the order says so and nowhere else.
 *
 * Two orders of summation:
 *   sequence   acc = +0; for k ascending: acc = fma(a[k], b[k], acc); result acc + 0.0f (so that -0 is +0).
 *              Products that are zero do not change the bits, wherever they are put: padding with zeros is exact in this order in
 *              every layout that keeps the order of what was there. Vectors run along the outputs.
 *   lanes      FQI_LANES accumulators of +0, lane k mod FQI_LANES takes element k by fma; a last incomplete group takes part with
 *              its missing elements left out; then lanes are added pairwise: l += l + 8, l += l + 4, l += l + 2, l += l + 1.
 *              Vectors run along k: what reads a row-major matrix once wants this one. */
#ifndef FITQ_KERNEL_KERNEL_H
#define FITQ_KERNEL_KERNEL_H

#include "base/err.h"

#define FQI_LANES 16
#define FQI_TILE 32           /* columns of a tile of gemm_tile, on every instruction set */
#define FQI_TILE_ROWS 12      /* most rows of one call of gemm_tile */

/* A weight matrix as it is stored: out_features rows of in_features, row-major, contiguous, aligned to its element. dtype: F32, F16,
 * BF16. data NULL: there is none. */
typedef struct fqi_matrix { const void *data; int64_t rows, cols; fq_dtype dtype; } fqi_matrix;

typedef struct fqi_kernels {
    const char *name;   /* "c", "avx2", "avx512" */

    /* n elements of dtype (F32, F16, BF16) to float. Exact. src needs no alignment beyond its element. */
    void (*widen)(const void *src, fq_dtype dtype, float *dst, size_t n);
    /* Every x[i] to the nearest number that the dtype (F16, BF16; F32 does nothing) holds, ties to even; overflow to infinity, NaN stays NaN. */
    void (*round_to)(float *x, fq_dtype dtype, size_t n);
    /* y[r] = sum_k w[r][k] x[k] for r0 <= r < r1, in lanes order. */
    void (*matvec)(const fqi_matrix *w, int64_t r0, int64_t r1, const float *x, float *y);
    /* c[i][j] (+)= sum_k a[i][k] b[k][j], i < m <= FQI_TILE_ROWS, j < FQI_TILE, in sequence order. b: rows of FQI_TILE floats at stride
     * ldb. accumulate: acc starts at c[i][j] instead of +0, so that k may be cut in blocks without a change of bits; last: adds
     * the + 0.0f. */
    void (*gemm_tile)(size_t m, size_t k, const float *a, size_t lda, const float *b, size_t ldb, float *c, size_t ldc, bool accumulate, bool last);
    /* x[i] = exp(scale * x[i] - max) / sum, max over scale * x[i]; the sum in lanes order. n >= 1. Exp by the library's own
     * polynomial: error at most 2 ulp, exp(0) = 1, below -87.3 it is 0. */
    void (*softmax)(float *x, size_t n, float scale);
    /* sum_i exp(x[i] - max) in lanes order, nothing written. */
    float (*sum_exp)(const float *x, size_t n, float max);
    /* y[i] = x[i] * (1 / sqrt(sum x^2 / n + eps)) then * w[i]; sum in lanes order, each step rounded to float. served: dtype to which the
     * normalised value is rounded before it meets w, and the result after (as transformers does for half types); F32 =
     * no rounding. y may be x. */
    void (*rms_norm)(const float *x, const float *w, float eps, fq_dtype served, float *y, size_t n);
    /* gate[i] = silu(gate[i]) * up[i], silu(x) = x / (1 + exp(-x)); silu's result and the product rounded to served. */
    void (*silu_mul)(float *gate, const float *up, fq_dtype served, size_t n);
    /* True if all n elements are finite; else the index of the first in *at and how many are not in *count. */
    bool (*all_finite)(const void *x, fq_dtype dtype, size_t n, size_t *at, size_t *count);
} fqi_kernels;

/* The widest that this processor runs, or the one that environment variable FITQ_KERNEL names ("c", "avx2", "avx512"): FQ_E_USAGE for
 * an unknown name, FQ_E_DEVICE for one that the processor lacks. Borrowed, static. */
fq_status fqi_kernels_choose(const fqi_kernels **out, fq_err *e);
/* By index, narrowest first; NULL past the end or where the processor (or the build) lacks it. For tests and benchmarks. */
const fqi_kernels *fqi_kernels_at(size_t i);
#define FQI_N_KERNELS 3

#endif
