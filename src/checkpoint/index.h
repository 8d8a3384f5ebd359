/* index.h - model.safetensors.index.json and pytorch_model.bin.index.json: which tensor is in which file.
 *
 *     { "metadata": { "total_size": 282215219200 }, "weight_map": { "lm_head.weight": "model-00162-of-00162.safetensors", ... } }
 *
 * One pass over the text, no tree: what is kept is two pointers and a number per entry. Refused: duplicate keys (parsers
 * disagree on which one wins), an empty map, values that are not strings. File names are not judged here. */
#ifndef FITQ_CHECKPOINT_INDEX_H
#define FITQ_CHECKPOINT_INDEX_H

#include "base/err.h"

#define FQI_INDEX_MAX_BYTES ((uint64_t)256 << 20)
#define FQI_INDEX_MAX_ENTRY ((size_t)4000000)
#define FQI_INDEX_MAX_SHARD ((size_t)100000)

typedef struct fqi_index_entry {
    const char *name;     /* tensor; points into the text */
    const char *file;     /* as written */
    uint64_t at;          /* byte of the key in the text, then index of the file; see fqi_index */
} fqi_index_entry;

typedef struct fqi_index {
    fqi_index_entry *entry; size_t n_entry, cap_entry;    /* name order; at = index into file */
    const char **file; size_t n_file, cap_file;           /* distinct, sorted */
    bool has_total;
    uint64_t total;            /* metadata.total_size */
    bool total_odd;            /* total_size is there but no plain integer */
} fqi_index;

/* text is modified and must outlive *out. On failure nothing is left allocated. */
fq_status fqi_index_parse(char *text, size_t n, const char *file, fqi_index *out, fq_err *e);
void fqi_index_free(fqi_index *x);
/* Entry of a tensor, or NULL. */
const fqi_index_entry *fqi_index_find(const fqi_index *x, const char *name);

#endif
