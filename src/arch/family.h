/* family.h - model families as tables, and binding a checkpoint's tensor names to them.
 *
 * A family is rows: name pattern -> role, axis of each dimension. Adding a family adds a file with a table, no code. Names in the
 * tables are canonical; what stands before them in a given checkpoint (model., module.model., model.language_model.) is
 * found once per checkpoint and kept apart as a prefix. */
#ifndef FITQ_ARCH_FAMILY_H
#define FITQ_ARCH_FAMILY_H

#include "base/err.h"

/* The axes that may change length. FIXED: never does. */
typedef enum fqi_axis {
    FQI_AX_FIXED, FQI_AX_HIDDEN, FQI_AX_FF, FQI_AX_MOE_FF, FQI_AX_SHARED_FF, FQI_AX_Q, FQI_AX_KV, FQI_AX_HEAD_DIM,
    FQI_AX_VOCAB, FQI_AX_EXPERT, FQI_AX_ONE,
    FQI_N_AXIS
} fqi_axis;
/* AX_Q: query heads x head_dim elements; AX_KV: KV heads x head_dim. */

typedef struct fqi_axis_use { uint8_t axis, parts; } fqi_axis_use;   /* parts: 2 = gate|up stacked; 0 and 1 = once */

/* When a row's tensor must exist. */
typedef enum fqi_need { FQI_ALWAYS, FQI_IF_Q_BIAS, FQI_IF_KV_BIAS, FQI_IF_O_BIAS, FQI_IF_MLP_BIAS, FQI_IF_QK_NORM, FQI_IF_UNTIED,
    FQI_IF_DENSE, FQI_IF_SPARSE, FQI_IF_SHARED, FQI_OPTIONAL } fqi_need;

typedef enum fqi_scope {
    FQI_LAYER,   /* suffix after "layers.<i>." */
    FQI_EXPERT,  /* suffix after "layers.<i>.mlp.experts.<e>." (or the family's own infix) */
    FQI_BODY,    /* after the body prefix: embed_tokens.weight, norm.weight */
    FQI_HEAD     /* lm_head.weight */
} fqi_scope;

typedef struct fqi_row {
    fqi_scope scope;
    const char *suffix;
    const char *role;            /* "q_proj", "norm", ... */
    fqi_need need;
    uint8_t rank;
    fqi_axis_use dim[3];
} fqi_row;

typedef struct fqi_family {
    const char *name;                     /* = model_type in config.json */
    const char *const *architecture;      /* NULL-terminated; [0] is the usual one */
    const fqi_row *row; size_t n_row;
    const char *expert_infix;             /* "mlp.experts." or "block_sparse_moe.experts."; NULL = no experts */
    const char *const *body_prefix;       /* NULL-terminated, the usual one first: "model.", "model.language_model." */
    const char *const *pass_prefix;       /* tensors copied through: "visual.", "model.visual.", "mtp."; NULL-terminated */
    const char *const *pass_suffix;       /* e.g. "rotary_emb.inv_freq" */
    const char *text_config;              /* config.json member with the text fields, "" = top level or this if present */
    bool qkv_bias_default, head_dim_from_config, qk_norm;
    bool can_be_llama;                    /* same function as LlamaForCausalLM with attention_bias (docs/padding.md) */
} fqi_family;

const fqi_family *fqi_family_find(const char *model_type);
const fqi_family *fqi_family_at(size_t i);   /* NULL past the end */

/* How names of one checkpoint relate to canonical ones: stored = wrapper + body_prefix + canonical body name,
 * wrapper + head_prefix + canonical head name. */
typedef struct fqi_naming {
    char wrapper[128];        /* trainer's: "module.", "_orig_mod.", "base_model.model." and combinations; "" if none */
    char body_prefix[128];    /* "model.", "", "model.language_model." */
    char head_prefix[128];    /* "" mostly */
    bool usual;               /* wrapper "" and a body prefix that the family's table has */
} fqi_naming;

/* One name bound. */
typedef struct fqi_bound {
    const fqi_row *row;   /* NULL: passed through */
    int64_t layer, expert; /* -1 if none */
    const char *canonical; /* points into the name that was given: the part after wrapper and prefix */
} fqi_bound;

/* Finds the naming from all names (n of them). FQ_E_INPUT "prefix" if no name looks like a layer of a decoder or if two styles
 * are mixed. */
fq_status fqi_naming_detect(const fqi_family *f, const char *const *name, size_t n, const char *file, fqi_naming *out, fq_err *e);
/* False if the table does not know it. */
bool fqi_bind_name(const fqi_family *f, const fqi_naming *naming, const char *name, fqi_bound *out);
/* Length of an axis in the source model; 0 if the model has none. */
int64_t fqi_axis_length(const fq_model *m, fqi_axis a);
const char *fqi_axis_name(fqi_axis a);       /* "intermediate_size", "query heads x head_dim", ... */
/* Is the tensor of this row expected in layer `layer` of this model? (dense or sparse layer, biases, ...) */
bool fqi_row_expected(const fqi_row *r, const fq_model *m, int64_t layer, const bool *layer_is_sparse);

#endif
