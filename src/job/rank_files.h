/* rank_files.h - fitq-ranks.json: how the tensors of a checkpoint lie in files of which each is one rank's. What fitq shard writes and fitq unshard reads.
 *
 *     { "fitq": "0.1.0", "schema": 1, "tp": 2, "expert_parallel": false, "names": "checkpoint",
 *       "ranks": [ [ "model-rank-0-part-0.safetensors" ], [ "model-rank-1-part-0.safetensors" ] ],      "rest": [ "fitq-rest.safetensors" ],
 *       "source_files": [ "model.safetensors" ],
 *       "cuts": [ { "dim": 1, "parts": 1, "length": 4864, "ranks": [ [0, 2432], [2432, 2432] ] }, ... ],
 *       "tensors": { "model.layers.0.mlp.down_proj.weight": { "dtype": "BF16", "shape": [896, 4864], "file": 0, "cut": 0, "xxh3": "..." }, ... },
 *       "record_xxh3": "of all of the above" }
 *
 * A cut says for each rank [first, number] of the dimension's entries (of each half where "parts" is 2), or null where the rank does not have the tensor;
 * dim -1: ranks that have it have all of it. Tensors stand in the order of their data in the source's files. A tensor without "cut" is in the files of "rest". Where a rank stores it in another tensor, "in" is that one's
 * name and "at" [dimension, first entry]. "file": of the source; "xxh3": XXH3-128 of the whole tensor. */
#ifndef FITQ_JOB_RANK_FILES_H
#define FITQ_JOB_RANK_FILES_H

#include "job/rank_cuts.h"

typedef struct fqi_rank_tensor {
    const char *name;
    fq_dtype dtype;
    uint8_t rank;
    int64_t shape[FQ_MAX_RANK];
    uint32_t file;               /* of source_file */
    uint64_t off;                /* in it, when writing: tensors stand in the record as they lay, and are put together in that order */
    const fqi_rank_cut *cut;     /* NULL: in rest */
    const char *in;              /* where ranks have it; its own name if nothing else is said */
    int at_dim; int64_t at;      /* from this entry of that dimension on; at_dim -1: from the first */
    fqi_hash128 hash;
} fqi_rank_tensor;

typedef struct fqi_rank_files {
    int tp;
    bool expert_parallel, engine_names;
    const char **file; size_t n_file;            /* all, rank after rank, then rest */
    size_t *first;                               /* [tp + 2]: rank r has file[first[r] .. first[r + 1]); r = tp: rest */
    const char **source_file; size_t n_source_file;
    const fqi_rank_cut **cut; size_t n_cut;      /* borrowed when writing */
    fqi_rank_tensor *tensor; size_t n_tensor;
    fqi_arena arena;
} fqi_rank_files;

/* Caller frees *out. Puts f->tensor in order of file and place. */
fq_status fqi_rank_files_print(fqi_rank_files *f, char **out, size_t *n, fq_err *e);
/* DIR/fitq-ranks.json. Everything in it is checked, but not against the files: FQ_E_INPUT "fitq-ranks". Zero-initialised or not, *out is filled on success only. */
fq_status fqi_rank_files_load(const char *dir, fqi_rank_files *out, fq_err *e);
void fqi_rank_files_free(fqi_rank_files *f);

#endif
