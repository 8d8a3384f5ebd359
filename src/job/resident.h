/* resident.h - a model all of whose weights are in memory, and caches for sequences that go on side by side.
 *
 * What generating text and writing a calibration text share: sizes and the memory budget, reading everything once, running tokens of any
 * of the sequences through all layers, logits. Not here: which tokens. How long a sequence is, its caller keeps: tokens that are fed at
 * a position that was filled before replace what stood there.
 *
 * Logits of a padded vocabulary end where the real one does: zeros of padding rows must not win against negative logits. */
#ifndef FITQ_JOB_RESIDENT_H
#define FITQ_JOB_RESIDENT_H

#include "model/layer.h"

typedef struct fqi_resident_options {
    const fq_ckpt *ckpt;            /* these three outlive the object */
    const fqi_decoder *decoder;
    const fq_run *run;              /* not NULL: io, progress ("load"), cancelled, memory_bytes */
    fqi_comm *comm;                 /* ranks that hold it together, and this one's part; or NULL */
    const fqi_slice *slice;
    fqi_order order;
    fq_dtype served;
    int n_thread;
    int64_t n_position;             /* longest that a sequence gets, up to FQI_RESIDENT_MAX_POSITION */
    size_t n_sequence;
    size_t n_token;                 /* most of one call, all sequences together */
    size_t n_logit_row;             /* most rows of logits at once */
    int64_t n_vocab;                /* real ids: the logits of a row */
    uint64_t extra_bytes;           /* what the caller allocates besides */
    unsigned free_quarters;         /* without a budget: the share of free memory that may be taken, 1 .. 4 */
} fqi_resident_options;
#define FQI_RESIDENT_MAX_POSITION (INT64_C(1) << 40)

/* Bytes of the process, with all ranks that it has; rest has the process as it is now, and extra_bytes. */
typedef struct fqi_resident_size { uint64_t weights, caches, rest, total; } fqi_resident_size;
fq_status fqi_resident_measure(const fqi_resident_options *o, fqi_resident_size *out, fq_err *e);
/* FQ_E_NOMEM, "memory-budget", with what would do, if that is more than the budget. */
fq_status fqi_resident_check(const fqi_resident_options *o, const fqi_resident_size *size, fq_err *e);

/* Members are read by its callers, written by nobody. */
typedef struct fqi_resident {
    fqi_resident_options o;
    fqi_compute compute; bool has_compute;
    fqi_weights *weights;
    const fqi_layer_weights **layer;   /* num_hidden_layers; valid for good */
    const float *final_norm;
    fqi_matrix head;                   /* n_vocab rows, or this rank's of them */
    fqi_rope_table rope; bool has_rope;
    fqi_layer_work *work;
    float **cache_memory;              /* per layer: as allocated */
    fqi_kv *kv;                        /* [layer][sequence] */
    fqi_span *span;                    /* n_sequence: of the call in hand */
    float *x;                          /* hidden states of the last call, before the final norm */
    float *norm, *logits;              /* n_logit_row rows; of several ranks rank 0 has whole ones */
    float *from_ranks;
} fqi_resident;

/* Allocates, then reads all weights. size: of fqi_resident_measure, for the progress. *out is freed by the caller also on failure. */
fq_status fqi_resident_create(const fqi_resident_options *o, const fqi_resident_size *size, fqi_resident *out, fq_err *e);
void fqi_resident_free(fqi_resident *r);   /* zeroed is fine */

typedef struct fqi_feed { size_t sequence, n; int64_t pos; } fqi_feed;   /* n tokens at pos, which all before it were fed to */

/* ids: those of feed[0], then of feed[1], ...; at most n_token, each sequence at most once. FQ_E_NUMERIC: caches may hold what is not finite. */
fq_status fqi_resident_feed(fqi_resident *r, const uint32_t *ids, const fqi_feed *feed, size_t n_feed, fq_err *e);
/* Logits behind rows [row, row + n) of the last call, n <= n_logit_row; to r->logits. Of several ranks this and fqi_resident_feed are collective. */
fq_status fqi_resident_logits(fqi_resident *r, size_t row, size_t n, fq_err *e);

bool fqi_resident_cancelled(const fqi_resident *r);

#endif
