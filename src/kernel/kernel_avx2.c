/* kernel_avx2.c - the kernels with AVX2, FMA and F16C: the FQI_LANES lanes of kernel.h are two vectors of 8. Tails go through scalar.h, which
 * makes the same operations. */
#include "kernel/instruction_sets.h"

#ifdef __x86_64__
#include <immintrin.h>

#include "kernel/scalar.h"

static inline __m256 load8(const unsigned char *p, fq_dtype dtype)
{
    if (dtype == FQ_DTYPE_F32) return _mm256_loadu_ps((const float *)(const void *)p);
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)p);
    if (dtype == FQ_DTYPE_F16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

static inline __m256 round8(__m256 x, fq_dtype dtype)
{
    if (dtype == FQ_DTYPE_F32) return x;
    if (dtype == FQ_DTYPE_F16) return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
    const __m256i u = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    rounded = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
    return _mm256_castsi256_ps(_mm256_and_si256(rounded, _mm256_set1_epi32((int)0xffff0000u)));
}

static inline __m256 exp8(__m256 x)
{
    __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q), low = _mm256_cmp_ps(x, _mm256_set1_ps(FQI_EXP_LOW), _CMP_LT_OQ);
    __m256 v = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(FQI_EXP_HIGH)), _mm256_set1_ps(FQI_EXP_LOW));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(v, _mm256_set1_ps(FQI_EXP_LOG2E)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-FQI_EXP_LN2_HIGH), v);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-FQI_EXP_LN2_LOW), r);
    __m256 p = _mm256_set1_ps(FQI_EXP_P5);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FQI_EXP_P4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FQI_EXP_P3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FQI_EXP_P2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FQI_EXP_P1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(FQI_EXP_P0));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    p = _mm256_mul_ps(p, _mm256_castsi256_ps(power));
    p = _mm256_andnot_ps(low, p);
    return _mm256_blendv_ps(p, x, nan);
}

/* Lanes 0..7 and 8..15, with the first n - i elements of an incomplete group still to come from f(l). */
static inline void spill(float lane[FQI_LANES], __m256 low, __m256 high)
{
    _mm256_storeu_ps(lane, low);
    _mm256_storeu_ps(lane + 8, high);
}

static void widen(const void *src, fq_dtype dtype, float *dst, size_t n)
{
    const unsigned char *p = src;
    size_t i = 0, size = fqi_dtype_bytes(dtype);
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(dst + i, load8(p + i * size, dtype));
    for (; i < n; i++) dst[i] = fqi_scalar_load(src, dtype, i);
}

static void round_to(float *x, fq_dtype dtype, size_t n)
{
    size_t i = 0;
    if (dtype == FQ_DTYPE_F32) return;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, round8(_mm256_loadu_ps(x + i), dtype));
    for (; i < n; i++) x[i] = fqi_scalar_round(x[i], dtype);
}

