/* test_grid.c - scales and codes: what can be stored, min-max as published, a search that is held against trying everything, rounding,
 * and the same bits on every instruction set.
 *
 * Errors are summed here in double, with a rounding written anew, so that the search is not judged by itself. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "axis_random.h"
#include "quant/grid_kernels.h"

#define N_STORE 3
static const char *const store_name[N_STORE] = { "f16", "bf16", "both" };
/* Significant bits, smallest and largest magnitude. */
static const struct { int precision; double least, most; } type_of[N_STORE] = {
    { 11, 0x1p-14, 65504.0 }, { 8, 0x1p-126, 0x1.fep127 }, { 8, 0x1p-14, 65280.0 },
};
static const int bits_of[] = { 2, 3, 4, 8 };

/* ---- random weights ---- */

static double uniform(rng *r) { return ((double)(rng_next(r) >> 11) + 0.5) * 0x1p-53; }
static double gauss(rng *r) { return sqrt(-2 * log(uniform(r))) * cos(6.283185307179586 * uniform(r)); }

typedef enum kind { NORMAL, HEAVY, ONE_SIDED, EQUAL, SPARSE, EXTREME, N_KIND } kind;

static float weight_of(rng *r, kind k)
{
    double g = gauss(r);
    switch (k) {
    case HEAVY: return (float)(0.02 * g / sqrt(uniform(r) + 0.02));
    case ONE_SIDED: return (float)(0.02 * fabs(g));
    case EQUAL: return g < 0 ? -0.5f : 0.5f;
    case SPARSE: return rng_in(r, 0, 7) == 0 ? (float)g : 0.0f;
    case EXTREME: return (float)(g * pow(10.0, (double)rng_in(r, -44, 37)));
    default: return (float)(0.02 * g);
    }
}

/* [n_col][n_row]; every row of a kind of its own if k is N_KIND. */
static float *weights(rng *r, kind k, size_t n_row, size_t n_col)
{
    float *w = malloc((n_row * n_col + 1) * sizeof *w);
    assert_non_null(w);
    for (size_t n = 0; n < n_row; n++) {
        kind of_row = k == N_KIND ? (kind)rng_in(r, 0, N_KIND - 1) : k;
        for (size_t c = 0; c < n_col; c++) w[c * n_row + n] = weight_of(r, of_row);
    }
    return w;
}

/* Curvatures that spread over e^+-spread, or NULL. */
static float *curvature(rng *r, double spread, size_t n_col)
{
    if (spread < 0) return NULL;
    float *h = malloc((n_col + 1) * sizeof *h);
    assert_non_null(h);
    for (size_t c = 0; c < n_col; c++) h[c] = (float)(1e6 * exp(spread * gauss(r)));
    return h;
}

static fqi_grid grid_of(int bits, int mode, fqi_scale_rule rule, fqi_scale_store store)
{
    return (fqi_grid){ .bits = bits, .sym = mode < 2, .signed_scale = mode == 1, .rule = rule, .store = store };
}
static const char *const mode_name[] = { "positive", "either sign", "asymmetric" };
#define N_MODE 3

static double error_of(const float *w, size_t ld, const float *h, size_t n_col, double scale, int zero, int bits)
{
    double sum = 0, low = -zero, high = (1 << bits) - 1 - zero;
    for (size_t c = 0; c < n_col; c++) {
        double x = (double)w[c * ld], q = fmin(fmax(rint(x / scale), low), high), d = x - scale * q;
        sum += (h ? (double)h[c] : 1.0) * d * d;
    }
    return sum;
}

/* ---- what can be stored ---- */

static bool is_stored(fqi_scale_store store, double x)
{
    int exponent;
    double m = ldexp(frexp(fabs(x), &exponent), type_of[store].precision);
    return m == rint(m) && fabs(x) >= type_of[store].least && fabs(x) <= type_of[store].most;
}

