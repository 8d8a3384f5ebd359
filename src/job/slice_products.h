/* slice_products.h - do the slices of every weight, each read alone and multiplied, make the product of the whole?
 *
 *     W x           read and multiplied once, in blocks
 *     row-parallel  sum over ranks of W_r x_r, W_r the input channels that rank r reads            o, down; whole experts, biases that one rank adds
 *     else          W_r x, against the outputs of W x that rank r has; all must be there           q, k, v, gate, up, embedding, output head, biases
 *
 * x is pseudo-random and the same for every run. A slice is read from the disk by its own ranges (model/slice.h), never cut from what the whole
 * left in memory. Numbers are those that the checkpoint stands for: quantized weights as W = scale (code - zero) with the groups that the slice meets.
 * Which rows of scales an engine would take instead is not asked here: see job/slice_values.h.
 *
 * Sums are in double, products of two floats exact: what is left are roundings of 1e-16, so that 1e-9 of the outputs' size, rms, is a difference.
 *
 * What all ranks have whole (norms, routers) is not cut, and left out. Left out and counted: types other than F32, F16, BF16 and those of modules;
 * integer codes whose input channels are cut inside of 32; zero points that readers disagree about (rule "packed-zero", "zero-version"). */
#ifndef FITQ_JOB_SLICE_PRODUCTS_H
#define FITQ_JOB_SLICE_PRODUCTS_H

#include "checkpoint/quantized.h"
#include "model/slice.h"

typedef struct fqi_products {
    size_t n_weight, n_slice;     /* multiplied; slices of them */
    size_t n_unread;              /* left out */
    uint64_t bytes;               /* read */
    double worst;                 /* largest |parts - W x| / |W x| of a weight */
} fqi_products;

/* slice: n_slice of them, of one model. Threads: run->n_thread, each with about 20 MiB. Progress and cancelled: from the caller's thread. FQ_E_DIFFERS
 * "slice-sum" (a product differs: rank, where it is one rank's, and output channel) or "slice-missing" (outputs that no rank has) of the first weight in
 * the order of files; FQ_E_NUMERIC "non-finite". */
fq_status fqi_slice_products(const fq_ckpt *c, const fqi_quant_scheme *scheme, const fqi_slice *slice, int n_slice, const fq_run *run, fqi_products *out, fq_err *e);

#endif
