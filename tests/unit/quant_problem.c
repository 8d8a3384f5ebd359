/* quant_problem.c - see quant_problem.h. */
#include "quant_problem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#define RANK 6                /* of what the channels have in common */

static void *need(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);
    assert_non_null(p);
    return p;
}

double problem_uniform(rng *r) { return ((double)(rng_next(r) >> 11) + 0.5) * 0x1p-53; }
double problem_gauss(rng *r) { return sqrt(-2 * log(problem_uniform(r))) * cos(6.283185307179586 * problem_uniform(r)); }

fqi_linalg problem_linalg(int n_thread)
{
    static fqi_blas blas;
    FQT_OK(fqi_blas_load(&blas, e));
    return (fqi_linalg){ &blas, n_thread };
}

static void shuffle(rng *r, uint32_t *v, size_t n)
{
    for (size_t i = n; i-- > 1;) {
        const size_t j = (size_t)rng_in(r, 0, (int64_t)i);
        const uint32_t t = v[i];
        v[i] = v[j], v[j] = t;
    }
}

static void make_columns(rng *r, size_t n_col, int64_t group_size, size_t n_gap, fqi_columns *out)
{
    fqi_columns c = { .n_col = n_col, .n_col_pad = n_col + n_gap };
    uint32_t *slot = need(c.n_col_pad, sizeof *slot);
    c.group_size = group_size < 0 ? c.n_col_pad : (size_t)group_size;
    c.n_group = (c.n_col_pad + c.group_size - 1) / c.group_size;
    c.slot_of = need(n_col, sizeof *c.slot_of);
    for (size_t i = 0; i < c.n_col_pad; i++) slot[i] = 1;
    for (size_t left = n_gap; left > 0;) {
        const size_t at = (size_t)rng_in(r, 0, (int64_t)c.n_col_pad - 1);
        left -= slot[at], slot[at] = 0;
    }
    for (size_t i = 0, k = 0; i < c.n_col_pad; i++)
        if (slot[i]) c.slot_of[k++] = (uint32_t)i;
    free(slot);
    *out = c;
}

/* Groups in any order, each with its columns in any order. */
static void order_by_group(rng *r, const fqi_columns *c, uint32_t *order)
{
    uint32_t *group = need(c->n_group, sizeof *group);
    size_t n = 0;
    for (size_t g = 0; g < c->n_group; g++) group[g] = (uint32_t)g;
    shuffle(r, group, c->n_group);
    for (size_t g = 0; g < c->n_group; g++) {
        const size_t begin = n;
        for (size_t k = 0; k < c->n_col; k++)
            if (c->slot_of[k] / c->group_size == group[g]) order[n++] = (uint32_t)k;
        shuffle(r, order + begin, n - begin);
    }
    free(group);
}

static void make_order(rng *r, const fqi_columns *c, order_kind kind, uint32_t *order)
{
    for (size_t i = 0; i < c->n_col; i++) order[i] = (uint32_t)(kind == NATURAL ? c->n_col - 1 - i : i);
    if (kind == PERMUTED) shuffle(r, order, c->n_col);
    if (kind == BY_GROUP) order_by_group(r, c, order);
}

/* 2 n + 32 rows of: something common + something of its own, times the channel's size. */
static void add_inputs(rng *r, size_t n, size_t n_dead, fqi_hessian *h)
{
    const size_t n_row = 2 * n + 32;
    const fqi_linalg la = problem_linalg(2);
    float *x = need(n_row * n, sizeof *x);
    double *mix = need(n * RANK, sizeof *mix), *size = need(n, sizeof *size);
    for (size_t i = 0; i < n * RANK; i++) mix[i] = problem_gauss(r);
    for (size_t i = 0; i < n; i++) size[i] = exp(0.7 * problem_gauss(r));
    for (size_t d = 0; d < n_dead; d++) size[rng_in(r, 0, (int64_t)n - 1)] = 0;
    for (size_t t = 0; t < n_row; t++) {
        double common[RANK];
        for (size_t k = 0; k < RANK; k++) common[k] = problem_gauss(r);
        for (size_t i = 0; i < n; i++) {
            double v = problem_gauss(r);
            for (size_t k = 0; k < RANK; k++) v += mix[i * RANK + k] * common[k];
            x[t * n + i] = (float)(v * size[i]);
        }
    }
    fqi_hessian_add(&la, h, x, n_row, n);
    free(x), free(mix), free(size);
}

problem problem_make(rng *r, size_t n_row, size_t n_col, int64_t group_size, size_t n_gap, size_t n_dead, order_kind order)
{
    problem p = { .n_row = n_row, .n_col = n_col };
    make_columns(r, n_col, group_size, n_gap, &p.columns);
    p.order = need(n_col, sizeof *p.order);
    make_order(r, &p.columns, order, p.order);
    p.w = need(n_row * n_col, sizeof *p.w);
    for (size_t i = 0; i < n_row * n_col; i++) p.w[i] = (float)(0.02 * problem_gauss(r) / sqrt(problem_uniform(r) + 0.05));
    FQT_OK(fqi_hessian_create(n_col, &p.h, e));
    add_inputs(r, n_col, n_dead, &p.h);
    return p;
}

void problem_free(problem *p)
{
    free(p->w);
    free(p->order);
    free(p->columns.slot_of);
    fqi_hessian_free(&p->h);
}

double problem_h(const problem *p, size_t i, size_t j)
{
    return (double)(i > j ? p->h.h[i * p->n_col + j] : p->h.h[j * p->n_col + i]);
}

double problem_error(const problem *p, const float *w, const fqi_codes *c, double lambda)
{
    const size_t n = p->n_col;
    double *e = need(n, sizeof *e), sum = 0;
    float *q = need(p->n_row * n, sizeof *q);
    fqi_codes_widen(c, 1, q);
    for (size_t r = 0; r < p->n_row; r++) {
        for (size_t k = 0; k < n; k++) e[k] = (double)w[r * n + k] - (double)q[r * n + k];
        for (size_t i = 0; i < n; i++) {
            double he = e[i] * (lambda + (lambda > 0 && problem_h(p, i, i) == 0 ? 1 : 0));
            for (size_t j = 0; j < n; j++) he += problem_h(p, i, j) * e[j];
            sum += e[i] * he;
        }
    }
    free(e), free(q);
    return sum;
}
