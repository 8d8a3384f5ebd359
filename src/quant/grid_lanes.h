/* grid_lanes.h - the search for scales and zero points, for one vector of rows. Included by one file per instruction set, which defines
 *
 *     V, M, N_LANE                     a vector of floats, a mask of it, its lanes
 *     v_load v_store v_set v_add v_sub v_mul v_div v_fma (a b + c) v_min v_max v_rint (ties to even)
 *     v_less (a < b) v_pick (mask ? a : b) v_type (the nearest number of a fqi_grid_type; 0 stays 0)
 *
 * A candidate is a scale s and a window [low, high] of integers that codes stand for (code = integer + zero). Its badness is
 * sum_k h_k (w_k / s - q_k)^2 * (s / s0)^2 with s0 the min-max scale: near 1 in magnitude whatever the weights are.
 *
 * The search is coarse (scales in geometric progression, those that clip nothing first), then fine around the best where that helps, then by
 * least squares (the best scale for the codes that the best scale gave, and its neighbours among the numbers that can be stored). A
 * candidate replaces another only if it is better, and min-max is the first, so the result is never worse than that. */
#ifndef FITQ_QUANT_GRID_LANES_H
#define FITQ_QUANT_GRID_LANES_H

#include <string.h>

#include "quant/grid_kernels.h"

#define BATCH 8     /* candidates judged side by side: what the registers hold */
#define WAITING 40  /* candidates judged in one pass over the columns */
#define CHUNK 256   /* columns held in the cache at once: 16 KiB of 16 rows */
#define FINE 8      /* scales on each side of the best one */

/* By bits: how densely scales are tried (ratio of neighbours), and down to which share of the min-max scale. Few bits are coarse anyway
 * and want heavy clipping; eight hardly clip. Chosen so that the kinds cost about the same and that groups of 128 come within 0.1 %, in sum,
 * of trying every number that BOTH holds. */
typedef struct rule { float least, positive, either_sign, asym; } rule;
static const rule rules[9] = {
    [2] = { 0.20f, 0.96f, 0.94f, 0.90f },
    [3] = { 0.22f, 0.97f, 0.95f, 0.91f },
    [4] = { 0.25f, 0.975f, 0.96f, 0.92f },
    [8] = { 0.30f, 0.987f, 0.975f, 0.94f },
};

typedef struct group {
    const fqi_grid_task *t;
    const fqi_grid_type *type;
    float top, middle;              /* 2^b - 1, 2^(b-1) */
    float step;                     /* ratio of neighbours in the coarse search */
    size_t first, n_held;           /* columns in w and h */
    V least, most;                  /* of the weights and 0 */
    V unit, per_unit;               /* min-max scale before it was rounded to the type; 1 / s0 */
    V error, scale, zero;           /* of the best candidate */
    V s[WAITING], z[WAITING];       /* candidates that wait to be judged */
    size_t n;
    float h[CHUNK];
    _Alignas(64) float w[CHUNK * N_LANE];
} group;

/* Columns [first, first + n) into the cache: in memory they lie a power of two apart more often than not, so that they evict each other. */
static void hold(group *g, size_t first, size_t n)
{
    const fqi_grid_task *t = g->t;
    if (g->n_held == n && g->first == first) return;
    g->first = first;
    g->n_held = n;
    for (size_t k = 0; k < n; k++) {
        const float *from = t->w + (first + k) * t->ld;
        float *to = g->w + k * N_LANE;
        g->h[k] = t->weight ? t->weight[first + k] / t->weight_most : 1.0f;
        if (t->n_row == N_LANE) {
            v_store(to, v_load(from));
            continue;
        }
        memset(to, 0, N_LANE * sizeof *to);
        memcpy(to, from, t->n_row * sizeof *to);
    }
}

/* The next columns from `at` on: how many. */
static size_t take(group *g, size_t at)
{
    size_t n = g->t->n_col - at < CHUNK ? g->t->n_col - at : CHUNK;
    hold(g, at, n);
    return n;
}

/* sum h (w/s - q)^2 of BATCH candidates, for the columns that are held. */
static void errors(const group *g, size_t n_col, const V *per_s, const V *low, const V *high, V *sum)
{
    V acc[BATCH];
#pragma GCC unroll 8
    for (size_t c = 0; c < BATCH; c++) acc[c] = v_set(0.0f);
    for (size_t k = 0; k < n_col; k++) {
        const V w = v_load(g->w + k * N_LANE), h = v_set(g->h[k]);
#pragma GCC unroll 8
        for (size_t c = 0; c < BATCH; c++) {
            V x = v_mul(w, per_s[c]);
            V d = v_sub(x, v_min(v_max(v_rint(x), low[c]), high[c]));
            acc[c] = v_fma(v_mul(h, d), d, acc[c]);
        }
    }
#pragma GCC unroll 8
    for (size_t c = 0; c < BATCH; c++) sum[c] = v_add(sum[c], acc[c]);
}

