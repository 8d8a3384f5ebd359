/* provenance.h - fitq.json: what was done to a checkpoint, so that it can be undone and proved.
 *
 *     { "fitq": "0.1.0", "schema": 1, "operation": "pad", "layout": "spread", "group_size": 128, "family": "qwen2",
 *       "fit": { "intermediate_size": [29568, 29696] },
 *       "maps": { "intermediate_size": { "old": 29568, "new": 29696, "runs": "0:127 -:1 ..." } },
 *       "naming": { "source": {...}, "target": {...} },
 *       "folded": [ MLPs whose channels were put in the order of their groups first, "XXH3-64 of fitq.order" ],      (job/fold.h; or not there)
 *       "added": [ "model.layers.0.self_attn.o_proj.bias" ],
 *       "source_shards": [ { "name": ..., "bytes": ..., "header_xxh3": ... } ],
 *       "config_source": "...the text of config.json as it was...", "config_xxh3": "of config.json as written",
 *       "tensors": { "name as written": [ "XXH3-128 of the source tensor's bytes", index in source_shards, "BF16" ] },
 *       "record_xxh3": "of all of the above" }
 *
 * Of a quantized model "operation" is "quantize", "quantization" says how it was done and what it cost each module, and "tensors" lists
 * what was copied.
 *
 * Engines ignore the file. Reading it checks everything that is used. */
#ifndef FITQ_JOB_PROVENANCE_H
#define FITQ_JOB_PROVENANCE_H

#include "arch/config.h"
#include "base/mem.h"
#include "job/mapping.h"
#include "job/record.h"

#define FQI_PROV_FILE "fitq.json"

typedef struct fqi_prov_tensor { const char *name; fqi_hash128 source_hash; uint32_t source_shard; fq_dtype dtype; } fqi_prov_tensor;

typedef struct fqi_prov {
    char layout[16], family[32];
    int64_t group_size;
    int64_t group_old, group_new;   /* of quantized weights that were regrouped, -1: one group a row; 0: they were not */
    fqi_maps maps;                  /* source -> target */
    fqi_naming from, to;            /* names in the source and in this checkpoint */
    const char **added; size_t n_added;             /* names of tensors of zeros that the source does not have; name order */
    fqi_prov_tensor *tensor; size_t n_tensor;       /* name order */
    const char **source_shard; size_t n_source_shard;   /* file names of the source, so that unpad can restore them */
    char *config_source; size_t n_config_source;
    int64_t n_folded;               /* MLPs whose channels went into another order before the maps: the maps alone do not say where they are */
    uint64_t order_hash;            /* of fitq.order, which says it */
    bool ordered;                   /* channels of MLPs are stored in the order that fitq.order says */
    bool quantized;                 /* weights are not the source's any more: nothing can be undone */
    uint64_t config_hash;           /* XXH3-64 of config.json as fitq wrote it */
    fqi_arena arena;                /* owns the strings */
} fqi_prov;

/* Reads DIR/fitq.json. FQ_E_INPUT with rule "fitq-json" if it is missing or damaged. */
fq_status fqi_prov_load(const char *dir, fqi_prov *out, fq_err *e);
void fqi_prov_free(fqi_prov *p);

/* The source model's name of a tensor of this checkpoint, into buf (NULL if it was added). False if buf is too small. */
bool fqi_prov_is_added(const fqi_prov *p, const char *name);
const fqi_prov_tensor *fqi_prov_find(const fqi_prov *p, const char *name);

/* name under naming `from` -> under naming `to`; b is its binding under `from`. Empty result on overflow of out (refused). */
bool fqi_rename(const fqi_naming *from, const fqi_naming *to, const fqi_bound *b, const char *name, char *out, size_t n_out);

/* Text of fitq.json; caller frees. */
typedef struct fqi_prov_write {
    const char *layout;
    int64_t group_size;
    int64_t group_old, group_new;   /* of quantized weights that were regrouped, -1: one group a row; 0: they were not */
    int64_t n_folded; uint64_t order_hash;
    const fq_model *model; const fq_fit *fit;
    const fqi_maps *maps;
    const fqi_naming *from, *to;
    const char *const *added; size_t n_added;
    const struct fqi_shard *shard; size_t n_shard;
    const char *config_source, *config_target;
    const fqi_prov_tensor *tensor; size_t n_tensor;
    json_t *quantization;           /* borrowed; NULL: weights are the source's */
} fqi_prov_write;
fq_status fqi_prov_print(const fqi_prov_write *w, char **out, size_t *n, fq_err *e);
/* The record in DIR of a model that fitq quantized, for the same model in another form (convert): what was done to it stays, and says so. Caller
 * frees *out. */
fq_status fqi_prov_converted(const char *dir, const char *form, const char *config_target, char **out, size_t *n, fq_err *e);

#endif
