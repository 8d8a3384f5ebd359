/* stream.h - writing the shards of an output table: read, map and write at the same time, in bounded memory, resumable.
 *
 *     reader thread: gather_fill  ->  worker threads: slot_assemble  ->  this thread: hash, fqi_writer, journal
 *
 * Tensors are written in the order of the table, each shard front to back: one shard after another, or, where the tensors of several take turns
 * (fqi_outplan_given), side by side with a writer for each. A tensor is recorded in the journal after its bytes were fsync'd. */
#ifndef FITQ_JOB_STREAM_H
#define FITQ_JOB_STREAM_H

#include "checkpoint/gather.h"
#include "job/journal.h"
#include "job/outplan.h"

typedef struct fqi_stream_request {
    const fqi_outplan *plan;
    const fq_ckpt *ckpt;
    const char *dir;                 /* where the shards go (staging folder) */
    const fq_run *run;               /* not NULL */
    const char *phase;               /* for progress */
    fqi_journal *journal;
    const char *journal_path;
    const fqi_journal_key *key; size_t n_key;
    fqi_hash128 *source_hash;        /* per tensor: XXH3-128 of the source tensor, contiguous and little-endian */
    fqi_hash128 *out_hash;           /* per tensor: of the bytes written */
    /* n bytes of a made or computed tensor (outplan.h) from byte `off` on; called from the reader thread, front to back. NULL: there is none. Their
     * source_hash stays as it is (0). */
    fq_status (*made)(void *user, size_t tensor, uint64_t off, uint8_t *to, size_t n, fq_err *e);
    /* The source_hash of a computed tensor, if making it told; NULL or false: the source is read for it. After its last byte was made. */
    bool (*made_from)(void *user, size_t tensor, fqi_hash128 *hash);
    void *user;
} fqi_stream_request;

/* *resumed_bytes: output bytes that were found done (and were read back and compared with the journal). */
fq_status fqi_stream_run(const fqi_stream_request *r, uint64_t *resumed_bytes, fq_err *e);

/* The same in pieces, for a job that makes tensors between them. One thread at a time, not always the same one (then run->progress and
 * cancelled must be NULL). */
typedef struct fqi_stream fqi_stream;
fq_status fqi_stream_open(const fqi_stream_request *r, uint64_t *resumed_bytes, fqi_stream **out, fq_err *e);   /* *r is copied */
size_t fqi_stream_next(const fqi_stream *s);     /* first tensor that is not written yet */
/* Writes tensors up to, not including, `upto`, and makes them durable and recorded. */
fq_status fqi_stream_write(fqi_stream *s, size_t upto, fq_err *e);
void fqi_stream_close(fqi_stream *s);            /* NULL is fine. What was not finished stays for a resume */

/* Resident bytes that writing this plan will take, the program's own included; FQ_E_USAGE if run->memory_bytes is too small to work
 * in. Smaller tensors touch less of the buffers. Measured: 61 MiB where it says 62 (72B shapes), 64 where it says 62 (experts). */
fq_status fqi_stream_memory(const fq_run *run, const fqi_outplan *plan, uint64_t *bytes, fq_err *e);

/* XXH3-128 of a source tensor in its canonical form (contiguous, little-endian). */
fq_status fqi_hash_tensor(const fqi_file *file, const fqi_tensor *t, fqi_slot *slot, fqi_hash128 *out, fq_err *e);

#endif
