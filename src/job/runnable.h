/* runnable.h - a checkpoint that can be run: opened, checked, and its config.json read for the forward pass. No weights yet.
 *
 * Refused, by name: what `inspect` finds unsound, one shard of several, no config.json, a family that is not in the table, weights
 * quantized by another method than those of checkpoint/quantized.h, and what fqi_decoder_read refuses. Said in the log, as a warning: biases
 * that are stored and that config.json does not announce, which are left out, and of lists of modules in config.json that what is stored contradicts. */
#ifndef FITQ_JOB_RUNNABLE_H
#define FITQ_JOB_RUNNABLE_H

#include "arch/decoder.h"
#include "checkpoint/catalogue.h"

typedef struct fqi_runnable { fq_ckpt *ckpt; fqi_decoder decoder; bool has_decoder; } fqi_runnable;   /* zero-initialise */

/* run: not NULL. *out is freed by the caller also on failure. */
fq_status fqi_runnable_open(const char *path, const fq_run *run, fqi_runnable *out, fq_err *e);
void fqi_runnable_free(fqi_runnable *r);

/* Positions for which the model's rotary embedding was made; 0 = config.json does not say. */
int64_t fqi_runnable_longest(const fqi_runnable *r);
/* Says so in the log, as a warning, if n tokens in a sequence are more than that. */
void fqi_runnable_warn_length(const fqi_runnable *r, int64_t n, const fq_run *run);

/* What activations are rounded to, from the option of a public call. FQ_E_USAGE: a value that fq_served does not have. */
fq_status fqi_served_dtype(fq_served served, fq_dtype *out, fq_err *e);

#endif
