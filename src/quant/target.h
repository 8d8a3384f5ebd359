/* target.h - weights that undo the error of earlier layers. Pure.
 *
 * A layer that is quantized sees y, the input that the quantized layers before it make, where the original model sees x. The outputs are
 * nearest in min_Q |W X - Q Y|^2 = constant + tr((Q - W*) H (Q - W*)^T), H = sum y y^T, with W* = W + W C (H + lambda)^-1,
 * C = sum (x - y) y^T (fqi_cross_add). A share a < 1 of the step keeps it from fitting the calibration text
 * (a = 1 is the objective of Qronos; GPTAQ, arXiv 2504.02692, takes a quarter of its step). */
#ifndef FITQ_QUANT_TARGET_H
#define FITQ_QUANT_TARGET_H

#include "quant/hessian.h"

/* out = W + a W C (H + lambda)^-1. w, out: [n_row][n_col], row-major, source column order; out may be w. c: [n_col][n_col]. l, order: as
 * fqi_cholesky made them. FQ_E_NOMEM. Bits do not depend on the number of threads. */
fq_status fqi_shift_target(const fqi_linalg *la, const float *w, size_t n_row, size_t n_col, const float *c, const float *l, const uint32_t *order, double a,
                           float *out, fq_err *e);
uint64_t fqi_shift_target_bytes(size_t n_col, int n_thread);

#endif
