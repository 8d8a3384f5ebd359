/* torch_pickle.h - the part of the pickle language that a torch state dict uses, run without executing anything.
 *
 * The result is tables of plain data: nothing in it is a Python object, and no number in it was compared with the file yet
 * (torch.c does that, where it can name the tensor). */
#ifndef FITQ_FORMAT_TORCH_PICKLE_H
#define FITQ_FORMAT_TORCH_PICKLE_H

#include "base/err.h"
#include "format/tensor.h"

typedef enum fqi_pk_kind {
    FQI_PK_MARK, FQI_PK_NONE, FQI_PK_BOOL, FQI_PK_INT, FQI_PK_BIGINT, FQI_PK_FLOAT, FQI_PK_STR, FQI_PK_BYTES, FQI_PK_GLOBAL,
    FQI_PK_TUPLE, FQI_PK_LIST, FQI_PK_SET, FQI_PK_DICT, FQI_PK_STORAGE, FQI_PK_TENSOR, FQI_PK_LAYOUT,
    FQI_N_PK_KIND
} fqi_pk_kind;

/* 16 bytes. i: BOOL, INT the value; STR the position in the text (n bytes); GLOBAL the row of the allow-list; TUPLE the first
 * of n items; DICT, STORAGE, TENSOR the index in their table. LIST, SET, BYTES, FLOAT, BIGINT: nothing is kept. */
typedef struct fqi_pk_val {
    fqi_pk_kind kind;
    uint32_t n;
    int64_t i;
} fqi_pk_val;

#define FQI_PK_END UINT32_MAX

typedef struct fqi_pk_pair { fqi_pk_val key, value; uint32_t next; } fqi_pk_pair;   /* next: FQI_PK_END after the last */
typedef struct fqi_pk_dict { uint32_t first, last, n; } fqi_pk_dict;

typedef struct fqi_pk_storage {
    fqi_pk_val key;    /* STR */
    int64_t numel;     /* as written: in elements, in bytes if untyped */
    uint64_t at;       /* position in the file, for messages */
    uint8_t dtype;
    bool untyped;
} fqi_pk_storage;

typedef struct fqi_pk_tensor {
    uint32_t storage;
    uint32_t size, stride;   /* first of rank items, all INT, as written */
    uint8_t dtype, rank;
    int64_t offset;          /* elements, as written */
    uint64_t at;
} fqi_pk_tensor;

typedef struct fqi_pickle {
    const unsigned char *text;   /* borrowed */
    fqi_pk_val root;
    fqi_pk_val *item; size_t n_item, cap_item;
    fqi_pk_dict *dict; size_t n_dict, cap_dict;
    fqi_pk_pair *pair; size_t n_pair, cap_pair;
    fqi_pk_storage *storage; size_t n_storage, cap_storage;
    fqi_pk_tensor *tensor; size_t n_tensor, cap_tensor;
} fqi_pickle;

/* Limits on top of those that the length of the text sets. A state dict needs about 60 steps a tensor. */
#define FQI_PK_MAX_STACK 65536u
#define FQI_PK_MAX_STEP (1u << 26)
#define FQI_PK_MAX_KEY 255u      /* bytes of a storage key; torch writes decimal numbers */

/* Runs n bytes that stand at byte base of file. text must outlive *out. On failure nothing is left allocated. */
fq_status fqi_pickle_run(const unsigned char *text, size_t n, const char *file, uint64_t base, fqi_pickle *out, fq_err *e);
void fqi_pickle_free(fqi_pickle *p);

const char *fqi_pk_kind_name(fqi_pk_kind k);   /* "tuple" */
/* Is v the string s? */
bool fqi_pk_is(const fqi_pickle *p, fqi_pk_val v, const char *s);

#endif
