/* table.h - what the family tables are written with.
 *
 * Most decoders of this lineage share their attention, norms and gated MLP name for name, so the groups of rows that they share
 * stand here once; a family's own file lists the groups it has and the rows that are its alone. Only src/arch/ includes this.
 *
 * Names and shapes: huggingface/transformers, models/<family>/modeling_<family>.py. Shapes as stored: a Linear is [out, in]. */
#ifndef FITQ_ARCH_TABLE_H
#define FITQ_ARCH_TABLE_H

#include "arch/family.h"

#define FQI_DIM1(a) { { FQI_AX_##a, 1 } }
#define FQI_DIM2(a, b) { { FQI_AX_##a, 1 }, { FQI_AX_##b, 1 } }
#define FQI_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Embedding, last norm, output head. A head may be stored although it is tied: it is bound all the same. */
#define FQI_ROWS_BODY                                                                                     \
    { FQI_BODY, "embed_tokens.weight", "embed_tokens", FQI_ALWAYS, 2, FQI_DIM2(VOCAB, HIDDEN) },          \
    { FQI_BODY, "norm.weight", "norm", FQI_ALWAYS, 1, FQI_DIM1(HIDDEN) },                                 \
    { FQI_HEAD, "lm_head.weight", "lm_head", FQI_IF_UNTIED, 2, FQI_DIM2(VOCAB, HIDDEN) }

#define FQI_ROWS_ATTENTION                                                                                             \
    { FQI_LAYER, "self_attn.q_proj.weight", "q_proj", FQI_ALWAYS, 2, FQI_DIM2(Q, HIDDEN) },                            \
    { FQI_LAYER, "self_attn.k_proj.weight", "k_proj", FQI_ALWAYS, 2, FQI_DIM2(KV, HIDDEN) },                           \
    { FQI_LAYER, "self_attn.v_proj.weight", "v_proj", FQI_ALWAYS, 2, FQI_DIM2(KV, HIDDEN) },                           \
    { FQI_LAYER, "self_attn.o_proj.weight", "o_proj", FQI_ALWAYS, 2, FQI_DIM2(HIDDEN, Q) },                            \
    { FQI_LAYER, "input_layernorm.weight", "input_norm", FQI_ALWAYS, 1, FQI_DIM1(HIDDEN) },                            \
    { FQI_LAYER, "post_attention_layernorm.weight", "post_attention_norm", FQI_ALWAYS, 1, FQI_DIM1(HIDDEN) }

#define FQI_ROWS_QKV_BIAS                                                                     \
    { FQI_LAYER, "self_attn.q_proj.bias", "q_bias", FQI_IF_Q_BIAS, 1, FQI_DIM1(Q) },          \
    { FQI_LAYER, "self_attn.k_proj.bias", "k_bias", FQI_IF_KV_BIAS, 1, FQI_DIM1(KV) },        \
    { FQI_LAYER, "self_attn.v_proj.bias", "v_bias", FQI_IF_KV_BIAS, 1, FQI_DIM1(KV) }

#define FQI_ROWS_O_BIAS { FQI_LAYER, "self_attn.o_proj.bias", "o_bias", FQI_IF_O_BIAS, 1, FQI_DIM1(HIDDEN) }

#define FQI_ROWS_QK_NORM                                                                              \
    { FQI_LAYER, "self_attn.q_norm.weight", "q_norm", FQI_IF_QK_NORM, 1, FQI_DIM1(HEAD_DIM) },        \
    { FQI_LAYER, "self_attn.k_norm.weight", "k_norm", FQI_IF_QK_NORM, 1, FQI_DIM1(HEAD_DIM) }

#define FQI_ROWS_MLP                                                                                 \
    { FQI_LAYER, "mlp.gate_proj.weight", "gate_proj", FQI_IF_DENSE, 2, FQI_DIM2(FF, HIDDEN) },       \
    { FQI_LAYER, "mlp.up_proj.weight", "up_proj", FQI_IF_DENSE, 2, FQI_DIM2(FF, HIDDEN) },           \
    { FQI_LAYER, "mlp.down_proj.weight", "down_proj", FQI_IF_DENSE, 2, FQI_DIM2(HIDDEN, FF) }

/* The fused form stacks gate rows on up rows; it has no ".weight" in its names. Sparse layers have one form or the other, so
 * neither is asked for alone: fqi_bind_check looks at both. */
#define FQI_ROWS_EXPERTS                                                                                              \
    { FQI_LAYER, "mlp.gate.weight", "router", FQI_IF_SPARSE, 2, FQI_DIM2(EXPERT, HIDDEN) },                           \
    { FQI_EXPERT, "gate_proj.weight", "expert_gate_proj", FQI_IF_SPARSE, 2, FQI_DIM2(MOE_FF, HIDDEN) },               \
    { FQI_EXPERT, "up_proj.weight", "expert_up_proj", FQI_IF_SPARSE, 2, FQI_DIM2(MOE_FF, HIDDEN) },                   \
    { FQI_EXPERT, "down_proj.weight", "expert_down_proj", FQI_IF_SPARSE, 2, FQI_DIM2(HIDDEN, MOE_FF) },               \
    { FQI_LAYER, "mlp.experts.gate_up_proj", "fused_gate_up_proj", FQI_OPTIONAL, 3,                                   \
      { { FQI_AX_EXPERT, 1 }, { FQI_AX_MOE_FF, 2 }, { FQI_AX_HIDDEN, 1 } } },                                         \
    { FQI_LAYER, "mlp.experts.down_proj", "fused_down_proj", FQI_OPTIONAL, 3,                                         \
      { { FQI_AX_EXPERT, 1 }, { FQI_AX_HIDDEN, 1 }, { FQI_AX_MOE_FF, 1 } } }

