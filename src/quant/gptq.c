/* gptq.c - the solve (gptq.h): codes column by column from the last to the first, each for what the later ones left over.
 *
 *     for each tile of rows (one thread):
 *         for each block of columns, last first:   F = E[:, done] L[done, block]     one sgemm for two blocks, then one between the two
 *             for each strip of 32 rows:           the same inside the block, 8 columns and then 1 at a time (gemm_tile); w' = w + F / L[k,k];
 *                                                  round; E = w - q
 *
 * Scales of a group from compensated weights: when its last column comes, all its weights move to where the minimum over all columns that
 * are left is, W'_G = W_G + F_G L_GG^-1: what the textbook's loop holds at that moment. */
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "quant/solver.h"

#define PANEL 8                   /* columns that take part in one gemm_tile of the strip */
#define LINE 16                   /* floats of a cache line */
#define AHEAD 12                  /* columns: a strip's part of a column is two lines, and no pattern that the processor would see */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* A block of one tile. */
typedef struct block {
    const fqi_solver *v;
    float *e;                     /* the tile */
    size_t lo, hi;                /* positions */
    float *f;                     /* [hi - lo][tile]: E[:, done] L[done, block] */
    float *lt;                    /* [hi - lo][hi - lo]: lt[i][j] = L[lo + j][lo + i], j > i */
    float *group;                 /* [hi - lo][FQI_STRIP] */
} block;

/* First position of the group that `position` belongs to, where groups are runs of positions. */
static size_t group_begin(const fqi_solver *v, size_t position) { return v->member[v->first[fqi_group_at(v, position)]]; }

/* Blocks begin where groups begin, so that a group's F is complete when its scales are chosen. The one group that may be wider than a
 * block is the first to be processed: nothing is done then, its scales come from w. */
static size_t block_begin(const fqi_solver *v, size_t hi, size_t most)
{
    if (v->s->scales == FQI_SCALES_STATIC) return hi - least(hi, most);
    size_t lo = hi;
    while (lo > 0) {
        const size_t begin = group_begin(v, lo - 1);
        if (hi - begin > most) return lo < hi ? lo : hi - most;
        lo = begin;
    }
    return lo;
}

/* F[i] += E[:, j .. end) L[j .. end, i] for m columns of a strip. */
static void add_done(const block *b, size_t i, size_t m, size_t j, size_t end, size_t r, float *f, size_t ldf)
{
    const size_t w = b->hi - b->lo;
    if (j >= end) return;
    for (size_t a = 0; a < m; a += FQI_TILE_ROWS)
        b->v->kernel->gemm_tile(least(FQI_TILE_ROWS, m - a), end - j, b->lt + (i + a - b->lo) * w + (j - b->lo), w, b->e + j * b->v->tile + r, b->v->tile,
                                f + a * ldf, ldf, true, false);
}

/* Scales of the group [lo, hi) of positions from w + F L^-1, of one strip. Columns from hi on are done. */
static void choose_compensated(const block *b, size_t lo, size_t hi, size_t r, size_t row)
{
    const fqi_solver *v = b->v;
    const size_t n = v->s->n_col, w = b->hi - b->lo;
    float *x = b->group;
    for (size_t k = lo; k < hi; k++) memcpy(x + (k - lo) * FQI_STRIP, b->f + (k - b->lo) * v->tile + r, FQI_STRIP * sizeof *x);
    add_done(b, lo, hi - lo, hi, b->hi, r, x, FQI_STRIP);
    for (size_t k = hi; k-- > lo;) {   /* x L = F, from the last column */
        float sum[FQI_STRIP] = { 0 }, *xk = x + (k - lo) * FQI_STRIP;
        const float inverse = 1 / v->s->l[k * n + k];
        v->kernel->gemm_tile(1, hi - k - 1, b->lt + (k - b->lo) * w + (k + 1 - b->lo), w, xk + FQI_STRIP, FQI_STRIP, sum, FQI_STRIP, true, false);
        for (size_t a = 0; a < FQI_STRIP; a++) xk[a] = (xk[a] - sum[a]) * inverse;
    }
    for (size_t k = lo; k < hi; k++)
        for (size_t a = 0; a < FQI_STRIP; a++) x[(k - lo) * FQI_STRIP + a] += b->e[k * v->tile + r + a];
    fqi_solver_choose_strip(v, fqi_group_at(v, hi - 1), row, x);
}

