/* write.h - the second half of every job that makes a checkpoint: an output table becomes a committed folder. */
#ifndef FITQ_JOB_WRITE_H
#define FITQ_JOB_WRITE_H

#include "job/outplan.h"
#include "job/stream.h"

typedef struct fqi_extra_file { const char *name, *text; size_t n; } fqi_extra_file;
#define FQI_WRITE_MAX_KEY 24

typedef struct fqi_write_request {
    const fq_ckpt *ckpt;
    const fqi_outplan *plan;
    const fqi_parts *parts;         /* who computes the plan's computed tensors; NULL: there are none */
    const char *target;
    bool overwrite, resume;
    const fq_run *run;              /* not NULL */
    const char *phase;
    const char *config; size_t n_config;   /* config.json as it will be; NULL: there is none */
    /* Files that are made in the staging folder when the weights are there, before fitq.json; NULL = none. */
    fq_status (*files)(void *user, const char *dir, fq_err *e);
    /* Text of fitq.json once the hashes are known (caller frees); NULL = none is written. */
    fq_status (*provenance)(void *user, const fqi_hash128 *source_hash, char **text, size_t *n, fq_err *e);
    /* Looks at the hashes of what was written before anything is committed; NULL = nothing to check. */
    fq_status (*check)(void *user, const fqi_hash128 *out_hash, fq_err *e);
    const fqi_journal_key *key; size_t n_key;     /* more that decides the bytes, at most FQI_WRITE_MAX_KEY */
    const fqi_extra_file *extra; size_t n_extra;  /* more files */
    const char *const *leave; size_t n_leave;     /* files of the source that are not copied; see outdir.h */
    /* Bytes of made tensors, as fqi_stream_request.made; NULL: those of `parts`. */
    fq_status (*made)(void *user, size_t tensor, uint64_t off, uint8_t *to, size_t n, fq_err *e);
    /* Writes the shards; NULL = fqi_stream_run, which copies. Made tensors are its business. */
    fq_status (*shards)(void *user, const fqi_stream_request *r, uint64_t *resumed_bytes, fq_err *e);
    void *user;
} fqi_write_request;

typedef struct fqi_write_result { uint64_t file_bytes, peak_memory_bytes, resumed_bytes; } fqi_write_result;

fq_status fqi_write_checkpoint(const fqi_write_request *r, fqi_write_result *out, fq_err *e);
/* file_bytes and peak_memory_bytes only; touches nothing. */
fq_status fqi_write_estimate(const fqi_write_request *r, fqi_write_result *out, fq_err *e);

/* The shard size asked for, or the default of 5 GB (as transformers). */
uint64_t fqi_shard_bytes(uint64_t asked);

#endif
