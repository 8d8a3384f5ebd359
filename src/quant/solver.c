/* solver.c - memory, tiles, groups and sums that every way of choosing codes shares (solver.h). What decides about codes is in gptq.c,
 * round.c and refit.c. */
#include "quant/solver.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"

#define TILES 16                  /* at least so many, where rows suffice: work for as many threads */
#define LOAD_ROWS 16              /* rows whose weights are read side by side: together they stay in the second-level cache */
#define SAMPLES 32                /* rows that the relative error is measured on */

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

size_t fqi_solver_tile(size_t n_row)
{
    size_t each = (n_row / TILES + FQI_STRIP - 1) / FQI_STRIP * FQI_STRIP;
    return each < FQI_STRIP ? FQI_STRIP : least(each, FQI_SOLVE_ROWS);
}

static size_t strip_columns(size_t n_col) { return n_col > FQI_SOLVE_BLOCK ? n_col : FQI_SOLVE_BLOCK; }

static uint64_t scratch_floats(size_t tile, size_t n_col)
{
    const uint64_t fixed = FQI_SOLVE_BLOCK * (2 * tile + FQI_SOLVE_BLOCK + 4 * FQI_STRIP);
    return fqi_sat_add(fixed, fqi_sat_mul(strip_columns(n_col), FQI_STRIP));
}

uint64_t fqi_solver_bytes(size_t n_row, size_t n_col, int n_thread)
{
    const size_t tile = fqi_solver_tile(n_row), n_tile = (n_row + tile - 1) / tile;
    uint64_t floats = fqi_sat_mul(fqi_sat_mul(n_tile, tile), n_col);
    floats = fqi_sat_add(floats, fqi_sat_mul(scratch_floats(tile, n_col), (uint64_t)n_thread));
    const uint64_t lists = fqi_sat_add(fqi_sat_mul(n_col, 4 * sizeof(uint32_t) + 2 * SAMPLES * sizeof(float)), fqi_sat_mul(n_tile, 2 * sizeof(double)));
    return fqi_sat_add(fqi_sat_mul(floats, sizeof(float)), lists);
}

fqi_scratch fqi_scratch_of(const fqi_solver *v)
{
    float *p = v->scratch + (size_t)omp_get_thread_num() * v->scratch_floats;
    fqi_scratch s = { .block = p };
    s.codes = s.block + FQI_SOLVE_BLOCK * v->tile;
    s.square = s.codes + FQI_SOLVE_BLOCK * v->tile;
    for (size_t i = 0; i < 4; i++) s.strip[i] = s.square + FQI_SOLVE_BLOCK * (FQI_SOLVE_BLOCK + i * FQI_STRIP);
    s.group = s.strip[3] + FQI_SOLVE_BLOCK * FQI_STRIP;
    return s;
}

static bool list_members(fqi_solver *v)
{
    const size_t n_col = v->s->n_col, n_group = v->out->n_group;
    uint32_t *at = fqi_calloc(n_group + 1, sizeof *at);
    if (!at) return false;
    for (size_t k = 0; k < n_col; k++) v->first[v->out->group_of[k] + 1]++;
    for (size_t g = 0; g < n_group; g++) v->first[g + 1] += v->first[g];
    memcpy(at, v->first, (n_group + 1) * sizeof *at);
    for (size_t i = 0; i < n_col; i++) v->member[at[fqi_group_at(v, i)]++] = (uint32_t)i;
    free(at);
    return true;
}

static void set_weights(fqi_solver *v)
{
    const fqi_solve *s = v->s;
    const size_t n = s->n_col;
    for (size_t m = 0; m < n; m++) {
        const size_t i = v->member[m], k = fqi_column_at(v, i);
        v->weight[m] = s->l && s->curve == FQI_CURVE_L ? s->l[i * n + i] * s->l[i * n + i] : s->h->h[k * n + k];
    }
}

