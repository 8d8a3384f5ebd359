/* rank_cuts.h - what each of several ranks has of every tensor of a checkpoint, quantized modules part by part. Pure but for g_idx.
 *
 *     model axes --fqi_slice_make--> ranges of axes --fqi_cut_make--> a dense tensor's range
 *                                                  \-> rows N and columns K of a quantized module -> ranges of words, groups, elements of each part
 *
 * As engines cut them (model/slice.h; formats of parts: checkpoint/quant_layout.h). Of a module whose input channels are cut:
 *
 *     groups that are k / group_size       scales and zero points are cut with the channels
 *     groups in another order (desc_act)   scales and zero points whole on every rank, g_idx is cut and counts groups of the whole matrix
 *     one group a row, one scale a tensor  whole; blocks of FP8 are not cut, so one block a row is refused
 *                                          vllm, model_executor/parameter.py and quantization/auto_gptq.py
 *
 * Biases of o_proj and down_proj are whole on every rank: engines add them once. Tensors that no row knows are whole on every rank. Every cut is of
 * one dimension. Refused: "ranks" (a length that does not divide), "shard-words" (a cut inside a word of packed codes), "shard-groups" (inside what
 * shares a scale). */
#ifndef FITQ_JOB_RANK_CUTS_H
#define FITQ_JOB_RANK_CUTS_H

#include "checkpoint/quantized.h"
#include "job/parts.h"
#include "model/slice.h"

/* Shared by tensors that are cut alike. */
typedef struct fqi_rank_cut {
    int dim;                   /* -1: ranks that have it have all of it */
    int parts;                 /* 2: the dimension is two halves, and each is cut (gate | up) */
    int64_t length;            /* of the dimension; dim -1: 1 */
    const fqi_range *range;    /* [tp], of a half where there are two; n 0: the rank does not have the tensor */
} fqi_rank_cut;

typedef struct fqi_rank_cuts {
    int tp;
    const fqi_rank_cut **of;   /* [ckpt->n_tensor] */
    const fqi_rank_cut **list; size_t n_list, cap_list;   /* all that differ */
    const fqi_bound *bound;    /* [ckpt->n_tensor], of parts: that of their module's weight */
    fqi_arena arena;
} fqi_rank_cuts;

/* parts: of the same checkpoint, with maps that change nothing. Zero-initialise out; freed by the caller also on failure. */
fq_status fqi_rank_cuts_make(const fq_ckpt *c, const fqi_parts *parts, int tp, bool expert_parallel, fqi_rank_cuts *out, fq_err *e);
void fqi_rank_cuts_free(fqi_rank_cuts *c);
/* Is every rank's part the same, all of it? */
bool fqi_rank_cut_is_whole(const fqi_rank_cut *c, int tp);

#endif
