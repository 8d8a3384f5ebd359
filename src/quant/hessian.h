/* hessian.h - the second moment of a linear layer's inputs, H = sum x x^T, and its factor. Pure.
 *
 * Only the lower triangle is kept. Sums are fp32 in blocks of fixed size, so that bits depend on the rows and on how they were dealt to
 * calls, and on nothing else (not on the number of threads). Products are single-threaded BLAS calls on tiles that are dealt to threads. */
#ifndef FITQ_QUANT_HESSIAN_H
#define FITQ_QUANT_HESSIAN_H

#include "kernel/blas.h"

typedef struct fqi_linalg { const fqi_blas *blas; int n_thread; } fqi_linalg;

typedef struct fqi_hessian {
    float *h;           /* [n][n], row-major, lower triangle */
    size_t n;
    uint64_t n_token;   /* rows added */
} fqi_hessian;

uint64_t fqi_hessian_bytes(size_t n);
fq_status fqi_hessian_create(size_t n, fqi_hessian *out, fq_err *e);
void fqi_hessian_free(fqi_hessian *h);
/* H += x^T x; x: n_row rows of h->n at stride ld. The product is made alone before it is added: made from zero somewhere else, and added there, it
 * gives the same bits (job/quant_layer_ranks.c). At least 80 % of ssyrk's rate for n_row >= 512. */
void fqi_hessian_add(const fqi_linalg *la, fqi_hessian *h, const float *x, size_t n_row, size_t ld);
/* The moment of a shifted target (target.h), C += (a - b)^T y, [m][n] full. a, b: n_row rows of m, y: of n, all without gaps. As
 * above, the product is made alone. */
void fqi_cross_add(const fqi_linalg *la, float *c, size_t m, size_t n, const float *a, const float *b, const float *y, size_t n_row);

/* L of P H P^T + damp * mean(diag H) * I = L L^T, lower, [n][n]; order: P as column numbers, order[i] = the column of H that is row i of L.
 * Columns with H_jj == 0 (no input ever reached them) count as H_jj = 1 with nothing beside it. *lambda: what was added to the
 * diagonal. FQ_E_NUMERIC, "cholesky", when a pivot is not positive or not finite: its column and value are in the message. l and h->h
 * do not overlap; of l nothing above the diagonal is written or read. */
fq_status fqi_cholesky(const fqi_linalg *la, const fqi_hessian *h, const uint32_t *order, double damp, float *l, double *lambda, fq_err *e);
/* Bytes that it allocates beside l. Saturates. */
uint64_t fqi_cholesky_bytes(size_t n, int n_thread);

#endif
