/* quantize_private.h - what the parts of fq_quantize share.
 *
 *     quantize.c        the request: settings, fitting, plan, report
 *     quant_made.c      the table of made tensors, and filling them from codes
 *     quant_run.c       the loop over layers: calibrate, solve, write beside the next layer, resume
 *     quant_state.c     hidden states kept on the disk for a resume
 *     quant_ranks.c     what ranks agree on before they begin
 *     quant_check.c     weights that cannot be quantized
 *     quant_groups.c    lengths that groups and words do not divide
 *     quant_keys.c      what a resume must have in common with the run that it continues
 *     quant_memory.c    how much memory all that takes
 *     quant_config.c    what is said about it in config.json, quantize_config.json and fitq.json */
#ifndef FITQ_JOB_QUANTIZE_PRIVATE_H
#define FITQ_JOB_QUANTIZE_PRIVATE_H

#include "base/mem.h"
#include "job/outdir.h"
#include "job/quant_layer.h"
#include "job/stream.h"
#include "job/write.h"

/* The tensors that a quantized module is stored in. */
typedef enum fqi_made_part { FQI_MADE_CODES, FQI_MADE_ZEROS, FQI_MADE_SCALES, FQI_MADE_ORDER, FQI_MADE_SHAPE } fqi_made_part;
#define FQI_MADE_PARTS 4   /* at most, of one module */

typedef struct fqi_quant_plan {
    uint64_t memory_bytes, scratch_bytes;
    size_t n_slot;               /* layers of weights held */
    bool acts_in_memory;
} fqi_quant_plan;

#define FQI_QUANT_KEY_LEN 128

typedef struct fqi_quantize {
    const fq_quantize_options *o;
    const fq_run *run;
    fq_quantize_options rank_options;    /* what o and run point to: as this rank has them */
    fq_run rank_run;
    fqi_comm *comm;                      /* NULL: one rank */
    fqi_quant_settings settings;
    fqi_fitting fitting;
    fqi_decoder decoder; bool has_decoder;
    fqi_calib calib;
    fqi_modules modules;
    fqi_made *made; size_t n_made;
    fqi_outplan table;
    fqi_quant_plan plan;
    int n_thread;
    char *config; size_t n_config;
    char *quantize_config; size_t n_quantize_config;
    fqi_journal_key key[FQI_WRITE_MAX_KEY]; size_t n_key;   /* values in key_text */
    char key_text[FQI_WRITE_MAX_KEY][FQI_QUANT_KEY_LEN];
    uint64_t options_hash;       /* of everything that decides the codes, beside calibration and weights */
    struct fqi_made_layer *writing;   /* the layer that the writer is at; its thread's alone */
    /* results */
    fq_module_report *report;    /* one per module; names in `arena` */
    bool *reported;
    fq_stage stage[12]; size_t n_stage;
    double seconds_forward, seconds_hessian, seconds_reduce, seconds_solve;
    fqi_arena arena;
    size_t resumed_layers;
} fqi_quantize;

/* ---- quant_made.c ---- */
fq_status fqi_quant_make_table(fqi_quantize *q, fq_err *e);       /* q->made */
uint64_t fqi_quant_made_bytes_max(const fqi_quantize *q);         /* of the largest made tensor */
/* One layer's codes on their way to the file. */
typedef struct fqi_made_layer {
    fqi_layer_codes codes;
    size_t first, n;             /* modules */
    size_t tensor;               /* packed in `bytes` now; SIZE_MAX: none */
    uint8_t *bytes; uint64_t n_byte;
} fqi_made_layer;
void fqi_made_layer_free(fqi_made_layer *m);
/* fqi_stream_request.made; user: the fqi_quantize, whose `writing` holds the layer. */
fq_status fqi_quant_made_fill(void *user, size_t tensor, uint64_t off, uint8_t *to, size_t n, fq_err *e);

/* ---- quant_state.c ---- */
/* Hidden states that leave layer `layer` (the embedding's are never kept), durable when it returns. Two files take turns, so that the state that
 * belongs to the last recorded layer is always whole. PLAIN: of the unquantized model, for a shifted target. */
