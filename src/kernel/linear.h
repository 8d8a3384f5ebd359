/* linear.h - y = x W^T + b for a block of tokens, in one of two orders, over several threads.
 *
 *     fast    many tokens: stored weights are widened a panel at a time into a scratch that stays in cache and go to the BLAS (a
 *             single-threaded sgemm per panel and block of tokens: these depend on the shape, never on the thread count, so neither
 *             do the bits); few tokens: own kernels straight from the stored weights (lanes order), bound by memory bandwidth
 *     fixed   sequence order (kernel.h) for any number of tokens: bits depend on nothing but the numbers
 *
 * The only part that calls the BLAS. Threads are OpenMP's. */
#ifndef FITQ_KERNEL_LINEAR_H
#define FITQ_KERNEL_LINEAR_H

#include "kernel/blas.h"
#include "kernel/kernel.h"

#define FQI_FEW_TOKENS 4   /* up to here reading the weights costs more than multiplying; with one more, bits may change in fast order */

typedef enum fqi_order { FQI_ORDER_FAST, FQI_ORDER_FIXED } fqi_order;

/* How numbers are computed; made once per run and passed down. Not thread-safe: `panel` is written by fqi_matmul. */
typedef struct fqi_compute {
    const fqi_kernels *kernel;
    fqi_order order;
    fqi_blas blas;        /* of fast order */
    fq_dtype served;      /* F32, or F16 / BF16: every result that an engine would hold in that type is rounded to it */
    int n_thread;         /* >= 1 */
    float *panel;         /* scratch of fqi_matmul: n_thread * panel_floats, 64-byte aligned; owned */
    size_t panel_floats;
} fqi_compute;

/* max_cols: largest in_features that will come. */
fq_status fqi_compute_create(fqi_order order, fq_dtype served, int n_thread, int64_t max_cols, fqi_compute *out, fq_err *e);
void fqi_compute_free(fqi_compute *c);
/* Bytes that a compute of these settings allocates, and those that the BLAS keeps for its own packing (all threads together).
 * UINT64_MAX: more than can be counted. */
uint64_t fqi_compute_bytes(int n_thread, int64_t max_cols);

/* x: n_token rows of w->cols; y: n_token rows of w->rows (not overlapping x), or rows at stride ldy >= w->rows. bias may be NULL. y is rounded to
 * c->served (after the bias, as engines' epilogues do). */
void fqi_matmul(const fqi_compute *c, const fqi_matrix *w, const float *bias, const float *x, size_t n_token, float *y, size_t ldy);

#endif
