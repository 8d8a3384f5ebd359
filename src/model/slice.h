/* slice.h - what one of several ranks holds of a model: a range of every axis. Pure.
 *
 * The cut is that of the engines (vllm, model_executor/layers/linear.py and fused_moe/layer.py; SGLang mirrors them):
 *
 *     q_proj, gate_proj, up_proj     output channels; q by whole heads
 *     k_proj, v_proj                 output channels by whole KV heads; with more ranks than KV heads, rank r holds KV head r / (ranks / KV heads)
 *     o_proj, down_proj              input channels; what the ranks make is added
 *     biases                         as the outputs; of o_proj and down_proj on rank 0 alone, since outputs are added
 *     experts                        each is cut like an MLP; or (expert parallel) whole experts, the first ranks hold one more if they do not divide
 *     embedding, output head         rows; of a vocabulary rounded up to 64, if that divides, else of as equal parts as there are
 *     norms, router, shared gate     whole
 *
 * So the rest of the forward pass sees a model with fewer heads and narrower MLPs. Refused ("ranks"): heads or widths that do not divide. */
#ifndef FITQ_MODEL_SLICE_H
#define FITQ_MODEL_SLICE_H

#include "arch/decoder.h"

typedef struct fqi_range { int64_t first, n; } fqi_range;

typedef struct fqi_slice {
    int rank, size;
    fqi_range axis[FQI_N_AXIS];   /* of each axis, in its elements; all of it where it is not cut */
    fqi_range expert;             /* whole experts that are held */
    fqi_decoder local;            /* the whole one with the lengths that are left; vocab_size and num_experts are the whole ones. Tables are the whole one's */
} fqi_slice;

/* path: for messages. d outlives *out. FQ_E_INPUT "ranks": the model does not divide; names what, and `fitq plan`. */
fq_status fqi_slice_make(const fqi_decoder *d, int rank, int size, bool expert_parallel, const char *path, fqi_slice *out, fq_err *e);

/* Rows of the embedding and of the output head that a rank has. */
fqi_range fqi_slice_vocab(int64_t vocab_size, int rank, int size);

/* Part of a tensor: ranges of its dimensions. parts 2: of each of the two halves of the dimension (gate | up). */
typedef struct fqi_cut { int rank; fqi_range dim[3]; uint8_t parts[3]; int64_t whole[3]; } fqi_cut;

/* What a tensor of this row and shape leaves; slice NULL: all of it. */
void fqi_cut_make(const fqi_slice *slice, const fqi_row *row, const int64_t *shape, fqi_cut *out);
/* Entries of a dimension that are held. Dimensions behind the rank have 1. */
static inline int64_t fqi_cut_length(const fqi_cut *c, int d) { return d < c->rank ? c->dim[d].n * c->parts[d] : 1; }
/* Is something of a dimension behind the first left out? */
bool fqi_cut_inner(const fqi_cut *c);
/* Element number `at` of what is held -> its number in the whole tensor. */
uint64_t fqi_cut_origin(const fqi_cut *c, uint64_t at);
/* Does this rank hold a tensor of this row and expert (-1: of none)? */
bool fqi_slice_has(const fqi_slice *slice, const fqi_row *row, int64_t expert);

#endif
