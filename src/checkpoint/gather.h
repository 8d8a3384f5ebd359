/* gather.h - reading a mapped tensor in bounded pieces.
 *
 *     fqi_segments (what goes where)  ->  extents (what to pread)  ->  assembled output bytes
 *
 * A slot is one piece: at most `chunk` bytes of output. Filling it reads the source (one pread per extent: neighbouring
 * segments are read together, small holes are read through); assembling it copies segments and zeros into place. The two are
 * apart so that a pipeline can run them on different threads. Works for any map and any stride: segments need not be in source
 * order. */
#ifndef FITQ_CHECKPOINT_GATHER_H
#define FITQ_CHECKPOINT_GATHER_H

#include "axis/segments.h"
#include "base/fs.h"
#include "format/tensor.h"

typedef struct fqi_extent {
    uint64_t src, bytes;           /* from the tensor's first element */
    const unsigned char *data;     /* after filling */
} fqi_extent;

typedef struct fqi_piece { uint64_t src, bytes; uint32_t extent; } fqi_piece;  /* src == FQI_ZERO_SEGMENT: what the map leaves empty */

typedef struct fqi_slot {
    size_t chunk;                  /* capacity of out */
    unsigned char *out;            /* assembled bytes, aligned */
    unsigned char *buf; size_t buf_bytes;
    fqi_piece *piece; size_t n_piece;
    uint32_t *sorted;              /* pieces by source position, when they are not */
    fqi_extent *extent; size_t n_extent;
    size_t max_piece;              /* entries of these tables */
    size_t bytes;                  /* of output in this slot */
    unsigned swap;                 /* element size to reverse, 0 = none */
    unsigned char fill[4];         /* of the gather */
    bool single;                   /* one piece, no zeros: `data` is the extent, out is unused */
    const unsigned char *data;     /* result of assembling: bytes long */
    size_t item;                   /* the caller's: which tensor */
    bool last;                     /* last piece of its tensor */
} fqi_slot;

fq_status fqi_slot_init(fqi_slot *s, size_t chunk, fq_err *e);
void fqi_slot_free(fqi_slot *s);
uint64_t fqi_slot_memory(size_t chunk);   /* bytes one slot takes */

/* A slot for tensors that are read as they lie only: no map, no strides, no byteswap. It has one piece and no second buffer. */
fq_status fqi_slot_init_plain(fqi_slot *s, size_t chunk, fq_err *e);
uint64_t fqi_slot_memory_plain(size_t chunk);

typedef struct fqi_gather {
    const fqi_file *file;
    const fqi_tensor *tensor;
    fqi_segments seg;
    fqi_segment held; bool has_held, zeros_only;
    uint64_t left;                 /* bytes of output still to come */
    unsigned char fill[4];         /* repeated where the map leaves the output empty: elements of 1, 2 or 4 bytes. Zeros after begin; a code
                                      that stands for zero may be another number */
} fqi_gather;

/* tensor NULL: bytes_pad zeros. map: per dimension, NULL entries are identities. file is borrowed. */
fq_status fqi_gather_begin(fqi_gather *g, const fqi_file *file, const fqi_tensor *tensor, const fqi_map *const *map, uint64_t bytes_pad, fq_err *e);
/* Fills the slot with the next piece; s->last is set on the final one (a tensor of no bytes gives one empty, last piece). */
fq_status fqi_gather_fill(fqi_gather *g, fqi_slot *s, fq_err *e);
/* Puts the output bytes together: s->data. */
void fqi_slot_assemble(fqi_slot *s);

#endif
