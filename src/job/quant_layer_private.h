/* quant_layer_private.h - what the parts of one layer's quantizing share; nobody else includes it.
 *
 *     quant_layer.c          stages, solving, reports
 *     quant_layer_collect.c  batches through a step of the layer, what its taps show, moments
 *     quant_layer_ranks.c    what several ranks share: batches, moments, experts
 *     quant_layer_memory.c   how much memory that takes */
#ifndef FITQ_JOB_QUANT_LAYER_PRIVATE_H
#define FITQ_JOB_QUANT_LAYER_PRIVATE_H

#include "job/quant_layer.h"
#include "quant/target.h"

/* What is done in one pass over all windows, and whose inputs are seen in it. Steps of the model as it was (for a shifted target) are one
 * further where they can be: nothing that is solved changes them. */
typedef struct fqi_stage {
    fqi_step step[2]; size_t n_step;
    fqi_step plain[2]; size_t n_plain;
    unsigned points;                      /* bit of each fqi_tap_point whose modules are solved after it */
} fqi_stage;
#define FQI_N_STAGE 5
extern const fqi_stage fqi_stages[FQI_N_STAGE];
static inline bool fqi_stage_has(const fqi_stage *s, fqi_tap_point p) { return s->points >> p & 1u; }

/* One input and the modules that share it. */
typedef struct fqi_quant_input {
    fqi_tap_point point;
    int64_t expert;
    size_t first, n;                      /* modules of the layer */
    size_t cols;
    fqi_hessian h;                        /* h.h NULL: not of this stage, or solved */
    float *moment;                        /* of a shifted target: [cols][cols], or [hidden][cols] (fqi_drift_of) */
} fqi_quant_input;

/* What the unquantized model showed in this batch; see quant_layer_collect.c. */
typedef struct fqi_plain_rows { fqi_tap_point point; int64_t expert; size_t at, n, cols, token; } fqi_plain_rows;
typedef struct fqi_plain {
    float *attention;                     /* [batch][heads * head_dim] */
    const float *after;                   /* [batch][hidden] the stream after the stage's steps; not owned */
    float *rows; size_t n_float, cap;
    uint32_t *token; size_t n_token, token_cap;
    fqi_plain_rows *shown; size_t n_shown, shown_cap;
    float *matched;                       /* [batch][hidden, or wider of an expert] rows of the same tokens in the same order; the stream and a bias */
} fqi_plain;

typedef struct fqi_quantizing {
    const fqi_layer_job *j;
    int64_t layer;
    fqi_linalg la;
    const fqi_module *module; size_t n_module;   /* of this layer */
    fqi_quant_input *input; size_t n_input;
    const fqi_layer_weights *original;
    fqi_layer_weights w; fqi_mlp_weights *expert;   /* a copy: what is done is what an engine will compute with */
    float **wide;                         /* per module: fp32 [rows][cols] that w points to; NULL: not done, or not needed any more */
    /* of a pass */
    const fqi_stage *stage;
    size_t batch_window;
    fqi_layer_work *work;
    fqi_span *span; float *kv; size_t kv_floats;
    float *x, *attention, *x_plain;       /* of a batch, where the rows are on disk */
    const float *before;                  /* [batch][hidden] the quantized stream before the stage's last step; not owned */
    fqi_plain plain;
    double hessian_seconds, reduce_seconds;   /* inside the passes */
    fqi_layer_codes *out;
} fqi_quantizing;

/* Projections whose output is added to the stream and to nothing else have it in their target; an expert's is one share of a sum. */
static inline fqi_drift fqi_drift_of(fqi_tap_point p)
{
    return p == FQI_TAP_O || p == FQI_TAP_DOWN ? FQI_DRIFT_OUTPUT : FQI_DRIFT_INPUT;
}

static inline bool fqi_of_expert(fqi_tap_point p) { return p == FQI_TAP_EXPERT_MLP || p == FQI_TAP_EXPERT_DOWN; }

/* ---- quant_layer_ranks.c; on one rank they do nothing ---- */
/* The rank that solves this input alone; -1: all share its rows. */
int fqi_input_owner(const fqi_quantizing *q, const fqi_quant_input *in);
/* After a round of batches: moments of all ranks in order of their batches to rank 0; after the last to whoever solves with them. */
fq_status fqi_round_sum(fqi_quantizing *q, bool last, fq_err *e);
/* Codes, reports and orders of experts from those who solved them to all. */
fq_status fqi_experts_exchange(fqi_quantizing *q, const fqi_stage *stage, fq_err *e);
/* Slots of an input's columns (quant_layer.c); rank: [cols], scratch. */
fq_status fqi_input_columns(fqi_quantizing *q, const fqi_quant_input *in, uint32_t *rank, fqi_columns *out, fq_err *e);

/* One kind of input of a layer: the stage that sees it, how many of it (experts), its width, and the rows of the modules that share it. */
typedef struct fqi_quant_kind { size_t stage; fqi_drift drift; bool of_expert; uint64_t n, cols, rows[3]; size_t n_rows; } fqi_quant_kind;
#define FQI_MAX_QUANT_KIND 6
/* Of a dense or a sparse layer, in the order of the stages (quant_layer_memory.c). out: [FQI_MAX_QUANT_KIND]. */
size_t fqi_quant_kinds(const fq_model *m, bool is_sparse, fqi_quant_kind *out);

/* Windows of a batch, tokens of it. */
size_t fqi_quant_batch_windows(size_t n_window, size_t seqlen);
/* Floats that the plain model's rows of one batch take at most, and of its attention. */
uint64_t fqi_plain_floats(const fq_model *m, size_t n_token);

/* Allocates what passes need. */
fq_status fqi_collect_begin(fqi_quantizing *q, fq_err *e);
void fqi_collect_end(fqi_quantizing *q);
/* All windows through the steps of the stage; moments of those inputs that have a place for them (h.h not NULL) grow. */
fq_status fqi_collect_run(fqi_quantizing *q, const fqi_stage *stage, fq_err *e);

/* The moment of the final norm's output, for the only input. */
fq_status fqi_collect_head(fqi_quantizing *q, const float *final_norm, fq_err *e);

#endif
