/* kernel_avx512.c - the kernels with AVX-512 F, BW, VL, DQ: one vector is the FQI_LANES lanes of kernel.h. Tails go through scalar.h, which
 * makes the same operations. */
#include "kernel/instruction_sets.h"

#ifdef __x86_64__
#include <immintrin.h>

#include "kernel/scalar.h"

static inline __m512 load16(const unsigned char *p, fq_dtype dtype)
{
    if (dtype == FQ_DTYPE_F32) return _mm512_loadu_ps(p);
    __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)p);
    if (dtype == FQ_DTYPE_F16) return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

static inline __m512 round16(__m512 x, fq_dtype dtype)
{
    if (dtype == FQ_DTYPE_F32) return x;
    if (dtype == FQ_DTYPE_F16) return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    const __m512i high = _mm512_set1_epi32((int)0xffff0000u), u = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet);
    return _mm512_castsi512_ps(_mm512_and_si512(rounded, high));
}

static inline __m512 exp16(__m512 x)
{
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), low = _mm512_cmp_ps_mask(x, _mm512_set1_ps(FQI_EXP_LOW), _CMP_LT_OQ);
    __m512 v = _mm512_min_ps(x, _mm512_set1_ps(FQI_EXP_HIGH));
    v = _mm512_max_ps(v, _mm512_set1_ps(FQI_EXP_LOW));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(v, _mm512_set1_ps(FQI_EXP_LOG2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-FQI_EXP_LN2_HIGH), v);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-FQI_EXP_LN2_LOW), r);
    __m512 p = _mm512_set1_ps(FQI_EXP_P5);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FQI_EXP_P4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FQI_EXP_P3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FQI_EXP_P2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FQI_EXP_P1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(FQI_EXP_P0));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    __m512i power = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
    p = _mm512_mul_ps(p, _mm512_castsi512_ps(power));
    p = _mm512_mask_mov_ps(p, low, _mm512_setzero_ps());
    return _mm512_mask_mov_ps(p, nan, x);
}

static void widen(const void *src, fq_dtype dtype, float *dst, size_t n)
{
    const unsigned char *p = src;
    size_t i = 0, size = fqi_dtype_bytes(dtype);
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(dst + i, load16(p + i * size, dtype));
    for (; i < n; i++) dst[i] = fqi_scalar_load(src, dtype, i);
}

static void round_to(float *x, fq_dtype dtype, size_t n)
{
    size_t i = 0;
    if (dtype == FQ_DTYPE_F32) return;
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(x + i, round16(_mm512_loadu_ps(x + i), dtype));
    for (; i < n; i++) x[i] = fqi_scalar_round(x[i], dtype);
}

