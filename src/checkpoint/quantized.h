/* quantized.h - the quantized modules of a checkpoint: which tensors a Linear is stored in, and what they say.
 *
 *     gptq                qweight, qzeros, scales, g_idx          bits, group_size, sym, desc_act from quantization_config; v1 or v2 zeros
 *     compressed-tensors  weight_packed, weight_scale, weight_shape, weight_zero_point, weight_g_idx      pack-quantized
 *
 * Everything is checked against the model's axes when a module is found: shapes, dtypes, presence of every part. Other methods are
 * FQ_E_INPUT "quantized" with the method's name. Reads no weights. */
#ifndef FITQ_CHECKPOINT_QUANTIZED_H
#define FITQ_CHECKPOINT_QUANTIZED_H

#include "checkpoint/catalogue.h"

typedef enum fqi_quant_layout { FQI_QL_GPTQ, FQI_QL_CT } fqi_quant_layout;

typedef struct fqi_quant_module {
    fqi_quant_layout layout;
    int bits; int64_t group_size;        /* elements; = cols for one group */
    bool sym, zeros_v1;
    int64_t rows, cols;                  /* N, K of the weight it stands for */
    const fqi_tensor *codes, *scale, *zero, *order;   /* zero, order: NULL if there is none */
} fqi_quant_module;

/* The module that stands for weight `name` ("...q_proj.weight", as stored) of shape [rows, cols]. *found false: there is no such module. */
fq_status fqi_quant_module_find(const fq_ckpt *c, const char *name, int64_t rows, int64_t cols, bool *found, fqi_quant_module *out, fq_err *e);

#endif
