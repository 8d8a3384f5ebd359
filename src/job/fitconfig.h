/* fitconfig.h - config.json of the fitted model, as text edits of the source's. */
#ifndef FITQ_JOB_FITCONFIG_H
#define FITQ_JOB_FITCONFIG_H

#include "arch/config.h"

/* m: the source model, fitted: after the fit. as_llama: write it as LlamaForCausalLM. Caller frees *out (NUL-terminated). group: of quantized
 * weights afterwards; 0: as it is. FQ_E_INPUT "regroup" where the file does not say it in a way that is known. */
fq_status fqi_fit_config(const fqi_config *c, const char *file, const fq_model *fitted, bool as_llama, int64_t group, char **out, size_t *n, fq_err *e);
/* quantize_config.json of the folder with another group_size. *out NULL: there is none, or none that says it. */
fq_status fqi_fit_quantize_config(const char *dir, int64_t group, char **out, size_t *n, fq_err *e);

#endif
