/* refit.c - after the solve: scales by least squares given the codes, and single codes, both only downhill.
 *
 * The objective is the one that the solve minimises, f = tr(E (H + lambda) E^T). For a block of columns of whole groups, with r = e (H + lambda)
 * of its columns (one sgemm), each group in turn, row by row:
 *
 *     scale   q = s c;  s -> s + d changes f by -2 d (c r) + d^2 (c H c);  d = c r / c H c, s rounded to what can be stored
 *     codes   q_j -> q_j + m s, m whole: f changes by -2 m s r_j + (m s)^2 H_jj; columns one after the other
 *
 * so a round costs one product of E with H and little else. A group wider than a block has its scale found first, from all of its
 * columns (two more products), and its codes block by block. Every step is taken only if it lowers f by more than rounding could hide, so
 * f never rises. Rows are independent: threads change nothing. */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "quant/solver.h"

#define PANEL 8                   /* columns of one gemm_tile of the sweep */
#define GATHER 64                 /* rows of the panel that one thread fills at a time: they stay in cache */
#define MARGIN 1e-5f              /* share of its two terms by which a step must lower f */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

typedef struct refit {
    fqi_solver *v;
    float *panel;                 /* [n_col][w]: H + lambda, all positions by the columns of the block */
    float *square;                /* [w][w]: those of them that are in the block */
    const uint32_t *at;           /* [w] positions of the block's columns */
    size_t w;
    size_t group, n_group;        /* the block: whole groups [group, group + n_group), or ... */
    bool piece;                   /* ... w columns of the one group `group` */
    double *slope, *bend;         /* [n_tile * tile]: c r and c H c of a wide group */
} refit;

uint64_t fqi_refit_bytes(size_t n_row, size_t n_col)
{
    const uint64_t floats = fqi_sat_add(fqi_sat_mul(n_col, FQI_SOLVE_BLOCK), FQI_SOLVE_BLOCK * FQI_SOLVE_BLOCK);
    return fqi_sat_add(fqi_sat_mul(floats, sizeof(float)), fqi_sat_mul(fqi_sat_add(n_row, FQI_SOLVE_ROWS), 2 * sizeof(double)));
}

/* ---- H + lambda of a block's columns ------------------------------------------------------------------------------------ */

/* Rows [i0, i1) of the panel. Below the diagonal H is read along a row of H for each of ours, above it along one for each column. */
static void fill_panel(const refit *f, size_t i0, size_t i1)
{
    const fqi_solve *s = f->v->s;
    const size_t n = s->n_col;
    for (size_t i = i0; i < i1; i++) {
        const size_t q = fqi_column_at(f->v, i);
        for (size_t a = 0; a < f->w; a++) {
            const size_t c = fqi_column_at(f->v, f->at[a]);
            if (c < q) f->panel[i * f->w + a] = s->h->h[q * n + c];
        }
    }
    for (size_t a = 0; a < f->w; a++) {
        const size_t c = fqi_column_at(f->v, f->at[a]);
        const float *row = s->h->h + c * n, diag = row[c];
        for (size_t i = i0; i < i1; i++) {
            const size_t q = fqi_column_at(f->v, i);
            if (q < c) f->panel[i * f->w + a] = row[q];
            if (q == c) f->panel[i * f->w + a] = (float)((diag == 0 ? 1.0 : (double)diag) + s->lambda);
        }
    }
}

/* ---- one group of one strip --------------------------------------------------------------------------------------------------- */

/* Positions are [w][...] within the block. */
typedef struct strip {
    const refit *f;
    float *r;                     /* [w][tile]: e (H + lambda), of this strip */
    float *de;                    /* [w][FQI_STRIP]: change of e */
    float *c, *y, *dc;            /* [columns of the group][FQI_STRIP]: codes, c H, change of e by codes */
    size_t row, n;                /* first row and how many are real */
    fqi_strip_scales s;
} strip;