/* Lanes pairwise, in the order of fqi_scalar_lanes. */
static inline float sum_lanes(__m256 low, __m256 high)
{
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* One row after the other: the weights are then one stream of addresses, which the processor fetches ahead (see kernel_avx512.c). */
static inline __attribute__((always_inline)) float dot_row(const unsigned char *row, const fq_dtype dtype, const float *x, size_t cols)
{
    const size_t size = dtype == FQ_DTYPE_F32 ? 4 : 2;
    __m256 low = _mm256_setzero_ps(), high = low;
    size_t k = 0;
    for (; k + 64 <= cols; k += 64)
#pragma GCC unroll 4
        for (size_t j = k; j < k + 64; j += 16) {
            low = _mm256_fmadd_ps(load8(row + j * size, dtype), _mm256_loadu_ps(x + j), low);
            high = _mm256_fmadd_ps(load8(row + (j + 8) * size, dtype), _mm256_loadu_ps(x + j + 8), high);
        }
    for (; k + 16 <= cols; k += 16) {
        low = _mm256_fmadd_ps(load8(row + k * size, dtype), _mm256_loadu_ps(x + k), low);
        high = _mm256_fmadd_ps(load8(row + (k + 8) * size, dtype), _mm256_loadu_ps(x + k + 8), high);
    }
    if (k == cols) return sum_lanes(low, high);
    float lane[FQI_LANES];
    spill(lane, low, high);
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

/* M rows, 16 of the 32 columns: 2 M of the 16 registers, two for b, one for a. The arrays have exactly M elements, hence a macro: where M was
 * a constant argument of an inlined function, clang kept the accumulators in memory, at half the speed. */
#define DEFINE_TILE(M)                                                                                                                             \
    static void tile_##M(size_t k, const float *a, size_t lda, const float *b, size_t ldb, float *c, size_t ldc, bool accumulate, bool last)       \
    {                                                                                                                                              \
        __m256 left[M], right[M], zero = _mm256_setzero_ps();                                                                                      \
        _Pragma("GCC unroll 12")                                                                                                                   \
        for (size_t i = 0; i < M; i++) {                                                                                                           \
            left[i] = accumulate ? _mm256_loadu_ps(c + i * ldc) : zero;                                                                            \
            right[i] = accumulate ? _mm256_loadu_ps(c + i * ldc + 8) : zero;                                                                       \
        }                                                                                                                                          \
        for (size_t kk = 0; kk < k; kk++) {                                                                                                        \
            __m256 b0 = _mm256_loadu_ps(b + kk * ldb), b1 = _mm256_loadu_ps(b + kk * ldb + 8);                                                     \
            _Pragma("GCC unroll 12")                                                                                                               \
            for (size_t i = 0; i < M; i++) {                                                                                                       \
                __m256 v = _mm256_set1_ps(a[i * lda + kk]);                                                                                        \
                left[i] = _mm256_fmadd_ps(v, b0, left[i]);                                                                                         \
                right[i] = _mm256_fmadd_ps(v, b1, right[i]);                                                                                       \
            }                                                                                                                                      \
        }                                                                                                                                          \
        _Pragma("GCC unroll 12")                                                                                                                   \
        for (size_t i = 0; i < M; i++) {                                                                                                           \
            _mm256_storeu_ps(c + i * ldc, last ? _mm256_add_ps(left[i], zero) : left[i]);                                                          \
            _mm256_storeu_ps(c + i * ldc + 8, last ? _mm256_add_ps(right[i], zero) : right[i]);                                                    \
        }                                                                                                                                          \
    }
DEFINE_TILE(1) DEFINE_TILE(2) DEFINE_TILE(3) DEFINE_TILE(4) DEFINE_TILE(5) DEFINE_TILE(6)

typedef void tile_fn(size_t k, const float *a, size_t lda, const float *b, size_t ldb, float *c, size_t ldc, bool accumulate, bool last);
static tile_fn *const tile[FQI_TILE_ROWS / 2 + 1] = { NULL, tile_1, tile_2, tile_3, tile_4, tile_5, tile_6 };

/* More than 6 rows in two parts of about the same size: a tile of one or two rows waits for its own fmas. */
static void gemm_tile(size_t m, size_t k, const float *a, size_t lda, const float *b, size_t ldb, float *c, size_t ldc, bool accumulate, bool last)
{
    size_t rows = m > FQI_TILE_ROWS / 2 ? (m + 1) / 2 : m;
    for (; m > 0; m -= rows, rows = m) {
        for (size_t j = 0; j < FQI_TILE; j += 16) tile[rows](k, a, lda, b + j, ldb, c + j, ldc, accumulate, last);
        a += rows * lda;
        c += rows * ldc;
    }
}

static float sum_exp(const float *x, size_t n, float max)
{
    float lane[FQI_LANES];
    __m256 low = _mm256_setzero_ps(), high = low, m = _mm256_set1_ps(max);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        low = _mm256_add_ps(low, exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), m)));
        high = _mm256_add_ps(high, exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8), m)));
    }
    spill(lane, low, high);
    for (size_t l = 0; i + l < n; l++) lane[l] += fqi_scalar_exp(x[i + l] - max);
    return fqi_scalar_lanes(lane);
}

static float scaled_max(float *x, size_t n, float scale)
{
    float max = -INFINITY, lane[8];
    __m256 m = _mm256_set1_ps(-INFINITY), s = _mm256_set1_ps(scale);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), s);
        _mm256_storeu_ps(x + i, v);
        m = _mm256_max_ps(v, m);   /* NaN: keeps m, as x > max does */
    }
    _mm256_storeu_ps(lane, m);
    for (size_t l = 0; l < 8; l++) max = lane[l] > max ? lane[l] : max;
    for (; i < n; i++) {
        x[i] *= scale;
        if (x[i] > max) max = x[i];
    }
    return max;
}

