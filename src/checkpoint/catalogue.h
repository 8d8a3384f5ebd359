/* catalogue.h - a checkpoint folder as one table of tensors.
 *
 * Opening reads headers only and collects findings instead of stopping at the first: inspect prints all of them, the jobs refuse
 * to start while one is an error (fq_ckpt_check). Shards stay open (at most 64 descriptors; reopened on demand beyond). */
#ifndef FITQ_CHECKPOINT_CATALOGUE_H
#define FITQ_CHECKPOINT_CATALOGUE_H

#include "arch/config.h"
#include "base/fs.h"
#include "base/mem.h"
#include "format/tensor.h"

typedef struct fqi_shard {
    char *name;            /* file name inside the folder */
    char *path;
    bool torch;            /* a .bin zip, not safetensors */
    uint64_t bytes;
    int64_t mtime_ns;
    uint64_t header_hash;  /* XXH3 of the header bytes (safetensors) or of data.pkl's descriptors (torch): fingerprint for resume */
} fqi_shard;

struct fq_ckpt {
    fq_ckpt_info info;
    fqi_arena arena;
    char *dir;                  /* folder, or the folder of the single file */
    fqi_shard *shard; size_t n_shard;
    fqi_tensor *tensor; size_t n_tensor;     /* name order, no duplicates */
    fqi_bound *bound;                        /* per tensor; NULL until a family and a naming are known */
    bool has_config; fqi_config config;
    bool has_naming; fqi_naming naming;
    struct fqi_find { fq_finding f; } *finding; size_t n_finding;
    void *priv;                 /* parser tables that own names and shapes */
};

/* Index of a tensor by stored name, or SIZE_MAX. Binary search. */
size_t fqi_ckpt_find(const fq_ckpt *c, const char *name);
/* Opens the file of shard i for bulk reading (caller closes). FQ_E_IO "changed" if size or mtime differ from when the catalogue
 * was read. */
fq_status fqi_ckpt_open_shard(const fq_ckpt *c, size_t i, fq_io io, fqi_file *out, fq_err *e);

#endif
