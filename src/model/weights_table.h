/* weights_table.h - where each weight of the forward pass is in the checkpoint and in a slot; private to src/model.
 *
 *     weights_find.c     catalogue -> table: tensors by layer and role, places in a slot
 *     materialise.c      tensor -> matrix or vector in memory
 *     unpack.c           quantized module -> matrix in memory
 *     weights_readers.c  many tensors, or a large one, read by several threads at once
 *     weights.c          slots, the thread that fills them, the public functions */
#ifndef FITQ_MODEL_WEIGHTS_TABLE_H
#define FITQ_MODEL_WEIGHTS_TABLE_H

#include <pthread.h>

#include "checkpoint/gather.h"
#include "checkpoint/quantized.h"
#include "model/weights.h"

#define FQI_WEIGHTS_CHUNK ((size_t)1 << 20)   /* most bytes of one read */
#define FQI_WEIGHTS_HELPERS 3                 /* threads that read beside the one that waits: four reads keep a disk busy */
#define FQI_WEIGHTS_BLOCK ((size_t)16 << 10)  /* elements that are checked and converted while they are in cache */
#define FQI_WEIGHTS_ALIGN 64u
#define FQI_NO_MODULE SIZE_MAX

typedef enum fqi_weight_kind {
    FQI_WEIGHT_VECTOR,        /* float [n] */
    FQI_WEIGHT_MATRIX,        /* fqi_matrix */
    FQI_WEIGHT_FUSED_GATE_UP, /* [experts][2 width][hidden]: gate and up of every expert */
    FQI_WEIGHT_FUSED_DOWN     /* [experts][hidden][width] */
} fqi_weight_kind;

typedef struct fqi_weight_item {
    uint32_t tensor;          /* of the catalogue; of a quantized module its codes */
    size_t module;            /* of the table, or FQI_NO_MODULE */
    fqi_cut cut;              /* what of the tensor, or of the weight that the module stands for, is held */
    uint8_t kind;
    bool of_expert;           /* member is in the expert's fqi_mlp_weights, not in fqi_layer_weights */
    int32_t expert;
    size_t member;            /* offset of the pointer or fqi_matrix to fill */
    uint64_t at, bytes;       /* in the slot */
} fqi_weight_item;

typedef struct fqi_weights_table {
    fqi_weight_item *item; size_t n_item;      /* by layer */
    size_t *first;                             /* n_layer + 1: items of layer l are first[l] .. first[l+1] - 1 */
    fqi_cut embed_cut, norm_cut, head_cut;
    size_t embed, norm, head;                  /* tensors; head is embed in a tied model, and codes where head_module is one */
    size_t head_module;                        /* or FQI_NO_MODULE */
    fqi_quant_module *module; size_t n_module;
    int64_t module_cols;                       /* most input channels of one */
    uint64_t slot_bytes, head_row_bytes;
    size_t chunk;                              /* of the readers: FQI_WEIGHTS_CHUNK, or what the largest tensor needs */
    bool gathers;                              /* a tensor is strided, byteswapped or cut: chunks are put together elsewhere */
} fqi_weights_table;

/* slice: may be NULL. */
fq_status fqi_weights_find(const fq_ckpt *c, const fqi_decoder *d, const fqi_slice *slice, fq_dtype served, fqi_weights_table *out, fq_err *e);
void fqi_weights_table_free(fqi_weights_table *t);
/* The type in which a stored weight is held. One that is made from codes is held as F32, or as served. */
static inline fq_dtype fqi_weight_held(fq_dtype stored, fq_dtype served) { return served == FQ_DTYPE_F32 ? stored : served; }
/* The module of an item or of the head; NULL: a dense tensor. */
static inline const fqi_quant_module *fqi_weight_module(const fqi_weights_table *t, size_t module) { return module == FQI_NO_MODULE ? NULL : &t->module[module]; }

/* Weights that cannot be used, of one tensor: by kind, how many, and where in the tensor the first stands. Kinds are counted apart, so that
 * parts of a tensor can be read in any order. A value that is not finite hides those out of range in its block of elements. */