static void scales_round_to_the_nearest(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int s = 0; s < N_STORE; s++)
        for (int i = 0; i < 200000; i++) {
            uint32_t u = (uint32_t)rng_next(&r);
            float x, y;
            memcpy(&x, &u, sizeof x);
            if (!isfinite(x) || x == 0) continue;
            y = fqi_scale_round((fqi_scale_store)s, x);
            if (!is_stored((fqi_scale_store)s, (double)y)) fail_msg("%s: %a became %a, which it cannot hold", store_name[s], (double)x, (double)y);
            assert_true(signbit(x) == signbit(y));
            double ax = fabs((double)x), ay = fabs((double)y), step = ldexp(1.0, ilogb(ay) + 1 - type_of[s].precision);
            if (ax <= type_of[s].least) assert_true(ay == type_of[s].least);
            else if (ax >= type_of[s].most) assert_true(ay == type_of[s].most);
            else if (fabs(ax - ay) > step / 2 || (fabs(ax - ay) == step / 2 && fmod(ay / step, 2) != 0))
                fail_msg("%s: %a became %a, which is not the nearest", store_name[s], (double)x, (double)y);
        }
}

static void scales_in_the_middle_go_to_even(void **state)
{
    (void)state;
    static const struct { fqi_scale_store store; float x, expected; } row[] = {
        { FQI_STORE_F16, 1.0f + 0x1p-11f, 1.0f },           { FQI_STORE_F16, 1.0f + 0x3p-11f, 1.0f + 0x1p-9f },
        { FQI_STORE_BF16, 1.0f + 0x1p-8f, 1.0f },           { FQI_STORE_BF16, -1.0f - 0x3p-8f, -1.0f - 0x1p-6f },
        { FQI_STORE_BOTH, 1.0f + 0x1p-8f, 1.0f },           { FQI_STORE_BOTH, 1.0f + 0x1p-10f, 1.0f },
        { FQI_STORE_BOTH, 2.0f - 0x1p-9f, 2.0f },           { FQI_STORE_F16, 1.0f + 0x1p-10f, 1.0f + 0x1p-10f },
        { FQI_STORE_F16, 65519.9f, 65504.0f },              { FQI_STORE_F16, 1e30f, 65504.0f },
        { FQI_STORE_BOTH, -1e30f, -65280.0f },              { FQI_STORE_BOTH, 65500.0f, 65280.0f },
        { FQI_STORE_BF16, 3.4028235e38f, 0x1.fep127f },     { FQI_STORE_F16, 1e-30f, 0x1p-14f },
        { FQI_STORE_BOTH, -1e-44f, -0x1p-14f },             { FQI_STORE_BF16, 1e-44f, 0x1p-126f },
        { FQI_STORE_BOTH, 0.0f, 0.0f },                     { FQI_STORE_F16, 0.0f, 0.0f },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        float y = fqi_scale_round(row[i].store, row[i].x);
        if (y != row[i].expected) fail_msg("row %zu: %a became %a, expected %a", i, (double)row[i].x, (double)y, (double)row[i].expected);
    }
}

/* ---- min-max ---- */

static void min_max_of_small_groups(void **state)
{
    (void)state;
    static const struct { int bits; bool sym; uint8_t zero_least; float w[3]; float scale; int zero; } row[] = {
        { 4, true, 0, { 7.5f, -1, 0 }, 1.0f, 8 },     { 4, true, 0, { 3, 15, 1 }, 2.0f, 8 },         /* one-sided: as if it were not */
        { 4, true, 0, { -3, -15, -1 }, 2.0f, 8 },     { 2, true, 0, { -3, 1, 1 }, 2.0f, 2 },
        { 3, true, 0, { -7, 1, 1 }, 2.0f, 4 },        { 8, true, 0, { 127.5f, 3, 1 }, 1.0f, 128 },
        { 4, false, 0, { -1, 14, 3 }, 1.0f, 1 },      { 4, false, 0, { 15, 2, 1 }, 1.0f, 0 },        /* the range always holds 0 */
        { 4, false, 0, { -15, -2, -1 }, 1.0f, 15 },   { 4, false, 1, { 14, 2, 1 }, 1.0f, 1 },        /* wider steps: the 14 is not clipped */
        { 2, false, 1, { 4, 1, 0 }, 2.0f, 1 },        { 8, false, 0, { -55, 200, 0 }, 1.0f, 55 },
        { 4, true, 0, { 0, 0, 0 }, 1.0f, 8 },         { 4, false, 0, { 0, -0.0f, 0 }, 1.0f, 8 },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++)
        for (int s = 0; s < N_STORE; s++) {
            fqi_grid g = { .bits = row[i].bits, .sym = row[i].sym, .rule = FQI_SCALE_MIN_MAX, .store = (fqi_scale_store)s,
                           .zero_least = row[i].zero_least };
            float scale;
            uint8_t zero;
            fqi_grid_choose(&g, row[i].w, 1, 1, 3, NULL, &scale, &zero);
            if (scale != row[i].scale || zero != row[i].zero)
                fail_msg("row %zu, %s: found %g, %u, expected %g, %d", i, store_name[s], (double)scale, zero, (double)row[i].scale, row[i].zero);
        }
}

