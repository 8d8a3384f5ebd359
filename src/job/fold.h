/* fold.h - MLP channels in the order of their groups: what makes g_idx of down_proj trivial.
 *
 *     stored by desc_act:   channel   0 1 2 3 4 5 6 7          folded:   0 3 5 6 | 1 2 4 7     gate, up (outputs) and down (inputs) alike
 *                           g_idx     0 1 1 0 1 0 0 1                    0 0 0 0 | 1 1 1 1
 *
 * The channels of an MLP have no order of their own: gate_proj and up_proj put one out where down_proj takes it in, so any permutation of them is
 * the same function, and codes, scales and zero points keep their bits. The permutation is the stable sort by g_idx, of each MLP (each expert)
 * its own. It goes before the axis' map, which then finds channels whose groups are in order.
 *
 * It is recorded in fitq.order (job/quant_order.c), composed with the axis' map; its hash is in fitq.json. Forward it is derived from g_idx again,
 * one MLP at a time; going back it is read from the file. In memory are only the places of both.
 *
 * Not done: orders over the hidden size or over heads (q, k, v, gate, up; o_proj). Their inputs are other modules' outputs, or heads. Refused
 * ("packed-order"), with the module's name: groups that have not exactly group_size channels, which no order of channels can mend. */
#ifndef FITQ_JOB_FOLD_H
#define FITQ_JOB_FOLD_H

#include "axis/map.h"
#include "checkpoint/quantized.h"

typedef struct fqi_fold_mlp {
    int64_t layer, expert;      /* expert -1: of no expert */
    int64_t n, group;           /* channels as stored, and of one group */
    uint64_t at;                /* going back: of its channels in fitq.order */
    uint32_t codes, order;      /* of down_proj, in the catalogue */
    uint8_t axis;               /* fqi_axis */
} fqi_fold_mlp;

typedef struct fqi_fold {
    const fq_ckpt *ckpt;
    fqi_fold_mlp *mlp; size_t n_mlp, cap;   /* by layer, expert, axis */
    size_t n_left;              /* modules whose g_idx stays as it is */
    char *file;                 /* going back: fitq.order; NULL: forward */
} fqi_fold;

/* Which MLPs of the checkpoint can be folded. Reads every g_idx. Zero-initialise out; freed by the caller also on failure. */
fq_status fqi_fold_find(const fq_ckpt *c, const fq_run *run, fqi_fold *out, fq_err *e);
/* The same of a checkpoint that was folded: those that DIR/fitq.order lists. FQ_E_INPUT "fitq-order" if the file is missing, has another hash, or lists what
 * the model does not have. */
fq_status fqi_fold_open(const fq_ckpt *c, uint64_t hash, fqi_fold *out, fq_err *e);
void fqi_fold_free(fqi_fold *f);

/* An axis of MLP channels? */
bool fqi_fold_is_channel(uint8_t axis);
/* The MLP that a tensor of this row belongs to, if it is folded, and which dimension its channels are; else NULL. f NULL: nothing is. */
const fqi_fold_mlp *fqi_fold_of(const fqi_fold *f, const fqi_bound *b, int *dim);

/* For each channel that will be written the one that is read, or -1. map: of the axis, from the unfitted model to the fitted one, whichever way this
 * goes; NULL: its length stays. *channel is freed with free. */
fq_status fqi_fold_channels(const fqi_fold *f, const fqi_fold_mlp *x, const fqi_map *map, const fq_run *run, int32_t **channel, int64_t *n, fq_err *e);
/* Going back: g_idx as it was. group: channels that shared a scale. */
fq_status fqi_fold_order(const fqi_fold *f, const fqi_fold_mlp *x, const fqi_map *map, int64_t group, uint32_t **order, int64_t *n, fq_err *e);

/* Makes DIR/fitq.order, durable. map: by axis, as above. */
typedef const fqi_map *(*fqi_fold_map)(void *user, uint8_t axis);
fq_status fqi_fold_write(const fqi_fold *f, const char *dir, const fq_run *run, fqi_fold_map map, void *user, uint64_t *hash, fq_err *e);

/* I32 of t->shape[0] entries. *out is freed with free. */
fq_status fqi_order_read(const fq_ckpt *c, const fq_run *run, const fqi_tensor *t, uint32_t **out, fq_err *e);

#endif