/* What every text model's table lets through: buffers that old versions of transformers stored with the weights. They hold no
 * axis that fitq changes (inverse frequencies depend on head_dim alone). */
extern const char *const fqi_body_model[];      /* "model." */
extern const char *const fqi_no_pass_prefix[];
extern const char *const fqi_stray_buffer[];

/* ---- how a family's config.json is read ------------------------------------------------------------------------ */

typedef enum fqi_bias_rule {
    FQI_BIAS_NONE,
    FQI_BIAS_QKV,            /* always on q, k, v */
    FQI_BIAS_QKV_KEY,        /* on q, k, v unless "qkv_bias" is false */
    FQI_BIAS_ATTENTION,      /* on q, k, v and o if "attention_bias" */
    FQI_BIAS_ATTENTION_QKV   /* on q, k, v if "attention_bias" */
} fqi_bias_rule;

/* Does any layer attend through a window? "layer_types", where present, says it for every family. */
typedef enum fqi_window_rule {
    FQI_WINDOW_NONE,
    FQI_WINDOW_KEY,          /* "sliding_window" is a number */
    FQI_WINDOW_UNLESS_NULL,  /* the same, and the family's class fills in a number where the key is absent: only null means none */
    FQI_WINDOW_USE,          /* "use_sliding_window" */
    FQI_WINDOW_USE_FROM,     /* "use_sliding_window", in layers from "max_window_layers" on */
    FQI_WINDOW_USE_BELOW,    /* "use_sliding_window", in layers 0, 2, 4, ... below "max_window_layers" */
    FQI_WINDOW_ANY           /* not known: a number, unless "use_sliding_window" is false */
} fqi_window_rule;

typedef enum fqi_sparse_rule {
    FQI_SPARSE_NONE,
    FQI_SPARSE_ALL,
    FQI_SPARSE_STEP,         /* "mlp_only_layers", "decoder_sparse_step" */
    FQI_SPARSE_FROM,         /* from layer "first_k_dense_replace" on, every "moe_layer_freq"-th */
    FQI_SPARSE_INTERLEAVE,   /* every "interleave_moe_layer_step"-th */
    FQI_SPARSE_ANY           /* not known: by the keys that are there; no experts, no sparse layers */
} fqi_sparse_rule;

typedef enum fqi_shared_rule {
    FQI_SHARED_NONE,
    FQI_SHARED_KEY,          /* "shared_expert_intermediate_size" */
    FQI_SHARED_OPTIONAL,     /* the same, or none */
    FQI_SHARED_COUNT,        /* "n_shared_experts" times an expert's width, stored as one MLP */
    FQI_SHARED_ONE           /* one of an expert's width */
} fqi_shared_rule;

typedef struct fqi_config_rules {
    const char *model_type;        /* of a foreign family; NULL in a family table */
    uint8_t bias, window, sparse, shared;
    const char *expert_width;      /* key; NULL = "moe_intermediate_size" */
    const char *dense_width;       /* key; NULL = "intermediate_size" */
    const char *head_dim;          /* key; NULL = "head_dim" */
    int64_t head_dim_default;      /* when the key is absent; 0 = hidden_size / heads */
    bool kv_is_heads;              /* without num_key_value_heads there are as many as query heads */
    bool qk_norm;                  /* of a foreign family */
    bool mlp_bias;                 /* reads "mlp_bias" */
    bool halved_width;             /* the key counts two halves of one projection */
    bool latent;                   /* multi-head latent attention: head_dim = qk_nope_head_dim + qk_rope_head_dim */
    /* What running a model needs of its class, where the file leaves the key out; families of the table only. */
    double rope_theta;             /* 0 = there is no default */
    int64_t sliding_window;        /* 0 = there is no default: a window without a length is an error */
    int64_t max_window_layers;
    bool always_norm_topk;         /* the weights of the chosen experts add up to 1 whatever norm_topk_prob says */
} fqi_config_rules;

/* Rules of a model_type without a table; those of a stranger if nothing is known. Never NULL. */
const fqi_config_rules *fqi_foreign_rules(const char *model_type);

extern const fqi_family fqi_family_qwen2, fqi_family_qwen3, fqi_family_qwen2_moe, fqi_family_qwen3_moe, fqi_family_llama,
    fqi_family_mistral, fqi_family_mixtral, fqi_family_qwen2_vl, fqi_family_qwen2_5_vl, fqi_family_qwen3_vl;

#endif
