/* grid_c.c - the grid's inner loops in plain C, one row at a time: what every processor runs, and what the vector versions are compared
 * with. */
#include "quant/grid_kernels.h"

typedef float V;
typedef bool M;
#define N_LANE 1

static inline V v_load(const float *p) { return *p; }
static inline void v_store(float *p, V x) { *p = x; }
static inline V v_set(float x) { return x; }
static inline V v_add(V a, V b) { return a + b; }
static inline V v_sub(V a, V b) { return a - b; }
static inline V v_mul(V a, V b) { return a * b; }
static inline V v_div(V a, V b) { return a / b; }
static inline V v_fma(V a, V b, V c) { return fmaf(a, b, c); }
/* Of zeros of both signs the second, as x86's instructions. */
static inline V v_min(V a, V b) { return a < b ? a : b; }
static inline V v_max(V a, V b) { return a > b ? a : b; }
static inline V v_rint(V x) { return rintf(x); }
static inline M v_less(V a, V b) { return a < b; }
static inline V v_pick(M m, V a, V b) { return m ? a : b; }

static inline V v_type(V x, const fqi_grid_type *t) { return fqi_grid_type_round(t, x); }

#include "quant/grid_lanes.h"

static void round_rows(float top, const float *w, const float *scale, const uint8_t *zero, size_t n_row, uint8_t *code, float *back)
{
    for (size_t n = 0; n < n_row; n++) fqi_grid_round_one(top, w[n], scale[n], zero[n], &code[n], &back[n]);
}

const fqi_grid_kernels fqi_grid_kernels_c = { "c", N_LANE, choose, round_rows };