/* IST-DASLab/gptq's formulas in double, their scale then rounded. */
static void min_max_is_the_reference(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < 300; round++) {
        const size_t n_row = (size_t)rng_in(&r, 1, 40), n_col = (size_t)rng_in(&r, 1, 70);
        const int bits = bits_of[rng_in(&r, 0, 3)], mode = rng_in(&r, 0, 1) ? 0 : 2;
        const fqi_grid g = grid_of(bits, mode, FQI_SCALE_MIN_MAX, FQI_STORE_F16);
        float *w = weights(&r, NORMAL, n_row, n_col), scale[40];
        uint8_t zero[40];
        fqi_grid_choose(&g, w, n_row, n_row, n_col, NULL, scale, zero);
        for (size_t n = 0; n < n_row; n++) {
            double least = 0, most = 0, top = (1 << bits) - 1;
            for (size_t c = 0; c < n_col; c++) {
                least = fmin(least, (double)w[c * n_row + n]);
                most = fmax(most, (double)w[c * n_row + n]);
            }
            double exact = g.sym ? 2 * fmax(most, -least) / top : (most - least) / top;
            double z = g.sym ? 1 << (bits - 1) : fmin(rint(-least / (double)scale[n]), top);
            /* In the middle of two stored numbers the last bit of a float decides. */
            if (fabs((double)scale[n] - exact) > exact * (0x1p-11 + 0x1p-22) && exact > 0x1p-14) fail_msg("found %g, expected %g", (double)scale[n], exact);
            if (fabs((double)zero[n] - z) > 1e-6 && fabs(fabs(-least / (double)scale[n] - floor(-least / (double)scale[n])) - 0.5) > 1e-5)
                fail_msg("zero %u, expected %g", zero[n], z);
        }
        free(w);
    }
}

/* ---- the search ---- */

static void the_search_is_never_worse_than_min_max(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < 400; round++) {
        const size_t n_row = (size_t)rng_in(&r, 1, 40), n_col = (size_t)rng_in(&r, 1, rng_in(&r, 0, 9) ? 64 : 700);
        const int bits = bits_of[rng_in(&r, 0, 3)], mode = (int)rng_in(&r, 0, N_MODE - 1);
        const fqi_scale_store store = (fqi_scale_store)rng_in(&r, 0, N_STORE - 1);
        fqi_grid g = grid_of(bits, mode, FQI_SCALE_WEIGHTED, store), plain = g;
        plain.rule = FQI_SCALE_MIN_MAX;
        g.zero_least = plain.zero_least = (uint8_t)rng_in(&r, 0, 1);
        kind k = (kind)rng_in(&r, 0, SPARSE);
        float *w = weights(&r, k, n_row, n_col), *h = curvature(&r, (double)rng_in(&r, -1, 3), n_col), scale[40], simple[40];
        uint8_t zero[40], simple_zero[40];
        fqi_grid_choose(&g, w, n_row, n_row, n_col, h, scale, zero);
        fqi_grid_choose(&plain, w, n_row, n_row, n_col, h, simple, simple_zero);
        for (size_t n = 0; n < n_row; n++) {
            double found = error_of(w + n, n_row, h, n_col, (double)scale[n], zero[n], bits);
            double bound = error_of(w + n, n_row, h, n_col, (double)simple[n], simple_zero[n], bits);
            if (found > bound * (1 + 1e-4) + 1e-30) fail_msg("%d bits, %s: found %g, min-max has %g", bits, mode_name[mode], found, bound);
            if (!is_stored(store, (double)scale[n])) fail_msg("%s: %a cannot be stored", store_name[store], (double)scale[n]);
            if (mode != 1 && scale[n] < 0) fail_msg("%s: found %g", mode_name[mode], (double)scale[n]);
            if (g.sym ? zero[n] != 1 << (bits - 1) : zero[n] < g.zero_least || zero[n] >> bits) fail_msg("zero point %u", zero[n]);
        }
        free(h);
        free(w);
    }
}