/* out[i] += sum over j in [j0, j1) of change[j - j0] H[j, i], m columns from i on. */
static void add_changes(const strip *t, size_t i, size_t m, size_t j0, size_t j1, const float *change, float *out, size_t ld)
{
    const size_t w = t->f->w;
    for (size_t a = 0; j0 < j1 && a < m; a += FQI_TILE_ROWS)
        t->f->v->kernel->gemm_tile(least(FQI_TILE_ROWS, m - a), j1 - j0, t->f->square + (i + a) * w + j0, w, change, FQI_STRIP, out + a * ld, ld, true, false);
}

static const uint8_t *codes_of(const strip *t, size_t a)
{
    const fqi_solver *v = t->f->v;
    return v->out->code + fqi_column_at(v, t->f->at[a]) * v->s->n_row + t->row;
}

static void load_codes(const strip *t, size_t b0, size_t b1)
{
    for (size_t a = b0; a < b1; a++) {
        const uint8_t *code = codes_of(t, a);
        float *c = t->c + (a - b0) * FQI_STRIP;
        for (size_t k = 0; k < FQI_STRIP; k++) c[k] = k < t->n ? (float)(code[k] - t->s.zero[k]) : 0.0f;
    }
}

/* The change of a scale that lowers f most, as far as scales can be stored; 0: none does. gain: f falls by it. */
static float better_scale(const fqi_grid *g, float scale, double slope, double bend, double *gain)
{
    *gain = 0;
    if (!(bend > 0) || !isfinite(slope)) return 0;
    const float to = fqi_scale_round(g->store, (float)((double)scale + slope / bend));
    const double d = (double)to - (double)scale, down = 2 * d * slope, up = d * d * bend;
    if (!isfinite(to) || to == 0 || (to < 0 && !(g->sym && g->signed_scale))) return 0;
    if (!(down - up > (double)MARGIN * (fabs(down) + up))) return 0;
    *gain = down - up;
    return (float)d;
}

/* Scales of the group at [b0, b1); d: what was added to each. */
static double refit_scales(strip *t, size_t b0, size_t b1, float *d)
{
    const fqi_solver *v = t->f->v;
    float slope[FQI_STRIP] = { 0 }, bend[FQI_STRIP] = { 0 };
    double sum = 0, gain;
    memset(t->y, 0, (b1 - b0) * FQI_STRIP * sizeof *t->y);
    add_changes(t, b0, b1 - b0, b0, b1, t->c, t->y, FQI_STRIP);
    for (size_t a = b0; a < b1; a++) {
        const float *c = t->c + (a - b0) * FQI_STRIP, *y = t->y + (a - b0) * FQI_STRIP, *r = t->r + a * v->tile;
        for (size_t k = 0; k < FQI_STRIP; k++) {
            slope[k] += c[k] * r[k];
            bend[k] += c[k] * y[k];
        }
    }
    for (size_t k = 0; k < t->n; k++) {
        d[k] = better_scale(&v->s->grid, t->s.scale[k], (double)slope[k], (double)bend[k], &gain);
        t->s.scale[k] += d[k];
        sum += gain;
    }
    memcpy(v->out->scale + t->s.group * v->s->n_row + t->row, t->s.scale, t->n * sizeof *d);
    for (size_t a = b0; a < b1; a++) {
        const float *c = t->c + (a - b0) * FQI_STRIP, *y = t->y + (a - b0) * FQI_STRIP;
        float *r = t->r + a * v->tile, *de = t->de + a * FQI_STRIP;
        for (size_t k = 0; k < FQI_STRIP; k++) {
            r[k] -= d[k] * y[k];
            de[k] = -d[k] * c[k];
        }
    }
    return sum;
}

/* Nearest whole number, ties to even, for |x| <= 2^21: adding 1.5 * 2^23 leaves no bits for a fraction. One instruction where rintf is a call. */
static float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }

static float clamp(float x, float lo, float hi)
{
    x = x < lo ? lo : x;
    return x > hi ? hi : x;
}

