/* gptq.h - codes of one weight matrix that minimise tr(E H E^T), E = W - Q: GPTQ with one Cholesky factor. Pure.
 *
 *     H (damped, in processing order, first column last) = L L^T;  for columns k from the last to the first:
 *         w'_k = w_k + sum_{j processed} E_j L[j,k] / L[k,k];   q_k = round(w'_k);   E_k = w_k - q_k
 *     so that tr(E H E^T) = sum_k L[k,k]^2 |w'_k - q_k|^2, term by term
 *
 * (QuIP, arXiv 2307.13304, theorem 6: the same codes as GPTQ's inverse, second Cholesky and column loop, for a quarter of the
 * factorization.) In blocks of columns: F = E[:, done] L[done, block] is one matrix product per tile of rows. Rows are independent
 * and tiles are fixed, so bits do not depend on the number of threads.
 *
 * Columns here are the real ones: padded columns have no input and their code is the zero point. A group is the real columns that
 * stand in one group of the layout that will be written (columns.h). */
#ifndef FITQ_QUANT_GPTQ_H
#define FITQ_QUANT_GPTQ_H

#include "comm/comm.h"
#include "quant/columns.h"
#include "quant/grid.h"
#include "quant/hessian.h"

/* One quantized matrix. Arrays by column, rows fast: see grid.h. */
typedef struct fqi_codes {
    int bits;
    size_t n_row, n_col;        /* real */
    size_t n_group;
    uint8_t *code;              /* [n_col][n_row], column = column of the source matrix */
    float *scale;               /* [n_group][n_row], as stored; groups without a real column: 1 */
    uint8_t *zero;              /* [n_group][n_row] */
    uint32_t *group_of;         /* [n_col] */
} fqi_codes;

uint64_t fqi_codes_bytes(size_t n_row, size_t n_col, size_t n_group);
fq_status fqi_codes_create(int bits, size_t n_row, const fqi_columns *columns, fqi_codes *out, fq_err *e);
void fqi_codes_free(fqi_codes *c);
/* What an engine computes with: out[n][k] = scale * (code - zero), row-major [n_row][n_col] in source column order. */
void fqi_codes_widen(const fqi_codes *c, int n_thread, float *out);

typedef enum fqi_scales_from {
    FQI_SCALES_STATIC,     /* all scales from the given weights, before a code is chosen */
    FQI_SCALES_DYNAMIC     /* of a group when its first column comes, from the compensated weights (the textbook's way); columns of a
                              group must be consecutive in the order of processing */
} fqi_scales_from;

typedef enum fqi_curvature { FQI_CURVE_H, FQI_CURVE_L } fqi_curvature;   /* h of the scale search: diag H, or L[k,k]^2 (= 1 / U[k,k]^2) */

typedef struct fqi_solve {
    fqi_linalg la;
    fqi_grid grid;
    fqi_scales_from scales;
    fqi_curvature curve;
    int n_refit;               /* rounds after the solve of, group by group: scales by least squares given the codes, then one sweep of single
                                  codes; each only if it lowers what the solve minimises, tr(E (H + lambda) E^T). A round costs one more
                                  product of E and H: about what factor and solve cost together. 0 = none */
    const float *w;            /* [n_row][n_col], row-major (as a checkpoint stores it), source column order */
    size_t n_row, n_col;
    const fqi_columns *columns;
    const fqi_hessian *h;      /* source column order */
    const float *l;            /* factor for `order`, see fqi_cholesky: its row i is the column order[i]; nothing above the diagonal is read */
    const uint32_t *order;     /* [n_col]; processed from order[n_col - 1] down to order[0] */
    double lambda;             /* that the factor's diagonal was raised by */
    fqi_comm *comm;            /* fqi_gptq: ranks that share the rows, all with the same matrix; NULL: all rows here */
    size_t first_row, all_rows; /* private: which rows of a larger matrix; all_rows 0: it is the whole */
} fqi_solve;

/* Rows [first, first + n) of n_row that fqi_gptq solves on this rank: whole tiles of the matrix, so the bits are those of one rank. */
void fqi_solve_rows(const fqi_comm *c, size_t n_row, size_t *first, size_t *n);

typedef struct fqi_solve_result {
    double error;              /* tr(E H E^T), without damping, for H as accumulated (a sum over tokens) */
    double energy;             /* tr(W H W^T) of sampled rows, and... */
    double error_sampled;      /* ...the error of the same rows: error_sampled / energy is the relative error of the layer's output */
} fqi_solve_result;

/* Most rows that one of n_rank ranks gets. */
size_t fqi_solve_most_rows(size_t n_row, size_t n_rank);

/* *out is made here and is empty on failure. On several ranks collective: out and result are the whole, the same everywhere. FQ_E_NOMEM; FQ_E_USAGE, "scales": dynamic scales with groups that are scattered in `order`, or
 * with one of more than 256 columns that is not the first to be processed. */
fq_status fqi_gptq(const fqi_solve *s, fqi_codes *out, fqi_solve_result *result, fq_err *e);
/* Every weight to the nearest point of its grid; h->diag weighs the scale search (h may be NULL: no data, all columns weigh the same; the
 * result's error is then sum |E|^2 and energy sum |W|^2). l, order are not used. */
fq_status fqi_round_to_nearest(const fqi_solve *s, fqi_codes *out, fqi_solve_result *result, fq_err *e);

/* Bytes that fqi_gptq and fqi_round_to_nearest allocate at most beside their inputs and `out`: mostly E, one float for each weight. Saturates. */
uint64_t fqi_gptq_bytes(size_t n_row, size_t n_col, int n_thread);

#endif
