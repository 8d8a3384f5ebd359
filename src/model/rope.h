/* rope.h - rotary position embedding: frequencies by kind, tables of cosines and sines, rotation. Pure.
 *
 * Formulas as in transformers' modeling_rope_utils.py. Dimension d pairs with d + dim/2 ("rotate half"); dimensions from dim on
 * are left as they are. Frequencies and angles are computed in double and rounded once. */
#ifndef FITQ_MODEL_ROPE_H
#define FITQ_MODEL_ROPE_H

#include "arch/decoder.h"

/* inv: dim/2 entries. n_position: length of the sequence (dynamic scaling depends on it). *scale: what cosines and sines are multiplied
 * by (yarn's attention factor; else 1). */
void fqi_rope_frequencies(const fqi_rope *r, int64_t n_position, double *inv, double *scale);

typedef struct fqi_rope_table {
    int64_t n_position;
    size_t half;         /* dim / 2 */
    float *cos, *sin;    /* [n_position][half]; owned */
} fqi_rope_table;

/* Positions 0 .. n_position - 1. served: cosines and sines as an engine holds them (F32: not rounded). */
fq_status fqi_rope_table_create(const fqi_rope *r, int64_t n_position, fq_dtype served, fqi_rope_table *out, fq_err *e);
void fqi_rope_table_free(fqi_rope_table *t);

/* Rotates n_head heads of head_dim at x (contiguous) for one position, in place: x0 = x0 c - x1 s, x1 = x1 c + x0 s, each product and each
 * sum rounded to float. */
void fqi_rope_apply(const fqi_rope_table *t, int64_t position, float *x, size_t n_head, size_t head_dim);

#endif
