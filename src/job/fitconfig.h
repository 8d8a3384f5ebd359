/* fitconfig.h - config.json of the fitted model, as text edits of the source's. */
#ifndef FITQ_JOB_FITCONFIG_H
#define FITQ_JOB_FITCONFIG_H

#include "arch/config.h"

/* m: the source model, fitted: after the fit. as_llama: write it as LlamaForCausalLM. Caller frees *out (NUL-terminated). */
fq_status fqi_fit_config(const fqi_config *c, const char *file, const fq_model *fitted, bool as_llama, char **out, size_t *n, fq_err *e);

#endif
