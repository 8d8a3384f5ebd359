/* calib.h - what a quantizer looks at: windows of token ids from a text, a jsonl file, or the model itself.
 *
 *     text       one long text, cut into windows of seqlen that do not overlap; which of them: drawn with the given seed, each once, in the
 *                file's order
 *     jsonl      (a file named *.jsonl) a line is an object with "text", or with "messages" (role, content: through the model's chat
 *                template, where fitq knows it, else the contents one after another); documents are joined by the end-of-text token
 *     ids        as `fitq tokenize` prints them
 *     none       the model writes: sampled at temperature 1 from the given seed, windows side by side, the first token drawn from all
 *
 * Where the tokenizer begins a text with a token of its own, windows begin with it too (as in windows.c). The same model, file, options and
 * seed give the same ids for any number of threads and any memory.
 *
 * Refused by name: malformed UTF-8 or JSON (line named), lines without either field, less than one window, ids out of range. Fewer
 * windows than were asked for is said (log), not refused. */
#ifndef FITQ_JOB_CALIB_H
#define FITQ_JOB_CALIB_H

#include "arch/decoder.h"
#include "job/runnable.h"

#define FQI_CALIB_SAMPLES 512
#define FQI_CALIB_SEQLEN 512

typedef struct fqi_calib {
    uint32_t *ids;               /* n_window * seqlen; owned */
    size_t n_window, seqlen;
    size_t n_token_file;         /* tokens that the file held; 0: there was none */
    size_t n_distinct;           /* different ones among ids */
    uint64_t hash;               /* XXH3 of the ids: for the journal and the report */
    char source[32];             /* "text", "jsonl", "ids", "written by the model" */
} fqi_calib;

/* o: zero members mean FQI_CALIB_SAMPLES of FQI_CALIB_SEQLEN tokens. run may be NULL; its progress has the phases "calibration text" (jsonl), "load" and
 * "writing". The model's own text needs all weights in memory, and in "memory-budget" FQ_E_NOMEM names --calib as the way out. */
fq_status fqi_calib_make(const fq_calib_options *o, const fqi_runnable *m, const fq_run *run, fqi_calib *out, fq_err *e);
void fqi_calib_free(fqi_calib *c);

#endif