typedef struct fqi_weight_faults {
    struct { uint64_t count, first; float value; } kind[2];   /* not finite; finite, but beyond the served type */
} fqi_weight_faults;

/* The shards that are being read: each is opened once, whoever reads it, so that all see the same file even when another one takes its
 * name. One entry for each reader; a reader keeps the shard it read last. */
typedef struct fqi_open_shards {
    pthread_mutex_t lock;
    struct { fqi_file file; size_t shard; unsigned users; } entry[FQI_WEIGHTS_HELPERS + 2];
} fqi_open_shards;

void fqi_open_shards_init(fqi_open_shards *s);
void fqi_open_shards_free(fqi_open_shards *s);   /* when no reader is left */

/* Buffers of unpack.c; none if the model has no quantized module. */
typedef struct fqi_unpacker {
    uint32_t *word; size_t n_word;          /* codes of a block */
    unsigned char *raw;                     /* scales and zeros as stored: n_scale words */
    float *scale; uint8_t *zero; size_t n_scale;
    uint8_t *field;
    uint32_t *group_at, *group; size_t n_channel;   /* by input channel of a block: its group's place in `group`, groups of the module */
} fqi_unpacker;

/* One reader of tensors: its buffers and the file it read from last. Used by one thread. */
typedef struct fqi_materialiser {
    const fq_ckpt *ckpt;
    const fqi_kernels *kernel;
    fq_dtype served;
    fq_io io;
    const bool *stop;         /* asked between chunks, atomically; NULL = never */
    const fq_run *run;        /* cancelled is asked between chunks; NULL = never. The caller's thread only */
    fqi_open_shards *open;
    const fqi_file *file;     /* one of those; NULL = none */
    size_t shard, entry;      /* that file is of, and has */
    fqi_slot slot;
    float *wide;              /* FQI_WEIGHTS_BLOCK, of a block that changes its type */
    fqi_unpacker unpacker;
    uint64_t bytes_read;      /* atomic */
} fqi_materialiser;

/* open outlives m. */
fq_status fqi_materialiser_init(fqi_materialiser *m, const fq_ckpt *c, const fqi_weights_options *o, const fqi_weights_table *t, fqi_open_shards *open, fq_err *e);
void fqi_materialiser_free(fqi_materialiser *m);
uint64_t fqi_materialiser_bytes(const fqi_weights_table *t);   /* what one takes beside itself */
/* Rows [row, row + n) of the first dimension of what `cut` leaves of a tensor (row 0 and n its length: all of that) to `out`, as the type that is
 * held, or as float for a vector. What cannot be used is added to *f, by its number in what is left. FQ_E_CANCELLED when stop was set; an error of
 * reading names file and tensor. */
fq_status fqi_materialise_rows(fqi_materialiser *m, size_t tensor, const fqi_cut *cut, int64_t row, int64_t n, bool as_float, void *out, fqi_weight_faults *f, fq_err *e);
void fqi_weight_faults_add(fqi_weight_faults *f, const fqi_weight_faults *more);
/* FQ_OK if there are none, else FQ_E_NUMERIC ("non-finite", "served-range"), of the kind that comes first in the tensor. */
fq_status fqi_weight_faults_report(const fqi_materialiser *m, size_t tensor, const fqi_cut *cut, const fqi_weight_faults *f, fq_err *e);
/* Both. */
fq_status fqi_materialise(fqi_materialiser *m, size_t tensor, const fqi_cut *cut, int64_t row, int64_t n, bool as_float, void *out, fq_err *e);

/* What the passes below the readers share. A part of a tensor of rank 2, as it is stored, row-major to `out`; of rank 1: col 0, n_col 1. Same
 * errors as fqi_materialise_rows. */
typedef struct fqi_view { const fqi_tensor *tensor; int64_t row, n_row, col, n_col; } fqi_view;
fq_status fqi_materialiser_read(fqi_materialiser *m, const fqi_view *v, void *out, fq_err *e);
/* Exact: x holds numbers of the type (F16, BF16), or infinities. */
void fqi_weights_narrow(const float *restrict x, fq_dtype type, uint16_t *restrict out, size_t n);