/* target = e + f * inverse, of one column of a strip. A function of its own, as are those below: with restrict and a length that is known
 * the compiler makes vectors of them. */
static void move_targets(const float *restrict e, const float *restrict f, float inverse, float *restrict target)
{
    for (size_t a = 0; a < FQI_STRIP; a++) target[a] = e[a] + f[a] * inverse;
}

static void take_errors(const float *restrict target, const float *restrict back, float pivot, float *restrict e, float *restrict cost)
{
    for (size_t a = 0; a < FQI_STRIP; a++) {
        const float miss = (target[a] - back[a]) * pivot;
        cost[a] += miss * miss;
        e[a] -= back[a];
    }
}

/* One column of a strip; f is complete. cost: of the strip's rows. */
static void round_column(const block *b, size_t k, size_t r, size_t row, const fqi_strip_scales *s, float *cost)
{
    const fqi_solver *v = b->v;
    const float pivot = v->s->l[k * v->s->n_col + k], inverse = 1 / pivot, *f = b->f + (k - b->lo) * v->tile + r;
    float *e = b->e + k * v->tile + r, target[FQI_STRIP], back[FQI_STRIP];
    if (k >= AHEAD) {
        __builtin_prefetch(e - AHEAD * v->tile, 1);
        __builtin_prefetch(e - AHEAD * v->tile + LINE, 1);
    }
    move_targets(e, f, inverse, target);
    fqi_solver_round(v, k, row, s, target, back);
    take_errors(target, back, pivot, e, cost);
}

static double solve_strip(const block *b, size_t r, size_t row)
{
    const fqi_solver *v = b->v;
    const bool dynamic = v->s->scales == FQI_SCALES_DYNAMIC;
    fqi_strip_scales s = { .group = SIZE_MAX };
    float cost[FQI_STRIP] = { 0 };
    double sum = 0;
    for (size_t hi = b->hi, lo; hi > b->lo; hi = lo) {
        const size_t begin = dynamic ? group_begin(v, hi - 1) : b->lo;
        lo = hi - b->lo > PANEL ? hi - PANEL : b->lo;
        if (lo < begin) lo = begin;
        /* before the group's first column, and not for the wide one, whose scales are chosen with the tile */
        if (dynamic && (hi == v->s->n_col || fqi_group_at(v, hi) != fqi_group_at(v, hi - 1)) && begin >= b->lo) choose_compensated(b, begin, hi, r, row);
        add_done(b, lo, hi - lo, hi, b->hi, r, b->f + (lo - b->lo) * v->tile + r, v->tile);
        for (size_t k = hi; k-- > lo;) {
            add_done(b, k, 1, k + 1, hi, r, b->f + (k - b->lo) * v->tile + r, v->tile);
            fqi_solver_scales(v, fqi_group_at(v, k), row, &s);
            round_column(b, k, r, row, &s, cost);
        }
    }
    for (size_t a = 0; a < FQI_STRIP; a++) sum += (double)cost[a];
    return sum;
}

/* F[:, lo .. hi) = beta F + E[:, from .. to) L[from .. to, lo .. hi) */
static void multiply(const fqi_solver *v, const float *e, size_t from, size_t to, size_t lo, size_t hi, float beta, float *f)
{
    const fqi_solve *s = v->s;
    const blasint tile = (blasint)v->tile;
    s->la.blas->sgemm(CblasColMajor, CblasNoTrans, CblasTrans, tile, (blasint)(hi - lo), (blasint)(to - from), 1.0f, e + from * v->tile, tile,
                      s->l + from * s->n_col + lo, (blasint)s->n_col, beta, f, tile);
}

