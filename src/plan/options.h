/* options.h - from units to fits: the alternatives for one entry, their prices, and whether they fit into memory (memory.c). */
#ifndef FITQ_PLAN_OPTIONS_H
#define FITQ_PLAN_OPTIONS_H

#include "plan/judge.h"

/* Resolved request. */
typedef struct fqi_ask {
    int64_t context;
    int kv_cache_bits;
    uint64_t gpu_memory_bytes;
} fqi_ask;

enum { FQI_MAX_HEAD_PLAN = 6, FQI_MAX_OPTION = 48 };

/* The lengths that satisfy all units at once, one fit per head plan, cheapest first. Returns how many; 0 = none. `c` lends shape
 * and prices (its units are u[i]). */
size_t fqi_fits_of(const fqi_case *c, const fqi_units *u, size_t n_unit, fq_fit *out, size_t max);

/* fqi_units_of, with the prices of heads and the head_dim question filled in. */
void fqi_units_priced(const fqi_case *c, const fqi_ask *ask, fqi_units *out);

/* Would the engine of the case run these lengths, written as llama where it misreads the family's head_dim? *as_llama (may be NULL):
 * only so. */
bool fqi_runs_fitted(const fqi_case *c, const fqi_dims *d, bool *as_llama);

/* The options of an entry (sorted, priced) for a case that may or may not run as it is; memory from the arena. */
fq_status fqi_options_of(const fqi_case *c, const fqi_ask *ask, const fqi_broken_list *broken, fqi_arena *arena, const fq_option **out,
                         size_t *n, fq_err *e);

/* The one option of an entry that is not judged: as it is, with its price. */
fq_status fqi_option_as_is(const fqi_case *c, const fqi_ask *ask, fqi_arena *arena, const fq_option **out, fq_err *e);

/* Does a fit change anything? */
bool fqi_fit_changes(const fq_fit *f);

/* The memory fields of an entry: d, the lengths of the option that is chosen. */
void fqi_memory_fill(const fqi_case *c, const fqi_dims *d, const fqi_ask *ask, fq_plan_entry *out);
/* The memory fields that entry i of a plan would have with these lengths at its own group size, and the weights on one GPU. */
void fqi_plan_memory(const fq_plan *p, size_t i, const fq_fit *fit, fq_plan_entry *out, uint64_t *weight_bytes);
/* CUDA context, communication buffers and activations of one GPU. */
#define FQI_OVERHEAD_BYTES ((uint64_t)3 << 29)

#endif