/* ---- quantized modules ---- */

fq_status fqi_unpacker_init(fqi_unpacker *u, const fqi_weights_table *t, fq_err *e);
void fqi_unpacker_free(fqi_unpacker *u);                      /* after a failure too */
uint64_t fqi_unpacker_bytes(const fqi_weights_table *t);      /* what one takes beside itself */
/* How many units n rows of a module are read in, and the bytes of codes of one: a unit lies together in the file (gptq, awq: 32 input channels;
 * others: an output channel). n_col: input channels that are wanted. */
int64_t fqi_module_units(const fqi_quant_module *q, int64_t n, int64_t n_col, uint64_t *unit_bytes);
/* Units [unit, unit + n_unit) of rows [row, row + n) and columns [col, col + n_col) of the weight, to their places in `out`, which is [n][n_col] of
 * F32 or the served type. col % 32 == 0, or codes are not in words along the inputs.
 * FQ_E_INPUT ("packed-order", "packed-zero", "packed-shape"), FQ_E_NUMERIC ("non-finite", "served-range"). */
typedef struct fqi_module_rows { int64_t row, n, col, n_col, unit, n_unit; } fqi_module_rows;
fq_status fqi_materialise_module(fqi_materialiser *m, const fqi_quant_module *q, const fqi_module_rows *want, void *out, fq_err *e);

/* ---- several readers ---- */

/* As for fqi_materialise; row counts in what the cut leaves. module: NULL, or the one that stands for the rows; tensor are its codes then, as_float
 * means nothing. */
typedef struct fqi_weight_want { size_t tensor; const fqi_quant_module *module; const fqi_cut *cut; int64_t row, n; bool as_float; void *out; } fqi_weight_want;

/* A list of what is wanted, in the order in which it is read. want: called with the lock held, by any thread. */
typedef struct fqi_load {
    size_t n;
    void (*want)(const void *user, size_t i, fqi_weight_want *out);
    const void *user;
    size_t together;          /* wants that one reader takes at once: 1, or more for ones of a few KiB */

    /* private: what is taken next, and what went wrong */
    size_t next; int64_t next_row;
    uint64_t n_taken;
    size_t in_flight;
    size_t faulty;            /* first want with faults, SIZE_MAX = none */
    fqi_weight_faults faults;
    size_t failed;            /* first want that could not be read, SIZE_MAX = none: nothing more is taken */
    uint64_t failed_part;
    fq_status status;
    fq_err err;
} fqi_load;

/* Threads that read for whoever waits. Two threads may wait at a time: the caller, who comes first, and the filler of slots. */
typedef enum fqi_waiter { FQI_WAITER_CALLER, FQI_WAITER_FILLER, FQI_N_WAITER } fqi_waiter;
typedef struct fqi_readers {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    fqi_load *load[FQI_N_WAITER];
    size_t chunk;
    bool started, stop;
    struct fqi_helper { struct fqi_readers *of; pthread_t thread; fqi_materialiser m; } helper[FQI_WEIGHTS_HELPERS];
    size_t n_helper, n_thread;   /* with buffers; running */
} fqi_readers;

/* r is zeroed or freed. fqi_readers_free is right after a failure too, and stops the threads. */
fq_status fqi_readers_init(fqi_readers *r, const fq_ckpt *c, const fqi_weights_options *o, const fqi_weights_table *t, fqi_open_shards *open, fq_err *e);
void fqi_readers_free(fqi_readers *r);
uint64_t fqi_readers_bytes(const fqi_weights_table *t);        /* what they take beside *r */
uint64_t fqi_readers_bytes_read(const fqi_readers *r);
/* Reads all of it: with m on this thread, and with the helpers; without these if no thread can be started. The error is that of the first
 * want that has one, whichever thread found it. Nothing is read any more when this returns. */
fq_status fqi_readers_run(fqi_readers *r, fqi_waiter who, fqi_materialiser *m, fqi_load *l, fq_err *e);

#endif