/* Column a of the block: other codes where that lowers f. change: of e. */
static double change_codes(const strip *t, size_t b0, size_t a, float *change)
{
    const fqi_solver *v = t->f->v;
    const float h = t->f->square[a * t->f->w + a], *r = t->r + a * v->tile, top = (float)((1u << v->out->bits) - 1);
    float *c = t->c + (a - b0) * FQI_STRIP, gain[FQI_STRIP];
    double sum = 0;
    for (size_t k = 0; k < FQI_STRIP; k++) {
        const float s = t->s.scale[k], zero = (float)t->s.zero[k], m = nearest(clamp(r[k] / (s * h), -512, 512));
        const float to = clamp(c[k] + m, -zero, top - zero), q = (to - c[k]) * s, down = 2 * q * r[k], up = q * q * h;
        const bool better = down - up > MARGIN * (down + up);
        gain[k] = better ? down - up : 0.0f;
        change[k] = better ? -q : 0.0f;
        c[k] = better ? to : c[k];
    }
    for (size_t k = 0; k < FQI_STRIP; k++) sum += (double)gain[k];
    return sum;
}

static double sweep(const strip *t, size_t b0, size_t b1)
{
    const fqi_solver *v = t->f->v;
    double gain = 0;
    for (size_t p = b0, end; p < b1; p = end) {
        end = least(p + PANEL, b1);
        add_changes(t, p, end - p, b0, p, t->dc, t->r + p * v->tile, v->tile);
        for (size_t a = p; a < end; a++) {
            add_changes(t, a, 1, p, a, t->dc + (p - b0) * FQI_STRIP, t->r + a * v->tile, v->tile);
            gain += change_codes(t, b0, a, t->dc + (a - b0) * FQI_STRIP);
        }
    }
    for (size_t a = b0; a < b1; a++) {
        uint8_t *code = v->out->code + fqi_column_at(v, t->f->at[a]) * v->s->n_row + t->row;
        const float *c = t->c + (a - b0) * FQI_STRIP, *dc = t->dc + (a - b0) * FQI_STRIP;
        float *de = t->de + a * FQI_STRIP;
        for (size_t k = 0; k < FQI_STRIP; k++) de[k] += dc[k];
        for (size_t k = 0; k < t->n; k++) code[k] = (uint8_t)((int)c[k] + t->s.zero[k]);
    }
    return gain;
}

static double refit_strip(strip *t)
{
    const refit *f = t->f;
    const fqi_solver *v = f->v;
    double gain = 0;
    for (size_t g = f->group, b0 = 0, b1; g < f->group + f->n_group; g++, b0 = b1) {
        float d[FQI_STRIP] = { 0 };
        b1 = f->piece ? f->w : b0 + (v->first[g + 1] - v->first[g]);
        t->s.group = SIZE_MAX;
        fqi_solver_scales(v, g, t->row, &t->s);
        load_codes(t, b0, b1);
        add_changes(t, b0, b1 - b0, 0, b0, t->de, t->r + b0 * v->tile, v->tile);
        memset(t->de + b0 * FQI_STRIP, 0, (b1 - b0) * FQI_STRIP * sizeof *t->de);
        if (!f->piece) gain += refit_scales(t, b0, b1, d);
        gain += sweep(t, b0, b1);
    }
    return gain;
}

/* ---- tiles ------------------------------------------------------------------------------------------------------------------ */

/* out = x H of the block, x: [n_col][tile]. */
static void multiply(const refit *f, const float *x, const float *panel, size_t n_col, float beta, float *out)
{
    const fqi_solver *v = f->v;
    const blasint tile = (blasint)v->tile, w = (blasint)f->w;
    v->s->la.blas->sgemm(CblasColMajor, CblasNoTrans, CblasTrans, tile, w, (blasint)n_col, 1.0f, x, tile, panel, w, beta, out, tile);
}