/* Least error over all numbers of BOTH between a tenth of the min-max scale and 1.6 times it, and over all zero points. */
static double best_of_all(const float *w, size_t ld, const float *h, size_t n_col, int bits, int mode, float min_max)
{
    double best = INFINITY;
    uint32_t u;
    float s = fqi_scale_round(FQI_STORE_BOTH, 0.1f * min_max);
    for (memcpy(&u, &s, sizeof u); s <= 1.6f * min_max; u += 0x10000u, memcpy(&s, &u, sizeof s)) {
        int first = mode == 2 ? 0 : 1 << (bits - 1), last = mode == 2 ? (1 << bits) - 1 : first;
        for (int z = first; z <= last; z++) best = fmin(best, error_of(w, ld, h, n_col, (double)s, z, bits));
        if (mode == 1) best = fmin(best, error_of(w, ld, h, n_col, -(double)s, first, bits));
    }
    return best;
}

static void the_search_finds_what_trying_everything_finds(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    /* Sums over rows, since the error of one row jumps from one storable scale to the next. Eight bits, where each jump is as large as what
     * there is to gain, get a wider bound. */
    static const struct { int bits; size_t n_col; double bound; } row[] = { { 2, 64, 1.01 }, { 3, 64, 1.01 }, { 4, 128, 1.01 }, { 8, 128, 1.12 } };
    enum { ROWS = 64 };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++)
        for (int mode = 0; mode < (row[i].bits == 8 ? 2 : N_MODE); mode++)
            for (int weighed = 0; weighed < 2; weighed++) {
                fqi_grid g = grid_of(row[i].bits, mode, FQI_SCALE_WEIGHTED, FQI_STORE_BOTH), plain = g;
                plain.rule = FQI_SCALE_MIN_MAX;
                float *w = weights(&r, NORMAL, ROWS, row[i].n_col), *h = curvature(&r, weighed ? 1.0 : -1.0, row[i].n_col), scale[ROWS], simple[ROWS];
                uint8_t zero[ROWS], simple_zero[ROWS];
                double found = 0, best = 0;
                fqi_grid_choose(&g, w, ROWS, ROWS, row[i].n_col, h, scale, zero);
                fqi_grid_choose(&plain, w, ROWS, ROWS, row[i].n_col, h, simple, simple_zero);
                for (size_t n = 0; n < ROWS; n++) {
                    found += error_of(w + n, ROWS, h, row[i].n_col, (double)scale[n], zero[n], row[i].bits);
                    best += best_of_all(w + n, ROWS, h, row[i].n_col, row[i].bits, mode, simple[n]);
                }
                if (found > best * row[i].bound)
                    fail_msg("%d bits, %s, %zu columns: found %g, the best there is %g", row[i].bits, mode_name[mode], row[i].n_col, found, best);
                free(h);
                free(w);
            }
}

/* Weights that lie on a grid whose ends both occur come back without any error. */
static void a_grid_is_recognized(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int i = 0; i < 200; i++) {
        const int bits = bits_of[rng_in(&r, 0, 2)], mode = (int)rng_in(&r, 0, N_MODE - 1), top = (1 << bits) - 1;
        const fqi_grid g = grid_of(bits, mode, FQI_SCALE_WEIGHTED, FQI_STORE_BOTH);
        const int z = mode == 2 ? (int)rng_in(&r, 0, top) : 1 << (bits - 1);
        float s = fqi_scale_round(FQI_STORE_BOTH, (float)(0.001 + uniform(&r))), w[64], scale;
        uint8_t zero;
        if (mode == 1 && rng_in(&r, 0, 1)) s = -s;
        for (int c = 0; c < 64; c++) w[c] = s * (float)((c == 0 ? 0 : c == 1 ? top : (int)rng_in(&r, 0, top)) - z);
        fqi_grid_choose(&g, w, 1, 1, 64, NULL, &scale, &zero);
        double left = error_of(w, 1, NULL, 64, (double)scale, zero, bits);
        if (left > 1e-12) fail_msg("%d bits, %s: %a, %d became %a, %u, error %g", bits, mode_name[mode], (double)s, z, (double)scale, zero, left);
    }
}

