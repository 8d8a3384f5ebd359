/* grid_avx512.c - the grid's inner loops with AVX-512 F, BW, VL, DQ: sixteen rows at a time. */
#ifdef __x86_64__
#include <immintrin.h>

#include "quant/grid_kernels.h"

typedef __m512 V;
typedef __mmask16 M;
#define N_LANE 16

static inline V v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v_store(float *p, V x) { _mm512_storeu_ps(p, x); }
static inline V v_set(float x) { return _mm512_set1_ps(x); }
static inline V v_add(V a, V b) { return _mm512_add_ps(a, b); }
static inline V v_sub(V a, V b) { return _mm512_sub_ps(a, b); }
static inline V v_mul(V a, V b) { return _mm512_mul_ps(a, b); }
static inline V v_div(V a, V b) { return _mm512_div_ps(a, b); }
static inline V v_fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
static inline V v_min(V a, V b) { return _mm512_min_ps(a, b); }
static inline V v_max(V a, V b) { return _mm512_max_ps(a, b); }
static inline V v_rint(V x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline M v_less(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline V v_pick(M m, V a, V b) { return _mm512_mask_mov_ps(b, m, a); }

static inline V v_type(V x, const fqi_grid_type *t)
{
    const __m128i drop = _mm_cvtsi32_si128((int)t->drop);
    const __m512i u = _mm512_castps_si512(x), sign = _mm512_and_si512(u, _mm512_set1_epi32((int)0x80000000u));
    __m512i a = _mm512_andnot_si512(_mm512_set1_epi32((int)0x80000000u), u), some = a;
    __m512i odd = _mm512_and_si512(_mm512_srl_epi32(a, drop), _mm512_set1_epi32(1));
    a = _mm512_add_epi32(_mm512_add_epi32(a, _mm512_set1_epi32((1 << (t->drop - 1)) - 1)), odd);
    a = _mm512_sll_epi32(_mm512_srl_epi32(a, drop), drop);
    a = _mm512_min_epu32(_mm512_max_epu32(a, _mm512_set1_epi32((int)t->least)), _mm512_set1_epi32((int)t->most));
    return _mm512_castsi512_ps(_mm512_maskz_or_epi32(_mm512_test_epi32_mask(some, some), a, sign));
}

#include "quant/grid_lanes.h"

static void round_rows(float top, const float *w, const float *scale, const uint8_t *zero, size_t n_row, uint8_t *code, float *back)
{
    size_t n = 0;
    for (; n + N_LANE <= n_row; n += N_LANE) {
        V s = v_load(scale + n), z = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)(zero + n))));
        V q = v_add(v_rint(v_div(v_load(w + n), s)), z);
        q = v_min(v_max(q, v_set(0.0f)), v_set(top));
        _mm_storeu_si128((__m128i *)(void *)(code + n), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(q)));
        v_store(back + n, v_mul(s, v_sub(q, z)));
    }
    for (; n < n_row; n++) fqi_grid_round_one(top, w[n], scale[n], zero[n], &code[n], &back[n]);
}

const fqi_grid_kernels fqi_grid_kernels_avx512 = { "avx512", N_LANE, choose, round_rows };
#endif
