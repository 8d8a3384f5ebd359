/* ends.h - the ids that end a text: generation_config.json's eos_token_id, or else config.json's.
 *
 * A folder without generation_config.json, and one whose file says nothing about it, is fine; a file that cannot be read, and a value
 * that is no id of the vocabulary, nor a list of such, is FQ_E_INPUT with file and field. Without any id a text has no end. */
#ifndef FITQ_JOB_ENDS_H
#define FITQ_JOB_ENDS_H

#include "arch/decoder.h"

#define FQI_ENDS_MAX 64   /* published files have up to five */

typedef struct fqi_ends { uint32_t id[FQI_ENDS_MAX]; size_t n; } fqi_ends;

/* dir: the checkpoint's folder. n_vocab: ids that can be chosen are below it. */
fq_status fqi_ends_read(const char *dir, const fqi_decoder *d, int64_t n_vocab, fqi_ends *out, fq_err *e);
bool fqi_ends_has(const fqi_ends *ends, uint32_t id);

#endif
