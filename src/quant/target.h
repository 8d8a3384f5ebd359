/* target.h - weights that undo the error of earlier layers. Pure.
 *
 * A layer that is quantized sees y, the input that the quantized layers before it make, where the original model sees x. Asked for an output t
 * other than W y, it comes nearest by min_Q |t - Q Y|^2 = constant + tr((Q - W*) H (Q - W*)^T), H = sum y y^T, with
 *
 *     W* = W + M (H + lambda)^-1,    M = sum (t - W y) y^T
 *
 * t is what the original layer makes of its own input: t = W x (q, k, v, gate, up, and the down_proj of an expert). The two projections that
 * are added to the residual stream can do more: t = W x + (r - s), r the original stream and s the quantized one before the sum, so
 * that they also put right what earlier layers left there.
 *
 *     FQI_DRIFT_INPUT     moment C = sum (x - y) y^T, [n_col][n_col]:               M = W C
 *     FQI_DRIFT_OUTPUT    moment D = sum (r + W x - s) y^T, [n_row][n_col]:         M = D - W H
 *
 * A share a < 1 of the step keeps it from fitting the calibration text. t = W x with a = 1 is the objective of Qronos; GPTAQ
 * (arXiv 2504.02692) takes a quarter of its step. The residual in the target: the "output" of a block in block-wise
 * reconstruction (BRECQ, arXiv 2102.05426), solved in closed form. */
#ifndef FITQ_QUANT_TARGET_H
#define FITQ_QUANT_TARGET_H

#include "quant/hessian.h"

/* The share of the step that n_token rows warrant. The step is a regression of n_col unknowns for every output: of noise with variance s^2 it
 * fits n_col s^2 where the sought part is n_token v^2, so that the best share of it on other text is 1 / (1 + (s^2 / v^2) n_col / n_token).
 * s^2 / v^2 = NOISE is what gave the least divergence on held-out text with 2 to 290 rows for each column (docs/quality.md). */
double fqi_shift_share(double most, uint64_t n_token, size_t n_col);

typedef enum fqi_drift { FQI_DRIFT_INPUT, FQI_DRIFT_OUTPUT } fqi_drift;

typedef struct fqi_shift {
    fqi_drift drift;
    const float *moment;         /* C or D */
    const float *h;              /* as fqi_hessian holds it; FQI_DRIFT_OUTPUT only */
    const float *l; const uint32_t *order;   /* as fqi_cholesky made them */
    double a;
    size_t first, n;             /* rows that are wanted, in whole tiles; n 0: all */
} fqi_shift;

/* out = W + a M (H + lambda)^-1. w, out: [n_row][n_col], row-major, source column order; out may be w; of rows that are not wanted it is undefined. FQ_E_NOMEM. Bits do not depend on
 * the number of threads. A row of zeros stays one: padding, a pruned
 * output, or a layer that is switched off. */
fq_status fqi_shift_target(const fqi_linalg *la, const fqi_shift *shift, const float *w, size_t n_row, size_t n_col, float *out, fq_err *e);
uint64_t fqi_shift_target_bytes(size_t n_col, int n_thread);

#endif
