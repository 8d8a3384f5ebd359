/* engines.h - what inference engines ask of tensor shapes, as tables.
 *
 * One row is one check that an engine makes (or silently relies on), with the place where the engine states it. The tables know
 * nothing about models; judge.c applies them to one. Adding an engine or a rule adds rows here, and no code. */
#ifndef FITQ_PLAN_ENGINES_H
#define FITQ_PLAN_ENGINES_H

#include "fitq.h"

/* Bits of fqi_rule.engines, in table order. */
enum {
    FQI_E_VLLM = 1, FQI_E_VLLM_2025 = 2, FQI_E_SGLANG = 4, FQI_E_TRANSFORMERS = 8, FQI_E_TGI = 16, FQI_E_LMDEPLOY = 32,
    FQI_E_TENSORRT_LLM = 64, FQI_E_LLAMA_CPP = 128
};
/* Bits of fqi_rule.formats, in table order. */
enum {
    FQI_F_BF16 = 1, FQI_F_FP16 = 2, FQI_F_GPTQ = 4, FQI_F_GPTQ_MARLIN = 8, FQI_F_AWQ = 16, FQI_F_AWQ_MARLIN = 32,
    FQI_F_CT_INT4 = 64, FQI_F_CT_INT8 = 128, FQI_F_FP8 = 256, FQI_F_FP8_BLOCK = 512, FQI_F_NVFP4 = 1024,
    FQI_F_MXFP4 = 2048, FQI_F_GGUF_K = 4096, FQI_F_ALL = 8191
};
/* Bits of fqi_rule.linears; the order is that of fqi_linear_at. */
enum {
    FQI_L_Q = 1, FQI_L_KV = 2, FQI_L_O = 4, FQI_L_GATE_UP = 8, FQI_L_DOWN = 16, FQI_L_SHARED_GATE_UP = 32, FQI_L_SHARED_DOWN = 64,
    FQI_L_EXPERT_GATE_UP = 128, FQI_L_EXPERT_DOWN = 256, FQI_L_ALL = 511,
    FQI_L_EXPERT = FQI_L_EXPERT_GATE_UP | FQI_L_EXPERT_DOWN, FQI_L_NOT_EXPERT = FQI_L_ALL & ~FQI_L_EXPERT,
    FQI_L_ALL_DOWN = FQI_L_DOWN | FQI_L_SHARED_DOWN | FQI_L_EXPERT_DOWN
};

/* K = in_features, N = out_features; "rank": of one GPU. */
typedef enum fqi_check {
    FQI_CK_HEADS,       /* query heads % tp */
    FQI_CK_KV_COPY,     /* KV heads >= tp: % tp; fewer: tp % KV heads, every GPU holds one */
    FQI_CK_KV_WHOLE,    /* KV heads % tp, never copied */
    FQI_CK_SPLIT,       /* the axis that is split % tp */
    FQI_CK_VOCAB,       /* vocabulary rounded up to the divisor, % tp */
    FQI_CK_K_RANK,      /* K of one GPU % divisor (the whole K where K is not split) */
    FQI_CK_N_RANK,      /* N of one GPU, times `parts`, % divisor */
    FQI_CK_K_TILE,      /* K of one GPU % divisor; or % half of it, where N of one GPU is a multiple of twice its own tile, 128 */
    FQI_CK_K_ROW,       /* like K_RANK, only for tensors whose K is really split */
    FQI_CK_N_PART,      /* N of every part of a split or merged output % divisor (parts that differ in length: the first) */
    FQI_CK_K_WHOLE,     /* K % divisor, GPUs or not */
    FQI_CK_HEAD_DIM,    /* head_dim % divisor */
    FQI_CK_HEAD_DIM_READ, /* head_dim is read from config.json, or is what the engine computes instead */
    FQI_CK_GROUP_LIST,  /* group_size is one that the kernel has */
    FQI_CK_EXPERTS,     /* experts % tp, where each GPU has whole ones */
    FQI_CK_NO_MOE,      /* the engine has no such kernel for experts */
    FQI_CK_GPTQ_TYPE,   /* symmetric 4 or 8 bits */
    FQI_CK_ACT_ORDER    /* desc_act on more than one GPU */
} fqi_check;

/* Divisors that depend on the format at hand. */
enum {
    FQI_DIV_GROUP = -1,      /* group_size; nothing to check for one group per row */
    FQI_DIV_PACK = -2,       /* values in a 32-bit word */
    FQI_DIV_GROUP_64 = -3,   /* max(64, group_size) */
    FQI_LIST_MARLIN = -4,    /* {-1, 32, 64, 128} */
    FQI_LIST_128 = -5        /* {128} */
};

typedef struct fqi_rule {
    const char *name;
    unsigned engines, formats, linears;
    fqi_check check;
    int divisor;
    int parts;               /* N_RANK: how many equal parts are fused before the check; 0 = 1 */
    bool silent;             /* not refused: something else is computed */
    bool soft;               /* not refused, and right: only larger or slower */
    bool only_desc_act;      /* applies to checkpoints in activation order */
    const char *engine_text; /* what the engine prints, NULL if nothing */
    const char *source;
} fqi_rule;

typedef struct fqi_engine {
    fq_engine_info info;
    unsigned judged;         /* formats whose rules are in the tables */
    unsigned loads;          /* formats that it can load at all */
    bool splits;             /* tensor parallel: axes are cut into equal parts */
    bool expert_parallel;    /* can give every GPU whole experts */
    double memory_share;     /* of a GPU's memory that it takes unless told otherwise; 0 = all, or not a plain share */
    const char *memory_setting;
} fqi_engine;

typedef struct fqi_format {
    fq_format_info info;
    int group_overhead_bits; /* scale and zero point of one group (of one block for fp8-block) */
    bool block;              /* groups are group_size x group_size blocks */
    bool embeddings;         /* embeddings and output head are in this format too */
} fqi_format;

const fqi_engine *fqi_engine_at(size_t i);   /* NULL past the end */
const fqi_format *fqi_format_at(size_t i);
const fqi_rule *fqi_rule_at(size_t i);
/* Index of an id; false if there is none. */
bool fqi_engine_find(const char *id, size_t *i);
bool fqi_format_find(const char *id, size_t *i);

/* What an engine does with head_dim in config.json for a family. */
typedef struct fqi_head_dim {
    unsigned engines;
    const char *family;
    bool ignored;            /* it computes hidden_size / heads instead */
    const char *refusal;     /* what it prints when heads do not divide hidden_size; NULL: nothing, it computes nonsense */
    const char *source;
} fqi_head_dim;

/* NULL: not known. */
const fqi_head_dim *fqi_head_dim_of(unsigned engine_bit, const char *family);

#endif
