/* packed.h - names of quantized tensors: which module they belong to and which part of it they are.
 *
 * A quantized Linear M replaces M.weight by several tensors (GPTQ and AWQ: qweight, qzeros, scales, g_idx; compressed-tensors:
 * weight_packed, weight_scale, ...; block FP8: weight beside weight_scale_inv). Family tables only know M.weight, so these
 * names are bound through their module. */
#ifndef FITQ_CHECKPOINT_PACKED_H
#define FITQ_CHECKPOINT_PACKED_H

#include "arch/family.h"

typedef enum fqi_part {
    FQI_PART_NONE,      /* an ordinary name */
    FQI_PART_CODES,     /* packed integers: stand in for M.weight */
    FQI_PART_SCALE, FQI_PART_ZERO, FQI_PART_ORDER, FQI_PART_OTHER
} fqi_part;

typedef enum fqi_packing { FQI_PACKING_NONE, FQI_PACKING_GPTQ, FQI_PACKING_CT } fqi_packing;

typedef struct fqi_packed {
    fqi_part part;
    fqi_packing packing;   /* of CODES: which way they are packed */
    const char *suffix;    /* ".qweight" */
    size_t n_module;       /* bytes of the name before the suffix */
} fqi_packed;

/* False, part NONE, if the name has no such suffix. */
bool fqi_packed_split(const char *name, fqi_packed *out);
/* Binds such a name as M.weight would be. False if it is none, or the table does not know M.weight. */
bool fqi_packed_bind(const fqi_family *f, const fqi_naming *naming, const char *name, fqi_bound *out);

#endif
