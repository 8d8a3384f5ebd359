/* torch.h - pytorch_model.bin: a zip of stored entries with a pickled state dict; bytes -> descriptors.
 *
 * The pickle is run by a machine that knows the opcodes a state dict needs and the handful of globals it may name; anything
 * else is refused by name and nothing is ever executed. Sources: pytorch torch/serialization.py, torch/_weights_only_unpickler.py. */
#ifndef FITQ_FORMAT_TORCH_H
#define FITQ_FORMAT_TORCH_H

#include "base/mem.h"
#include "format/tensor.h"

/* Random access to the container, so that the parser needs no file. */
typedef struct fqi_bytes {
    void *user;
    uint64_t n;
    const char *file;
    fq_status (*read)(void *user, void *buf, size_t n, uint64_t off, fq_err *e);
} fqi_bytes;

typedef struct fqi_torch_table {
    fqi_tensor *tensor;      /* in state-dict order; strides that are row-major become NULL */
    size_t n_tensor;
    const char *wrapper;     /* "state_dict", "model", "module": key of the level that held the tensors, "" if none */
    bool crc_unchecked;      /* some entry has CRC 0, which torch writes when asked not to compute it */
    fqi_arena arena;
} fqi_torch_table;

/* max_pickle: refuse a data.pkl above this size. check_crc: also read every storage and check its CRC (slow). */
fq_status fqi_torch_parse(const fqi_bytes *b, uint64_t max_pickle, bool check_crc, fqi_torch_table *out, fq_err *e);
void fqi_torch_free(fqi_torch_table *t);

#endif