/* Judges the candidates that wait; the better of equals is the one that came first. */
static void judge(group *g)
{
    V per_s[WAITING], low[WAITING], high[WAITING], sum[WAITING];
    const size_t n = (g->n + BATCH - 1) / BATCH * BATCH;
    for (size_t c = 0; c < n; c++) {
        if (c >= g->n) {
            g->s[c] = g->s[0];
            g->z[c] = g->z[0];
        }
        per_s[c] = v_div(v_set(1.0f), g->s[c]);
        low[c] = v_sub(v_set(0.0f), g->z[c]);
        high[c] = v_sub(v_set(g->top), g->z[c]);
        sum[c] = v_set(0.0f);
    }
    for (size_t at = 0; at < g->t->n_col && n > 0; at += CHUNK) {
        size_t n_col = take(g, at);
        for (size_t c = 0; c < n; c += BATCH) errors(g, n_col, per_s + c, low + c, high + c, sum + c);
    }
    for (size_t c = 0; c < g->n; c++) {
        V ratio = v_mul(g->s[c], g->per_unit), error = v_mul(sum[c], v_mul(ratio, ratio));
        M better = v_less(error, g->error);
        g->error = v_pick(better, error, g->error);
        g->scale = v_pick(better, g->s[c], g->scale);
        g->zero = v_pick(better, g->z[c], g->zero);
    }
    g->n = 0;
}

/* A candidate. s: before it is rounded to the type. */
static void propose(group *g, V s, V zero)
{
    g->s[g->n] = v_type(s, g->type);
    g->z[g->n++] = zero;
    if (g->n == WAITING) judge(g);
}

static V clamp_zero(const group *g, V zero)
{
    return v_min(v_max(v_rint(zero), v_set((float)g->t->grid->zero_least)), v_set(g->top));
}

/* ---- where to begin: min-max ---- */

static void extremes(group *g)
{
    V least = v_set(0.0f), most = least;
    for (size_t at = 0; at < g->t->n_col; at += CHUNK) {
        size_t n = take(g, at);
        for (size_t k = 0; k < n; k++) {
            V w = v_load(g->w + k * N_LANE);
            least = v_min(least, w);
            most = v_max(most, w);
        }
    }
    g->least = least;
    g->most = most;
}

/* Sets unit, scale, zero. Rows of zeros: 1 and the middle. */
static void min_max(group *g)
{
    const V none = v_set(0.0f);
    if (g->t->grid->sym) {
        V m = v_max(g->most, v_sub(none, g->least));
        g->unit = v_mul(m, v_set(2.0f / g->top));
        g->scale = v_type(g->unit, g->type);
        g->zero = v_set(g->middle);
    } else {
        /* Two quotients: the difference itself may overflow. */
        g->unit = v_sub(v_div(g->most, v_set(g->top)), v_div(g->least, v_set(g->top)));
        V s = v_type(g->unit, g->type);
        V exact = v_div(v_sub(none, g->least), v_pick(v_less(none, s), s, v_set(1.0f)));
        g->zero = clamp_zero(g, exact);
        /* A zero point that had to go up takes a step from the positive side: wider steps, so that nothing is clipped. */
        V steps = v_max(v_sub(v_set(g->top), g->zero), v_set(1.0f)), wide = v_max(g->unit, v_div(g->most, steps));
        g->unit = v_pick(v_less(v_rint(exact), g->zero), wide, g->unit);
        g->scale = v_type(g->unit, g->type);
    }
    M some = v_less(none, g->scale);
    g->scale = v_pick(some, g->scale, v_set(1.0f));
    g->zero = v_pick(some, g->zero, v_set(g->middle));
    g->per_unit = v_div(v_set(1.0f), g->scale);
}

/* ---- coarse, fine, least squares ---- */

/* The zero point that puts the window's lower end on the least weight (share 0), its upper end on the largest (share 1), or between. */
static V placed(const group *g, V s, float share)
{
    V low = v_div(v_sub(v_set(0.0f), g->least), s), high = v_sub(v_set(g->top), v_div(g->most, s));
    return v_add(v_mul(low, v_set(1.0f - share)), v_mul(high, v_set(share)));
}

static void coarse(group *g)
{
    static const float share[] = { 0.5f, 0.0f, 1.0f, 0.25f, 0.75f };
    const fqi_grid *grid = g->t->grid;
    const V middle = v_set(g->middle), none = v_set(0.0f);
    /* The first clips nothing, whichever end of the range the extreme weight is at. */
    for (float part = 0.5f * g->top / (g->middle - 1); part >= rules[grid->bits].least; part *= g->step) {
        V s = v_mul(g->unit, v_set(part));
        if (grid->sym) {
            propose(g, s, middle);
            if (grid->signed_scale) propose(g, v_sub(none, s), middle);
            continue;
        }
        V stored = v_type(s, g->type);
        for (size_t i = 0; i < sizeof share / sizeof share[0]; i++) propose(g, s, clamp_zero(g, placed(g, stored, share[i])));
    }
    judge(g);
}