/* Columns [lo, hi), of which f knows what is done from hi on. */
static double solve_block(const block *b, size_t tile)
{
    const fqi_solver *v = b->v;
    const size_t w = b->hi - b->lo;
    double cost = 0;
    for (size_t j = 0; j < w; j += LINE)   /* a cache line of lt at a time; a few numbers of the diagonal come along, unused */
        for (size_t i = 0; i < w && i < j + LINE; i++)
            for (size_t a = j; a < w && a < j + LINE; a++) b->lt[i * w + a] = v->s->l[(b->lo + a) * v->s->n_col + b->lo + i];
    for (size_t r = 0; r < v->tile && fqi_strip_rows(v, tile * v->tile + r); r += FQI_STRIP) cost += solve_strip(b, r, tile * v->tile + r);
    return cost;
}

static double solve_segment(const fqi_solver *v, size_t tile, size_t begin, size_t end)
{
    const fqi_scratch t = fqi_scratch_of(v);
    float *e = fqi_tile_at(v, tile), *f = t.block;
    double cost = 0;
    if (end < v->s->n_col)
        multiply(v, e, end, v->s->n_col, begin, end, 0, f);
    else
        memset(f, 0, (end - begin) * v->tile * sizeof *f);
    for (size_t hi = end, lo; hi > begin; hi = lo) {
        lo = block_begin(v, hi, least(hi - begin, FQI_SOLVE_BLOCK));
        const block b = { v, e, lo, hi, f + (lo - begin) * v->tile, t.square, t.group };
        if (hi < end) multiply(v, e, hi, end, lo, hi, 1, b.f);
        cost += solve_block(&b, tile);
    }
    return cost;
}

static double solve_tile(const fqi_solver *v, size_t tile)
{
    const size_t n = v->s->n_col;
    double cost = 0;
    fqi_solver_load(v, tile);
    /* dynamic: the scales of the wide group, if there is one; those of the others are chosen again later */
    if (v->s->scales == FQI_SCALES_STATIC || n - group_begin(v, n - 1) > FQI_SOLVE_BLOCK) fqi_solver_choose(v, tile);
    for (size_t hi = n, lo; hi > 0; hi = lo) {
        lo = block_begin(v, hi, FQI_SOLVE_WIDE);
        cost += solve_segment(v, tile, lo, hi);
    }
    return cost;
}

static fq_status check_runs(const fqi_solver *v, fq_err *e)
{
    for (size_t g = 0; v->s->scales == FQI_SCALES_DYNAMIC && g < v->out->n_group; g++) {
        const size_t a = v->first[g], n = v->first[g + 1] - a;
        if (n == 0) continue;
        if (v->member[a + n - 1] - v->member[a] != n - 1)
            return fqi_fail(e, FQ_E_USAGE, NULL, "scales", "found group %zu scattered in the order of processing, expected consecutive columns", g);
        if (n > FQI_SOLVE_BLOCK && v->member[a + n - 1] + 1 != v->s->n_col)
            return fqi_fail(e, FQ_E_USAGE, NULL, "scales", "found a group of %zu columns, expected at most %d, or one that is processed first", n,
                            FQI_SOLVE_BLOCK);
    }
    return FQ_OK;
}

static fq_status solve_all(fqi_solver *v, fqi_solve_result *result, fq_err *e)
{
    FQI_TRY(check_runs(v, e));
#pragma omp parallel num_threads(v->s->la.n_thread)
    {
        omp_set_num_threads(1);   /* of this task only: see kernel/linear.c */
#pragma omp for schedule(dynamic)
        for (size_t t = 0; t < v->n_tile; t++) v->cost[t] = solve_tile(v, t);
    }
    if (v->s->n_refit > 0) FQI_TRY(fqi_refit(v, e));
    return fqi_solver_result(v, result, e);
}

static fq_status solve_here(const fqi_solve *s, fqi_codes *out, fqi_solve_result *result, fq_err *e)
{
    fqi_solver v = { 0 };
    *out = (fqi_codes){ 0 };
    fq_status st = fqi_codes_create(s->grid.bits, s->n_row, s->columns, out, e);
    if (!st) st = fqi_solver_create(s, out, &v, e);
    if (!st) st = solve_all(&v, result, e);
    fqi_solver_free(&v);
    if (st) fqi_codes_free(out);
    return st;
}

