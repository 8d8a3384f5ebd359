/* mapping.h - from a fit (new axis lengths) to one map per axis, and from a bound tensor to one map per dimension.
 *
 * The only place that knows which layout makes which map; pad, unpad and verify all ask here. */
#ifndef FITQ_JOB_MAPPING_H
#define FITQ_JOB_MAPPING_H

#include "arch/family.h"
#include "axis/map.h"
#include "format/tensor.h"

/* Maps in elements of the axis. stacked[a] is two copies of map[a] one after another (fused gate|up). An axis that does not
 * change has n_run == 0 and counts as the identity. Zero-initialise; owned. */
typedef struct fqi_maps {
    fqi_map map[FQI_N_AXIS];
    fqi_map stacked[FQI_N_AXIS];
} fqi_maps;

/* How the zeros of an axis are laid out. group: elements of a quantization group. ranks: least common multiple of the GPU counts
 * (1 when unknown): spread balances over them. unit: of weights that are quantized already, what shares a scale and cannot be mixed, and grain:
 * what shares a word; 0 or 1: elements move alone. */
typedef struct fqi_layout { fq_layout kind; int64_t group, ranks, unit, grain; } fqi_layout;

fq_status fqi_maps_create(const fq_model *m, const fq_fit *fit, const fqi_layout *layout, fqi_maps *out, fq_err *e);
/* The maps that undo `in`. */
fq_status fqi_maps_inverse(const fqi_maps *in, fqi_maps *out, fq_err *e);
/* Fills stacked[] from map[] (after the maps were read from fitq.json). */
fq_status fqi_maps_finish(fqi_maps *m, fq_err *e);
void fqi_maps_free(fqi_maps *m);

/* map per dimension of a tensor bound to `row` (NULL entries: identity); true if any dimension changes. row NULL: all
 * identity. */
bool fqi_maps_of_row(const fqi_maps *m, const fqi_row *row, const fqi_map *map[FQ_MAX_RANK]);

/* A family without a dense MLP may call its experts' width intermediate_size (mixtral), and so do its users: a length asked for
 * under that name is moved to where the maps look for it. Before anything else reads the fit. */
void fqi_fit_normalize(const fq_model *m, fq_fit *fit);
/* The model after the fit. */
void fqi_model_fitted(const fq_model *m, const fq_fit *fit, fq_model *out);
/* Axis length of `m` that `fit` changes to, or the length itself. */
int64_t fqi_axis_length_pad(const fq_model *m, const fq_fit *fit, fqi_axis a);

#endif
