/* parts_zeros.h - empty places in groups of codes that have zero points of their own.
 *
 * A new channel that stands in a group with real ones is zero if its code is the group's zero point, which is another number for each output. So what
 * fills up a group is read from the zero points:
 *
 *     group of 4, zero points 3 and 9 for outputs 0 and 1         channels     a b - c
 *                                                                 output 0     5 1 3 7       3 stands for 0
 *                                                                 output 1     2 8 9 0       9 stands for 0
 *
 * Private to src/job/parts.c. */
#ifndef FITQ_JOB_PARTS_ZEROS_H
#define FITQ_JOB_PARTS_ZEROS_H

#include "axis/map.h"
#include "checkpoint/quantized.h"

typedef struct fqi_zero_fill fqi_zero_fill;

/* Does the map leave places empty in groups of `group` that hold real channels too? *yes. FQ_E_NOMEM. */
fq_status fqi_zero_fill_needed(const fqi_map *inputs, int64_t group, bool *yes, fq_err *e);
/* inputs: of the module's K, in elements; size_new: afterwards. Reads the zero points of the groups that are filled up. FQ_E_INPUT "packed-zero": a zero point
 * that no code stands for (of format gptq, stored as all ones). */
fq_status fqi_zero_fill_open(const fq_ckpt *c, fq_io io, const fqi_quant_module *q, const fqi_map *inputs, const fqi_quant_size *size_new, fqi_zero_fill **out, fq_err *e);
/* Bytes [off, off + n) of the new codes, multiples of 4: puts the zero points in their places. */
void fqi_zero_fill_apply(const fqi_zero_fill *z, uint64_t off, unsigned char *bytes, size_t n);
void fqi_zero_fill_close(fqi_zero_fill *z);   /* NULL is fine */

/* Of symmetric codes: are the zero points that stand first in the file those of the module's label? New groups are filled by the label, so under
 * another one a checkpoint of both would be made. FQ_E_INPUT: "zero-version" (they are those of the other of gptq and gptq_v2), "packed-zero". */
fq_status fqi_zero_label_check(const fq_ckpt *c, const fqi_quant_module *q, fq_err *e);

#endif
