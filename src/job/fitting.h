/* fitting.h - from a request (GPU counts, or lengths) to a checkpoint's new lengths, maps, names and architecture: what every job that
 * writes a fitted model does first. Nothing is written here. */
#ifndef FITQ_JOB_FITTING_H
#define FITQ_JOB_FITTING_H

#include "checkpoint/catalogue.h"
#include "job/fitconfig.h"
#include "job/mapping.h"
#include "job/outplan.h"

typedef struct fqi_fitting {
    fq_ckpt *ckpt;               /* opened and checked; owned */
    fq_fit fit;
    fq_model fitted;
    fqi_layout layout;
    fqi_maps maps;
    fqi_fold fold;               /* MLPs whose channels go into the order of their groups first */
    fqi_parts parts;             /* of weights that are quantized already */
    fqi_fit_quant quant;         /* what config.json will say of them */
    fqi_naming to;
    bool as_llama;
    int64_t group_old, group_new;   /* regrouped; 0: not */
    char **zeros; size_t n_zeros; const fqi_tensor *zeros_like;   /* biases that another architecture needs; see outplan.h */
    bool changes;                /* something is padded, renamed or re-expressed */
} fqi_fitting;

typedef enum fqi_fitting_mode {
    FQI_FITTING_PAD,             /* "nothing-to-pad" is an error; formats NULL = the checkpoint's own, gptq-marlin if it is dense */
    FQI_FITTING_QUANTIZE         /* weights are dense; nothing to pad is fine; the formats of the plan are those of the result, and with tp given each of these must
                                    run (or be padded) in it */
} fqi_fitting_mode;

/* Opens o->source and decides. *out is freed by the caller also on failure (zero-initialise). */
fq_status fqi_fitting_make(const fq_pad_options *o, fqi_fitting_mode mode, const fq_run *run, fqi_fitting *out, fq_err *e);
void fqi_fitting_free(fqi_fitting *f);
/* Names under a prefix of the user's choice must lead back to it, or nobody, unpad included, could read the result ("prefix"). */
fq_status fqi_fitting_check_names(const fqi_fitting *f, const fq_pad_options *o, const fqi_outplan *p, fq_err *e);

extern const char *const fqi_layout_name[];   /* order of fq_layout */

#endif
