/* quantized.h - the quantized modules of a checkpoint: which tensors a Linear is stored in, and what they say.
 *
 *     gptq                qweight, qzeros, scales, g_idx          bits, group_size, sym, desc_act from quantization_config; v1 or v2 zeros
 *     compressed-tensors  weight_packed, weight_scale, weight_shape, weight_zero_point, weight_g_idx      pack-quantized
 *
 * Everything that headers tell is checked against the model's axes when a module is found: shapes, dtypes, presence of every part. What
 * stands in the tensors (g_idx in range, zero points, scales, weight_shape) is checked by who reads them (model/unpack.c). Other methods
 * are FQ_E_INPUT "quantized" with the method's name. Reads no weights. */
#ifndef FITQ_CHECKPOINT_QUANTIZED_H
#define FITQ_CHECKPOINT_QUANTIZED_H

#include "checkpoint/catalogue.h"

typedef enum fqi_quant_layout { FQI_QL_GPTQ, FQI_QL_CT } fqi_quant_layout;

/* W[n][k] = scale[group of k][n] * (code[n][k] - zero[group of k][n]), code and zero in 0 .. 2^bits - 1. Group of k: order[k], or k / group_size. */
typedef struct fqi_quant_module {
    fqi_quant_layout layout;
    int bits; int64_t group_size;        /* elements; = cols for one group */
    bool sym;                            /* every zero is 2^(bits-1): a file that says otherwise is wrong. False: zeros are what is stored */
    bool zeros_v1;                       /* zeros are stored minus 1 */
    int64_t rows, cols;                  /* N, K of the weight it stands for */
    const fqi_tensor *codes, *scale, *zero, *order;   /* zero, order: NULL if there is none (zero: only if sym) */
    const fqi_tensor *shape;             /* weight_shape [2]; NULL for gptq */
} fqi_quant_module;

/* FQ_OK if config.json says nothing about quantization, or a method and a format of it that this file reads; else "quantized". */
fq_status fqi_quant_check(const fq_ckpt *c, fq_err *e);
/* The module that stands for weight `name` ("...q_proj.weight", as stored) of shape [rows, cols]. *found false: there is no such module.
 * FQ_E_INPUT, rules: "quantized", "packed-parts", "packed-dtype", "packed-shape", "packed-bits", "packed-group", "packed-and-plain". */
fq_status fqi_quant_module_find(const fq_ckpt *c, const char *name, int64_t rows, int64_t cols, bool *found, fqi_quant_module *out, fq_err *e);

#endif
