/* quant_text.h - quantization_config in the words of each format: what config.json and quantize_config.json say of weights that fitq wrote.
 *
 *     fq_quantize, fq_convert  ->  fqi_quant_text  ->  gptq | compressed-tensors | awq  ->  JSON text
 *
 * Readers disagree on which file, which key and which names they read, so everything is said in each of their ways: GPTQModel and the engines
 * look at `dynamic`, transformers and vLLM at `modules_in_block_to_quantize`, and an engine that knows neither sees that routers and the head
 * have plain weights. Sources: GPTQModel quantization/config.py; vLLM model_executor/layers/quantization/gptq_marlin.py and utils/gptq_utils.py;
 * SGLang layers/quantization/gptq.py; transformers utils/quantization_config.py; compressed-tensors quantization/quant_config.py,
 * quantization/quant_args.py; AutoAWQ models/_config.py. */
#ifndef FITQ_JOB_QUANT_TEXT_H
#define FITQ_JOB_QUANT_TEXT_H

#include "base/err.h"
#include "base/mem.h"

/* A list inside `modules_in_block_to_quantize`: names of modules inside a layer. experts: they are experts', and what these have in common is
 * listed with them. */
typedef struct fqi_quant_block { const char *const *name; size_t n; bool experts; } fqi_quant_block;

typedef struct fqi_quant_text {
    int bits;
    int64_t group_size;                  /* -1: one group a row */
    bool sym, order, lm_head;            /* order: a group of channels for each channel is stored */
    const char *format;                  /* gptq: "gptq" or "gptq_v2" */
    bool solved;                         /* gptq: by a solver whose settings are known: the next two */
    double damp;
    bool static_groups;
    const char *const *plain; size_t n_plain;      /* linear layers that are not quantized: regular expressions, for names in files and those that engines use */
    const char *const *skipped; size_t n_skipped;  /* awq: the same as parts of names; it has no expressions */
    const fqi_quant_block *block; size_t n_block;
} fqi_quant_text;

/* Appends an object whose lines are indented by pad; `s` says whether memory was there. */
void fqi_quant_text_gptq(const fqi_quant_text *w, const char *pad, fqi_str *s);
void fqi_quant_text_ct(const fqi_quant_text *w, const char *pad, fqi_str *s);
void fqi_quant_text_awq(const fqi_quant_text *w, const char *pad, fqi_str *s);

#endif
