/* segments.h - a mapped tensor as a stream of byte runs: the whole of "apply a map" for tensors whose elements are stored one
 * after another.
 *
 * The output tensor, row-major, is a sequence of segments; each is a run of consecutive bytes of the source tensor, or a run
 * of zeros. Padding, unpadding, replication, permutation, slicing and reading a strided torch tensor are all this one walk; what
 * differs is the maps. Pure; a segment costs a few nanoseconds. */
#ifndef FITQ_AXIS_SEGMENTS_H
#define FITQ_AXIS_SEGMENTS_H

#include "axis/map.h"

#define FQI_ZERO_SEGMENT UINT64_MAX

typedef struct fqi_segment {
    uint64_t src;    /* byte offset from the source tensor's first element, or FQI_ZERO_SEGMENT */
    uint64_t bytes;
} fqi_segment;

/* map[d] may be NULL (identity). Maps are borrowed and must outlive the walk. A walk is plain data: a copy goes on from where the
 * original stood. */
typedef struct fqi_segments {
    int rank;
    unsigned elem_bytes;
    int64_t shape_new[FQ_MAX_RANK];
    int64_t stride[FQ_MAX_RANK];            /* of the source, in elements */
    const fqi_map *map[FQ_MAX_RANK];        /* NULL where it changes nothing */
    uint64_t bytes;                         /* of the output: the sum of all segments */
    /* private: the shape of the walk */
    int leaf;                               /* last dimension that is walked; -1 = the tensor is one run */
    bool leaf_whole;                        /* a run of the leaf is consecutive in the source */
    uint64_t unit;                          /* bytes of one index of the leaf: the dimensions behind it lie together */
    uint64_t below[FQ_MAX_RANK];            /* bytes of the output under one index of a dimension */
    /* private: position. Run and index inside it, per dimension; the row is what the leaf is walked over */
    size_t run[FQ_MAX_RANK];
    int64_t in_run[FQ_MAX_RANK];
    uint64_t row;                           /* source offset of the row in hand */
    bool in_row, ended;
    fqi_segment held;                       /* merged so far, not yet handed out; 0 bytes = none */
} fqi_segments;

/* shape: of the source. stride: in elements, not negative; NULL = row-major. Sub-byte dtypes are refused by the caller. FQ_E_USAGE
 * if a map's n_old is not the shape, FQ_E_INPUT if the tensor does not fit into 2^63 bytes. */
fq_status fqi_segments_init(fqi_segments *s, int rank, const int64_t *shape, const int64_t *stride, unsigned elem_bytes, const fqi_map *const *map, fq_err *e);
/* The next segment, as long as the maps allow (adjacent ones are merged; an identity is one segment), at most max_bytes > 0 (the
 * rest comes with the next call). False at the end. */
bool fqi_segments_next(fqi_segments *s, uint64_t max_bytes, fqi_segment *out);

#endif
