/* grid_kernels.h - the inner loops of grid.c by instruction set: what every version does, and how one is chosen. Private to src/quant.
 *
 * The arithmetic is written once (grid_lanes.h) for a vector of rows; plain C is the same with one lane. Every operation is one correctly
 * rounded one, so all versions give the same bits. */
#ifndef FITQ_QUANT_GRID_KERNELS_H
#define FITQ_QUANT_GRID_KERNELS_H

#include <math.h>
#include <string.h>

#include "kernel/kernel.h"
#include "quant/grid.h"

/* The normal numbers of a stored type among floats: `drop` low bits are 0 and the magnitude lies in [least, most]. As bits of floats,
 * whose order is that of their magnitudes. */
typedef struct fqi_grid_type { uint32_t drop, least, most; } fqi_grid_type;
extern const fqi_grid_type fqi_grid_types[];   /* by fqi_scale_store */

/* The nearest of them, ties to even; 0 stays 0. */
static inline float fqi_grid_type_round(const fqi_grid_type *t, float x)
{
    uint32_t u, a;
    memcpy(&u, &x, sizeof u);
    a = u & 0x7fffffffu;
    if (a == 0) return 0.0f;
    a = (a + (1u << (t->drop - 1)) - 1 + (a >> t->drop & 1)) >> t->drop << t->drop;
    a = a < t->least ? t->least : a > t->most ? t->most : a;
    u = (u & 0x80000000u) | a;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* The group whose scales are chosen, for as many rows as the kernels have lanes. */
typedef struct fqi_grid_task {
    const fqi_grid *grid;
    const float *w;          /* [n_col][ld] */
    size_t ld, n_row;        /* n_row <= n_lane; the other lanes are rows of zeros */
    size_t n_col;
    const float *weight;     /* [n_col], or NULL: all 1 */
    float weight_most;       /* the largest of them, not 0: weights count relative to it, so that no sum of theirs overflows */
} fqi_grid_task;

typedef struct fqi_grid_kernels {
    const char *name;        /* of the fqi_kernels that they belong to */
    size_t n_lane;
    void (*choose)(const fqi_grid_task *t, float *scale, float *zero);   /* n_lane numbers each */
    /* See fqi_grid_round; top: 2^bits - 1. */
    void (*round)(float top, const float *w, const float *scale, const uint8_t *zero, size_t n_row, uint8_t *code, float *back);
} fqi_grid_kernels;

#define FQI_GRID_LANES_MOST 16

extern const fqi_grid_kernels fqi_grid_kernels_c;
#ifdef __x86_64__
extern const fqi_grid_kernels fqi_grid_kernels_avx2, fqi_grid_kernels_avx512;
#endif

/* grid.c's functions with given kernels: for tests. */
const fqi_grid_kernels *fqi_grid_kernels_at(size_t i);   /* as fqi_kernels_at */
void fqi_grid_choose_with(const fqi_grid_kernels *k, const fqi_grid *g, const float *w, size_t ld, size_t n_row, size_t n_col, const float *weight,
                          float *scale, uint8_t *zero);
void fqi_grid_round_with(const fqi_grid_kernels *k, const fqi_grid *g, const float *w, const float *scale, const uint8_t *zero, size_t n_row,
                         uint8_t *code, float *back);

/* One element of fqi_grid_round: what the vector versions do per lane, for their tails. */
static inline void fqi_grid_round_one(float top, float w, float scale, uint8_t zero, uint8_t *code, float *back)
{
    float z = (float)zero, q = rintf(w / scale) + z;
    q = q > 0.0f ? q : 0.0f;
    q = q < top ? q : top;
    *code = (uint8_t)q;
    *back = scale * (q - z);
}

#endif
