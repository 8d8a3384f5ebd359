/* packed.h - names of quantized tensors: which module they belong to and which part of it they are.
 *
 * A quantized Linear M replaces M.weight by several tensors (GPTQ and AWQ: qweight, qzeros, scales, g_idx; compressed-tensors:
 * weight_packed, weight_scale, ...; FP8: weight beside weight_scale_inv or weight_scale). Family tables only know M.weight, so these
 * names are bound through their module. The names of forms that are read are those of quant_layout.c. */
#ifndef FITQ_CHECKPOINT_PACKED_H
#define FITQ_CHECKPOINT_PACKED_H

#include "arch/family.h"
#include "checkpoint/quant_layout.h"

typedef struct fqi_packed {
    fqi_part part;
    const char *suffix;    /* ".qweight" */
    size_t n_module;       /* bytes of the name before the suffix */
} fqi_packed;

/* False, part NONE, if the name has no such suffix. A plain ".weight" is none, though FP8 codes have it: fqi_quant_is_codes tells. */
bool fqi_packed_split(const char *name, fqi_packed *out);
/* Binds such a name as M.weight would be, or M where a family has no ".weight" in it (all experts in one tensor). False if it is none, or
 * the table knows neither. */
bool fqi_packed_bind(const fqi_family *f, const fqi_naming *naming, const char *name, fqi_bound *out);

#endif