static double refit_tile(const refit *f, size_t tile)
{
    const fqi_solver *v = f->v;
    const fqi_scratch m = fqi_scratch_of(v);
    float *e = fqi_tile_at(v, tile);
    double gain = 0;
    multiply(f, e, f->panel, v->s->n_col, 0, m.block);
    for (size_t r = 0; r < v->tile && fqi_strip_rows(v, tile * v->tile + r); r += FQI_STRIP) {
        strip t = { .f = f, .r = m.block + r, .de = m.strip[0], .c = m.strip[1], .y = m.strip[2], .dc = m.strip[3], .row = tile * v->tile + r };
        t.n = fqi_strip_rows(v, t.row);
        gain += refit_strip(&t);
        for (size_t a = 0; a < f->w; a++)
            for (size_t k = 0; k < FQI_STRIP; k++) e[f->at[a] * v->tile + r + k] += t.de[a * FQI_STRIP + k];
    }
    return gain;
}

/* Codes of w columns of one group as floats, [w][tile]; the scales are those of the group. */
static void tile_codes(const fqi_solver *v, size_t tile, size_t group, const uint32_t *at, size_t w, float *c)
{
    const size_t row = tile * v->tile, n = least(v->tile, v->s->n_row - row);
    const uint8_t *zero = v->out->zero + group * v->s->n_row + row;
    memset(c, 0, w * v->tile * sizeof *c);
    for (size_t a = 0; a < w; a++) {
        const uint8_t *code = v->out->code + fqi_column_at(v, at[a]) * v->s->n_row + row;
        for (size_t k = 0; k < n; k++) c[a * v->tile + k] = (float)(code[k] - zero[k]);
    }
}

static void add_products(const fqi_solver *v, const float *x, const float *y, size_t w, double *sum)
{
    for (size_t a = 0; a < w; a++)
        for (size_t k = 0; k < v->tile; k++) sum[k] += (double)x[a * v->tile + k] * (double)y[a * v->tile + k];
}

/* What this block's columns bring to c r and c H c of their wide group. */
static void measure_tile(const refit *f, size_t tile)
{
    const fqi_solver *v = f->v;
    const fqi_scratch m = fqi_scratch_of(v);
    const size_t begin = v->first[f->group], end = v->first[f->group + 1];
    multiply(f, fqi_tile_at(v, tile), f->panel, v->s->n_col, 0, m.block);
    tile_codes(v, tile, f->group, f->at, f->w, m.codes);
    add_products(v, m.codes, m.block, f->w, f->slope + tile * v->tile);
    memset(m.block, 0, f->w * v->tile * sizeof *m.block);
    for (size_t i = begin; i < end; i += FQI_SOLVE_BLOCK) {
        const size_t n = least(FQI_SOLVE_BLOCK, end - i);
        float *rows = m.square;   /* the panel's rows of these columns: they need not be neighbours */
        tile_codes(v, tile, f->group, v->member + i, n, m.codes);
        for (size_t a = 0; a < n; a++) memcpy(rows + a * f->w, f->panel + v->member[i + a] * f->w, f->w * sizeof *rows);
        multiply(f, m.codes, rows, n, 1, m.block);
    }
    tile_codes(v, tile, f->group, f->at, f->w, m.codes);
    add_products(v, m.codes, m.block, f->w, f->bend + tile * v->tile);
}

/* The wide group's scales, from what was measured. */
static double rescale_tile(const refit *f, size_t tile)
{
    const fqi_solver *v = f->v;
    const fqi_scratch m = fqi_scratch_of(v);
    const size_t row = tile * v->tile, n = least(v->tile, v->s->n_row - row), begin = v->first[f->group], end = v->first[f->group + 1];
    float d[FQI_SOLVE_ROWS] = { 0 }, *scale = v->out->scale + f->group * v->s->n_row + row, *e = fqi_tile_at(v, tile);
    double sum = 0, gain;
    for (size_t k = 0; k < n; k++) {
        d[k] = better_scale(&v->s->grid, scale[k], f->slope[row + k], f->bend[row + k], &gain);
        scale[k] += d[k];
        sum += gain;
    }
    for (size_t i = begin; i < end; i++) {
        tile_codes(v, tile, f->group, v->member + i, 1, m.codes);
        for (size_t k = 0; k < n; k++) e[v->member[i] * v->tile + k] -= d[k] * m.codes[k];
    }
    return sum;
}

