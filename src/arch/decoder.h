/* decoder.h - what running a model needs beyond its lengths: norms, rotary embedding, windows, routing; all from config.json.
 *
 * fq_model says how long everything is, which is enough to fit it. A value that is missing here, of a wrong type or of a kind that the
 * forward pass does not compute is refused by name ("hidden_act", "rope_scaling.rope_type"), never replaced by a default;
 * the exception is what a family's own configuration class fills in (rope_theta, norm_topk_prob, partial_rotary_factor).
 * Sources: transformers, models/FAMILY/configuration_*.py and modeling_rope_utils.py. */
#ifndef FITQ_ARCH_DECODER_H
#define FITQ_ARCH_DECODER_H

#include "arch/config.h"

typedef enum fqi_rope_kind { FQI_ROPE_DEFAULT, FQI_ROPE_LINEAR, FQI_ROPE_DYNAMIC, FQI_ROPE_LLAMA3, FQI_ROPE_YARN } fqi_rope_kind;

/* Both spellings are read: rope_theta + rope_scaling, and rope_parameters. "mrope" (and mrope_section beside default) of the
 * vision families is the default kind for text. */
typedef struct fqi_rope {
    fqi_rope_kind kind;
    int64_t dim;                    /* rotated dimensions of a head: head_dim * partial_rotary_factor, even */
    double theta, factor;
    double low_freq_factor, high_freq_factor;      /* llama3 */
    double beta_fast, beta_slow;                   /* yarn */
    double attention_factor, mscale, mscale_all_dim;   /* yarn; 0 = not given */
    bool truncate;                                 /* yarn */
    int64_t original_max;           /* original_max_position_embeddings, or max_position_embeddings */
    int64_t max_position;           /* max_position_embeddings */
} fqi_rope;

typedef struct fqi_decoder {
    fq_model model;                 /* copy */
    const fqi_family *family;
    double rms_norm_eps;
    fqi_rope rope;
    int64_t *window;                /* per layer: keys that a query sees, itself included; 0 = all before it. Owned */
    bool *sparse;                   /* per layer. Owned */
    bool norm_topk_prob;
    uint32_t eos[16]; size_t n_eos; /* config.json's eos_token_id, a number or a list */
} fqi_decoder;

/* file: for messages. FQ_E_INPUT with the field. */
fq_status fqi_decoder_read(const fqi_config *c, const char *file, fqi_decoder *out, fq_err *e);
void fqi_decoder_free(fqi_decoder *d);

#endif
