/* rank_run.h - what all jobs have in common that run a model on several ranks (comm/comm.h).
 *
 * Rank 0 reads the text, keeps the statistics and speaks; every rank opens the model and reads its slice. NULL is the communicator of one rank: then
 * these functions do nothing. */
#ifndef FITQ_JOB_RANK_RUN_H
#define FITQ_JOB_RANK_RUN_H

#include "comm/comm.h"
#include "job/runnable.h"
#include "job/windows.h"
#include "model/slice.h"

/* The caller's run as this rank has it: its share of threads and of the memory budget, callbacks only where they may be called, progress and log on
 * rank 0. */
void fqi_rank_run(const fqi_comm *c, const fq_run *run, fq_run *out);
/* Collective. Have all ranks the same model: config.json and every header? "ranks-differ". */
fq_status fqi_rank_same_model(fqi_comm *c, const fq_ckpt *ckpt, fq_err *e);
/* This rank's part of an opened model; all ranks must have it. */
fq_status fqi_rank_slice(const fqi_comm *c, const fq_run *run, const fqi_runnable *r, fqi_slice *out, fq_err *e);
/* Collective. Rank 0's windows to all; made: how making them went there. The others hand in zeros; freed by each. */
fq_status fqi_rank_windows(fqi_comm *c, fqi_windows *w, fq_err *e);
/* Logits of which a rank computes a part: its rows of the output head, of a vocabulary of `vocab`, as far as they are below `limit` (the real ids). */
fqi_range fqi_rank_vocab(const fqi_comm *c, int rank, int64_t vocab, int64_t limit);
/* Collective. n rows of logits. mine: this rank's part, n rows of as many numbers as it has. Of rank 0 that part stands in its place in `logits` already
 * (n rows of `limit`), the others' come there. scratch: fqi_rank_logit_floats(), rank 0 only. */
typedef struct fqi_rank_logits { int64_t vocab, limit; size_t n; const float *mine; float *logits, *scratch; } fqi_rank_logits;
fq_status fqi_rank_collect(fqi_comm *c, const fqi_rank_logits *l, fq_err *e);
size_t fqi_rank_logit_floats(const fqi_comm *c, size_t n, int64_t limit);   /* 0 of other ranks */

#endif