static void softmax(float *x, size_t n, float scale)
{
    float max = scaled_max(x, n, scale), lane[FQI_LANES];
    __m256 m = _mm256_set1_ps(max), low = _mm256_setzero_ps(), high = low;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 v0 = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i), m)), v1 = exp8(_mm256_sub_ps(_mm256_loadu_ps(x + i + 8), m));
        _mm256_storeu_ps(x + i, v0);
        _mm256_storeu_ps(x + i + 8, v1);
        low = _mm256_add_ps(low, v0);
        high = _mm256_add_ps(high, v1);
    }
    spill(lane, low, high);
    for (size_t l = 0; i + l < n; l++) lane[l] += x[i + l] = fqi_scalar_exp(x[i + l] - max);
    float sum = fqi_scalar_lanes(lane);
    __m256 s = _mm256_set1_ps(sum);
    for (i = 0; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_div_ps(_mm256_loadu_ps(x + i), s));
    for (; i < n; i++) x[i] /= sum;
}

static void rms_norm(const float *x, const float *w, float eps, fq_dtype served, float *y, size_t n)
{
    float lane[FQI_LANES];
    __m256 low = _mm256_setzero_ps(), high = low;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m256 v0 = _mm256_loadu_ps(x + i), v1 = _mm256_loadu_ps(x + i + 8);
        low = _mm256_fmadd_ps(v0, v0, low);
        high = _mm256_fmadd_ps(v1, v1, high);
    }
    spill(lane, low, high);
    for (size_t l = 0; i + l < n; l++) lane[l] = fmaf(x[i + l], x[i + l], lane[l]);
    float scale = 1.0f / sqrtf(fqi_scalar_lanes(lane) / (float)n + eps);
    __m256 s = _mm256_set1_ps(scale);
    for (i = 0; i + 8 <= n; i += 8) {
        __m256 v = round8(_mm256_mul_ps(_mm256_loadu_ps(x + i), s), served);
        _mm256_storeu_ps(y + i, round8(_mm256_mul_ps(v, _mm256_loadu_ps(w + i)), served));
    }
    for (; i < n; i++) y[i] = fqi_scalar_round(fqi_scalar_round(x[i] * scale, served) * w[i], served);
}

static void silu_mul(float *gate, const float *up, fq_dtype served, size_t n)
{
    const __m256 one = _mm256_set1_ps(1.0f), sign = _mm256_set1_ps(-0.0f);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 g = _mm256_loadu_ps(gate + i);
        __m256 s = round8(_mm256_div_ps(g, _mm256_add_ps(one, exp8(_mm256_xor_ps(g, sign)))), served);
        _mm256_storeu_ps(gate + i, round8(_mm256_mul_ps(s, _mm256_loadu_ps(up + i)), served));
    }
    for (; i < n; i++) gate[i] = fqi_scalar_silu_mul(gate[i], up[i], served);
}

static bool all_finite(const void *x, fq_dtype dtype, size_t n, size_t *at, size_t *count)
{
    const unsigned char *p = x;
    const size_t size = fqi_dtype_bytes(dtype), step = 32 / size;
    const __m256i mask = dtype == FQ_DTYPE_F32 ? _mm256_set1_epi32(0x7f800000) : _mm256_set1_epi16(dtype == FQ_DTYPE_F16 ? 0x7c00 : 0x7f80);
    size_t i = 0;
    for (; i + step <= n; i += step) {
        __m256i v = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(const void *)(p + i * size)), mask);
        __m256i equal = dtype == FQ_DTYPE_F32 ? _mm256_cmpeq_epi32(v, mask) : _mm256_cmpeq_epi16(v, mask);
        if (!_mm256_testz_si256(equal, equal)) break;
    }
    if (fqi_kernels_c.all_finite(p + i * size, dtype, n - i, at, count)) return true;
    *at += i;
    return false;
}

const fqi_kernels fqi_kernels_avx2 = { "avx2", widen, round_to, matvec, gemm_tile, softmax, sum_exp, rms_norm, silu_mul, all_finite };
#else
typedef int fqi_no_avx2;   /* a file must not be empty */
#endif
