/* slice_values.h - the numbers that an engine's slices of a quantized Linear stand for, against those of the whole.
 *
 * Followed are addresses: which scale and which zero point an engine takes for every input channel (plan/loads.h), against those that the checkpoint
 * means. Codes are the same bits on both sides, so where all addresses agree all numbers do, and no code is read. Where they do not, the
 * codes are, in blocks, and both numbers are computed. */
#ifndef FITQ_JOB_SLICE_VALUES_H
#define FITQ_JOB_SLICE_VALUES_H

#include "checkpoint/gather.h"
#include "checkpoint/quantized.h"
#include "kernel/kernel.h"
#include "plan/loads.h"

typedef struct fqi_slice_reader {
    const fq_ckpt *ckpt;
    const fq_run *run;          /* not NULL */
    const fqi_kernels *kernel;
    fqi_slot slot;
    fqi_file file; size_t shard; bool open;
} fqi_slice_reader;

fq_status fqi_slice_reader_open(fqi_slice_reader *r, const fq_ckpt *c, const fq_run *run, fq_err *e);
void fqi_slice_reader_close(fqi_slice_reader *r);   /* zeroed is fine */
/* Entries [first, first + n) of dimension 0 (all of the others), contiguous and little-endian; freed by the caller. FQ_E_CANCELLED as fq_run says. */
fq_status fqi_slice_read(fqi_slice_reader *r, const fqi_tensor *t, int64_t first, int64_t n, void **out, fq_err *e);

/* How one Linear is cut. */
typedef struct fqi_slice_case {
    const fqi_load *load;
    fqi_load_cut cut;
    bool order_read;             /* the load reads g_idx */
    const fqi_tensor *order;     /* that which the engine ends up with; NULL: the module's own */
    int64_t rows_each;           /* of column-parallel layers: output channels of a rank, or of the KV head that `step` ranks share */
    int step;
    int rank;                    /* the first that has any of it */
} fqi_slice_case;

typedef struct fqi_slice_diff {
    bool differs, zeros;         /* zeros: zero points that are not read make the difference, groups agree */
    int rank;
    int64_t row, col, scale_row; /* -1: beyond what the rank has */
    double expected, found, max_abs, relative;
    double product;              /* |sum over ranks of W_r x_r - W x| / |W x|, x pseudo-random; what a rank has no scale for counts as 0 */
    uint64_t n_wrong, n_element;
} fqi_slice_diff;

/* FQ_E_INPUT "packed-order": g_idx names a group that there is not. measure false: as soon as addresses differ, differs is set and nothing else. */
fq_status fqi_slice_compare(fqi_slice_reader *r, const fqi_quant_module *q, const fqi_slice_case *c, bool measure, fqi_slice_diff *out, fq_err *e);

/* For each of n heads of `dim` output channels: is every weight of it zero? t: a dense weight; or q: its module. */
fq_status fqi_slice_zero_heads(fqi_slice_reader *r, const fqi_tensor *t, const fqi_quant_module *q, int64_t dim, bool *zero, int64_t n, fq_err *e);

#endif