/* Scales from one coarse step below the best to one above, then zero points beside the best. For scales alone of few bits least squares finds
 * as much (0.02 % were left), so it is left out there. */
static void fine(group *g)
{
    const float width = 1.0f - g->step;
    V s = g->scale, z = g->zero;
    for (int i = -FINE; i <= FINE; i++)
        if (i != 0) propose(g, v_mul(s, v_set(1.0f + width * (float)i / (FINE + 1))), z);
    judge(g);
    if (g->t->grid->sym) return;
    s = g->scale;
    z = g->zero;
    for (int i = -2; i <= 2; i++)
        if (i != 0)
            for (int j = -1; j <= 1; j++) propose(g, v_mul(s, v_set(1.0f + 0.5f * width * (float)j)), clamp_zero(g, v_add(z, v_set((float)i))));
    judge(g);
}

typedef struct moments { V qq, qx, q, x, h; } moments;

/* Of the integers q = code - zero and x = w / s under the best candidate so far. */
static moments least_squares(group *g)
{
    const V per_s = v_div(v_set(1.0f), g->scale), low = v_sub(v_set(0.0f), g->zero), high = v_sub(v_set(g->top), g->zero);
    moments m = { v_set(0.0f), v_set(0.0f), v_set(0.0f), v_set(0.0f), v_set(0.0f) };
    for (size_t at = 0; at < g->t->n_col; at += CHUNK) {
        size_t n = take(g, at);
        for (size_t k = 0; k < n; k++) {
            const V h = v_set(g->h[k]), x = v_mul(v_load(g->w + k * N_LANE), per_s);
            const V q = v_min(v_max(v_rint(x), low), high), hq = v_mul(h, q);
            m.qq = v_fma(hq, q, m.qq);
            m.qx = v_fma(hq, x, m.qx);
            m.q = v_add(m.q, hq);
            m.x = v_fma(h, x, m.x);
            m.h = v_add(m.h, h);
        }
    }
    return m;
}

/* numerator / denominator where the quotient is of use: a factor near 1; else 1. */
static V factor(V numerator, V denominator)
{
    const V one = v_set(1.0f);
    V q = v_div(numerator, v_pick(v_less(v_set(0.0f), denominator), denominator, one));
    M use = v_less(v_set(0.25f), q), below = v_less(q, v_set(4.0f));
    return v_pick(below, v_pick(use, q, one), one);
}

/* s' and the best numbers beside it. Step of BOTH: between 1/256 and 1/128. */
static void propose_around(group *g, V s, V zero)
{
    static const float at[] = { 1.0f, 1.0f - 0.006f, 1.0f + 0.006f, 1.0f - 0.012f, 1.0f + 0.012f };
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) propose(g, v_mul(s, v_set(at[i])), zero);
}

static void refit(group *g)
{
    const moments m = least_squares(g);
    const V s = g->scale, z = g->zero, scaled = v_mul(s, factor(m.qx, m.qq));
    propose_around(g, scaled, z);
    if (!g->t->grid->sym) {
        /* x = a q + c: c / a is how far the zero point should move. */
        V spread = v_sub(v_mul(m.h, m.qq), v_mul(m.q, m.q)), a = factor(v_sub(v_mul(m.h, m.qx), v_mul(m.q, m.x)), spread);
        V c = v_div(v_sub(m.x, v_mul(a, m.q)), v_pick(v_less(v_set(0.0f), m.h), m.h, v_set(1.0f)));
        propose(g, v_mul(s, a), clamp_zero(g, v_sub(z, v_div(c, a))));
        propose(g, scaled, clamp_zero(g, v_add(z, v_set(1.0f))));
        propose(g, scaled, clamp_zero(g, v_sub(z, v_set(1.0f))));
    }
    judge(g);
}

static void choose(const fqi_grid_task *t, float *scale, float *zero)
{
    group g;
    g.t = t;
    g.type = &fqi_grid_types[t->grid->store];
    g.top = (float)((1 << t->grid->bits) - 1);
    g.middle = (float)(1 << (t->grid->bits - 1));
    g.step = !t->grid->sym ? rules[t->grid->bits].asym : t->grid->signed_scale ? rules[t->grid->bits].either_sign : rules[t->grid->bits].positive;
    g.first = g.n_held = g.n = 0;
    extremes(&g);
    min_max(&g);
    if (t->grid->rule == FQI_SCALE_WEIGHTED) {
        /* Rows of zeros cost nothing under the first candidate, and none is better than that. */
        g.error = v_set(INFINITY);
        propose(&g, g.scale, g.zero);
        g.unit = v_pick(v_less(v_set(0.0f), g.unit), g.unit, v_set(1.0f));
        coarse(&g);
        if (!t->grid->sym || t->grid->bits > 4) fine(&g);
        refit(&g);
        refit(&g);
    }
    v_store(scale, g.scale);
    v_store(zero, g.zero);
}

#endif
