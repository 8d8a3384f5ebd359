/* boxes.h - tensors that are put together from boxes of other tensors, front to back, in bounded memory.
 *
 *     source [8, 6]                        tensor of rank 1 [8, 3]          the same table, read the other way, puts them together again:
 *     from [0, 3], n [8, 3]      --->      to [0, 0]                        from [0, 0], n [8, 3]  --->  to [0, 3]
 *
 * A box is a range of every dimension, so what a rank holds of a tensor is one box, or two of a dimension that stacks gate and up; engines' fused
 * tensors are several boxes behind each other. Bytes are moved and nothing is computed. Boxes that say `same` are not moved but compared with what
 * other boxes have put there: copies that must not differ.
 *
 * Where rows follow one another in the source they are read in one go, past the page cache where that does not have them. Strips of rows are read one by
 * one through the page cache, after the system was told of the whole range, since the other ranks want the rest of it next. One thread at a time. */
#ifndef FITQ_JOB_BOXES_H
#define FITQ_JOB_BOXES_H

#include "base/fs.h"
#include "checkpoint/catalogue.h"
#include "job/provenance.h"

/* In entries. Tensors of fewer dimensions have lengths of 1 in front. */
typedef struct fqi_box {
    const fqi_tensor *src;       /* of the catalogue, contiguous */
    int64_t whole[3];            /* its shape */
    int64_t from[3], to[3], n[3];
    bool same;                   /* compared: FQ_E_DIFFERS or FQ_E_INPUT as fqi_boxes.differs says */
} fqi_box;

typedef struct fqi_boxed {       /* a tensor that is put together */
    const char *name;
    const fqi_box *box; size_t n_box;   /* those that compare stand behind those that fill */
    int64_t shape[3];
    unsigned entry_bytes;
    bool gaps;                   /* what no box fills is 0 */
} fqi_boxed;

typedef struct fqi_boxes {
    const fq_ckpt *ckpt;
    /* Says what tensor i is; what *out points to lives until the next call. Asked when a tensor begins. */
    fq_status (*describe)(void *user, size_t i, fqi_boxed *out, fq_err *e);
    void *user;
    fq_io io;
    bool hashes;                 /* of every source tensor is wanted: fqi_boxes_hash */
    struct { fq_status code; const char *rule, *says; } differs;   /* of boxes that compare */
    /* private */
    fqi_file *file; bool *is_open; size_t n_open;     /* by shard of the catalogue */
    struct fqi_boxes_hash *hash;
    unsigned char *scratch;
    fqi_boxed now; size_t i;                          /* the tensor in hand */
} fqi_boxes;

/* A shape in three dimensions, those that the tensor does not have in front. rank <= 3. */
static inline void fqi_box_lengths(const int64_t *shape, int rank, int64_t out[3])
{
    for (int d = 0; d < 3; d++) out[d] = d < 3 - rank ? 1 : shape[d - (3 - rank)];
}
/* All of x and nothing else: one row of bytes, whatever its dimensions and entries. Sets out's shape and entries, not its list of boxes. */
fqi_box fqi_box_whole(const fqi_tensor *x, bool same, fqi_boxed *out);

/* ckpt, describe, user, io, hashes and differs are set by the caller; freed by the caller also on failure. */
fq_status fqi_boxes_open(fqi_boxes *b, fq_err *e);
void fqi_boxes_close(fqi_boxes *b);   /* zeroed is fine */
uint64_t fqi_boxes_bytes(const fqi_boxes *b);
/* Bytes [off, off + n) of tensor i. */
fq_status fqi_boxes_fill(fqi_boxes *b, size_t i, uint64_t off, unsigned char *to, size_t n, fq_err *e);
/* XXH3-128 of source tensor t of the catalogue. What was read front to back on the way costs no second read. */
fq_status fqi_boxes_hash(fqi_boxes *b, size_t t, fqi_hash128 *out, fq_err *e);

#endif