/* Lanes pairwise, in the order of fqi_scalar_lanes. */
static inline float sum_lanes(__m512 v)
{
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* One row after the other: the weights are then one stream of addresses, which the processor fetches ahead. Several rows side by side,
 * to hide the latency of the chain of fmas, were half as fast; out-of-order execution begins the next row meanwhile anyway. */
static inline __attribute__((always_inline)) float dot_row(const unsigned char *row, const fq_dtype dtype, const float *x, size_t cols)
{
    const size_t size = dtype == FQ_DTYPE_F32 ? 4 : 2;
    __m512 acc = _mm512_setzero_ps();
    size_t k = 0;
    for (; k + 128 <= cols; k += 128)
#pragma GCC unroll 8
        for (size_t j = k; j < k + 128; j += 16) acc = _mm512_fmadd_ps(load16(row + j * size, dtype), _mm512_loadu_ps(x + j), acc);
    for (; k + 16 <= cols; k += 16) acc = _mm512_fmadd_ps(load16(row + k * size, dtype), _mm512_loadu_ps(x + k), acc);
    if (k == cols) return sum_lanes(acc);
    float lane[FQI_LANES];
    _mm512_storeu_ps(lane, acc);
    for (size_t l = 0; k + l < cols; l++) lane[l] = fmaf(fqi_scalar_load(row, dtype, k + l), x[k + l], lane[l]);
    return fqi_scalar_lanes(lane);
}

static inline __attribute__((always_inline)) void matvec_of(const fq_dtype dtype, const fqi_matrix *w, size_t r0, size_t r1, const float *x, float *y)
{
    const size_t cols = (size_t)w->cols, row_bytes = cols * (dtype == FQ_DTYPE_F32 ? 4 : 2);
    const unsigned char *row = (const unsigned char *)w->data + r0 * row_bytes;
    for (size_t r = r0; r < r1; r++, row += row_bytes) y[r] = dot_row(row, dtype, x, cols);
}

static void matvec(const fqi_matrix *w, int64_t r0, int64_t r1, const float *x, float *y)
{
    if (w->dtype == FQ_DTYPE_BF16)
        matvec_of(FQ_DTYPE_BF16, w, (size_t)r0, (size_t)r1, x, y);
    else if (w->dtype == FQ_DTYPE_F16)
        matvec_of(FQ_DTYPE_F16, w, (size_t)r0, (size_t)r1, x, y);
    else
        matvec_of(FQ_DTYPE_F32, w, (size_t)r0, (size_t)r1, x, y);
}

/* M rows: 2 M of the 32 registers, two for b. The arrays have exactly M elements, hence a macro: where M was a constant argument
 * of an inlined function, clang kept the accumulators in memory, at half the speed. */
#define DEFINE_TILE(M)                                                                                                                             \
    static void tile_##M(size_t k, const float *a, size_t lda, const float *b, size_t ldb, float *c, size_t ldc, bool accumulate, bool last)       \
    {                                                                                                                                              \
        __m512 left[M], right[M], zero = _mm512_setzero_ps();                                                                                      \
        _Pragma("GCC unroll 12")                                                                                                                   \
        for (size_t i = 0; i < M; i++) {                                                                                                           \
            left[i] = accumulate ? _mm512_loadu_ps(c + i * ldc) : zero;                                                                            \
            right[i] = accumulate ? _mm512_loadu_ps(c + i * ldc + 16) : zero;                                                                      \
        }                                                                                                                                          \
        for (size_t kk = 0; kk < k; kk++) {                                                                                                        \
            __m512 b0 = _mm512_loadu_ps(b + kk * ldb), b1 = _mm512_loadu_ps(b + kk * ldb + 16);                                                    \
            _Pragma("GCC unroll 12")                                                                                                               \
            for (size_t i = 0; i < M; i++) {                                                                                                       \
                __m512 v = _mm512_set1_ps(a[i * lda + kk]);                                                                                        \
                left[i] = _mm512_fmadd_ps(v, b0, left[i]);                                                                                         \
                right[i] = _mm512_fmadd_ps(v, b1, right[i]);                                                                                       \
            }                                                                                                                                      \
        }                                                                                                                                          \
        _Pragma("GCC unroll 12")                                                                                                                   \
        for (size_t i = 0; i < M; i++) {                                                                                                           \
            _mm512_storeu_ps(c + i * ldc, last ? _mm512_add_ps(left[i], zero) : left[i]);                                                          \
            _mm512_storeu_ps(c + i * ldc + 16, last ? _mm512_add_ps(right[i], zero) : right[i]);                                                   \
        }                                                                                                                                          \
    }
DEFINE_TILE(1) DEFINE_TILE(2) DEFINE_TILE(3) DEFINE_TILE(4) DEFINE_TILE(5) DEFINE_TILE(6)
DEFINE_TILE(7) DEFINE_TILE(8) DEFINE_TILE(9) DEFINE_TILE(10) DEFINE_TILE(11) DEFINE_TILE(12)

typedef void tile_fn(size_t k, const float *a, size_t lda, const float *b, size_t ldb, float *c, size_t ldc, bool accumulate, bool last);
static tile_fn *const tile[FQI_TILE_ROWS + 1] = {
    NULL, tile_1, tile_2, tile_3, tile_4, tile_5, tile_6, tile_7, tile_8, tile_9, tile_10, tile_11, tile_12
};

static void gemm_tile(size_t m, size_t k, const float *a, size_t lda, const float *b, size_t ldb, float *c, size_t ldc, bool accumulate, bool last)
{
    if (m > 0) tile[m](k, a, lda, b, ldb, c, ldc, accumulate, last);
}

static float sum_exp(const float *x, size_t n, float max)
{
    float lane[FQI_LANES];
    __m512 acc = _mm512_setzero_ps(), m = _mm512_set1_ps(max);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) acc = _mm512_add_ps(acc, exp16(_mm512_sub_ps(_mm512_loadu_ps(x + i), m)));
    _mm512_storeu_ps(lane, acc);
    for (size_t l = 0; i + l < n; l++) lane[l] += fqi_scalar_exp(x[i + l] - max);
    return fqi_scalar_lanes(lane);
}

