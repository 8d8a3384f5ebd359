/* opening.h - what the steps of fq_ckpt_open share; nobody else includes it.
 *
 *     source.c     PATH -> which files, in which folder, with which index
 *     shards.c     each file -> tensors of the table; the table against the index
 *     soundness.c  the table against config.json; quantized modules in soundness_quant.c
 *     catalogue.c  the order of the steps, what outlives them, and the public functions */
#ifndef FITQ_CHECKPOINT_OPENING_H
#define FITQ_CHECKPOINT_OPENING_H

#include "checkpoint/catalogue.h"
#include "checkpoint/findings.h"
#include "checkpoint/index.h"
#include "format/safetensors.h"
#include "format/torch.h"

/* Descriptors of all headers together: a folder of many small files with huge headers must not fill the memory either. */
#define FQI_CKPT_MAX_HEADERS ((uint64_t)2 * FQI_ST_MAX_HEADER)

/* Owns the names and shapes of one file. */
typedef struct fqi_ckpt_table {
    char *text;               /* safetensors header */
    fqi_st_header st;
    fqi_torch_table torch;
} fqi_ckpt_table;

typedef struct fqi_ckpt_tables { fqi_ckpt_table *table; size_t n, cap; } fqi_ckpt_tables;   /* fq_ckpt.priv */

typedef struct fqi_opening {
    fq_ckpt *c;
    fqi_findings *find;
    const char *path;             /* as the user gave it */
    bool folder, single;          /* single: one weight file was named */
    bool apart;                   /* every file is for a reader of its own: a name may be in several */
    bool has_index;
    const char *index_path;       /* in the arena; also when the index was refused */
    char *index_text;             /* owned */
    fqi_index index;
    const char **file; size_t n_file, cap_file;   /* names to read; with an index, index.file in the same order */
    size_t *shard_of_file;        /* SIZE_MAX: refused or damaged */
} fqi_opening;

/* Fills dir, index and file. Fails if nothing can be said. */
fq_status fqi_source_resolve(fqi_opening *o, fq_err *e);
/* May path be read as a part of the checkpoint (see catalogue.h on links)? FQ_E_NOMEM: no memory to tell. */
fq_status fqi_source_allows(const char *dir, const char *path, bool *allowed, fq_err *e);
bool fqi_is_torch_name(const char *name);

/* Fills shard and tensor (sorted, unique). */
fq_status fqi_shards_read(fqi_opening *o, fq_err *e);
void fqi_tables_free(fqi_ckpt_tables *t);

/* Reads config.json, finds the naming, fills bound and what depends on them. */
fq_status fqi_soundness_check(fqi_opening *o, fq_err *e);
/* A step of it: findings about quantized modules. */
fq_status fqi_soundness_quantized(fqi_opening *o, fq_err *e);

#endif
