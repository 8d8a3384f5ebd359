/* fitconfig.h - config.json of the fitted model, as text edits of the source's. */
#ifndef FITQ_JOB_FITCONFIG_H
#define FITQ_JOB_FITCONFIG_H

#include "arch/config.h"

/* What changes of quantized weights: channels that share a scale (0: as it is), and desc_act ("true", "false"; NULL: as it is), which compressed-tensors does not
 * have. */
typedef struct fqi_fit_quant { int64_t group; const char *desc_act; } fqi_fit_quant;

/* m: the source model, fitted: after the fit. as_llama: write it as LlamaForCausalLM. Caller frees *out (NUL-terminated). FQ_E_INPUT "regroup" where
 * the file does not say the group in a way that is known. */
fq_status fqi_fit_config(const fqi_config *c, const char *file, const fq_model *fitted, bool as_llama, const fqi_fit_quant *quant, char **out, size_t *n, fq_err *e);
/* quantize_config.json of the folder with this in it. *out NULL: there is none, or none that says it. */
fq_status fqi_fit_quantize_config(const char *dir, const fqi_fit_quant *quant, char **out, size_t *n, fq_err *e);

#endif
