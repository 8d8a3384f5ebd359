/* calib_private.h - the parts of calib.c: ids from a file, and ids that the model writes. */
#ifndef FITQ_JOB_CALIB_PRIVATE_H
#define FITQ_JOB_CALIB_PRIVATE_H

#include "base/random.h"
#include "job/calib.h"
#include "job/ends.h"
#include "job/windows.h"

/* What is asked for, with defaults filled in; n_vocab: real ids; ends: of this model. */
typedef struct fqi_calib_request {
    const fq_calib_options *o;
    const fqi_runnable *m;
    const fq_run *run;           /* not NULL */
    size_t samples, seqlen;
    int64_t n_vocab;
    fqi_ends ends;
} fqi_calib_request;

/* All ids of a file of one JSON object per line: at least one window of them, each below n_vocab. */
fq_status fqi_calib_jsonl(const fqi_calib_request *r, fqi_text_ids *out, fq_err *e);

/* ids: samples * seqlen, to be written by the model. */
fq_status fqi_calib_self(const fqi_calib_request *r, uint32_t *ids, fq_err *e);

/* Tells run->log. */
void fqi_calib_say(const fqi_calib_request *r, fq_log_level level, const char *line);

#endif
