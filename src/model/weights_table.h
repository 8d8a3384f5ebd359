/* weights_table.h - where each weight of the forward pass is in the checkpoint and in a slot; private to src/model.
 *
 *     weights_find.c   catalogue -> table: tensors by layer and role, places in a slot
 *     materialise.c    tensor -> matrix or vector in memory: the one place that knows what a weight is made from
 *     weights.c        slots, the reader thread, the public functions */
#ifndef FITQ_MODEL_WEIGHTS_TABLE_H
#define FITQ_MODEL_WEIGHTS_TABLE_H

#include "checkpoint/gather.h"
#include "model/weights.h"

#define FQI_WEIGHTS_CHUNK ((size_t)4 << 20)   /* most bytes of one read */
#define FQI_WEIGHTS_BLOCK ((size_t)16 << 10)  /* elements that are checked and converted while they are in cache */
#define FQI_WEIGHTS_ALIGN 64u

typedef enum fqi_weight_kind {
    FQI_WEIGHT_VECTOR,        /* float [n] */
    FQI_WEIGHT_MATRIX,        /* fqi_matrix */
    FQI_WEIGHT_FUSED_GATE_UP, /* [experts][2 width][hidden]: gate and up of every expert */
    FQI_WEIGHT_FUSED_DOWN     /* [experts][hidden][width] */
} fqi_weight_kind;

typedef struct fqi_weight_item {
    uint32_t tensor;          /* of the catalogue */
    uint8_t kind;
    bool of_expert;           /* member is in the expert's fqi_mlp_weights, not in fqi_layer_weights */
    int32_t expert;
    size_t member;            /* offset of the pointer or fqi_matrix to fill */
    uint64_t at, bytes;       /* in the slot */
} fqi_weight_item;

typedef struct fqi_weights_table {
    fqi_weight_item *item; size_t n_item;      /* by layer */
    size_t *first;                             /* n_layer + 1: items of layer l are first[l] .. first[l+1] - 1 */
    size_t embed, norm, head;                  /* tensors; head is embed in a tied model */
    uint64_t slot_bytes, head_row_bytes;
    size_t chunk;                              /* of the readers: FQI_WEIGHTS_CHUNK, or what the largest tensor needs */
    bool gathers;                              /* a tensor is strided or byteswapped: chunks are put together elsewhere */
} fqi_weights_table;

fq_status fqi_weights_find(const fq_ckpt *c, const fqi_decoder *d, fq_dtype served, fqi_weights_table *out, fq_err *e);
void fqi_weights_table_free(fqi_weights_table *t);
/* The type in which a stored weight is held. */
static inline fq_dtype fqi_weight_held(fq_dtype stored, fq_dtype served) { return served == FQ_DTYPE_F32 ? stored : served; }

/* One reader of tensors: its buffers and the file it read from last. Used by one thread. */
typedef struct fqi_materialiser {
    const fq_ckpt *ckpt;
    const fqi_kernels *kernel;
    fq_dtype served;
    fq_io io;
    const bool *stop;         /* asked between chunks, atomically; NULL = never */
    const fq_run *run;        /* cancelled is asked between chunks; NULL = never. The caller's thread only */
    fqi_file file;
    size_t shard;             /* that file is of; SIZE_MAX = none is open */
    fqi_slot slot;
    float *wide;              /* FQI_WEIGHTS_BLOCK, of a block that changes its type */
    uint64_t bytes_read;      /* atomic */
} fqi_materialiser;

fq_status fqi_materialiser_init(fqi_materialiser *m, const fq_ckpt *c, fq_dtype served, fq_io io, size_t chunk, fq_err *e);
void fqi_materialiser_free(fqi_materialiser *m);
/* Of the above, what is touched at most. gathers: see fqi_weights_table. */
uint64_t fqi_materialiser_bytes(size_t chunk, bool gathers);
/* Rows [row, row + n) of the tensor's first dimension (row 0 and n its length: all of it) to `out`, as the type that is held, or as float
 * for a vector. Finite, or FQ_E_NUMERIC. FQ_E_CANCELLED when stop was set. */
fq_status fqi_materialise(fqi_materialiser *m, size_t tensor, int64_t row, int64_t n, bool as_float, void *out, fq_err *e);

#endif
