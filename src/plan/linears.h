/* linears.h - the linear layers of a model as numbers, and what they cost in a format on some GPUs.
 *
 * Pure. Lengths come from an fq_model that fqi_model_check has accepted, so products are taken without looking; sums that a fitted
 * giant could still push over are saturated, never wrapped: a price of UINT64_MAX fits nowhere, which is right. */
#ifndef FITQ_PLAN_LINEARS_H
#define FITQ_PLAN_LINEARS_H

#include "arch/family.h"
#include "base/checked.h"
#include "plan/engines.h"

/* The lengths that a fit may change. */
typedef struct fqi_dims { int64_t ff, moe_ff, shared_ff, heads, kv, vocab; } fqi_dims;

/* What stands behind model_type beyond plain attention. */
typedef enum fqi_attention {
    FQI_ATT_PLAIN,   /* q, k, v, o as in Llama */
    FQI_ATT_HYBRID,  /* some layers are linear attention: heads cannot be padded, KV cache not modelled */
    FQI_ATT_LATENT   /* DeepSeek's MLA: no KV heads, other projections */
} fqi_attention;

/* An fq_model made safe to count with. */
typedef struct fqi_shape {
    const fq_model *m;
    fqi_dims dims;                 /* real lengths; 0 = no such axis */
    int64_t hidden, head_dim, layers, dense_layers, moe_layers, experts;
    fqi_attention attention;
    bool shared_gate;
} fqi_shape;

/* FQ_E_INPUT naming the field when a number is missing or absurd. */
fq_status fqi_shape_init(const fq_model *m, fqi_shape *out, fq_err *e);
void fqi_dims_apply(const fqi_dims *real, const fq_fit *fit, fqi_dims *out);

/* One (engine, format, GPU count), with everything that its rules ask for. */
typedef struct fqi_case {
    const fqi_shape *shape;
    size_t engine, format;      /* table indices */
    int tp, group, bits;        /* group: -1 = one per row, 0 = none */
    bool own;                   /* the checkpoint is already in this format */
    bool expert_parallel;
    bool as_llama;              /* judged as if the model were written as llama, which reads head_dim */
} fqi_case;

typedef enum fqi_linear_cut { FQI_CUT_NONE, FQI_CUT_COLUMN, FQI_CUT_ROW } fqi_linear_cut;

typedef struct fqi_linear {
    unsigned bit;               /* FQI_L_... */
    const char *tensor;
    fqi_axis k, n;              /* in_features, out_features */
    fqi_linear_cut cut;
    bool merged;                /* engines fuse its output with others' */
} fqi_linear;

const fqi_linear *fqi_linear_at(size_t i);   /* NULL past the end */
/* How many such matrices the model has. */
uint64_t fqi_linear_count(const fqi_shape *s, const fqi_linear *l);
int64_t fqi_dims_axis(const fqi_shape *s, const fqi_dims *d, fqi_axis a);   /* elements */
/* Elements of the axis on one GPU: the whole axis if it is not cut, -1 if it cannot be cut evenly. cut: is this linear cut along
 * this axis? */
int64_t fqi_rank_length(const fqi_case *c, const fqi_dims *d, const fqi_linear *l, fqi_axis a, bool cut);
static inline bool fqi_cuts(const fqi_linear *l, fqi_axis a)
{
    return (l->cut == FQI_CUT_ROW && a == l->k) || (l->cut == FQI_CUT_COLUMN && a == l->n);
}

typedef struct fqi_price {
    uint64_t params;             /* of the whole model */
    uint64_t bytes;              /* of the whole model in the format */
    uint64_t rank_bytes;         /* weights on one GPU */
    uint64_t kv_token_bytes;     /* KV cache of one token on one GPU; 0 where it is not modelled */
} fqi_price;

void fqi_price_of(const fqi_case *c, const fqi_dims *d, int kv_cache_bits, fqi_price *out);
/* Parameters of the model with these lengths (counted once where tied). */
uint64_t fqi_param_count(const fqi_shape *s, const fqi_dims *d);
/* Bytes of an [n, k] weight in the format of the case at `bits` bits. */
uint64_t fqi_weight_bytes(const fqi_case *c, int bits, int64_t n, int64_t k);
/* Bytes on one GPU that one query head (q rows, o columns) and one KV head (k and v rows) take over all layers. */
void fqi_head_bytes(const fqi_case *c, uint64_t *q, uint64_t *kv);
/* KV cache of one KV head for one token, all layers. */
uint64_t fqi_kv_head_token_bytes(const fqi_shape *s, int kv_cache_bits);

#endif
