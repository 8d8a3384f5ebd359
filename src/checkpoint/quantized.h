/* quantized.h - the quantized modules of a checkpoint: which form they have (quant_layout.h), and what config.json and the headers say of them.
 *
 *     gptq                v1 or v2 zeros, any g_idx; bits, group_size, sym, desc_act from quantization_config
 *     awq                 version gemm, 4 bits, with zero points
 *     compressed-tensors  pack-quantized, also of W4AFP8, whose activations engines round; float-quantized (FP8) with a scale for each block, channel or tensor
 *     fp8                 weight_scale_inv for each block; weight_scale for each tensor
 *
 * Everything that headers tell is checked against the model's axes when a module is found: shapes, dtypes, presence of every part. What
 * stands in the tensors (g_idx in range, zero points, scales, weight_shape) is checked by who reads them (model/unpack.c). Other methods
 * and formats are FQ_E_INPUT "quantized" with their name. Reads no weights. */
#ifndef FITQ_CHECKPOINT_QUANTIZED_H
#define FITQ_CHECKPOINT_QUANTIZED_H

#include "checkpoint/catalogue.h"
#include "checkpoint/quant_layout.h"

/* What config.json says of all modules. */
typedef struct fqi_quant_scheme {
    unsigned layouts;         /* 1 << fqi_quant_layout, or'ed; 0: config.json does not say that anything is quantized */
    int bits;
    int64_t group_size;       /* -1: one group */
    int64_t block[2];         /* output x input channels of an FP8 block; 0: there are none */
    bool sym, zeros_v1, order;
    bool rounds_inputs;       /* engines round activations too: results of theirs differ by that */
    bool rounds_ints_inputs;  /* those of layers of integers (W4AFP8) */
    bool varies;              /* the numbers above are those of some modules only: shapes tell */
} fqi_quant_scheme;

typedef struct fqi_quant_module {
    fqi_quant_layout layout;
    const fqi_quant_form *form;
    fqi_quant_size size;      /* N, K of the weight it stands for; a group of one row of scales is group_cols = cols */
    bool sym;                 /* every zero is 2^(bits-1): a file that says otherwise is wrong. False: zeros are what is stored */
    bool zeros_v1;            /* zeros are stored minus 1 */
    const fqi_tensor *part[FQI_N_PART];   /* NULL: there is none (zero: only if sym; order: channel k is in group k / group_cols) */
} fqi_quant_module;

/* FQ_OK if config.json says nothing about quantization, or a method and a format of it that is read; else "quantized". */
fq_status fqi_quant_scheme_read(const fq_ckpt *c, fqi_quant_scheme *out, fq_err *e);
/* The same, for who only wants to know. */
fq_status fqi_quant_check(const fq_ckpt *c, fq_err *e);
/* Is tensor i the codes of a module? Then the first *n_module bytes of its name are the module's. A weight with its plain name is codes if
 * it has a scale, or is FP8 where config.json says that weights are. */
bool fqi_quant_is_codes(const fq_ckpt *c, size_t i, size_t *n_module);
/* Has the module, the first n_module bytes of the name, codes or a scale of them? */
bool fqi_quant_beside(const fq_ckpt *c, const char *name, size_t n_module);
/* The row of M.weight that codes i stand for, and the lengths that the model's axes give it: bound as it is (FP8), or through the module. False if
 * tensor i is no module's codes, or the family's table does not know it. row->rank may be 3 (all experts in one tensor); length is then 0. */
bool fqi_quant_row(const fq_ckpt *c, size_t i, fqi_bound *out, int64_t length[2]);
/* The module whose codes are tensor i, which stands for a weight of shape [rows, cols]. FQ_E_INPUT, rules: "quantization-config",
 * "packed-parts", "packed-dtype", "packed-shape", "packed-bits", "packed-group", "packed-and-plain". */
fq_status fqi_quant_module_find(const fq_ckpt *c, const fqi_quant_scheme *s, size_t i, int64_t rows, int64_t cols, fqi_quant_module *out, fq_err *e);

#endif
