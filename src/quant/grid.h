/* grid.h - from real numbers to codes: the scales and zero points of groups, and rounding to them. Pure.
 *
 * A group is some columns of one row; its weights are w = scale * (code - zero), code in 0 .. 2^bits - 1. Everywhere in src/quant the
 * rows (out_features) are the fast index: element (row n, column k) of an array stands at [k * n_row + n]. So a vector of rows is
 * quantized at once, and a column of codes is what GPTQ's qweight packs.
 *
 * Scales are rounded to the type that they will be stored in *before* a weight is rounded with them, so that what is decided here is
 * what an engine computes with. Rules for choosing them:
 *
 *     min-max    the reference's (IST-DASLab/gptq quant.py): sym: 2 max|w| / (2^b - 1), zero 2^(b-1); asym: range extended to 0. One
 *                difference: a symmetric group without a negative (or positive) value uses the whole range, where the reference halves it
 *     weighted   argmin over a grid of scales of sum_k h_k (w_k - s q_k(s))^2; h: curvature of the column. In symmetric mode of either
 *                sign, if allowed (the extreme weight then lands on -2^(b-1): one step more) */
#ifndef FITQ_QUANT_GRID_H
#define FITQ_QUANT_GRID_H

#include "base/err.h"

typedef enum fqi_scale_rule { FQI_SCALE_MIN_MAX, FQI_SCALE_WEIGHTED } fqi_scale_rule;

/* Numbers that a stored scale may be. BOTH: of F16 and of BF16 alike (8 significant bits, exponents of F16's normal numbers), since
 * engines round F16 scales to BF16 when the model's type is that. */
typedef enum fqi_scale_store { FQI_STORE_F16, FQI_STORE_BF16, FQI_STORE_BOTH } fqi_scale_store;

typedef struct fqi_grid {
    int bits;                 /* 2, 3, 4, 8 */
    bool sym;
    bool signed_scale;        /* symmetric weighted scales may be negative */
    fqi_scale_rule rule;
    fqi_scale_store store;
    uint8_t zero_least;       /* asymmetric: smallest zero point that may be chosen; 1 where the file cannot say 0 (GPTQ v1) */
} fqi_grid;

/* The nearest number that may be stored, ties to even; never 0 for an x that is not 0 (the smallest normal number then), never
 * infinite (the largest). */
float fqi_scale_round(fqi_scale_store store, float x);

/* Scales and zero points of one group of n_col columns for rows [0, n_row). w: [n_col][ld] (ld >= n_row), weight: h of each column
 * (NULL = 1; all zero counts as 1), scale and zero: n_row entries each; zero is 2^(bits-1) in symmetric mode. A row of zeros gets
 * scale 1 and the middle as its zero point. n_col may be 0. Weights are finite, h is not negative. Rows are searched 16 (8) at a time. */
void fqi_grid_choose(const fqi_grid *g, const float *w, size_t ld, size_t n_row, size_t n_col, const float *weight, float *scale, uint8_t *zero);

/* code[n] = clamp(round(w[n] / scale[n]) + zero[n]); ties to even; back[n] = scale[n] * (code[n] - zero[n]). back may be w. Vectors
 * by instruction set inside; the same bits everywhere. */
void fqi_grid_round(const fqi_grid *g, const float *w, const float *scale, const uint8_t *zero, size_t n_row, uint8_t *code, float *back);

#endif
