/* compare.h - holding the tensors of one checkpoint against mapped tensors of another, byte by byte, in bounded memory.
 *
 *     producer: walk A through the maps -> the bytes that B must have  |  workers: read B, compare  |  caller: count, progress
 *
 * This is the proof of what pad wrote, so it shares nothing with the code that wrote it except the maps and the segment walk: it
 * has its own way of reading A. Every tensor is compared to its end, whatever was found before. */
#ifndef FITQ_JOB_COMPARE_H
#define FITQ_JOB_COMPARE_H

#include "axis/map.h"
#include "checkpoint/catalogue.h"

typedef struct fqi_compare_item {
    const fqi_tensor *a;                /* NULL: every element of b must be zero */
    const fqi_tensor *b;                /* shapes agree with a and the maps, dtypes are the same: the caller's check */
    const fqi_map *map[FQ_MAX_RANK];    /* NULL entries: identity */
    unsigned char fill[4];              /* what must stand where the maps leave b empty: elements of 1, 2 or 4 bytes */
    bool computed;                      /* b must be what `make` says, not elements of a */
    /* found, in elements; of a type below one byte, all that share a byte are right or wrong together */
    uint64_t n_same, n_zero, n_wrong;
} fqi_compare_item;

typedef struct fqi_compare {
    const fq_ckpt *ckpt_a, *ckpt_b;
    fqi_compare_item *item; size_t n_item;   /* any order; compared in this order */
    /* Bytes [off, off + n) that a computed item's b must have; from the reading thread, front to back. */
    fq_status (*make)(void *user, const fqi_compare_item *item, uint64_t off, unsigned char *out, size_t n, fq_err *e);
    void *user;
    const fq_run *run;                       /* not NULL */
    bool differs;                            /* found: some n_wrong > 0... */
    fq_err first;                            /* ...and the first difference as an error line */
} fqi_compare;

/* FQ_OK also when something differs. FQ_E_IO, FQ_E_CANCELLED, FQ_E_USAGE (too little memory), FQ_E_INPUT (a map over a dtype below one
 * byte). */
fq_status fqi_compare_run(fqi_compare *c, fq_err *e);

#endif
