/* extract.h - any part of any weight of a checkpoint as float, in bounded memory: what a rank would read of it, and the whole.
 *
 * The readers of a forward pass (weights.h) hold a layer. Who looks at weights one by one, of a model of any size, reads extracts: ranges of rows and
 * columns, of a dense tensor as it is stored, of a quantized module the numbers that its codes stand for. Every number that is read is checked, as there:
 * NaN and infinity are FQ_E_NUMERIC.
 *
 * One object serves one thread. */
#ifndef FITQ_MODEL_EXTRACT_H
#define FITQ_MODEL_EXTRACT_H

#include "checkpoint/quantized.h"
#include "model/slice.h"

typedef struct fqi_extracts fqi_extracts;

typedef struct fqi_extract {
    size_t tensor;                  /* of the catalogue; of a module its codes */
    const fqi_quant_module *module; /* NULL: dense, of F32, F16 or BF16 and rank 1 to 3 */
    fqi_range at[3];                /* of each dimension of the weight */
} fqi_extract;

typedef struct fqi_extracts_options {
    const fq_run *run;              /* io; not NULL */
    const bool *stop;               /* asked between reads, atomically: FQ_E_CANCELLED */
    bool caller;                    /* this is the caller's thread: run->cancelled is asked too */
    int64_t module_cols;            /* most input channels of a module that is read; 0: none is */
} fqi_extracts_options;

/* c outlives *out. About 5 MiB. */
fq_status fqi_extracts_open(const fq_ckpt *c, const fqi_extracts_options *o, fqi_extracts **out, fq_err *e);
void fqi_extracts_close(fqi_extracts *p);   /* NULL is fine */
/* Can a module's input channels be read from `first` on? Words of codes are not cut. */
static inline bool fqi_extract_can_begin(const fqi_quant_module *q, int64_t first) { return !q || q->form->floats || first % 32 == 0; }
/* Row-major to out. Ranges lie in the weight. Errors of a module: see model/weights_table.h. */
fq_status fqi_extracts_read(fqi_extracts *p, const fqi_extract *x, float *out, fq_err *e);
uint64_t fqi_extracts_bytes_read(const fqi_extracts *p);

#endif
