/* outplan.h - every tensor that a job will write, where it comes from and where it goes, before a byte is read.
 *
 *     source tensors + maps + naming -> [name, shape_pad, maps per dimension] -> shards -> order and offsets inside a shard
 *
 * The dry run prints it, the writer follows it, resume compares it: one table, so that they cannot disagree. */
#ifndef FITQ_JOB_OUTPLAN_H
#define FITQ_JOB_OUTPLAN_H

#include "checkpoint/catalogue.h"
#include "job/mapping.h"
#include "job/parts.h"
#include "job/provenance.h"

/* A tensor that a job computes instead of copying it: stands in for `instead_of` (several may: codes, scales, ...). */
typedef struct fqi_made {
    const fqi_tensor *instead_of;     /* of the catalogue; that one is not written... */
    bool beside;                      /* ...unless all that name it stand beside it */
    const char *suffix;               /* of the written name, e.g. ".qweight", behind the module (the written name of instead_of without ".weight", ".qweight", ...;
                                         or `module`, where one source tensor holds several modules) */
    const char *module;               /* canonical name, e.g. "layers.0.mlp.experts.3.gate_proj", or NULL */
    fq_dtype dtype;
    int rank;
    int64_t shape_pad[2];
    size_t id;                        /* the maker's own */
} fqi_made;

typedef struct fqi_out_tensor {
    const char *name;                 /* in the arena */
    const fqi_tensor *src;            /* borrowed from the catalogue; NULL: zeros that the source does not have, or made */
    const fqi_made *made;             /* borrowed from the request; NULL: copied */
    int64_t layer;                    /* -1: of no layer */
    const fqi_map *map[FQ_MAX_RANK];  /* borrowed from the maps; NULL: identity */
    int64_t shape_pad[FQ_MAX_RANK];
    uint64_t bytes_pad;
    uint32_t shard;
    uint8_t dtype, rank;
    bool changed;
    bool computed;                    /* has a source, and is computed from it instead of moved (fqi_parts_make) */
    unsigned char fill[4];            /* what stands where the maps leave it empty; see gather.h */
    bool at_end;                      /* behind the layers: final norm, output head */
} fqi_out_tensor;

typedef struct fqi_out_shard {
    char *name;          /* "model-00001-of-00003.safetensors" */
    size_t first, n;     /* its tensors: tensor[first .. first + n), in the order they are written... */
    const size_t *list;  /* ...or tensor[list[0 .. n)], ascending, of a table that writes several at a time; NULL: the former */
    uint64_t data_bytes; /* without the header */
} fqi_out_shard;

typedef struct fqi_outplan {
    fqi_out_tensor *tensor; size_t n_tensor;
    fqi_out_shard *shard; size_t n_shard;
    uint64_t bytes, bytes_pad;
    size_t n_changed, n_added;
    bool restores;       /* no mark of fitq in the headers */
    bool apart;          /* every shard is for a reader of its own: names may be in several, and no index is written */
    size_t n_open;       /* shards that are written at a time: more than one if tensors of several take turns */
    fqi_arena arena;
} fqi_outplan;

typedef struct fqi_outplan_request {
    const fq_ckpt *ckpt;
    const fqi_maps *maps;
    const fqi_parts *parts;                   /* of a quantized checkpoint; NULL: it is not */
    const fqi_naming *from, *to;
    const char *const *skip; size_t n_skip;   /* stored names to leave out (name order) */
    const char *const *zeros; size_t n_zeros; /* names of tensors of zeros to add, shaped like zeros_like */
    const fqi_tensor *zeros_like;             /* rank 1 */
    const fqi_prov *restore;                  /* not NULL: files and order of the checkpoint that this one was made from */
    uint64_t shard_bytes;                     /* a tensor larger than this gets a shard of its own */
    const char *stem;                         /* of the files' names; NULL: "model" */
    const fqi_made *made; size_t n_made;      /* any order */
    bool by_layer;                            /* what is of no layer first (final norm and head last), then layer after layer, each in the reference
                                                 order, so that a layer is finished in one go; a tensor that would stand unaligned begins a shard */
} fqi_outplan_request;

fq_status fqi_outplan_create(const fqi_outplan_request *r, fqi_outplan *out, fq_err *e);
void fqi_outplan_free(fqi_outplan *p);

/* A table whose tensors all come from the job (fqi_write_request.made), in the order given, which is that of writing: tensor i goes behind those of the
 * same shard before it. Names are copied. */
typedef struct fqi_given {
    const char *name;
    const int64_t *shape;
    fq_dtype dtype;
    uint8_t rank;
    uint32_t shard;
} fqi_given;
/* shard: n_shard names, copied; each has a tensor. */
fq_status fqi_outplan_given(const fqi_given *t, size_t n, const char *const *shard, size_t n_shard, fqi_outplan *out, fq_err *e);

/* The k-th tensor of a shard. */
static inline size_t fqi_outplan_at(const fqi_out_shard *s, size_t k) { return s->list ? s->list[k] : s->first + k; }

/* Header of one shard: the bytes that stand before its data. */
fq_status fqi_outplan_header(const fqi_outplan *p, size_t shard, fqi_str *out, fq_err *e);
/* model.safetensors.index.json, or nothing (len 0) for a single shard and for shards that stand apart. */
fq_status fqi_outplan_index(const fqi_outplan *p, fqi_str *out, fq_err *e);
/* XXH3 over everything that decides the bytes written, except the data. */
uint64_t fqi_outplan_hash(const fqi_outplan *p);

#endif
