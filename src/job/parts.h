/* parts.h - what becomes of every tensor of a quantized checkpoint when the axes of its model get new lengths.
 *
 *     maps of the model's axes  ->  for every part of every quantized module: a map per dimension, and what stands in the empty places
 *
 * A part counts an axis in elements, in words of packed codes, or in groups that have a scale (checkpoint/quant_layout.h), so its maps follow from
 * the axis' map (axis/map.h: shrink, blocks). Codes and scales keep their bits and only move, words whole where the map allows it, so every weight that
 * was there is the same number afterwards. Empty places hold the code of zero, zero points that agree with it, and scales of 1: they are
 * exactly zero, and nothing in them is NaN.
 *
 * Two kinds of parts are not moved but computed: the group of every input channel (g_idx), and the shape that compressed-tensors stores. Of an MLP that is
 * folded (job/fold.h), whatever has its channels is put together from single channels (checkpoint/fields.h); these tensors count as computed too.
 *
 * Refused, with the module's name: maps that would put two groups into one ("map-block"), lengths that do not fill words ("map-unit"), maps that fill up part of a group whose
 * zero points are its own and have no code, or are not those of symmetric codes ("packed-zero"), are those of the other of gptq and gptq_v2 ("zero-version"), or end in part of a group of integers ("packed-group"); codes that straddle words ("packed-bits":
 * 3 bits); and a stored shape that does not tell the lengths ("packed-shape"). Until fqi_parts_make only orders and shapes are read. */
#ifndef FITQ_JOB_PARTS_H
#define FITQ_JOB_PARTS_H

#include "checkpoint/quantized.h"
#include "job/fold.h"
#include "job/mapping.h"
#include "job/provenance.h"

#define FQI_NO_PART UINT32_MAX

typedef struct fqi_part_plan {
    uint32_t module;                  /* FQI_NO_PART: a tensor like others, or one of a folded MLP that is not quantized (a bias) */
    uint8_t part;                     /* fqi_part */
    bool computed;                    /* by fqi_parts_make */
    int8_t fold_dim;                  /* the dimension that goes by the order of `fold` */
    const fqi_fold_mlp *fold;         /* put together from channels; NULL: not */
    const fqi_map *cut[2];            /* of a dimension of words that the axis' map cuts: that map, in elements; the words are put together again */
    const fqi_map *map[2];            /* NULL: identity, or by fold or cut. In the table's hands */
    unsigned char fill[4];
    bool own_zeros;                   /* what fills up a group is its zero point (parts_zeros.h), not `fill` */
    int64_t shape_new[2];
} fqi_part_plan;

typedef struct fqi_parts_module {
    fqi_quant_module now;             /* as stored */
    fqi_quant_size size_new;
    const fqi_map *map[2];            /* of N and K, in elements; NULL: identity */
    const fqi_fold_mlp *fold;         /* its channels go in this order; NULL: as they are */
    bool fold_inputs;                 /* it takes them in (down_proj) */
    int64_t group_forward;            /* group_cols of what the forward maps begin at */
} fqi_parts_module;

typedef struct fqi_parts {
    const fq_ckpt *ckpt;
    fqi_part_plan *of;                /* [ckpt->n_tensor]; NULL: the checkpoint is not quantized */
    fqi_parts_module *module; size_t n_module;
    struct fqi_parts_map **derived; size_t n_derived, cap_derived;   /* private */
    const fqi_fold *fold;             /* of the request */
    const fqi_maps *forward;          /* of the request: from the unfitted model to the fitted one */
    uint64_t largest;                 /* bytes of the largest tensor that is put together from channels; 0: none is */
    struct fqi_parts_reader *reader;  /* private: the tensor that is being put together */
} fqi_parts;

/* What a job does to the parts. maps: of the model's axes as they are being applied. forward: they undo these, whose derived maps are inverted,
 * since a group that was split comes back from two that are alike; NULL: they go forward. regroup: channels that share a scale afterwards, of
 * integers (going back: shared it before, -1 for one group a row); 0: as they are. Scales and zero points of a group are repeated for
 * each of the smaller ones; codes stay. fold: MLPs whose channels go into another order before the maps (back: after them); NULL: none. */
typedef struct fqi_parts_request { const fqi_maps *maps, *forward; int64_t regroup; const fqi_fold *fold; } fqi_parts_request;

/* Zero-initialise out; freed by the caller also on failure. The catalogue, the maps and the fold are borrowed. */
fq_status fqi_parts_create(const fq_ckpt *c, const fqi_parts_request *r, fqi_parts *out, fq_err *e);
void fqi_parts_free(fqi_parts *p);
/* What becomes of tensor i; NULL: it is a tensor like others. p may be NULL. */
const fqi_part_plan *fqi_parts_of(const fqi_parts *p, size_t i);
/* Bytes [off, off + n) of computed tensor i, front to back. Reads what it needs of the source. One thread at a time. */
fq_status fqi_parts_make(const fqi_parts *p, const fq_run *run, size_t i, uint64_t off, unsigned char *out, size_t n, fq_err *e);

/* The hash of computed tensor i as it was, if making it read all of it anyway; after its last byte was made. False: it must be read. */
bool fqi_parts_source_hash(const fqi_parts *p, size_t i, fqi_hash128 *out);

/* Bytes that putting tensors together takes beside the writer's buffers; 0 where none is. Of a budget a quarter at most. */
uint64_t fqi_parts_memory(const fqi_parts *p, const fq_run *run);

/* *ordered: that is another one than k / group_size. "packed-order": a group that the module does not have. */
fq_status fqi_parts_check_order(const fq_ckpt *c, const fqi_quant_module *m, bool *ordered, fq_err *e);
/* "packed-shape": the stored shape, if the form has one, does not tell the lengths. */
fq_status fqi_parts_check_shape(const fq_ckpt *c, const fqi_quant_module *m, fq_err *e);

/* What shares a scale along the axes that can be padded, and what must stay together when such a block is split (a word; the whole block, where
 * zero points are its own), in elements, for fqi_layout. 0: not quantized. */
void fqi_parts_units(const fqi_quant_scheme *s, int64_t *unit, int64_t *grain);

#endif