/* ---- rounds ------------------------------------------------------------------------------------------------------------------ */

typedef enum work { MEASURE, CODES } work;

/* All tiles of one block; inside a parallel region. */
static void run_block(refit *f, work what)
{
    fqi_solver *v = f->v;
    const size_t n = v->s->n_col;
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < n; i += GATHER) fill_panel(f, i, least(n, i + GATHER));
#pragma omp single
    for (size_t a = 0; a < f->w; a++) memcpy(f->square + a * f->w, f->panel + f->at[a] * f->w, f->w * sizeof *f->square);
#pragma omp for schedule(dynamic)
    for (size_t t = 0; t < v->n_tile; t++) {
        if (what == MEASURE)
            measure_tile(f, t);
        else
            v->cost[t] -= refit_tile(f, t);
    }
}

static void set_block(refit *f, size_t group, size_t n_group, size_t begin, size_t end, bool piece)
{
    f->group = group, f->n_group = n_group, f->piece = piece;
    f->at = f->v->member + begin;
    f->w = end - begin;
}

static void run_pieces(refit *f, size_t group, work what)
{
    const fqi_solver *v = f->v;
    for (size_t i = v->first[group]; i < v->first[group + 1]; i += FQI_SOLVE_BLOCK) {
#pragma omp single
        set_block(f, group, 1, i, least(i + FQI_SOLVE_BLOCK, v->first[group + 1]), true);
        run_block(f, what);
    }
}

static void run_wide(refit *f, size_t group)
{
    fqi_solver *v = f->v;
#pragma omp single
    {
        memset(f->slope, 0, v->n_tile * v->tile * sizeof *f->slope);
        memset(f->bend, 0, v->n_tile * v->tile * sizeof *f->bend);
    }
    run_pieces(f, group, MEASURE);
#pragma omp for schedule(dynamic)
    for (size_t t = 0; t < v->n_tile; t++) v->cost[t] -= rescale_tile(f, t);
    run_pieces(f, group, CODES);
}

/* First group behind those that fit into one block with group g. */
static size_t block_end(const fqi_solver *v, size_t g)
{
    size_t end = g + 1;
    while (end < v->out->n_group && v->first[end + 1] - v->first[g] <= FQI_SOLVE_BLOCK) end++;
    return end;
}

static void run_round(refit *f)
{
    fqi_solver *v = f->v;
    for (size_t g = 0, end; g < v->out->n_group; g = end) {
        end = block_end(v, g);
        if (v->first[g + 1] - v->first[g] > FQI_SOLVE_BLOCK) {
            run_wide(f, g);
        } else if (v->first[end] > v->first[g]) {
#pragma omp single
            set_block(f, g, end - g, v->first[g], v->first[end], false);
            run_block(f, CODES);
        }
    }
}

fq_status fqi_refit(fqi_solver *v, fq_err *e)
{
    refit f = { .v = v };
    f.panel = fqi_calloc(v->s->n_col, FQI_SOLVE_BLOCK * sizeof *f.panel);
    f.square = fqi_calloc(FQI_SOLVE_BLOCK * FQI_SOLVE_BLOCK, sizeof *f.square);
    f.slope = fqi_calloc(v->n_tile, v->tile * sizeof *f.slope);
    f.bend = fqi_calloc(v->n_tile, v->tile * sizeof *f.bend);
    const bool got = f.panel && f.square && f.slope && f.bend;
    if (got) {
#pragma omp parallel num_threads(v->s->la.n_thread)
        {
            omp_set_num_threads(1);   /* of this task only: see kernel/linear.c */
            for (int i = 0; i < v->s->n_refit; i++) run_round(&f);
        }
    }
    free(f.panel);
    free(f.square);
    free(f.slope);
    free(f.bend);
    return got ? FQ_OK : fqi_fail_nomem(e, "refit of a matrix");
}
