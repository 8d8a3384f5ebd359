/* pipeline.h - read, compute and write at the same time, with a bounded number of buffers.
 *
 *     produce (1 thread, in order) -> work (n threads, any order) -> consume (1 thread: the caller's, in order)
 *
 * Slots circulate: at most n_slot items are in flight, so memory is n_slot times a slot. The first failure of any stage
 * stops all of them and is what fqi_pipeline_run returns. */
#ifndef FITQ_BASE_PIPELINE_H
#define FITQ_BASE_PIPELINE_H

#include "base/err.h"

typedef struct fqi_pipeline {
    void *user;
    void **slot;      /* n_slot caller-owned buffers, >= 2 */
    size_t n_slot;
    int n_worker;     /* threads for `work`, >= 1 */
    /* Fills slot; *done = true instead of filling it when there is nothing more. */
    fq_status (*produce)(void *user, void *slot, bool *done, fq_err *e);
    fq_status (*work)(void *user, void *slot, fq_err *e);      /* NULL = nothing to compute */
    fq_status (*consume)(void *user, void *slot, fq_err *e);   /* in produce order, on the calling thread */
} fqi_pipeline;

fq_status fqi_pipeline_run(const fqi_pipeline *p, fq_err *e);

/* job(user, i) for every i < n, on up to n_thread threads, of which the caller's is one; all are done when it returns. With fewer threads where
 * no more can be started. For work on a thread of a pipeline: a team of OpenMP's ends with such a thread, and that opens a library, which
 * kills the process when it has no descriptors left. */
void fqi_parallel(int n_thread, size_t n, void (*job)(void *user, size_t i), void *user);

/* Processors this process may use, at least 1. */
int fqi_n_processor(void);

/* Threads of a job, from fq_run.n_thread: as many as were asked for; where nobody asked (0), one per processor, at most 8. */
int fqi_n_thread(int asked);

#endif