/* ---- several ranks ---------------------------------------------------------------------------------------------------- */

void fqi_solve_rows(const fqi_comm *c, size_t n_row, size_t *first, size_t *n)
{
    const size_t tile = fqi_solver_tile(n_row), n_tile = (n_row + tile - 1) / tile, n_rank = (size_t)fqi_comm_size(c), me = (size_t)fqi_comm_rank(c);
    *first = least(fqi_solver_first_tile(n_tile, n_rank, me) * tile, n_row);
    *n = least(fqi_solver_first_tile(n_tile, n_rank, me + 1) * tile, n_row) - *first;
}

size_t fqi_solve_most_rows(size_t n_row, size_t n_rank)
{
    const size_t tile = fqi_solver_tile(n_row), n_tile = (n_row + tile - 1) / tile;
    return least((n_tile + n_rank - 1) / n_rank * tile, n_row);
}

/* `mine`: [n_line][rows of this rank] of `width` bytes each; all: [n_line][n_row]. */
static fq_status gather_lines(const fqi_solve *s, const void *mine, size_t n_line, size_t width, void *all, fq_err *e)
{
    const size_t n_rank = (size_t)fqi_comm_size(s->comm), tile = fqi_solver_tile(s->n_row), n_tile = (s->n_row + tile - 1) / tile;
    size_t *bytes = fqi_calloc(n_rank, sizeof *bytes);
    unsigned char *got = fqi_calloc(n_line, s->n_row * width), *to = all;
    fq_status st = bytes && got ? FQ_OK : fqi_fail_nomem(e, "codes of a matrix");
    for (size_t r = 0, from = 0; st == FQ_OK && r < n_rank; r++) {
        const size_t end = least(fqi_solver_first_tile(n_tile, n_rank, r + 1) * tile, s->n_row);
        bytes[r] = n_line * (end - from) * width;
        from = end;
    }
    if (st == FQ_OK) st = fqi_comm_gather(s->comm, mine, bytes, got, e);
    const unsigned char *at = got;
    for (size_t r = 0; st == FQ_OK && r < n_rank; r++) {
        const size_t line = bytes[r] / n_line;
        for (size_t i = 0; i < n_line; i++, at += line) memcpy(to + i * s->n_row * width, at, line);
        to += line;
    }
    free(bytes);
    free(got);
    return st;
}

static fq_status gather_codes(const fqi_solve *s, const fqi_codes *mine, fqi_codes *out, fq_err *e)
{
    FQI_TRY(fqi_codes_create(s->grid.bits, s->n_row, s->columns, out, e));
    FQI_TRY(gather_lines(s, mine->code, out->n_col, 1, out->code, e));
    FQI_TRY(gather_lines(s, mine->scale, out->n_group, sizeof *out->scale, out->scale, e));
    return gather_lines(s, mine->zero, out->n_group, 1, out->zero, e);
}

static fq_status solve_shared(const fqi_solve *s, fqi_codes *out, fqi_solve_result *result, fq_err *e)
{
    fqi_solve part = *s;
    fqi_codes mine;
    fqi_solve_rows(s->comm, s->n_row, &part.first_row, &part.n_row);
    part.all_rows = s->n_row;
    part.w = s->w + part.first_row * s->n_col;
    *out = (fqi_codes){ 0 };
    FQI_TRY(solve_here(&part, &mine, result, e));
    const fq_status st = gather_codes(s, &mine, out, e);
    fqi_codes_free(&mine);
    if (st) fqi_codes_free(out);
    return st;
}

fq_status fqi_gptq(const fqi_solve *s, fqi_codes *out, fqi_solve_result *result, fq_err *e)
{
    return fqi_comm_size(s->comm) > 1 ? solve_shared(s, out, result, e) : solve_here(s, out, result, e);
}

uint64_t fqi_gptq_bytes(size_t n_row, size_t n_col, int n_thread)
{
    return fqi_sat_add(fqi_solver_bytes(n_row, n_col, n_thread), fqi_refit_bytes(n_row, n_col));
}
