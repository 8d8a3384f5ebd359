/* quant_layer.h - one layer: calibrate, solve, and hand over codes; its inputs become the next layer's.
 *
 *     x (hidden states of all windows)
 *      |-- ATTENTION_IN: H of q,k,v --> solve q,k,v        every H is from what the already quantized part computes (true sequential)
 *      |-- ATTENTION:    H of o     --> solve o            attention rows are kept, so that they are computed once
 *      |-- O
 *      |-- MLP_IN:       H of gate, up (each expert its own) --> solve
 *      |-- DOWN_IN:      H of down  --> order of MLP channels --> solve
 *      '-- MLP: x of the next layer
 *
 * Tokens go through in batches that depend on the options alone (4,096 tokens, at least one window), never on free memory or threads, so
 * that neither do the bits.
 *
 * Several ranks deal the batches round: batch b is of rank b mod N. Each round's moments are added, in the order of batches, to what rank 0 has
 * of the rounds before; so sums, and all that follows from them, have the same bits for any number of ranks. Rows of a matrix are shared by
 * the ranks (fqi_gptq); experts are too, whole (expert e is solved by rank e mod N). */
#ifndef FITQ_JOB_QUANT_LAYER_H
#define FITQ_JOB_QUANT_LAYER_H

#include "base/mem.h"
#include "comm/comm.h"
#include "job/acts.h"
#include "job/calib.h"
#include "job/modules.h"
#include "quant/gptq.h"

#define FQI_CALIB_BATCH_TOKENS 4096

/* What the public options come to. */
typedef struct fqi_quant_settings {
    fq_method method;
    fqi_grid grid;
    int64_t group_size;                  /* -1: one group */
    double damp;
    fqi_scales_from scales;
    fqi_curvature curve;
    bool act_order;                      /* process columns by falling diag H (static groups)... */
    bool fold;                           /* ...and store MLP channels in that order */
    int n_refit;
    double shift;                        /* a of the shifted target, 0 = none */
    size_t min_expert_tokens;            /* below: weighted rounding, said in the report */
    bool strict;                         /* a factor that fails stops instead of falling back */
} fqi_quant_settings;

typedef struct fqi_layer_codes {
    fqi_codes *codes;                    /* one per module of the layer, in the order of fqi_modules */
    size_t n;
    /* Order of MLP channels that was chosen: map new slot -> old channel for each MLP of the layer (dense, shared, or each expert); n_run 0:
     * that of the fitting. mlp_of[i]: index into `mlp` of the MLP that module i belongs to, or SIZE_MAX. */
    fqi_map *mlp; size_t n_mlp; size_t *mlp_of;
    fq_module_report *report;            /* n; names are the modules', reasons live in `text` */
    fqi_arena text;
    double seconds_forward, seconds_hessian, seconds_reduce, seconds_solve;   /* reduce: sums over ranks */
} fqi_layer_codes;

typedef struct fqi_layer_job {
    const fqi_quant_settings *settings;
    const fqi_fitting *fitting;
    const fqi_modules *modules;
    const fqi_decoder *decoder;
    const fqi_rope_table *rope;
    const fqi_compute *compute;          /* fast order; rounding alone multiplies nothing: of any */
    const fqi_calib *calib;
    fqi_acts *x;                         /* hidden states entering the layer; afterwards those leaving it */
    fqi_acts *attention;                 /* same rows, heads * head_dim columns */
    fqi_acts *x_plain;                   /* of the unquantized model, for a shifted target; NULL = none */
    const fq_run *run;
    fqi_comm *comm;                      /* NULL: one rank. Else x, attention and x_plain hold this rank's rows: fqi_quant_share */
} fqi_layer_job;

/* The part of the calibration's tokens that a rank has: its batches, one behind another. n_batch, batch_rows, all_rows: of all ranks; n_row: here. */
typedef struct fqi_quant_share { size_t n_batch, batch_rows, all_rows, n_row; } fqi_quant_share;
fqi_quant_share fqi_quant_share_of(const fqi_comm *c, size_t n_window, size_t seqlen);
/* Rows of batch b; where they are among the rows of the rank that has it. */
size_t fqi_quant_batch_rows(const fqi_quant_share *s, size_t b);
size_t fqi_quant_batch_at(const fqi_quant_share *s, const fqi_comm *c, size_t b);

/* Collective: codes and reports are the same on all ranks. w: the layer's weights as stored. The caller frees *out also on failure (zero-initialise). With FQ_METHOD_RTN nothing is run: calib and
 * the hidden states may be NULL. FQ_E_NUMERIC: "activation", or strict and a factor that fails ("cholesky", module named). Bits do not
 * depend on the number of threads. */
fq_status fqi_quant_layer(const fqi_layer_job *j, int64_t layer, const fqi_layer_weights *w, fqi_layer_codes *out, fq_err *e);
/* The same for the output head, if the modules have it (else out->n is 0): its input is the final norm of x, which stays as it is. */
fq_status fqi_quant_head(const fqi_layer_job *j, const float *final_norm, const fqi_matrix *head, fqi_layer_codes *out, fq_err *e);
void fqi_layer_codes_free(fqi_layer_codes *c);

/* Peak bytes of the above beside its inputs, for the plan of memory: Hessians, factor, fp32 copies, codes, buffers. The output head is not in
 * it. Hidden states that are on disk take fqi_quant_disk_bytes more. Both saturate. */
uint64_t fqi_quant_layer_bytes(const fq_model *m, const fqi_quant_settings *s, size_t n_window, size_t seqlen, int n_thread);
uint64_t fqi_quant_disk_bytes(const fq_model *m, const fqi_quant_settings *s, size_t n_window, size_t seqlen);

#endif