static void one_sided_groups_use_the_range(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    double error[N_MODE] = { 0 };
    int turned = 0;
    for (int i = 0; i < 100; i++) {
        const float sign = i % 2 ? -1.0f : 1.0f;
        float w[64], s[N_MODE];
        uint8_t z[N_MODE];
        for (int c = 0; c < 64; c++) w[c] = sign * (float)uniform(&r);
        for (int mode = 0; mode < N_MODE; mode++) {
            fqi_grid g = grid_of(4, mode, FQI_SCALE_WEIGHTED, FQI_STORE_BOTH);
            fqi_grid_choose(&g, w, 1, 1, 64, NULL, &s[mode], &z[mode]);
            error[mode] += error_of(w, 1, NULL, 64, (double)s[mode], z[mode], 4);
        }
        turned += s[1] * sign < 0;
        assert_true(sign > 0 ? z[2] <= 1 : z[2] >= 14);
    }
    /* 8 steps where the extreme side is instead of 7, and all 15 with the zero point at an end. */
    assert_true(turned >= 90);
    assert_true(error[1] < 0.92 * error[0]);
    assert_true(error[2] < 0.35 * error[1]);
}

static void rows_of_zeros_are_exact(void **state)
{
    (void)state;
    enum { ROWS = 37, COLS = 19 };
    float w[COLS * ROWS] = { 0 }, h[COLS] = { 0 }, scale[ROWS], back[ROWS];
    uint8_t zero[ROWS], code[ROWS];
    for (size_t i = 0; i < COLS * ROWS; i += 3) w[i] = -0.0f;
    for (size_t b = 0; b < 4; b++)
        for (int mode = 0; mode < N_MODE; mode++)
            for (size_t n_col = 0; n_col <= COLS; n_col += COLS) {
                fqi_grid g = grid_of(bits_of[b], mode, n_col ? FQI_SCALE_WEIGHTED : FQI_SCALE_MIN_MAX, FQI_STORE_F16);
                memset(zero, 0xff, sizeof zero);
                fqi_grid_choose(&g, w, ROWS, ROWS, n_col, h, scale, zero);
                fqi_grid_round(&g, w, scale, zero, ROWS, code, back);
                for (size_t n = 0; n < ROWS; n++) {
                    assert_true(scale[n] == 1.0f);
                    assert_int_equal(zero[n], 1 << (bits_of[b] - 1));
                    assert_int_equal(code[n], zero[n]);
                    assert_true(back[n] == 0.0f);
                }
            }
}

/* Doubling is exact everywhere: scales double, codes stay. Curvature counts in proportion only; columns without any do not count. */
static void the_search_knows_no_unit(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    enum { ROWS = 33, COLS = 48 };
    for (int i = 0; i < 60; i++) {
        const int mode = (int)rng_in(&r, 0, N_MODE - 1), bits = bits_of[rng_in(&r, 0, 3)];
        const fqi_grid g = grid_of(bits, mode, FQI_SCALE_WEIGHTED, FQI_STORE_BF16);
        float *w = weights(&r, HEAVY, ROWS, COLS), *h = curvature(&r, 1.0, COLS), a[ROWS], b[ROWS];
        uint8_t az[ROWS], bz[ROWS];
        fqi_grid_choose(&g, w, ROWS, ROWS, COLS, h, a, az);
        for (size_t j = 0; j < ROWS * COLS; j++) w[j] *= 0x1p40f;
        for (size_t j = 0; j < COLS; j++) h[j] *= 0x1p-60f;
        fqi_grid_choose(&g, w, ROWS, ROWS, COLS, h, b, bz);
        for (size_t n = 0; n < ROWS; n++) assert_true(b[n] == a[n] * 0x1p40f && az[n] == bz[n]);
        for (size_t j = 0; j < COLS; j++) h[j] = h[j] * 0x1p126f * 0x1p33f;   /* near the largest floats: their sum is not one */
        fqi_grid_choose(&g, w, ROWS, ROWS, COLS, h, a, az);
        assert_memory_equal(a, b, sizeof a);
        assert_memory_equal(az, bz, sizeof az);
        for (size_t j = 0; j < COLS; j++) h[j] = 0;
        fqi_grid_choose(&g, w, ROWS, ROWS, COLS, h, a, az);
        fqi_grid_choose(&g, w, ROWS, ROWS, COLS, NULL, b, bz);
        assert_memory_equal(a, b, sizeof a);
        assert_memory_equal(az, bz, sizeof az);
        free(h);
        free(w);
    }
}

