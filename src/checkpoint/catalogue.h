/* catalogue.h - a checkpoint folder as one table of tensors.
 *
 * Opening reads headers only and collects findings instead of stopping at the first: inspect prints all of them, the jobs refuse
 * to start while one is an error (fq_ckpt_check). No file stays open: a job opens the shard it reads from.
 *
 * Which files are read: with an index, those it names and no others; without, every *.safetensors of the folder; without any of
 * those, pytorch_model*.bin. An index is believed about nothing: each name in it must be a plain file name that resolves to
 * something inside the folder before it is opened. The one exception is the cache of the Hugging Face hub, where
 * snapshots/REVISION/x is a link to ../../blobs/HASH: a link into the blobs folder beside the snapshots folder is followed. */
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
    uint64_t header_hash;  /* XXH3 of the header bytes (safetensors) or of the tensors' descriptors (torch): fingerprint for resume */
} fqi_shard;

struct fq_ckpt {
    fq_ckpt_info info;
    fqi_arena arena;
    char *dir;                  /* folder, or the folder of the single file */
    fqi_shard *shard; size_t n_shard;
    fqi_tensor *tensor; size_t n_tensor;     /* name order, no duplicates */
    fqi_bound *bound;                        /* per tensor; NULL until a family and a naming are known. Unknown names: canonical
                                                NULL. Parts of quantized modules: row NULL, like what is passed through */
    bool has_config; fqi_config config;
    bool has_naming; fqi_naming naming;
    bool partial;               /* PATH is one weight file of several (a numbered one, or an index beside it names others): what can be
                                   read is a part of the model, and a copy of it would be one too */
    fq_finding *finding; size_t n_finding;   /* errors first */
    size_t n_error;                          /* errors found, those beyond the listed ones too */
    void *priv;                 /* parser tables that own names and shapes */
};

/* Index of a tensor by stored name, or SIZE_MAX. Binary search. */
size_t fqi_ckpt_find(const fq_ckpt *c, const char *name);

#define FQI_RANKS_FILE "fitq-ranks.json"   /* what fitq shard writes beside them: job/rank_files.h */
/* "model-rank-0-part-0.safetensors", as vllm and SGLang save what each rank holds (model_loader/sharded_state_loader.py). */
bool fqi_is_rank_file(const char *name);
/* Files of a folder that have nothing to do with each other, as those of ranks: names may be in several, and stand by name, then file. No
 * config.json is read, no family bound. The first error of any header is returned. Closed with fq_ckpt_close. */
fq_status fqi_ckpt_open_apart(const char *dir, const char *const *file, size_t n, fq_ckpt **out, fq_err *e);
/* Index of the tensor of this name in this file of such a catalogue, or SIZE_MAX. */
size_t fqi_ckpt_find_in(const fq_ckpt *c, const char *name, uint32_t shard);
/* FQ_E_INPUT unless it is sound, whole, and of a family and naming that are known: fq_ckpt_check's rules, "partial-checkpoint", "config-missing",
 * "unknown-family", "prefix". */
fq_status fqi_ckpt_check_model(const fq_ckpt *c, fq_err *e);
/* Is tensor i, of a catalogue that has `bound`, a bias that config.json does not announce? */
bool fqi_ckpt_bias_unannounced(const fq_ckpt *c, size_t i);
/* Opens the file of shard i for bulk reading (caller closes). FQ_E_IO "changed" if size or mtime differ from when the catalogue
 * was read. */
fq_status fqi_ckpt_open_shard(const fq_ckpt *c, size_t i, fq_io io, fqi_file *out, fq_err *e);

#endif