fq_status fqi_solver_create(const fqi_solve *s, fqi_codes *codes, fqi_solver *out, fq_err *e)
{
    fqi_solver v = { .s = s, .out = codes, .tile = fqi_solver_tile(s->all_rows ? s->all_rows : s->n_row) };
    size_t floats = 0;
    v.n_tile = (s->n_row + v.tile - 1) / v.tile;
    v.scratch_floats = (size_t)scratch_floats(v.tile, s->n_col);
    const bool counts = fqi_mul_size(v.n_tile * v.tile, s->n_col, &floats);
    v.e = counts ? fqi_calloc(floats, sizeof *v.e) : NULL;
    v.first = fqi_calloc(codes->n_group + 1, sizeof *v.first);
    v.member = fqi_calloc(s->n_col, sizeof *v.member);
    v.weight = s->h ? fqi_calloc(s->n_col, sizeof *v.weight) : NULL;
    v.cost = fqi_calloc(v.n_tile, sizeof *v.cost);
    v.energy = fqi_calloc(v.n_tile, sizeof *v.energy);
    v.scratch = fqi_calloc((size_t)s->la.n_thread, v.scratch_floats * sizeof *v.scratch);
    *out = v;
    if (!v.e || !v.first || !v.member || (s->h && !v.weight) || !v.cost || !v.energy || !v.scratch || !list_members(out))
        return fqi_fail_nomem(e, "codes of a matrix");
    if (s->h) set_weights(out);
    return fqi_kernels_choose(&out->kernel, e);
}

void fqi_solver_free(fqi_solver *v)
{
    free(v->e);
    free(v->first);
    free(v->member);
    free(v->weight);
    free(v->cost);
    free(v->energy);
    free(v->scratch);
    *v = (fqi_solver){ 0 };
}

/* ---- tiles and groups --------------------------------------------------------------------------------------------------- */

void fqi_solver_load(const fqi_solver *v, size_t tile)
{
    const fqi_solve *s = v->s;
    float *e = fqi_tile_at(v, tile);
    const size_t row = tile * v->tile, n = least(v->tile, s->n_row - row);
    for (size_t r0 = 0; r0 < n; r0 += LOAD_ROWS) {
        const size_t m = least(LOAD_ROWS, n - r0);
        for (size_t i = 0; i < s->n_col; i++) {
            const float *w = s->w + (row + r0) * s->n_col + fqi_column_at(v, i);
            for (size_t r = 0; r < m; r++) e[i * v->tile + r0 + r] = w[r * s->n_col];
        }
    }
}

void fqi_solver_choose_strip(const fqi_solver *v, size_t group, size_t row, const float *w)
{
    const size_t n_row = v->s->n_row, m = v->first[group];
    fqi_grid_choose(&v->s->grid, w, FQI_STRIP, fqi_strip_rows(v, row), v->first[group + 1] - m, v->weight ? v->weight + m : NULL,
                    v->out->scale + group * n_row + row, v->out->zero + group * n_row + row);
}

void fqi_solver_choose(const fqi_solver *v, size_t tile)
{
    const fqi_scratch t = fqi_scratch_of(v);
    const float *e = fqi_tile_at(v, tile);
    for (size_t g = 0; g < v->out->n_group; g++)
        for (size_t r = 0; v->first[g] < v->first[g + 1] && fqi_strip_rows(v, tile * v->tile + r); r += FQI_STRIP) {
            if (r >= v->tile) break;
            for (size_t m = v->first[g]; m < v->first[g + 1]; m++)
                memcpy(t.group + (m - v->first[g]) * FQI_STRIP, e + v->member[m] * v->tile + r, FQI_STRIP * sizeof *e);
            fqi_solver_choose_strip(v, g, tile * v->tile + r, t.group);
        }
}