/* ---- rounding ---- */

static void rounding_goes_to_even(void **state)
{
    (void)state;
    static const struct { int bits; float w, scale; uint8_t zero, code; float back; } row[] = {
        { 4, 0.5f, 1, 8, 8, 0 },      { 4, 1.5f, 1, 8, 10, 2 },     { 4, -0.5f, 1, 8, 8, 0 },      { 4, -1.5f, 1, 8, 6, -2 },
        { 4, 7.5f, 1, 8, 15, 7 },     { 4, 1e30f, 1, 8, 15, 7 },    { 4, -1e30f, 1, 8, 0, -8 },    { 4, -8.4f, 1, 8, 0, -8 },
        { 4, 8, -1, 8, 0, 8 },        { 4, -7, -1, 8, 15, -7 },     { 4, 2.5f, 1, 3, 5, 2 },       { 4, 3, 1, 15, 15, 0 },
        { 2, -1, 0.5f, 2, 0, -1 },    { 2, 1, 0.5f, 2, 3, 0.5f },   { 3, 1.75f, 0.5f, 4, 7, 1.5f }, { 8, 127.5f, 1, 128, 255, 127 },
        { 8, -128, 1, 128, 0, -128 }, { 4, 3e38f, 0x1p-14f, 8, 15, 7 * 0x1p-14f },
    };
    /* Alone and in the middle of a vector. */
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++)
        for (size_t n = 1; n <= 40; n += 39) {
            fqi_grid g = grid_of(row[i].bits, 2, FQI_SCALE_MIN_MAX, FQI_STORE_F16);
            float w[40], scale[40];
            uint8_t zero[40], code[40];
            for (size_t j = 0; j < n; j++) {
                w[j] = row[i].w;
                scale[j] = row[i].scale;
                zero[j] = row[i].zero;
            }
            fqi_grid_round(&g, w, scale, zero, n, code, w);
            for (size_t j = 0; j < n; j++)
                if (code[j] != row[i].code || w[j] != row[i].back)
                    fail_msg("row %zu: found %u, %g, expected %u, %g", i, code[j], (double)w[j], row[i].code, (double)row[i].back);
        }
}

/* ---- every instruction set ---- */

