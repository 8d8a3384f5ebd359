/* layer_model.h - random decoder layers for tests: a table of shapes, layers, their padded twins, and what they compute in double precision. */
#ifndef FITQ_TESTS_LAYER_MODEL_H
#define FITQ_TESTS_LAYER_MODEL_H

#include "base/mem.h"
#include "model/layer.h"

#define FQT_N_LAYER 4
#define FQT_LAYER 2       /* the one that is run */

typedef struct fqt_shape {
    const char *name;
    int64_t hidden, heads, kv, head_dim, inter;
    int64_t experts, top_k, moe_inter, shared_inter;
    int64_t window, rope_dim;        /* rope_dim 0: head_dim */
    bool qkv_bias, o_bias, mlp_bias, qk_norm, shared_gate, norm_topk;
    int64_t equal_experts;           /* experts 1 .. n have the same router row */
    fq_dtype dtype;
} fqt_shape;

extern const fqt_shape fqt_shapes[];
extern const size_t fqt_n_shape;

typedef struct fqt_layer {
    fqi_arena arena;
    fqi_decoder d;
    fqi_layer_weights w;
    int64_t max_cols;
} fqt_layer;

/* Random numbers: one state per process; the caller prints the seed. */
extern uint64_t fqt_state;
double fqt_uniform(double low, double high);
size_t fqt_below(size_t n);

void fqt_layer_random(const fqt_shape *s, fqt_layer *out);
void fqt_layer_free(fqt_layer *m);

/* How a twin differs: MLP widths and where zeros go, query heads of zeros per KV head, copies of each KV head. */
typedef enum fqt_spread { FQT_TAIL, FQT_FRONT, FQT_ALTERNATE, FQT_RANDOM, FQT_N_SPREAD } fqt_spread;
typedef struct fqt_padding { fqt_spread spread; int64_t more_width, more_heads, copies; } fqt_padding;
void fqt_layer_pad(const fqt_layer *m, const fqt_padding *p, fqt_layer *out);

/* The layer for tokens 0 .. n - 1 of one sequence, written down anew: x and out are n rows of hidden_size. served: every step of
 * layer.h's list rounds. weights (may be NULL): n rows of num_experts, the weight of each expert, 0 = not chosen. */
void fqt_reference(const fqt_layer *m, fq_dtype served, const float *x, size_t n, double *out, double *weights);

#endif