void fqi_solver_scales(const fqi_solver *v, size_t group, size_t row, fqi_strip_scales *s)
{
    const size_t n = fqi_strip_rows(v, row), at = group * v->s->n_row + row;
    if (s->group == group) return;
    s->group = group;
    for (size_t r = n; r < FQI_STRIP; r++) s->scale[r] = 1, s->zero[r] = (uint8_t)(1u << (v->out->bits - 1));
    memcpy(s->scale, v->out->scale + at, n * sizeof *s->scale);
    memcpy(s->zero, v->out->zero + at, n);
}

void fqi_solver_round(const fqi_solver *v, size_t position, size_t row, const fqi_strip_scales *s, const float *w, float *back)
{
    uint8_t code[FQI_STRIP];
    fqi_grid_round(&v->s->grid, w, s->scale, s->zero, FQI_STRIP, code, back);
    memcpy(v->out->code + fqi_column_at(v, position) * v->s->n_row + row, code, fqi_strip_rows(v, row));
}

/* ---- sums ------------------------------------------------------------------------------------------------------------------- */

void fqi_form_block(const fqi_blas *blas, const fqi_hessian *h, const float *x, size_t width, size_t j, float *block, float *square, double *out)
{
    const size_t n = h->n, w = least(FQI_SOLVE_BLOCK, n - j), below = j + w;
    const blasint rows = (blasint)width, cols = (blasint)w;
    for (size_t a = 0; a < w; a++)
        for (size_t b = 0; b <= a; b++) square[a * w + b] = square[b * w + a] = h->h[(j + a) * n + j + b];
    blas->sgemm(CblasColMajor, CblasNoTrans, CblasNoTrans, rows, cols, cols, 1.0f, x + j * width, rows, square, cols, 0.0f, block, rows);
    if (below < n)
        blas->sgemm(CblasColMajor, CblasNoTrans, CblasTrans, rows, cols, (blasint)(n - below), 2.0f, x + below * width, rows, h->h + below * n + j, (blasint)n,
                    1.0f, block, rows);
    for (size_t a = 0; a < w; a++)
        for (size_t r = 0; r < width; r++) out[r] += (double)x[(j + a) * width + r] * (double)block[a * width + r];
}

static size_t all_rows(const fqi_solver *v) { return v->s->all_rows ? v->s->all_rows : v->s->n_row; }

/* Rows of w, then the same rows of e, by column: [n_col][2 * SAMPLES]. Rows of other ranks stay zeros. */
static void take_samples(const fqi_solver *v, size_t n_sample, float *x)
{
    const fqi_solve *s = v->s;
    for (size_t a = 0; a < n_sample; a++) {
        const size_t at = a * all_rows(v) / n_sample, row = at - s->first_row;
        if (at < s->first_row || row >= s->n_row) continue;
        const float *e = fqi_tile_at(v, row / v->tile) + row % v->tile;
        for (size_t k = 0; k < s->n_col; k++) x[k * 2 * SAMPLES + a] = s->w[row * s->n_col + k];
        for (size_t i = 0; i < s->n_col; i++) x[fqi_column_at(v, i) * 2 * SAMPLES + SAMPLES + a] = e[i * v->tile];
    }
}

/* What every tile of every rank adds to the error, in the order of tiles. */
static fq_status gather_errors(const fqi_solver *v, double *error, fq_err *e)
{
    const fqi_solve *s = v->s;
    const size_t n_rank = (size_t)fqi_comm_size(s->comm), all = (all_rows(v) + v->tile - 1) / v->tile;
    double *mine = fqi_calloc(v->n_tile, sizeof *mine), *sum = fqi_calloc(all, sizeof *sum);
    size_t *bytes = fqi_calloc(n_rank, sizeof *bytes);
    fq_status st = mine && sum && bytes ? FQ_OK : fqi_fail_nomem(e, "errors of a matrix");
    for (size_t t = 0; st == FQ_OK && t < v->n_tile; t++) mine[t] = v->cost[t] - (s->l ? v->energy[t] : 0.0);
    for (size_t r = 0; st == FQ_OK && r < n_rank; r++) bytes[r] = (fqi_solver_first_tile(all, n_rank, r + 1) - fqi_solver_first_tile(all, n_rank, r)) * sizeof *sum;
    if (st == FQ_OK) st = fqi_comm_gather(s->comm, mine, bytes, sum, e);
    for (size_t t = 0; st == FQ_OK && t < all; t++) *error += sum[t];
    free(mine);
    free(sum);
    free(bytes);
    return st;
}

