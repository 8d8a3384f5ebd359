/* lockstep.h - several runs over the same tokens, side by side, a layer at a time.
 *
 *     for each layer:  for each model: its weights once;  for each of its streams: all windows through the layer;  then pairs are compared
 *     then, for blocks of scored positions: logits of all streams together
 *
 * A stream is one way of computing one model (an order of summation). Evaluating one model is one stream; against a reference two; the
 * numeric proof runs A and B in fixed order and in fast order: four streams, every weight read once. Memory is planned before
 * anything is allocated (fqi_lockstep_plan_make), from the same functions that later allocate; the plan is what is printed. */
#ifndef FITQ_JOB_LOCKSTEP_H
#define FITQ_JOB_LOCKSTEP_H

#include "job/acts.h"
#include "model/layer.h"

#define FQI_MAX_MODEL 2
#define FQI_MAX_STREAM 4

typedef struct fqi_lockstep {
    size_t n_model; const fq_ckpt *ckpt[FQI_MAX_MODEL]; const fqi_decoder *decoder[FQI_MAX_MODEL];
    fqi_comm *comm;              /* ranks that run this together; NULL = one */
    const fqi_slice *slice[FQI_MAX_MODEL];   /* this rank's part of a model; NULL: rank 0 has all of it, and the others take no part in it */
    size_t n_stream; struct { size_t model; fqi_order order; } stream[FQI_MAX_STREAM];
    size_t n_pair; struct { size_t a, b; } pair[FQI_MAX_STREAM];   /* compared after every layer; equal depth and hidden_size, or left out */
    fq_dtype served;
    const uint32_t *ids;         /* n_window * n_context */
    size_t n_window, n_context;
    size_t first_scored;         /* positions first_scored .. n_context - 2 of every window are scored: target is the next id */
    const char *scratch_dir;
    const fqi_tap *tap;          /* of stream 0; may be NULL */
    const fq_run *run;           /* memory_bytes 0: as much as it likes, at most 3/4 of what the machine has free */
    const char *phase;           /* of progress */
    uint64_t extra_bytes;        /* that the caller will fill beside it (statistics), for the estimate */
} fqi_lockstep;

typedef struct fqi_lockstep_plan {
    size_t n_slot[FQI_MAX_MODEL];
    int64_t head_rows[FQI_MAX_MODEL];
    uint64_t head_bytes[FQI_MAX_MODEL];   /* of all its rows, as they are held */
    size_t batch_window;         /* windows through a layer at once */
    size_t block_tokens;         /* tokens of them at once, if one window is still too much */
    bool acts_in_memory;
    uint64_t scratch_bytes;
    size_t logit_rows;           /* scored positions at once */
    uint64_t memory_bytes;       /* estimate of the peak resident memory of the process, with all ranks that it has */
    uint64_t weight_bytes;       /* to read, all models together */
    int n_thread;
    const char *kernel;
} fqi_lockstep_plan;
/* FQ_E_NOMEM, "memory-budget", naming the least that would do. Collective: rank 0's plan, made for the rank with the least memory, is all ranks'. */
fq_status fqi_lockstep_plan_make(const fqi_lockstep *l, fqi_lockstep_plan *out, fq_err *e);
/* The public form of it. */
void fqi_lockstep_run_plan(const fqi_lockstep *l, const fqi_lockstep_plan *p, fq_run_plan *out);

/* Over all tokens of all windows; of layer -1: the embedding. */
typedef struct fqi_layer_diff { double relative; /* |b - a| / |a|, Frobenius */ double max_abs, cosine; bool same_bits; } fqi_layer_diff;

typedef struct fqi_lockstep_watch {
    void *user;
    void (*layer)(void *user, int64_t layer, const fqi_layer_diff diff[FQI_MAX_STREAM]);
    /* n scored positions from number `first` on: logits[s][i * vocab of stream s + v], target[i]. */
    fq_status (*logits)(void *user, size_t first, size_t n, const float *const logits[FQI_MAX_STREAM], const uint32_t *target, fq_err *e);
} fqi_lockstep_watch;

/* Of several ranks only rank 0 is shown anything. Collective. */
fq_status fqi_lockstep_run(const fqi_lockstep *l, const fqi_lockstep_plan *p, const fqi_lockstep_watch *w, fq_err *e);

#endif
