/* quant_rules.h - which modules quantization_config says are quantized, and which it exempts.
 *
 *     gptq                 dynamic ("-:REGEX" exempts), modules_in_block_to_quantize, lm_head
 *     awq                  modules_to_not_convert, lm_head
 *     fp8                  modules_to_not_convert, ignored_layers
 *     compressed-tensors   targets and ignore: names, classes, "re:REGEX"
 *
 * Readers disagree on what an entry matches (a part of the name, its end, whole components; a name in a file or the name of a fused layer at
 * run time), so this answers only where all of them agree and says nothing else. It is for telling, never for reading: what a module is stored in
 * decides how it is read. Regular expressions are Python's, matched at the beginning (re.match) with a bound on their work. Sources:
 * GPTQModel quantization/config.py (dynamic_get); vllm quantization/utils/{gptq_utils,quant_utils}.py, quantization/{auto_awq,fp8}.py; transformers
 * quantizers/quantizers_utils.py (should_convert_module); compressed-tensors utils/match.py. */
#ifndef FITQ_CHECKPOINT_QUANT_RULES_H
#define FITQ_CHECKPOINT_QUANT_RULES_H

#include "arch/config.h"

typedef struct fqi_quant_rules fqi_quant_rules;
typedef enum fqi_quant_says { FQI_SAYS_NOTHING, FQI_SAYS_PLAIN, FQI_SAYS_CODES } fqi_quant_says;

/* For a config that has one of the four methods. A pattern that cannot be compiled says nothing. FQ_E_NOMEM only. */
fq_status fqi_quant_rules_make(const fqi_config *c, fqi_quant_rules **out, fq_err *e);
void fqi_quant_rules_free(fqi_quant_rules *r);
/* Of module `name` (as stored, without ".weight"), a linear layer; head: the output head. *key: the member that says so, or "" where silence does. After
 * very much work (long lists times many modules) everything is FQI_SAYS_NOTHING. */
fqi_quant_says fqi_quant_rules_ask(fqi_quant_rules *r, const char *name, bool head, const char **key);

#endif
