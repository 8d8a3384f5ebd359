/* outdir.h - an output folder that appears whole or not at all.
 *
 *     TARGET.fitq-lock       held while a job writes (pid inside)
 *     TARGET.fitq-partial/   everything is built here; the journal says how far it got
 *     TARGET                 untouched until the one rename at the end
 *
 * A job that fails because of its input leaves nothing; one that fails because of the system (space, I/O, memory) or was
 * interrupted leaves the partial folder, which the same request with `resume` continues. */
#ifndef FITQ_JOB_OUTDIR_H
#define FITQ_JOB_OUTDIR_H

#include "checkpoint/catalogue.h"

typedef struct fqi_outdir {
    char *target, *staging, *lock, *journal;
    bool locked, overwrite;
} fqi_outdir;

/* Checks that target may be written (rules "target-is-source", "target-exists") and locks it. */
fq_status fqi_outdir_open(fqi_outdir *o, const char *source_dir, const char *target, bool overwrite, fq_err *e);
/* Makes the staging folder; without resume an older one is discarded. */
fq_status fqi_outdir_begin(const fqi_outdir *o, bool resume, const fq_run *run, fq_err *e);
/* One file of the result. */
fq_status fqi_outdir_write(const fqi_outdir *o, const char *name, const char *text, size_t n, fq_err *e);
/* Copies everything of the source folder that is neither weights nor written by fitq (tokenizer, templates, code, ...), folders
 * included. Other copies of the weights (pytorch_model.bin beside safetensors, GGUF, ...) are left behind and logged. */
fq_status fqi_outdir_copy_rest(const fqi_outdir *o, const fq_ckpt *c, const fq_run *run, fq_err *e);
/* Removes the journal, makes everything durable, renames. */
fq_status fqi_outdir_commit(fqi_outdir *o, fq_err *e);
/* Unlocks; outcome decides whether the staging folder stays. Zeroed is fine. */
void fqi_outdir_close(fqi_outdir *o, fq_status outcome);

#endif