static float scaled_max(float *x, size_t n, float scale)
{
    float max = -INFINITY, lane[FQI_LANES];
    __m512 m = _mm512_set1_ps(-INFINITY), s = _mm512_set1_ps(scale);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + i), s);
        _mm512_storeu_ps(x + i, v);
        m = _mm512_max_ps(v, m);   /* NaN: keeps m, as x > max does */
    }
    _mm512_storeu_ps(lane, m);
    for (size_t l = 0; l < FQI_LANES; l++) max = lane[l] > max ? lane[l] : max;
    for (; i < n; i++) {
        x[i] *= scale;
        if (x[i] > max) max = x[i];
    }
    return max;
}

static void softmax(float *x, size_t n, float scale)
{
    float max = scaled_max(x, n, scale), lane[FQI_LANES];
    __m512 m = _mm512_set1_ps(max), acc = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 v = exp16(_mm512_sub_ps(_mm512_loadu_ps(x + i), m));
        _mm512_storeu_ps(x + i, v);
        acc = _mm512_add_ps(acc, v);
    }
    _mm512_storeu_ps(lane, acc);
    for (size_t l = 0; i + l < n; l++) lane[l] += x[i + l] = fqi_scalar_exp(x[i + l] - max);
    float sum = fqi_scalar_lanes(lane);
    __m512 s = _mm512_set1_ps(sum);
    for (i = 0; i + 16 <= n; i += 16) _mm512_storeu_ps(x + i, _mm512_div_ps(_mm512_loadu_ps(x + i), s));
    for (; i < n; i++) x[i] /= sum;
}

static void rms_norm(const float *x, const float *w, float eps, fq_dtype served, float *y, size_t n)
{
    float lane[FQI_LANES];
    __m512 acc = _mm512_setzero_ps();
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 v = _mm512_loadu_ps(x + i);
        acc = _mm512_fmadd_ps(v, v, acc);
    }
    _mm512_storeu_ps(lane, acc);
    for (size_t l = 0; i + l < n; l++) lane[l] = fmaf(x[i + l], x[i + l], lane[l]);
    float scale = 1.0f / sqrtf(fqi_scalar_lanes(lane) / (float)n + eps);
    __m512 s = _mm512_set1_ps(scale);
    for (i = 0; i + 16 <= n; i += 16) {
        __m512 v = round16(_mm512_mul_ps(_mm512_loadu_ps(x + i), s), served);
        _mm512_storeu_ps(y + i, round16(_mm512_mul_ps(v, _mm512_loadu_ps(w + i)), served));
    }
    for (; i < n; i++) y[i] = fqi_scalar_round(fqi_scalar_round(x[i] * scale, served) * w[i], served);
}

static void silu_mul(float *gate, const float *up, fq_dtype served, size_t n)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512i sign = _mm512_set1_epi32((int)0x80000000u);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 g = _mm512_loadu_ps(gate + i);
        __m512 minus = _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(g), sign));
        __m512 s = round16(_mm512_div_ps(g, _mm512_add_ps(one, exp16(minus))), served);
        _mm512_storeu_ps(gate + i, round16(_mm512_mul_ps(s, _mm512_loadu_ps(up + i)), served));
    }
    for (; i < n; i++) gate[i] = fqi_scalar_silu_mul(gate[i], up[i], served);
}

static bool all_finite(const void *x, fq_dtype dtype, size_t n, size_t *at, size_t *count)
{
    const unsigned char *p = x;
    const size_t size = fqi_dtype_bytes(dtype), step = 64 / size;
    const __m512i mask = dtype == FQ_DTYPE_F32 ? _mm512_set1_epi32(0x7f800000) : _mm512_set1_epi16(dtype == FQ_DTYPE_F16 ? 0x7c00 : 0x7f80);
    size_t i = 0;
    for (; i + step <= n; i += step) {
        __m512i v = _mm512_and_si512(_mm512_loadu_si512(p + i * size), mask);
        if (dtype == FQ_DTYPE_F32 ? _mm512_cmpeq_epi32_mask(v, mask) != 0 : _mm512_cmpeq_epi16_mask(v, mask) != 0) break;
    }
    if (fqi_kernels_c.all_finite(p + i * size, dtype, n - i, at, count)) return true;
    *at += i;
    return false;
}

const fqi_kernels fqi_kernels_avx512 = { "avx512", widen, round_to, matvec, gemm_tile, softmax, sum_exp, rms_norm, silu_mul, all_finite };
#else
typedef int fqi_no_avx512;   /* a file must not be empty */
#endif
