/* columns.h - where the columns of a matrix go: slots, groups, order of processing. Pure.
 *
 *     source column --slot_of--> slot in the layout that is written --/ group_size--> group
 *
 * The slots come from the axis map (padding), and, for an input axis that nobody else stores the order of (MLP channels), from an order of
 * importance: the real slots, front to back, take the columns in that order, so that groups are contiguous in activation order and
 * g_idx stays trivial. The axis map that results goes to gate and up as well (fqi_columns_map). */
#ifndef FITQ_QUANT_COLUMNS_H
#define FITQ_QUANT_COLUMNS_H

#include "axis/map.h"

typedef struct fqi_columns {
    size_t n_col, n_col_pad;   /* real; slots */
    size_t group_size;         /* of slots; n_col_pad for one group */
    size_t n_group;            /* ceil(n_col_pad / group_size) */
    uint32_t *slot_of;         /* [n_col]; owned */
} fqi_columns;

/* map: of the axis (NULL or n_run 0: identity of n_col); every old index exactly once, else FQ_E_INPUT "columns-copied". rank: importance order
 * of the columns, most important first, or NULL: they stay in the order of the map. slice: ranks that each hold an equal run of slots;
 * importance is dealt round the ranks (1 = do not), so that every GPU gets its share. */
fq_status fqi_columns_create(const fqi_map *map, size_t n_col, int64_t group_size, const uint32_t *rank, size_t slice, fqi_columns *out, fq_err *e);
void fqi_columns_free(fqi_columns *c);
/* The map new slot -> old column that the above amounts to. */
fq_status fqi_columns_map(const fqi_columns *c, fqi_map *out, fq_err *e);

/* Columns by falling diag H, the most important first (stable: the lower number first among equals). h: [n][n] as in fqi_hessian. That is
 * `rank` above; fqi_solve.order, which is processed from its end, is the reverse of it. */
void fqi_order_by_diag(const float *h, size_t n, uint32_t *out);
/* For fqi_solve.order: by slot, the first slot last, so that it is processed first. */
void fqi_order_natural(const fqi_columns *c, uint32_t *out);

#endif