/* part: [blocks][2 * SAMPLES], so that the sum has one order whoever makes its parts. */
static void sum_samples(const fqi_solver *v, const float *x, double *part, fqi_solve_result *out)
{
    const fqi_solve *s = v->s;
    const size_t n_block = (s->n_col + FQI_SOLVE_BLOCK - 1) / FQI_SOLVE_BLOCK, width = 2 * SAMPLES;
#pragma omp parallel num_threads(s->la.n_thread)
    {
        omp_set_num_threads(1);
#pragma omp for schedule(dynamic)
        for (size_t b = 0; b < n_block; b++) {
            const fqi_scratch t = fqi_scratch_of(v);
            fqi_form_block(s->la.blas, s->h, x, width, b * FQI_SOLVE_BLOCK, t.block, t.square, part + b * width);
        }
    }
    for (size_t i = 0; i < n_block * width; i++) *(i % width < SAMPLES ? &out->energy : &out->error_sampled) += part[i];
}

static double tile_energy(const fqi_solver *v, size_t tile)
{
    const fqi_solve *s = v->s;
    const float *e = fqi_tile_at(v, tile);
    double sum = 0;
    for (size_t i = 0; i < s->n_col; i++) {
        const size_t k = fqi_column_at(v, i);
        const double share = s->h && s->l ? s->lambda + (s->h->h[k * s->n_col + k] == 0 ? 1.0 : 0.0) : 1.0;
        double square = 0;
        for (size_t r = 0; r < v->tile; r++) square += (double)e[i * v->tile + r] * (double)e[i * v->tile + r];
        sum += share * square;
    }
    return sum;
}

/* Without data: every row is its own sample. */
static void plain_result(const fqi_solver *v, fqi_solve_result *out)
{
    double sum = 0, error = 0;
    for (size_t i = 0; i < v->s->n_row * v->s->n_col; i++) sum += (double)v->s->w[i] * (double)v->s->w[i];
    for (size_t t = 0; t < v->n_tile; t++) error += v->energy[t];
    *out = (fqi_solve_result){ .error = error, .energy = sum, .error_sampled = error };
}

fq_status fqi_solver_result(const fqi_solver *v, fqi_solve_result *out, fq_err *e)
{
    const fqi_solve *s = v->s;
    const size_t n_sample = least(SAMPLES, all_rows(v)), n_block = (s->n_col + FQI_SOLVE_BLOCK - 1) / FQI_SOLVE_BLOCK;
#pragma omp parallel for num_threads(s->la.n_thread) schedule(dynamic)
    for (size_t t = 0; t < v->n_tile; t++) v->energy[t] = tile_energy(v, t);
    *out = (fqi_solve_result){ 0 };
    if (!s->h) {
        plain_result(v, out);
        return FQ_OK;
    }
    float *x = fqi_calloc(s->n_col, 2 * SAMPLES * sizeof *x);
    double *part = fqi_calloc(n_block, 2 * SAMPLES * sizeof *part);
    fq_status st = x && part ? gather_errors(v, &out->error, e) : fqi_fail_nomem(e, "samples of a matrix");
    if (st == FQ_OK) {
        if (out->error < 0) out->error = 0;   /* the last bits of two large sums */
        take_samples(v, n_sample, x);
        st = fqi_comm_sum_float(s->comm, x, s->n_col * 2 * SAMPLES, e);   /* with zeros: the same bits */
    }
    if (st == FQ_OK) sum_samples(v, x, part, out);
    free(x);
    free(part);
    return st;
}
