/* weights.h - a checkpoint's weights, a layer at a time, in bounded memory.
 *
 *     reading threads: layer i + 1 -> free slot          caller: computes with layer i
 *
 * A slot holds one layer as stored (bf16 stays bf16), or rounded to the type that an engine would hold (served). A linear layer or an output
 * head that is stored as codes (checkpoint/quantized.h) is held as the numbers they stand for: F32, four bytes a weight, or served. With as many slots as
 * layers everything stays in memory and is read once (generation); with two, reading and computing overlap; with one they
 * take turns. Every weight that is read is checked: NaN or infinity is FQ_E_NUMERIC with tensor, index and count.
 *
 * Small vectors (norms, biases) are handed out as float. What a module's weight is made from is decided when it is found: a dense tensor
 * (materialise.c) or the parts of a quantized module (unpack.c).
 *
 * Of a slice (slice.h) only what this rank needs is read and held; matrices have the slice's rows and columns.
 *
 * One object serves one caller at a time; streams that compute with the same weights in another order share it. */
#ifndef FITQ_MODEL_WEIGHTS_H
#define FITQ_MODEL_WEIGHTS_H

#include "arch/decoder.h"
#include "checkpoint/catalogue.h"
#include "kernel/kernel.h"
#include "model/slice.h"

typedef struct fqi_mlp_weights { fqi_matrix gate, up, down; const float *gate_bias, *up_bias, *down_bias; } fqi_mlp_weights;

/* One layer; pointers live until the slot is used again. NULL biases and norms: the model has none. */
typedef struct fqi_layer_weights {
    const float *input_norm, *post_attention_norm, *q_norm, *k_norm;
    fqi_matrix q, k, v, o;
    const float *q_bias, *k_bias, *v_bias, *o_bias;
    bool sparse;
    fqi_mlp_weights mlp;            /* of a dense layer */
    fqi_matrix router;              /* of a sparse one, as the rest */
    const fqi_mlp_weights *expert;  /* num_experts; views into fused tensors where the checkpoint has those */
    bool has_shared;
    fqi_mlp_weights shared;
    fqi_matrix shared_gate;         /* data NULL: the shared expert is not gated */
} fqi_layer_weights;

typedef struct fqi_weights fqi_weights;

typedef struct fqi_weights_options {
    size_t n_slot;        /* layers held at once, 1 .. num_hidden_layers */
    fq_dtype served;      /* F32: as stored; F16, BF16: rounded to that */
    int64_t head_rows;    /* rows of the output head held at once; 0 = all of them */
    const fqi_slice *slice;   /* of this rank, outlives the weights; NULL: everything is read and held */
    const fq_run *run;    /* io and cancelled; not NULL */
} fqi_weights_options;

/* c and d outlive *out. Finds every tensor that the forward pass needs, checks that it is there ("weight-missing"), dense or a module that
 * fqi_quant_module_find accepts ("weight-quantized", and its rules), its shape and its dtype (F32, F16, BF16; others are FQ_E_INPUT,
 * "weight-dtype") and allocates the slots. Reads nothing. */
fq_status fqi_weights_create(const fq_ckpt *c, const fqi_decoder *d, const fqi_weights_options *o, fqi_weights **out, fq_err *e);
void fqi_weights_free(fqi_weights *w);    /* NULL is fine; stops the threads */

/* What there will be in memory, in bytes: one layer slot, one row of the head, and all else. Same checks. */
typedef struct fqi_weights_size { uint64_t slot_bytes, head_row_bytes, fixed_bytes; } fqi_weights_size;
fq_status fqi_weights_measure(const fq_ckpt *c, const fqi_decoder *d, const fqi_slice *slice, fq_dtype served, fqi_weights_size *out, fq_err *e);

/* Layer `layer`, waiting for it if need be, and starts to read the next ones into free slots (after the last layer: layer 0 only if all
 * fit). *out is valid until the next call for another layer, or for good when all layers fit. */
fq_status fqi_weights_layer(fqi_weights *w, int64_t layer, const fqi_layer_weights **out, fq_err *e);
/* n rows of the embedding, as float: out[i] = embed_tokens[ids[i]]. An id out of range is FQ_E_INPUT, "token-id". Of a slice: zeros where another rank
 * has the row. */
fq_status fqi_weights_embed(fqi_weights *w, const uint32_t *ids, size_t n, float *out, fq_err *e);
const float *fqi_weights_final_norm(fqi_weights *w, fq_err *e);   /* NULL on failure */
/* Rows [row, row + n) of the output head (tied: of the embedding), n <= head_rows; read unless they are held already. Of a slice: counted from its
 * first row. */
fq_status fqi_weights_head(fqi_weights *w, int64_t row, int64_t n, fqi_matrix *out, fq_err *e);
uint64_t fqi_weights_bytes_read(const fqi_weights *w);

#endif
