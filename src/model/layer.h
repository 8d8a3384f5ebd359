/* layer.h - one decoder layer for a batch of tokens: attention with its cache, dense MLP or mixture, residuals. Taps.
 *
 *     x --+-- input_norm -- q,k,v -- (q_norm,k_norm) -- rope -- attention over the cache -- o --+--+-- post_attention_norm -- MLP or MoE --+-- x
 *         +-----------------------------------------------------------------------------------+  +---------------------------------------+
 *
 * A batch is runs of consecutive tokens of some sequences, so prefill, evaluation of many windows at once and decoding of one token
 * are the same call. A token's result depends on its own sequence only; in fixed order not even its bits depend on what else
 * is in the batch (tested: token by token gives the bits of the whole prompt at once).
 *
 * Cache of one sequence and layer, fp32:
 *     k   [KV head][tile of 32 keys][head_dim][32]     keys side by side, so that a score tile is one gemm_tile
 *     v   [KV head][key][head_dim rounded up to 32]
 *
 * Served in bf16 or fp16, what an engine holds in that type is rounded to it, and sums within one of these steps are fp32:
 *     linear outputs after their bias (router and shared gate too); the normalised row before its weight, and after it (also q and k norm);
 *     cosines and sines, q and k after rotation; attention weights after the softmax; the output of attention;
 *     silu(gate), and its product with up; both residual sums;
 *     of several ranks: what each makes, and the sum;
 *     the weights of routed experts and sigmoid(shared gate), an expert's weighted output, each sum of those.
 * Not rounded: scores (flash attention keeps them in fp32) and the router's softmax. Sources: transformers, models/qwen2/modeling_qwen2.py
 * (eager_attention_forward casts the weights) and models/qwen2_moe/modeling_qwen2_moe.py. Engines that fuse some of these steps round less
 * or elsewhere (flash attention: the weights before their division), so this is one engine's rounding, not a bound of all. */
#ifndef FITQ_MODEL_LAYER_H
#define FITQ_MODEL_LAYER_H

#include "comm/comm.h"
#include "kernel/linear.h"
#include "model/rope.h"
#include "model/weights.h"

typedef struct fqi_kv { float *k, *v; int64_t capacity; } fqi_kv;   /* capacity: keys, a multiple of FQI_TILE; 64-byte aligned */

/* Floats of k and of v together for one sequence and one layer. */
size_t fqi_kv_floats(const fqi_decoder *d, int64_t capacity);
/* Points kv into fqi_kv_floats() floats at `memory`. The memory must be zeroed once before its first use: keys that are not there yet
 * take part in products with weight zero and must be finite. */
void fqi_kv_place(const fqi_decoder *d, float *memory, int64_t capacity, fqi_kv *kv);

typedef struct fqi_span { size_t n; int64_t pos; fqi_kv kv; } fqi_span;  /* tokens pos .. pos + n - 1; the cache holds those before */
typedef struct fqi_batch { const fqi_span *span; size_t n_span, n_token; } fqi_batch;

/* The inputs of linear layers. x: n rows of `cols`; of an expert only the tokens that were routed to it (expert >= 0; else -1).
 * token: index in the batch of each row, NULL = 0, 1, 2, ... Every input is shown once, before it is used, whichever linears
 * share it. */
typedef enum fqi_tap_point {
    FQI_TAP_ATTENTION,     /* q_proj, k_proj, v_proj */
    FQI_TAP_O,             /* o_proj */
    FQI_TAP_MLP,           /* gate_proj, up_proj; in a sparse layer the router, and the shared expert's gate_proj, up_proj, gate */
    FQI_TAP_DOWN,          /* down_proj */
    FQI_TAP_EXPERT_MLP,    /* an expert's gate_proj, up_proj */
    FQI_TAP_EXPERT_DOWN,
    FQI_TAP_SHARED_DOWN,
    FQI_TAP_HEAD           /* lm_head; of no layer, so no step shows it */
} fqi_tap_point;
typedef struct fqi_tap {
    void (*watch)(void *user, int64_t layer, fqi_tap_point point, int64_t expert, const float *x, const uint32_t *token, size_t n, size_t cols);
    void *user;
} fqi_tap;

/* One part of a layer alone, for a caller that changes the weights between parts (calibration on what is already quantized). Taps are
 * shown as in the whole pass. Doing ATTENTION, O, MLP one after another is fqi_layer_forward, bit for bit. */
typedef enum fqi_step {
    FQI_STEP_ATTENTION_IN,  /* x is read; norm; TAP_ATTENTION is shown, nothing else happens */
    FQI_STEP_ATTENTION,     /* x is read; TAP_ATTENTION, TAP_O; `attention` gets n_token rows of heads * head_dim */
    FQI_STEP_O,             /* x += o_proj(attention) */
    FQI_STEP_MLP_IN,        /* x is read; TAP_MLP, and after routing TAP_EXPERT_MLP of every expert */
    FQI_STEP_DOWN_IN,       /* x is read; as MLP_IN, and TAP_DOWN, TAP_EXPERT_DOWN, TAP_SHARED_DOWN */
    FQI_STEP_MLP            /* x += MLP(x); all taps of it */
} fqi_step;

/* Buffers of the forward pass for at most n_token tokens a call and sequences of at most n_position; made once. */
typedef struct fqi_layer_work fqi_layer_work;
fq_status fqi_layer_work_create(const fqi_decoder *d, const fqi_compute *c, size_t n_token, int64_t n_position, fqi_layer_work **out, fq_err *e);
void fqi_layer_work_free(fqi_layer_work *w);
/* The weights are a slice (slice.h) of one of these ranks, and the decoder is its local one: what o_proj and the MLP make is added over all ranks
 * before it is added to x, so x is the same on all of them. Every pass is collective then. comm may be NULL, and outlives w. */
void fqi_layer_work_share(fqi_layer_work *w, fqi_comm *comm);
/* Bytes of the above. */
uint64_t fqi_layer_work_bytes(const fqi_decoder *d, int n_thread, size_t n_token, int64_t n_position);

/* x: batch->n_token rows of hidden_size, replaced by the layer's output. tap may be NULL. FQ_E_NUMERIC, "activation", when the output has
 * a NaN or infinity (layer and token named; the caches then hold them too and are of no more use until zeroed). What fqi_comm_sum_float
 * fails with. */
fq_status fqi_layer_forward(const fqi_compute *c, const fqi_decoder *d, const fqi_rope_table *rope, const fqi_layer_weights *w, int64_t layer,
                            const fqi_batch *batch, float *x, fqi_layer_work *work, const fqi_tap *tap, fq_err *e);
/* The same for one step. attention: used by the steps that name it, else NULL. The result of a step is checked as there. */
fq_status fqi_layer_step(const fqi_compute *c, const fqi_decoder *d, const fqi_rope_table *rope, const fqi_layer_weights *w, int64_t layer,
                         const fqi_batch *batch, fqi_step step, float *x, float *attention, fqi_layer_work *work, const fqi_tap *tap, fq_err *e);

#endif
