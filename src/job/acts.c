/* acts.c - rows of hidden states, in memory or in a scratch file (see acts.h). */
#include "job/acts.h"

#include <stdlib.h>

#include "base/checked.h"
#include "base/mem.h"

fq_status fqi_acts_create(size_t n_row, size_t cols, bool in_memory, const char *dir, fqi_acts *out, fq_err *e)
{
    fqi_acts a = { .file = FQI_SCRATCH_NONE, .n_row = n_row, .cols = cols };
    uint64_t bytes;
    if (!fqi_mul_u64((uint64_t)n_row * sizeof(float), cols, &bytes) || bytes > SIZE_MAX / 2) return fqi_fail_nomem(e, "activations");
    if (in_memory) {
        a.memory = aligned_alloc(64, ((size_t)bytes + 127) / 64 * 64);
        if (!a.memory) return fqi_fail_nomem(e, "activations");
    } else {
        FQI_TRY(fqi_scratch_open(&a.file, dir, bytes, e));
    }
    *out = a;
    return FQ_OK;
}

void fqi_acts_free(fqi_acts *a)
{
    if (!a) return;
    free(a->memory);
    if (a->file.dir) fqi_scratch_close(&a->file);   /* of one that was zeroed and never created there is none */
    *a = (fqi_acts){ .file = FQI_SCRATCH_NONE };
}

static uint64_t offset(const fqi_acts *a, size_t row) { return (uint64_t)row * a->cols * sizeof(float); }

fq_status fqi_acts_get(fqi_acts *a, size_t row, size_t n, float *buf, float **out, fq_err *e)
{
    if (a->memory) {
        *out = a->memory + row * a->cols;
        return FQ_OK;
    }
    FQI_TRY(fqi_scratch_read(&a->file, buf, n * a->cols * sizeof(float), offset(a, row), e));
    *out = buf;
    return FQ_OK;
}

fq_status fqi_acts_put(fqi_acts *a, size_t row, size_t n, const float *rows, fq_err *e)
{
    return a->memory ? FQ_OK : fqi_scratch_write(&a->file, rows, n * a->cols * sizeof(float), offset(a, row), e);
}
