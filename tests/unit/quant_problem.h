/* quant_problem.h - a matrix to quantize, with inputs that look like a layer's: correlated channels of very different sizes. For the
 * tests of src/quant. Plain double precision throughout, so that nothing is judged by what it tests. */
#ifndef FITQ_TESTS_QUANT_PROBLEM_H
#define FITQ_TESTS_QUANT_PROBLEM_H

#include "axis_random.h"
#include "quant/gptq.h"

typedef struct problem {
    size_t n_row, n_col;
    float *w;                 /* [n_row][n_col] */
    fqi_hessian h;
    fqi_columns columns;
    uint32_t *order;          /* [n_col] */
} problem;

typedef enum order_kind { NATURAL, PERMUTED, BY_GROUP, N_ORDER } order_kind;   /* first column last in order; any; any within groups and of groups */

fqi_linalg problem_linalg(int n_thread);     /* fails the running test where there is no BLAS */
/* group_size -1: one group. n_gap: slots without a column, spread at random. n_dead: columns whose input is always 0. */
problem problem_make(rng *r, size_t n_row, size_t n_col, int64_t group_size, size_t n_gap, size_t n_dead, order_kind order);
void problem_free(problem *p);

double problem_uniform(rng *r);              /* 0 .. 1 */
double problem_gauss(rng *r);
/* H_ij of the whole symmetric matrix. */
double problem_h(const problem *p, size_t i, size_t j);
/* tr(E (H + lambda) E^T), E = w - what the codes say; dead columns count as 1 on the diagonal if lambda > 0. */
double problem_error(const problem *p, const float *w, const fqi_codes *c, double lambda);

#endif
