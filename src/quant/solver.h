/* solver.h - what choosing the codes of one matrix works on. Private to src/quant.
 *
 * Rows are cut into tiles, by the number of rows only; a tile is one thread's, and goes through the vector kernels in strips of
 * FQI_TILE rows. Columns stand by position: the order of processing, last one first (gptq.h). */
#ifndef FITQ_QUANT_SOLVER_H
#define FITQ_QUANT_SOLVER_H

#include "kernel/kernel.h"
#include "quant/gptq.h"

#define FQI_STRIP FQI_TILE        /* rows: what kernel->gemm_tile multiplies at once */
#define FQI_SOLVE_BLOCK 256       /* columns: most that a block of the solve, of the refit or of a quadratic form has */
#define FQI_SOLVE_WIDE 512        /* columns of a segment of the solve: the larger product is a tenth faster */
#define FQI_SOLVE_ROWS 256        /* of the largest tile */

typedef struct fqi_solver {
    const fqi_solve *s;
    fqi_codes *out;
    const fqi_kernels *kernel;
    size_t tile, n_tile;      /* rows of a tile: a multiple of FQI_STRIP; missing rows are zeros */
    float *e;                 /* [n_tile][n_col][tile]: w - q, by position; w before a column had its turn */
    uint32_t *first;          /* [n_group + 1]: where a group's entries of `member` begin */
    uint32_t *member;         /* [n_col]: positions, ascending within a group */
    float *weight;            /* [n_col]: curvature of member[i] for the choice of scales; NULL = all alike */
    double *cost;             /* [n_tile]: tr(E (H + lambda) E^T) */
    double *energy;           /* [n_tile]: what damping and dead columns hold of it */
    float *scratch;           /* [n_thread][scratch_floats] */
    size_t scratch_floats;
} fqi_solver;

/* One thread's scratch: floats of each part. `group` is as wide as the widest group can be. */
typedef struct fqi_scratch {
    float *block;             /* [FQI_SOLVE_BLOCK][tile] */
    float *codes;             /* [FQI_SOLVE_BLOCK][tile], behind `block`: together the FQI_SOLVE_WIDE columns of a segment */
    float *square;            /* [FQI_SOLVE_BLOCK][FQI_SOLVE_BLOCK] */
    float *strip[4];          /* [FQI_SOLVE_BLOCK][FQI_STRIP] */
    float *group;             /* [max(n_col, FQI_SOLVE_BLOCK)][FQI_STRIP] */
} fqi_scratch;

/* One strip of a tile: rows [row, row + n), and the scales and zero points that were loaded last. */
typedef struct fqi_strip_scales {
    size_t group;             /* SIZE_MAX: none yet */
    float scale[FQI_STRIP];
    uint8_t zero[FQI_STRIP];
} fqi_strip_scales;

/* Rows of a tile of a matrix of n_row. */
size_t fqi_solver_tile(size_t n_row);
/* First tile of a rank's; of rank n_rank: behind the last. */
static inline size_t fqi_solver_first_tile(size_t n_tile, size_t n_rank, size_t rank) { return n_tile * rank / n_rank; }
uint64_t fqi_solver_bytes(size_t n_row, size_t n_col, int n_thread);
/* s->order NULL: position = column. *out is freed also on failure. */
fq_status fqi_solver_create(const fqi_solve *s, fqi_codes *codes, fqi_solver *out, fq_err *e);
void fqi_solver_free(fqi_solver *v);

static inline size_t fqi_column_at(const fqi_solver *v, size_t position) { return v->s->order ? v->s->order[position] : position; }
static inline size_t fqi_group_at(const fqi_solver *v, size_t position) { return v->out->group_of[fqi_column_at(v, position)]; }
static inline float *fqi_tile_at(const fqi_solver *v, size_t tile) { return v->e + tile * v->s->n_col * v->tile; }
/* Real rows of the strip that begins at `row`. */
static inline size_t fqi_strip_rows(const fqi_solver *v, size_t row)
{
    return row >= v->s->n_row ? 0 : v->s->n_row - row < FQI_STRIP ? v->s->n_row - row : FQI_STRIP;
}
fqi_scratch fqi_scratch_of(const fqi_solver *v);   /* of the calling thread */

/* e of a tile = w. */
void fqi_solver_load(const fqi_solver *v, size_t tile);
/* Scales of all groups of a tile from e. */
void fqi_solver_choose(const fqi_solver *v, size_t tile);
/* Scales of a group of a strip from w: [columns of the group][FQI_STRIP], in the order of its members. */
void fqi_solver_choose_strip(const fqi_solver *v, size_t group, size_t row, const float *w);
/* Fills *s with those of the group, if it does not hold them; rows that are missing get 1 and the middle. */
void fqi_solver_scales(const fqi_solver *v, size_t group, size_t row, fqi_strip_scales *s);
/* One column of a strip to codes: w -> back (may be w); codes go where they belong. */
void fqi_solver_round(const fqi_solver *v, size_t position, size_t row, const fqi_strip_scales *s, const float *w, float *back);
/* Errors of the whole and of sampled rows out of e, cost and energy; of all ranks' rows where they share them. */
fq_status fqi_solver_result(const fqi_solver *v, fqi_solve_result *out, fq_err *e);

/* out[r] += the part of x_r H x_r^T that columns [j, j + FQI_SOLVE_BLOCK) bring with themselves and with all later ones: summed over all
 * blocks, the whole. x: [h->n][width]; block: [FQI_SOLVE_BLOCK][width]; square: as in fqi_scratch. */
void fqi_form_block(const fqi_blas *blas, const fqi_hessian *h, const float *x, size_t width, size_t j, float *block, float *square, double *out);

/* Rounds of s->n_refit (refit.c). Lowers v->cost by what is gained. */
fq_status fqi_refit(fqi_solver *v, fq_err *e);
uint64_t fqi_refit_bytes(size_t n_row, size_t n_col);

#endif
