/* quant_layout.h - the formats of quantized weights as a table: which tensors a Linear is stored in, and how each of their dimensions follows
 * the weight's outputs (N) and inputs (K).
 *
 *     W[n][k] = scale[n / group_rows][group of k] * (code[n][k] - zero[...])          integers: zero in 0 .. 2^bits - 1
 *     W[n][k] = scale[n / group_rows][group of k] * float(code[n][k])                 E4M3 numbers
 *
 * Whoever reads, checks, pads or converts a module asks here what its parts are, and names no format. A row of the table is a form; a dimension
 * of a part counts elements of an axis, words that several of them share, or groups that have a scale together. So a map of the weight's
 * axis says what becomes of a part: elements move; a word is written again from the elements that it has now; a group moves whole.
 *
 * Pure: no files, no JSON. Forms that config.json names and that are not here are refused by checkpoint/quantized.c. Sources: GPTQModel and
 * AutoGPTQ nn_modules/qlinear; AutoAWQ modules/linear/gemm.py, utils/packing_utils.py; compressed-tensors compressors/pack_quantized and
 * naive_quantized; vllm quantization/fp8.py. */
#ifndef FITQ_CHECKPOINT_QUANT_LAYOUT_H
#define FITQ_CHECKPOINT_QUANT_LAYOUT_H

#include "fitq.h"

/* What a tensor is to its module. */
typedef enum fqi_part {
    FQI_PART_NONE,      /* an ordinary name */
    FQI_PART_CODES,     /* stand in for M.weight, or are it (FP8) */
    FQI_PART_SCALE, FQI_PART_ZERO,
    FQI_PART_ORDER,     /* the group of every input channel, where that is not k / group_size */
    FQI_PART_SHAPE,     /* numbers N and K */
    FQI_PART_INPUT,     /* scale of the activations: not of the weight */
    FQI_PART_OTHER,     /* of a format that is not read, or of the KV cache */
    FQI_N_PART
} fqi_part;

typedef enum fqi_along { FQI_ALONG_NONE, FQI_ALONG_N, FQI_ALONG_K } fqi_along;
typedef enum fqi_unit {
    FQI_UNIT_ELEMENT,   /* one entry for each */
    FQI_UNIT_WORD,      /* words of 32 bits that hold the fields of several: a stream without gaps, 32 elements fill `bits` words */
    FQI_UNIT_GROUP      /* one entry for group_rows (N) or group_cols (K) of them; the last group may be short */
} fqi_unit;

/* One dimension. Along NONE: `unit` is its length. */
typedef struct fqi_part_dim { uint8_t along, unit; } fqi_part_dim;

typedef enum fqi_part_need { FQI_PART_MUST, FQI_PART_IF_ASYM, FQI_PART_IF_ORDER, FQI_PART_MAY } fqi_part_need;

typedef struct fqi_part_form {
    const char *suffix;       /* ".qweight"; NULL: the form has no such part */
    uint32_t dtypes;          /* 1 << fq_dtype, or'ed */
    uint8_t need;             /* fqi_part_need */
    uint8_t rank;             /* a part of one number may have any rank */
    fqi_part_dim dim[2];
} fqi_part_form;

typedef enum fqi_quant_layout {
    FQI_QL_GPTQ, FQI_QL_AWQ, FQI_QL_CT,                                               /* integers */
    FQI_QL_FP8_BLOCK, FQI_QL_FP8_TENSOR,                                              /* quant_method fp8 */
    FQI_QL_CT_FLOAT_BLOCK, FQI_QL_CT_FLOAT_CHANNEL, FQI_QL_CT_FLOAT_TENSOR,           /* compressed-tensors, float-quantized */
    FQI_N_QL
} fqi_quant_layout;

typedef struct fqi_quant_form {
    const char *name;         /* for messages: "awq (gemm)" */
    bool floats;              /* codes are E4M3 numbers: no zero points, no words */
    uint32_t bits;            /* 1 << b, or'ed: numbers of bits that it has */
    const uint8_t *field;     /* of the elements that share a word, element j is field field[j] of it; NULL: j */
    fqi_part_form part[FQI_N_PART];
} fqi_quant_form;

/* What lengths of parts follow from. */
typedef struct fqi_quant_size { int64_t rows, cols; int bits; int64_t group_rows, group_cols; } fqi_quant_size;

const fqi_quant_form *fqi_quant_form_of(fqi_quant_layout layout);
/* Words that n fields of `bits` bits take. n < 2^56. */
static inline int64_t fqi_quant_words(int64_t n, int bits) { return n / 32 * bits + (n % 32 * bits + 31) / 32; }
/* Entries that n elements of the axis take in this dimension; of one along NONE its length. */
int64_t fqi_part_count(fqi_part_dim d, const fqi_quant_size *s, int64_t n);
/* Length of a dimension. */
int64_t fqi_part_length(fqi_part_dim d, const fqi_quant_size *s);
/* Has the part this axis in this unit? */
bool fqi_part_has(const fqi_part_form *p, fqi_along along, fqi_unit unit);
/* It is one number. */
bool fqi_part_is_scalar(const fqi_part_form *p);
/* "groups x output channels, packed" */
void fqi_part_words(const fqi_part_form *p, char *out, size_t n);

#endif
