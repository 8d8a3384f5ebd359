/* outdir.h - an output folder that appears whole or not at all.
 *
 *     TARGET.fitq-lock       held while a job writes (pid inside)
 *     TARGET.fitq-partial/   everything is built here; the journal says how far it got
 *     TARGET                 untouched until the one rename at the end
 *
 * A job that fails because of its input leaves nothing; one that fails because of the system (space, I/O, memory) or was
 * interrupted leaves the partial folder, which the same request with `resume` continues.
 *
 * What is replaced is an output: an empty folder, or one with config.json or fitq.json. Any other folder, and any link, is refused,
 * in the place of TARGET as in the place of TARGET.fitq-partial. */
#ifndef FITQ_JOB_OUTDIR_H
#define FITQ_JOB_OUTDIR_H

#include "checkpoint/catalogue.h"

/* Files of the staging folder that outlive the shards: the first goes into the result, the second is needed until the commit. */
#define FQI_REPORTS_FILE "fitq.state.modules"
#define FQI_ORDER_FILE "fitq.order"   /* written while shards are: in which order MLP channels were stored */

typedef struct fqi_outdir {
    char *target, *staging, *lock, *journal;
    bool locked, overwrite;
    const char *const *leave; size_t n_leave;   /* names in the source folder that are not copied, without a word: the job replaces them. Borrowed */
} fqi_outdir;

/* Checks that target may be written and locks it. Rules: "target" (no name, FQ_E_USAGE), "parent-missing", "name-too-long",
 * "target-is-source", "target-exists", "target-foreign" (overwrite of what is no model). */
fq_status fqi_outdir_open(fqi_outdir *o, const char *source_dir, const char *target, bool overwrite, fq_err *e);
/* Makes the staging folder; without resume an older one is discarded. Rule "partial-kind": what has its name is no folder. */
fq_status fqi_outdir_begin(const fqi_outdir *o, bool resume, const fq_run *run, fq_err *e);
/* One file of the result. */
fq_status fqi_outdir_write(const fqi_outdir *o, const char *name, const char *text, size_t n, fq_err *e);
/* The text of DIR/name, for a job that writes it again as it is; *out stays NULL if there is none. Caller frees *out. */
fq_status fqi_outdir_keep(const char *dir, const char *name, char **out, size_t *n, fq_err *e);
/* Copies everything of the source folder that is neither weights nor written by fitq (tokenizer, templates, code, ...), folders
 * included; files keep their permission bits, and a link to a file becomes the file. Left out, with one log line each that names
 * the path inside the source: other copies of the weights (pytorch_model.bin beside safetensors, GGUF, ...), hidden folders
 * (.git, .cache), links to folders (nothing is read from elsewhere, and no loop is walked), links to nothing, FIFOs and devices,
 * and files that have the names of the job's own. */
fq_status fqi_outdir_copy_rest(const fqi_outdir *o, const fq_ckpt *c, const fq_run *run, fq_err *e);
/* Removes the journal, makes everything durable, renames. A target that appeared meanwhile is judged as by fqi_outdir_open. */
fq_status fqi_outdir_commit(fqi_outdir *o, fq_err *e);
/* Unlocks; outcome decides whether the staging folder stays. Zeroed is fine. */
void fqi_outdir_close(fqi_outdir *o, fq_status outcome);

#endif
