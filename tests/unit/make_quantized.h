/* make_quantized.h - quantized checkpoints and what they mean, made at run time by a writer of its own.
 *
 * One random model in two folders: with its linear layers as codes of GPTQ, AWQ, compressed-tensors or FP8, and dense, with the F32 numbers
 * that those codes stand for. Everything else has the same bytes in both. Codes, scales, zero points and groups are random; nothing here
 * quantizes anything. Words are written from the published layouts, not with the library's code. */
#ifndef FITQ_TESTS_MAKE_QUANTIZED_H
#define FITQ_TESTS_MAKE_QUANTIZED_H

#include "make_ckpt.h"

typedef enum fqt_format {
    FQT_GPTQ_V1, FQT_GPTQ_V2, FQT_CT, FQT_N_FORMAT,    /* of any bits and order */
    FQT_AWQ = FQT_N_FORMAT,                            /* 4 bits, asymmetric */
    FQT_FP8_BLOCK, FQT_FP8_TENSOR, FQT_CT_FP8_BLOCK, FQT_CT_FP8_CHANNEL, FQT_CT_FP8_TENSOR, FQT_N_ANY
} fqt_format;
static inline bool fqt_is_fp8(fqt_format f) { return f >= FQT_FP8_BLOCK; }
/* Of g_idx: not there; k / group; any group for any channel. */
typedef enum fqt_order { FQT_ORDER_ABSENT, FQT_ORDER_PLAIN, FQT_ORDER_ANY, FQT_N_ORDER } fqt_order;

typedef struct fqt_quant {
    fqt_format format;
    int bits;
    int64_t group;           /* -1: one group; of FP8 blocks their columns */
    int64_t block_rows;      /* of FP8 blocks */
    bool asym;
    fqt_order order;
    const char *scale;       /* dtype of scales; NULL = "F16", of FP8 "F32" */
    const char *served;      /* "BF16", "F16": the dense numbers are those of an engine that holds scales and weights so; NULL: exact */
    bool lm_head, lm_head_only;
    const char *extra;       /* more members of quantization_config: ", \"x\": 1"; NULL = none */
} fqt_quant;

/* The tables of both, with data; write them with fqt_write_shards, or change something before. */
typedef struct fqt_pair { fqt_table packed, dense; void **data; size_t n_data; } fqt_pair;
fqt_pair fqt_quant_tables(const fqt_model *m, const fqt_quant *q);
void fqt_pair_free(fqt_pair *p);
/* config.json with quantization_config. */
void fqt_write_quant_config(const char *dir, const fqt_model *m, const fqt_quant *q);
/* Both folders, made if they are missing; dense may be NULL. */
void fqt_make_quantized(const char *packed, const char *dense, const fqt_model *m, const fqt_quant *q);

#endif
