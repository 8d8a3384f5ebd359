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
    FQI_IF_DENSE, FQI_IF_SPARSE, FQI_IF_SHARED, FQI_OPTIONAL, FQI_BESIDE_CODES } fqi_need;

typedef enum fqi_scope {
    FQI_LAYER,   /* suffix after "layers.<i>." */
    FQI_EXPERT,  /* suffix after "layers.<i>.mlp.experts.<e>." (or the family's own infix) */
    FQI_BODY,    /* after the body prefix: embed_tokens.weight, norm.weight */
    FQI_HEAD     /* lm_head.weight */
} fqi_scope;

/* Roles, the same words in every family whatever its names are:
 *   body and head    embed_tokens norm lm_head
 *   layer norms      input_norm post_attention_norm q_norm k_norm
 *   attention        q_proj k_proj v_proj o_proj                           and q_bias k_bias v_bias o_bias
 *   dense MLP        gate_proj up_proj down_proj                           and gate_bias up_bias down_bias
 *   mixture          router
 *                    expert_gate_proj expert_up_proj expert_down_proj      one tensor per expert
 *                    fused_gate_up_proj fused_down_proj                    all experts of a layer in one tensor
 *                    shared_gate_proj shared_up_proj shared_down_proj shared_expert_gate
 *   of no family     extra_bias (fqi_bind_extra_bias) */
typedef struct fqi_row {
    fqi_scope scope;
    const char *suffix;
    const char *role;            /* one of the words above */
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
    const struct fqi_config_rules *rules; /* how its config.json is read; private to src/arch */
} fqi_family;

const fqi_family *fqi_family_find(const char *model_type);
const fqi_family *fqi_family_at(size_t i);   /* NULL past the end */
/* FQ_E_INPUT "unknown-family" that lists the known ones: what a job says that needs a family. */
fq_status fqi_family_unknown(const char *model_type, const char *file, fq_err *e);

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
    const char *canonical; /* points into the name that was given: the part after wrapper and prefix ("layers.0.mlp.up_proj.weight",
                              "lm_head.weight"); of a vision tower and the like: the part after the wrapper */
} fqi_bound;

/* Finds the naming from all names (n of them). FQ_E_INPUT "prefix" if no name looks like a layer of a decoder or if two styles
 * are mixed. */
fq_status fqi_naming_detect(const fqi_family *f, const char *const *name, size_t n, const char *file, fqi_naming *out, fq_err *e);
/* False if the table does not know it. layer and expert are what the name says; fqi_bind_check compares them with the model. */
bool fqi_bind_name(const fqi_family *f, const fqi_naming *naming, const char *name, fqi_bound *out);
/* The bias of a linear layer for which the table has none: packers of GPTQ write one for every layer, zeros where the model has none. Its row
 * (need FQI_BESIDE_CODES, role "extra_bias", no suffix) is in no family's table and follows the layer's outputs. False if the name is no such. */
bool fqi_bind_extra_bias(const fqi_family *f, const fqi_naming *naming, const char *name, fqi_bound *out);
/* Length of an axis in the source model; 0 if the model has none. */
int64_t fqi_axis_length(const fq_model *m, fqi_axis a);
const char *fqi_axis_name(fqi_axis a);       /* "intermediate_size", "query heads x head_dim", ... */
/* Its config.json calls the width of an expert intermediate_size (mixtral). */
bool fqi_family_experts_say_intermediate(const fqi_family *f);
/* Is the tensor of this row expected in layer `layer` of this model? (dense or sparse layer, biases, ...) */
bool fqi_row_expected(const fqi_row *r, const fq_model *m, int64_t layer, const bool *layer_is_sparse);

typedef enum fqi_misfit_kind {
    FQI_MISSING,             /* a tensor that is not there */
    FQI_NO_PLACE,            /* a bound one of a layer, an expert or an MLP that the model does not have */
    FQI_TWO_FORMS            /* experts of one layer both fused and one by one: an engine reads one form and drops the other in
                                silence. row is a fused one; said once for a layer */
} fqi_misfit_kind;

typedef struct fqi_misfit {
    fqi_misfit_kind kind;
    const fqi_row *row;
    int64_t layer, expert;   /* -1 if none */
    size_t index;            /* into bound, of one without a place; else SIZE_MAX */
} fqi_misfit;
/* Compares all bound names with what the model must have: expected rows of every layer, every expert (per expert or fused; a
 * layer that has one fused tensor must have both and may have none per expert). Entries with row NULL are ignored, as are
 * unbound ones (canonical NULL). The first cap misfits go to out, their number to *n_misfit. Linear. */
fq_status fqi_bind_check(const fqi_family *f, const fq_model *m, const bool *layer_is_sparse, const fqi_bound *bound, size_t n_bound, fqi_misfit *out, size_t cap, size_t *n_misfit, fq_err *e);
/* Its canonical name ("layers.3.mlp.experts.7.up_proj.weight") into out. */
void fqi_row_name(const fqi_family *f, const fqi_row *r, int64_t layer, int64_t expert, char *out, size_t n_out);

#endif
