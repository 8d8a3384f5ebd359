/* grid.c - scales, zero points and rounding; the arithmetic is in grid_lanes.h. It sees finite numbers only: the caller checked. */
#include "quant/grid.h"

#include <stdatomic.h>
#include <string.h>

#include "quant/grid_kernels.h"

const fqi_grid_type fqi_grid_types[] = {
    [FQI_STORE_F16] = { 13, 0x38800000u, 0x477fe000u },    /* 2^-14 .. 65504 */
    [FQI_STORE_BF16] = { 16, 0x00800000u, 0x7f7f0000u },   /* 2^-126 .. 3.39e38 */
    [FQI_STORE_BOTH] = { 16, 0x38800000u, 0x477f0000u },   /* 2^-14 .. 65280 */
};

/* In the order of fqi_kernels_at. */
static const fqi_grid_kernels *const version[FQI_N_KERNELS] = {
    &fqi_grid_kernels_c,
#ifdef __x86_64__
    &fqi_grid_kernels_avx2,
    &fqi_grid_kernels_avx512,
#endif
};

const fqi_grid_kernels *fqi_grid_kernels_at(size_t i) { return fqi_kernels_at(i) ? version[i] : NULL; }

/* Found once: asking the processor takes microseconds in a virtual machine, which is longer than rounding a column of a tile. What is kept
 * is a property of the process, and every version gives the same bits. */
static const fqi_grid_kernels *kernels(void)
{
    static _Atomic(const fqi_grid_kernels *) known;
    const fqi_grid_kernels *k = atomic_load_explicit(&known, memory_order_acquire);
    if (k) return k;
    const fqi_kernels *chosen = NULL;
    k = &fqi_grid_kernels_c;
    if (fqi_kernels_choose(&chosen, NULL) == FQ_OK)
        for (size_t i = 0; i < FQI_N_KERNELS; i++)
            if (version[i] && strcmp(version[i]->name, chosen->name) == 0) k = version[i];
    atomic_store_explicit(&known, k, memory_order_release);
    return k;
}

float fqi_scale_round(fqi_scale_store store, float x) { return fqi_grid_type_round(&fqi_grid_types[store], x); }

void fqi_grid_choose_with(const fqi_grid_kernels *k, const fqi_grid *g, const float *w, size_t ld, size_t n_row, size_t n_col, const float *weight,
                          float *scale, uint8_t *zero)
{
    float most = 0, s[FQI_GRID_LANES_MOST], z[FQI_GRID_LANES_MOST];
    for (size_t i = 0; weight && i < n_col; i++)
        if (weight[i] > most) most = weight[i];
    fqi_grid_task t = { .grid = g, .ld = ld, .n_col = n_col, .weight = most > 0 ? weight : NULL, .weight_most = most };
    for (size_t n = 0; n < n_row; n += k->n_lane) {
        t.w = w + n;
        t.n_row = n_row - n < k->n_lane ? n_row - n : k->n_lane;
        k->choose(&t, s, z);
        memcpy(scale + n, s, t.n_row * sizeof *s);
        for (size_t i = 0; i < t.n_row; i++) zero[n + i] = (uint8_t)z[i];
    }
}

void fqi_grid_choose(const fqi_grid *g, const float *w, size_t ld, size_t n_row, size_t n_col, const float *weight, float *scale, uint8_t *zero)
{
    fqi_grid_choose_with(kernels(), g, w, ld, n_row, n_col, weight, scale, zero);
}

void fqi_grid_round_with(const fqi_grid_kernels *k, const fqi_grid *g, const float *w, const float *scale, const uint8_t *zero, size_t n_row,
                         uint8_t *code, float *back)
{
    k->round((float)((1 << g->bits) - 1), w, scale, zero, n_row, code, back);
}

void fqi_grid_round(const fqi_grid *g, const float *w, const float *scale, const uint8_t *zero, size_t n_row, uint8_t *code, float *back)
{
    fqi_grid_round_with(kernels(), g, w, scale, zero, n_row, code, back);
}
