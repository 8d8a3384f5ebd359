/* work.h - the buffers of the forward pass and what its parts share; private to src/model.
 *
 *     layer.c       norms, projections, residuals, the order of the parts
 *     attention.c   cache, scores, softmax, values
 *     mlp.c         gated MLP
 *     moe.c         routing, experts, shared expert */
#ifndef FITQ_MODEL_WORK_H
#define FITQ_MODEL_WORK_H

#include "model/layer.h"

#define FQI_QUERY_ROWS (4 * FQI_TILE_ROWS)   /* (token, head) rows of one tile of attention */

/* One allocation, cut into the buffers below; each begins on a cache line. */
struct fqi_layer_work {
    size_t n_token;
    int64_t n_position;
    fqi_comm *comm;              /* the ranks that the weights are shared among; NULL: this one has all */
    float *memory;
    float *norm;                 /* [n_token][hidden_size] input of the linears */
    float *q, *k, *v;            /* [n_token][heads * head_dim] */
    float *attention;            /* [n_token][heads * head_dim] */
    float *out;                  /* [n_token][hidden_size] what is added to the residual */
    float *gate, *up;            /* [n_token][widest MLP] */
    float *per_thread;           /* n_thread times thread_floats: see attention.c */
    size_t thread_floats;
    /* of sparse layers */
    float *routed;               /* [n_token][num_experts] probabilities */
    float *choice_weight;        /* [n_token][num_experts_per_tok] */
    uint32_t *choice;            /* the same shape: experts */
    uint32_t *expert_token;      /* [n_token] tokens of one expert */
    float *expert_weight;        /* [n_token] */
    float *gathered, *expert_out;   /* [n_token][hidden_size] */
};

/* One call of fqi_layer_forward or fqi_layer_step. */
typedef struct fqi_pass {
    const fqi_compute *c;
    const fqi_decoder *d;
    const fqi_layer_weights *w;
    const fqi_batch *batch;
    const fqi_tap *tap;
    fqi_layer_work *work;
    int64_t layer;
    fqi_step step;               /* of the MLP: how far it goes */
    float *attention;            /* [n_token][heads * head_dim]: work->attention, or the caller's */
} fqi_pass;

void fqi_pass_tap(const fqi_pass *p, fqi_tap_point point, int64_t expert, const float *x, const uint32_t *token, size_t n, size_t cols);
/* Threads worth starting for n pieces of work. */
int fqi_pass_threads(const fqi_pass *p, size_t n);

/* Floats that one thread needs for sequences of n_position. */
uint64_t fqi_attention_floats(const fqi_decoder *d, int64_t n_position);
/* Row `token` of work->k and v goes to the cache of its span, as key number `position`. */
void fqi_attention_append(const fqi_pass *p, const fqi_kv *kv, size_t token, int64_t position);
/* work->q against the caches -> p->attention. */
void fqi_attention_run(const fqi_pass *p);

/* out[i] = down(silu(gate(x[i])) * up(x[i])), n rows. down: the tap to show its input to. FQI_STEP_DOWN_IN ends with that tap. */
void fqi_mlp_run(const fqi_pass *p, const fqi_mlp_weights *m, const float *x, const uint32_t *token, size_t n, float *out, fqi_tap_point down,
                 int64_t expert);
/* work->norm -> work->out. FQI_STEP_MLP_IN and DOWN_IN end with the taps that they show; out is then of no use. */
void fqi_moe_run(const fqi_pass *p);

#endif
