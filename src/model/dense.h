/* dense.h - the numbers that a quantized module stands for, some rows at a time: for who writes them down or compares them, and not for a
 * forward pass (weights.h).
 *
 * Numbers are exact products in fp32, as unpack.c makes them when nothing is served in a smaller type; rounding them to 16 bits is a step of its
 * own, once, to the nearest, so that it can be measured. Several threads read. Everything that is wrong in a module's tensors is found here too. */
#ifndef FITQ_MODEL_DENSE_H
#define FITQ_MODEL_DENSE_H

#include "checkpoint/quantized.h"

typedef struct fqi_dense fqi_dense;

/* cols: most input channels of a module that will be asked for. run: io; not NULL. c and run outlive *out. */
fq_status fqi_dense_create(const fq_ckpt *c, int64_t cols, const fq_run *run, fqi_dense **out, fq_err *e);
void fqi_dense_free(fqi_dense *d);              /* NULL is fine; stops the threads */
/* What it takes in memory, in bytes. */
uint64_t fqi_dense_bytes(const fq_ckpt *c, int64_t cols);
/* Rows [row, row + n) of the weight, [n][cols]. Errors as for a model that is run: "packed-order", "packed-zero", "zero-version", "packed-shape",
 * "non-finite". */
fq_status fqi_dense_rows(fqi_dense *d, const fqi_quant_module *q, int64_t row, int64_t n, float *out, fq_err *e);

/* What rounding did to n numbers; zero-initialise, it adds up. */
typedef struct fqi_rounding {
    uint64_t n, n_changed;
    double error2, weight2;       /* sums of squares: of what was changed, of the numbers */
    double worst;                 /* largest |rounded - x| / |x| */
    uint64_t n_beyond, beyond;    /* larger than the type holds, and the first of these, counted from the beginning of this call */
} fqi_rounding;
/* n numbers to the nearest that dtype (F16, BF16; F32 copies) has, ties to even, to `out`. x is used up. The sums do not depend on n_thread. */
fq_status fqi_dense_round(const fqi_dense *d, float *x, size_t n, fq_dtype dtype, int n_thread, void *out, fqi_rounding *cost, fq_err *e);

#endif
