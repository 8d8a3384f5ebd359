/* lockstep_private.h - what the plan of a lockstep run and the run itself share; nobody else includes it. */
#ifndef FITQ_JOB_LOCKSTEP_PRIVATE_H
#define FITQ_JOB_LOCKSTEP_PRIVATE_H

#include "job/lockstep.h"

/* What this rank computes with: the model, or what is left of it in the slice. */
static inline const fqi_decoder *fqi_lockstep_local(const fqi_lockstep *l, size_t i) { return l->slice[i] ? &l->slice[i]->local : l->decoder[i]; }
static inline bool fqi_lockstep_has(const fqi_lockstep *l, size_t i) { return l->slice[i] || fqi_comm_rank(l->comm) == 0; }
/* Rows of the output head that this rank has. */
static inline int64_t fqi_lockstep_vocab(const fqi_lockstep *l, size_t i) { return l->slice[i] ? l->slice[i]->axis[FQI_AX_VOCAB].n : l->decoder[i]->model.vocab_size; }
/* Numbers of a row in this rank's buffer of logits: rank 0's has room for all. */
static inline int64_t fqi_lockstep_logits(const fqi_lockstep *l, size_t i) { return fqi_comm_rank(l->comm) == 0 ? l->decoder[i]->model.vocab_size : fqi_lockstep_vocab(l, i); }

/* Longest input of any linear layer of any model. */
int64_t fqi_lockstep_max_cols(const fqi_lockstep *l);
/* Keys of a cache that holds a window. */
int64_t fqi_lockstep_capacity(const fqi_lockstep *l);
/* Floats of the cache of one window; the largest of the models. */
size_t fqi_lockstep_kv_floats(const fqi_lockstep *l);
size_t fqi_lockstep_max_hidden(const fqi_lockstep *l);
/* Which pairs can be compared: equal depth and hidden_size. */
bool fqi_lockstep_comparable(const fqi_lockstep *l, size_t pair);
/* Bytes that the checkpoint stores for each layer (n_layer entries). */
void fqi_lockstep_layer_bytes(const fq_ckpt *c, uint64_t *bytes, size_t n_layer);
/* Scored positions of one window. */
static inline size_t fqi_lockstep_scored(const fqi_lockstep *l) { return l->n_context - 1 - l->first_scored; }

/* What the comparison of a token's two hidden states leaves. */
typedef struct fqi_row_diff { double d2, a2, b2, ab, max; bool same; } fqi_row_diff;

#endif
