/* round.c - every weight to the nearest point of its grid (fqi_round_to_nearest, gptq.h): no error is passed on. */
#include <omp.h>

#include "quant/solver.h"

static void round_tile(const fqi_solver *v, size_t tile)
{
    float *e = fqi_tile_at(v, tile), back[FQI_STRIP];
    for (size_t r = 0; r < v->tile && fqi_strip_rows(v, tile * v->tile + r); r += FQI_STRIP) {
        fqi_strip_scales s = { .group = SIZE_MAX };
        for (size_t m = 0; m < v->s->n_col; m++) {
            const size_t i = v->member[m];
            float *w = e + i * v->tile + r;
            fqi_solver_scales(v, fqi_group_at(v, i), tile * v->tile + r, &s);
            fqi_solver_round(v, i, tile * v->tile + r, &s, w, back);
            for (size_t a = 0; a < FQI_STRIP; a++) w[a] -= back[a];
        }
    }
}

/* tr(E H E^T) of a tile. */
static double tile_cost(const fqi_solver *v, size_t tile)
{
    const fqi_scratch t = fqi_scratch_of(v);
    double row[FQI_SOLVE_ROWS] = { 0 }, sum = 0;
    for (size_t j = 0; j < v->s->n_col; j += FQI_SOLVE_BLOCK)
        fqi_form_block(v->s->la.blas, v->s->h, fqi_tile_at(v, tile), v->tile, j, t.block, t.square, row);
    for (size_t r = 0; r < v->tile; r++) sum += row[r];
    return sum;
}

static fq_status round_all(const fqi_solver *v, fqi_solve_result *result, fq_err *e)
{
#pragma omp parallel num_threads(v->s->la.n_thread)
    {
        omp_set_num_threads(1);   /* of this task only: see kernel/linear.c */
#pragma omp for schedule(dynamic)
        for (size_t t = 0; t < v->n_tile; t++) {
            fqi_solver_load(v, t);
            fqi_solver_choose(v, t);
            round_tile(v, t);
            if (v->s->h) v->cost[t] = tile_cost(v, t);
        }
    }
    return fqi_solver_result(v, result, e);
}

fq_status fqi_round_to_nearest(const fqi_solve *s, fqi_codes *out, fqi_solve_result *result, fq_err *e)
{
    fqi_solve plain = *s;
    fqi_solver v = { 0 };
    plain.order = NULL, plain.l = NULL, plain.lambda = 0;
    *out = (fqi_codes){ 0 };
    fq_status st = fqi_codes_create(s->grid.bits, s->n_row, s->columns, out, e);
    if (!st) st = fqi_solver_create(&plain, out, &v, e);
    if (!st) st = round_all(&v, result, e);
    fqi_solver_free(&v);
    if (st) fqi_codes_free(out);
    return st;
}
