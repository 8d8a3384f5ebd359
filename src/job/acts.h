/* acts.h - the hidden states of all tokens between two layers: in memory, or in a scratch file when they exceed the budget. */
#ifndef FITQ_JOB_ACTS_H
#define FITQ_JOB_ACTS_H

#include "base/fs_scratch.h"

typedef struct fqi_acts { float *memory; fqi_scratch file; size_t n_row, cols; } fqi_acts;

/* dir: of the scratch file, see fs_scratch.h; not used in_memory. */
fq_status fqi_acts_create(size_t n_row, size_t cols, bool in_memory, const char *dir, fqi_acts *out, fq_err *e);
void fqi_acts_free(fqi_acts *a);
/* Rows [row, row + n): a pointer into memory, or `buf` (n * cols floats) filled from the file. Changes count after fqi_acts_put. */
fq_status fqi_acts_get(fqi_acts *a, size_t row, size_t n, float *buf, float **out, fq_err *e);
fq_status fqi_acts_put(fqi_acts *a, size_t row, size_t n, const float *rows, fq_err *e);   /* rows: what get gave */

#endif
