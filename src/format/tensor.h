/* tensor.h - what every container format is read into: a tensor as a place in a file. */
#ifndef FITQ_FORMAT_TENSOR_H
#define FITQ_FORMAT_TENSOR_H

#include "fitq.h"

/* 56 bytes: a header may legally hold millions. */
typedef struct fqi_tensor {
    const char *name;        /* NUL-terminated, no NUL inside; owned by the table's text or arena */
    const int64_t *shape;    /* rank entries */
    const int64_t *stride;   /* in elements; NULL = contiguous, row-major (always so for safetensors) */
    uint64_t off;            /* of element (0, ..., 0) in the file */
    uint64_t bytes;          /* of the tensor made contiguous: elements * bits / 8 */
    uint32_t shard;          /* index of the file */
    uint8_t dtype, rank;     /* fq_dtype */
    bool byteswap;           /* elements are big-endian in the file */
} fqi_tensor;

#endif