static void every_version_has_the_same_bits(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < 250; round++) {
        const size_t n_row = (size_t)rng_in(&r, 1, 40), n_col = (size_t)rng_in(&r, 0, rng_in(&r, 0, 9) ? 40 : 600), ld = n_row + (size_t)rng_in(&r, 0, 3);
        fqi_grid g = grid_of(bits_of[rng_in(&r, 0, 3)], (int)rng_in(&r, 0, N_MODE - 1), (fqi_scale_rule)rng_in(&r, 0, 1),
                             (fqi_scale_store)rng_in(&r, 0, N_STORE - 1));
        g.zero_least = (uint8_t)rng_in(&r, 0, 1);
        float *w = weights(&r, N_KIND, ld, n_col), *h = curvature(&r, (double)rng_in(&r, -1, 8), n_col);
        float scale[2][40], back[2][40];
        uint8_t zero[2][40], code[2][40];
        for (size_t i = 0; i < FQI_N_KERNELS; i++) {
            const fqi_grid_kernels *k = fqi_grid_kernels_at(i);
            if (!k) continue;
            const size_t at = i > 0;
            fqi_grid_choose_with(k, &g, w, ld, n_row, n_col, h, scale[at], zero[at]);
            fqi_grid_round_with(k, &g, w, scale[at], zero[at], n_col ? n_row : 0, code[at], back[at]);
            for (size_t n = 0; n < n_row; n++) assert_true(isfinite(scale[at][n]) && scale[at][n] != 0);
            if (i == 0) continue;
            if (memcmp(scale[0], scale[1], n_row * sizeof(float)) != 0) fail_msg("scales of %s are others", k->name);
            if (memcmp(zero[0], zero[1], n_row) != 0) fail_msg("zero points of %s are others", k->name);
            if (n_col && memcmp(code[0], code[1], n_row) != 0) fail_msg("codes of %s are others", k->name);
            if (n_col && memcmp(back[0], back[1], n_row * sizeof(float)) != 0) fail_msg("%s goes back to others", k->name);
        }
        free(h);
        free(w);
    }
}

/* A range whose step lies in the middle of two storable numbers. */
static void every_version_rounds_scales_to_even(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    enum { ROWS = 40 };
    for (int round = 0; round < 300; round++) {
        fqi_grid g = grid_of(bits_of[rng_in(&r, 0, 3)], 2, FQI_SCALE_MIN_MAX, (fqi_scale_store)rng_in(&r, 0, N_STORE - 1));
        const int precision = type_of[g.store].precision;
        float w[ROWS], step[ROWS], scale[ROWS];
        uint8_t zero[ROWS];
        for (size_t n = 0; n < ROWS; n++) {
            step[n] = ldexpf((float)(2 * rng_in(&r, 1 << (precision - 1), (1 << precision) - 1) + 1), (int)rng_in(&r, -20, -10));
            w[n] = step[n] * (float)((1 << g.bits) - 1) * (n % 2 ? 1.0f : -1.0f);
        }
        for (size_t i = 0; i < FQI_N_KERNELS; i++) {
            if (!fqi_grid_kernels_at(i)) continue;
            fqi_grid_choose_with(fqi_grid_kernels_at(i), &g, w, ROWS, ROWS, 1, NULL, scale, zero);
            for (size_t n = 0; n < ROWS; n++) assert_true(scale[n] == fqi_scale_round(g.store, step[n]));
        }
    }
}

/* A row's result is its own: alone, at another place, with another distance between columns. */
static void rows_do_not_see_each_other(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    enum { ROWS = 45, COLS = 300 };
    for (int mode = 0; mode < N_MODE; mode++) {
        const fqi_grid g = grid_of(4, mode, FQI_SCALE_WEIGHTED, FQI_STORE_BOTH);
        float *w = weights(&r, N_KIND, ROWS, COLS), *h = curvature(&r, 1.0, COLS), scale[ROWS], one;
        uint8_t zero[ROWS], one_zero;
        fqi_grid_choose(&g, w, ROWS, ROWS, COLS, h, scale, zero);
        for (size_t n = 0; n < ROWS; n++) {
            fqi_grid_choose(&g, w + n, ROWS, 1, COLS, h, &one, &one_zero);
            assert_true(one == scale[n] && one_zero == zero[n]);
        }
        free(h);
        free(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scales_round_to_the_nearest),
        cmocka_unit_test(scales_in_the_middle_go_to_even),
        cmocka_unit_test(min_max_of_small_groups),
        cmocka_unit_test(min_max_is_the_reference),
        cmocka_unit_test(the_search_is_never_worse_than_min_max),
        cmocka_unit_test(the_search_finds_what_trying_everything_finds),
        cmocka_unit_test(a_grid_is_recognized),
        cmocka_unit_test(one_sided_groups_use_the_range),
        cmocka_unit_test(rows_of_zeros_are_exact),
        cmocka_unit_test(the_search_knows_no_unit),
        cmocka_unit_test(rounding_goes_to_even),
        cmocka_unit_test(every_version_has_the_same_bits),
        cmocka_unit_test(every_version_rounds_scales_to_even),
        cmocka_unit_test(rows_do_not_see_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
