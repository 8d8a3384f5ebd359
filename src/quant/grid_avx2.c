/* grid_avx2.c - the grid's inner loops with AVX2 and FMA: eight rows at a time. */
#ifdef __x86_64__
#include <immintrin.h>

#include "quant/grid_kernels.h"

typedef __m256 V;
typedef __m256 M;
#define N_LANE 8

static inline V v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void v_store(float *p, V x) { _mm256_storeu_ps(p, x); }
static inline V v_set(float x) { return _mm256_set1_ps(x); }
static inline V v_add(V a, V b) { return _mm256_add_ps(a, b); }
static inline V v_sub(V a, V b) { return _mm256_sub_ps(a, b); }
static inline V v_mul(V a, V b) { return _mm256_mul_ps(a, b); }
static inline V v_div(V a, V b) { return _mm256_div_ps(a, b); }
static inline V v_fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
static inline V v_min(V a, V b) { return _mm256_min_ps(a, b); }
static inline V v_max(V a, V b) { return _mm256_max_ps(a, b); }
static inline V v_rint(V x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline M v_less(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline V v_pick(M m, V a, V b) { return _mm256_blendv_ps(b, a, m); }

static inline V v_type(V x, const fqi_grid_type *t)
{
    const __m128i drop = _mm_cvtsi32_si128((int)t->drop);
    const __m256i u = _mm256_castps_si256(x), sign = _mm256_and_si256(u, _mm256_set1_epi32((int)0x80000000u));
    __m256i a = _mm256_andnot_si256(_mm256_set1_epi32((int)0x80000000u), u), none = _mm256_cmpeq_epi32(a, _mm256_setzero_si256());
    __m256i odd = _mm256_and_si256(_mm256_srl_epi32(a, drop), _mm256_set1_epi32(1));
    a = _mm256_add_epi32(_mm256_add_epi32(a, _mm256_set1_epi32((1 << (t->drop - 1)) - 1)), odd);
    a = _mm256_sll_epi32(_mm256_srl_epi32(a, drop), drop);
    a = _mm256_min_epu32(_mm256_max_epu32(a, _mm256_set1_epi32((int)t->least)), _mm256_set1_epi32((int)t->most));
    return _mm256_castsi256_ps(_mm256_andnot_si256(none, _mm256_or_si256(a, sign)));
}

#include "quant/grid_lanes.h"

static void round_rows(float top, const float *w, const float *scale, const uint8_t *zero, size_t n_row, uint8_t *code, float *back)
{
    size_t n = 0;
    for (; n + N_LANE <= n_row; n += N_LANE) {
        V s = v_load(scale + n), z = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(zero + n))));
        V q = v_add(v_rint(v_div(v_load(w + n), s)), z);
        q = v_min(v_max(q, v_set(0.0f)), v_set(top));
        __m256i i = _mm256_cvttps_epi32(q);
        __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
        _mm_storel_epi64((__m128i *)(void *)(code + n), _mm_packus_epi16(words, words));
        v_store(back + n, v_mul(s, v_sub(q, z)));
    }
    for (; n < n_row; n++) fqi_grid_round_one(top, w[n], scale[n], zero[n], &code[n], &back[n]);
}

const fqi_grid_kernels fqi_grid_kernels_avx2 = { "avx2", N_LANE, choose, round_rows };
#endif