typedef enum fqi_state_of { FQI_STATE_QUANTIZED, FQI_STATE_PLAIN } fqi_state_of;
/* Rank 0 has the files; of the others x is what counts, and dir is not looked at. */
typedef struct fqi_state { fqi_acts *x; int64_t layer; uint64_t key; const fqi_calib *calib; fqi_comm *comm; } fqi_state;
/* Collective. */
fq_status fqi_quant_state_save(const char *dir, fqi_state_of of, const fqi_state *t, fq_err *e);
/* Collective. *found false: there is no whole state of that layer and key. */
fq_status fqi_quant_state_load(const char *dir, fqi_state_of of, const fqi_state *t, bool *found, fq_err *e);
fq_status fqi_quant_state_remove(const char *dir, fq_err *e);      /* the hidden states; reports stay until the commit */
/* What is reported of modules [first, first + n), durable; and of modules 0 .. n - 1 back into q->report. Found are they only if the channel
 * orders that were written with them are whole too. */
fq_status fqi_quant_reports_save(const fqi_quantize *q, const char *dir, size_t first, size_t n, uint64_t key, fq_err *e);
fq_status fqi_quant_reports_load(fqi_quantize *q, const char *dir, size_t n, uint64_t key, bool *found, fq_err *e);

/* ---- quant_groups.c ---- */
fq_status fqi_quant_check_groups(const fqi_quantize *q, fq_err *e);   /* "group": stored lengths that no engine could load; names the tensor and ways out */

/* ---- quant_ranks.c; on one rank they do nothing, or what one rank needs ---- */
/* Collective. The same model, options, kernels? "ranks-differ". Before anything else goes out. */
fq_status fqi_quant_ranks_agree(fqi_quantize *q, fq_err *e);
/* Collective. Rank 0's calibration to all. */
fq_status fqi_quant_ranks_calib(fqi_quantize *q, fq_err *e);
/* Collective. Headers were the same everywhere; the content of weights is compared when it comes: of a layer, all of it; of the rest
 * (fqi_quant_check_rest), its hash. "ranks-differ". */
fq_status fqi_quant_ranks_layer(const fqi_quantize *q, int64_t layer, const fqi_layer_weights *w, fq_err *e);
fq_status fqi_quant_ranks_rest(const fqi_quantize *q, uint64_t hash, fq_err *e);
/* Collective. Rank 0's staging folder, in memory of each rank's own. */
fq_status fqi_quant_ranks_dir(fqi_comm *c, const char *mine, char **dir, fq_err *e);

/* ---- quant_check.c ---- */
/* FQ_E_NUMERIC "scale-range": a weight of the layer's modules that no stored scale reaches, with its place. */
fq_status fqi_quant_check_layer(const fqi_quantize *q, int64_t layer, const fqi_layer_weights *w, const fqi_kernels *k, fq_err *e);
/* The final norm, the output head (head_rows at a time, as w was made for; with the check above if it is quantized) and the embedding, read once: "non-finite" is
 * what the reader says. *hash: of their bytes. */
fq_status fqi_quant_check_rest(const fqi_quantize *q, fqi_weights *w, int64_t head_rows, const fqi_kernels *k, uint64_t *hash, fq_err *e);

/* ---- quant_keys.c ---- */
void fqi_quant_keys(fqi_quantize *q);                             /* q->key, q->options_hash; when everything else is decided */

/* ---- quant_memory.c ---- */
fq_status fqi_quant_plan_make(const fqi_quantize *q, fqi_quant_plan *out, fq_err *e);

/* ---- quant_config.c ---- */
fq_status fqi_quant_config(fqi_quantize *q, fq_err *e);           /* q->config, q->quantize_config */
/* About the run, for fitq.json; the caller's reference. */
fq_status fqi_quant_record(const fqi_quantize *q, json_t **out, fq_err *e);

/* ---- quant_order.c ---- */
/* Adds a layer's channel orders to DIR/fitq.order; layers come in order. Nothing if channels keep their order. */
fq_status fqi_quant_order_write(const fqi_quantize *q, const char *dir, const fqi_layer_codes *c, int64_t layer, fq_err *e);
/* Of the header and of what stands there for a layer's modules; 0 where channels keep their order, or where it is not all there. */
fq_status fqi_quant_order_hash(const fqi_quantize *q, const char *dir, int64_t layer, uint64_t *hash, fq_err *e);

/* ---- quant_run.c ---- */
/* fqi_write_request.shards; user: the fqi_quantize. Ranks that do not write have no request, and no bytes. */
fq_status fqi_quant_run(void *user, const fqi_stream_request *r, uint64_t *resumed_bytes, fq_err *e);

#endif
