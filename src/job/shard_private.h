/* shard_private.h - what the parts of fq_shard share.
 *
 *     shard.c        the job: opening, what stands beside the weights, the report
 *     shard_sets.c   which source tensors ranks store together, and under which name
 *     shard_table.c  sets x ranks -> tensors of the ranks' files, and the boxes that each is made of
 *
 * A set is a tensor of a rank's file: one source tensor, or what engines fuse (q | k | v, gate | up). The table goes set by set and, in each, rank by
 * rank, so that a source tensor is read from the disk once while as many files as there are ranks grow side by side. */
#ifndef FITQ_JOB_SHARD_PRIVATE_H
#define FITQ_JOB_SHARD_PRIVATE_H

#include "base/mem.h"
#include "job/boxes.h"
#include "job/rank_files.h"
#include "job/write.h"

#define FQI_SET_MAX 3              /* q, k, v */
#define FQI_SHARD_SIDE 16          /* files that grow side by side: each takes 8 MiB of buffers. Of more ranks that many at a time */
#define FQI_SHARD_REST UINT16_MAX  /* "rank" of what no engine has a place for */

typedef struct fqi_shard_set {
    const char *name;              /* in the ranks' files */
    uint32_t member[FQI_SET_MAX]; uint8_t n_member;   /* source tensors, one behind the other... */
    int8_t dim;                    /* ...along this dimension; -1: they must be the same, and the first is stored */
    bool rest;
    int64_t rows_pad;              /* of a vocabulary that engines round up: rows that every rank has; 0: those that there are */
} fqi_shard_set;

typedef struct fqi_shard_item { uint32_t set; uint16_t rank; } fqi_shard_item;

typedef struct fqi_shard_job {
    const fq_shard_options *o;
    const fq_run *run;
    fq_ckpt *ckpt;
    fqi_maps maps;                 /* identities */
    fqi_parts parts;
    fqi_rank_cuts cuts;
    fqi_shard_set *set; size_t n_set;
    fqi_shard_item *item; size_t n_item;   /* tensors of the table, in its order */
    fqi_rank_files files;
    fqi_outplan plan;
    fqi_boxes boxes;
    fqi_box box[FQI_SET_MAX * 2];  /* of the tensor in hand */
    char *prov, *order; size_t n_prov, n_order;   /* fitq.json and fitq.order of a source that has them */
    fqi_arena arena;
} fqi_shard_job;

/* j->set. FQ_E_INPUT "engine-names": engines' names of this model are not known. */
fq_status fqi_shard_sets(fqi_shard_job *j, fq_err *e);
/* j->item, j->plan, j->files without hashes. */
fq_status fqi_shard_table(fqi_shard_job *j, fq_err *e);
/* fqi_boxes.describe; user: the job. */
fq_status fqi_shard_describe(void *user, size_t item, fqi_boxed *out, fq_err *e);

#endif
