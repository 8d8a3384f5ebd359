/* loads.h - what engines make of the parts of a quantized Linear when they give each GPU its slice, as a table.
 *
 * engines.h says what an engine refuses. This says what it computes with where it does not: which row of scales and zero points the kernel
 * takes for an input channel of a slice. Where that is not the row which the checkpoint means, nothing is refused and the output is garbage.
 *
 *     row-parallel slice of rank r: input channels [r K/tp, (r + 1) K/tp), codes of these, and
 *         cut       rows r R .. (r + 1) R - 1 of scales, R = floor(K/tp / group_size)      vllm/model_executor/parameter.py, RowvLLMParameter
 *         whole     all rows                                                             quantization/auto_gptq.py, desc_act
 *     the row of channel k of the slice, counted in the rows that were loaded:
 *         size      k / group_size
 *         order     g_idx[k], which counts groups of the whole matrix
 *         derived   k / (K/tp / loaded rows): the kernel divides lengths and is not told the group size
 *         fixed     k / a number that the kernel has built in
 *
 * Column-parallel slices have whole input channels: everything is loaded, only g_idx may be another one's. Pure. Dense weights and FP8 are not
 * here: a slice of theirs is a range, and what would cut a block is refused. Codes are not either: what would cut a word is refused. */
#ifndef FITQ_PLAN_LOADS_H
#define FITQ_PLAN_LOADS_H

#include "plan/linears.h"

/* What config.json says about the order of input channels. */
enum {
    FQI_ORDER_NONE = 1,      /* group = k / group_size; a g_idx that is stored is not read */
    FQI_ORDER_STORED = 2,    /* desc_act, actorder "group": g_idx counts */
    FQI_ORDER_STATIC = 4     /* actorder "static", "weight": the order is the quantizer's own business, and none is stored */
};

typedef enum fqi_load_group { FQI_LOAD_SIZE, FQI_LOAD_ORDER, FQI_LOAD_DERIVED, FQI_LOAD_FIXED } fqi_load_group;

typedef struct fqi_load {
    const char *name;        /* rule of the difference: kebab-case */
    unsigned engines, formats, linears, orders;
    uint8_t group;           /* fqi_load_group */
    uint8_t fixed;           /* channels of a group, FQI_LOAD_FIXED */
    bool inputs;             /* only where activations are rounded too (W4AFP8): another kernel */
    bool whole;              /* of row-parallel layers: scales and zero points are loaded whole */
    bool middle;             /* symmetric: zero points are 2^(bits-1), the stored ones are not read */
    bool last_order;         /* layers that are fused share one g_idx: that of the one which is loaded last */
    const char *says;        /* what goes wrong, in a message */
    const char *source;
} fqi_load;

/* The first row that has them all; NULL: slices of this engine are not modelled. Bits as in engines.h; order: one of the above; inputs: activations are
 * rounded too. */
const fqi_load *fqi_load_find(unsigned engine, unsigned format, unsigned linear, unsigned order, bool inputs);

typedef struct fqi_load_cut {
    int64_t cols, group;     /* K; channels that share a scale, cols for one group a row */
    int tp;                  /* slices of K; 1 for column-parallel layers */
} fqi_load_cut;

/* Row of the whole matrix' scales that rank k / (cols / tp) takes for input channel k of the whole matrix; -1: one that it has not got. order: g_idx
 * as the engine has it, by channel of the whole matrix; NULL: there is none. cols % tp == 0. */
int64_t fqi_load_row(const fqi_load *l, const fqi_load_cut *c, const int32_t *order, int64_t k);
/* Does the kernel refuse what it derives from all rows? Group sizes that it has: 32, 64, 128 (Marlin). *found: the derived one. */
bool fqi_load_refuses(const fqi_load *l, const fqi_load_cut *c, int64_t *found);

/* A quantization method whose kernel has one group size built in and does not look at config.json's. */
typedef struct fqi_load_fixed { unsigned engines; const char *method; int group; const char *source; } fqi_load_fixed;
/* NULL: not known as such. method: config.json's quant_method. */
const fqi_load_fixed *fqi_load_fixed_find(unsigned engine, const char *method);

#endif
