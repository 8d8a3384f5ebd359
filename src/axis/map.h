/* map.h - an axis map: new index -> old index, or nothing (a zero).
 *
 * Everything fitq does to weights is such a map on each axis. Stored as runs:
 *
 *     interleave 4 -> 6, pad 2:   0 - 1 - 2 3      runs  {0,1} {-,1} {1,1} {-,1} {2,2}
 *
 * Pure: numbers in, numbers out. */
#ifndef FITQ_AXIS_MAP_H
#define FITQ_AXIS_MAP_H

#include "base/err.h"

/* More runs than any axis needs (interleaving 29568 channels fully has 59136), few enough that a hostile fitq.json or an absurd
 * request cannot take more than 64 MiB per map. */
#define FQI_MAP_MAX_RUN (1u << 22)

typedef struct fqi_run { int64_t src; int64_t count; } fqi_run;   /* src of the first; -1 = zeros */

typedef struct fqi_map {
    int64_t n_old, n_new;
    fqi_run *run;      /* counts are positive and add up to n_new; adjacent runs are merged where they continue */
    size_t n_run, cap; /* owned */
} fqi_map;

void fqi_map_free(fqi_map *m);                       /* NULL and zeroed are fine */
bool fqi_map_append(fqi_map *m, int64_t src, int64_t count);   /* merges; false = out of memory, or more than FQI_MAP_MAX_RUN. n_new grows */
bool fqi_map_is_identity(const fqi_map *m);

/* Constructors: m is overwritten. Return FQ_E_USAGE for lengths that make no sense (n_new < n_old, ...), FQ_E_NOMEM. */
fq_status fqi_map_identity(fqi_map *m, int64_t n, fq_err *e);
fq_status fqi_map_tail(fqi_map *m, int64_t n_old, int64_t n_new, fq_err *e);
/* The documented procedure for Qwen (docs/padding.md): 0,-,1,-,...,p-1,- then p, p+1, ...; p = n_new - n_old <= n_old. */
fq_status fqi_map_interleave(fqi_map *m, int64_t n_old, int64_t n_new, fq_err *e);
/* n_new is cut into n_group equal groups; group k gets floor((k+1) n_old / n_group) - floor(k n_old / n_group) real channels,
 * in order, then its zeros. So any number of ranks that divides n_group holds the same number of real channels to within
 * one, and no group is empty when n_old >= n_group. n_new % n_group == 0. */
fq_status fqi_map_spread(fqi_map *m, int64_t n_old, int64_t n_new, int64_t n_group, fq_err *e);

/* The same for an axis that is stored in blocks of `unit` which share a scale, and never more than one scale in a block: n_new is cut into n_rank
 * slices of whole blocks, every slice gets an equal share of the real channels (to within `grain`: words are not cut), and where a share
 * begins or ends inside an old block, that block is split, each part in a block of its own. FQ_E_USAGE "split-blocks" if the slices have too
 * few blocks for that. n_new % (n_rank * unit) == 0, n_old % grain == 0, unit % grain == 0. */
fq_status fqi_map_split(fqi_map *m, int64_t n_old, int64_t n_new, int64_t n_rank, int64_t unit, int64_t grain, fq_err *e);

/* Heads. h, kv: real; h_pad, kv_pad: after; every KV head is first stored kv_rep times and its query heads are dealt among the
 * copies; then KV heads without any source (and their query heads) are added, at the end (tail) or evenly over the KV axis
 * (spread). Dummy query heads stand inside their own KV group: at its end, or where a block begins, if `block` consecutive heads share a scale (0, 1:
 * none do) and a new block would else hold heads of two old ones; as far as the group has dummies for that. Both maps are in heads, not
 * elements. */
typedef struct fqi_heads { int64_t h, kv, h_pad, kv_pad, kv_rep, block; bool spread; } fqi_heads;
fq_status fqi_map_heads(const fqi_heads *s, fqi_map *q, fqi_map *kv, fq_err *e);

/* Every index becomes `unit` consecutive ones (heads -> elements). */
fq_status fqi_map_scale(const fqi_map *in, int64_t unit, fqi_map *out, fq_err *e);
/* `parts` copies one after another (fused gate|up). */
fq_status fqi_map_stack(const fqi_map *in, int parts, fqi_map *out, fq_err *e);
/* The other way: `unit` consecutive indices, whole words of packed codes, become one. FQ_E_INPUT "map-unit" if a run cuts one. */
fq_status fqi_map_shrink(const fqi_map *in, int64_t unit, fqi_map *out, fq_err *e);
/* What an array with one entry for each block of the axis (scales of groups, of FP8 blocks) needs when its elements go by `in`: new block -> the
 * old block that its real elements come from, or nothing if it has none. A split block is read several times. Lengths need not be multiples
 * of the blocks. FQ_E_INPUT "map-block" if a new block would hold elements of two old ones, which have two scales. */
fq_status fqi_map_blocks(const fqi_map *in, int64_t unit_old, int64_t unit_new, fqi_map *out, fq_err *e);
/* old index -> the first new index that reads it. FQ_E_INPUT "map-not-onto" if an old index is read by none. */
fq_status fqi_map_inverse(const fqi_map *in, fqi_map *out, fq_err *e);

/* same: old indices that are read; copy: reads of an index already read. same + copy + zero = n_new, same + missing = n_old. */
typedef struct fqi_map_count { int64_t same, copy, zero, missing; } fqi_map_count;
fq_status fqi_map_count_uses(const fqi_map *m, fqi_map_count *out, fq_err *e);

/* Text form for fitq.json: "0:128 -:1 128:127 ...". Parsing checks everything (ranges, totals). */
fq_status fqi_map_print(const fqi_map *m, char **out, fq_err *e);                       /* caller frees */
fq_status fqi_map_parse(const char *text, int64_t n_old, int64_t n_new, const char *file, fqi_map *out, fq_err *e);

#endif
