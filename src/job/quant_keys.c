/* quant_keys.c - everything of a request that decides a byte of the result, in words: the keys of the journal. A resume with another request is
 * refused with the first that differs, so a key is what a user would call it. Weights, config.json and the output table have keys of
 * their own (write.c). What does not decide a byte (threads, memory, strict, scratch) is not here. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "job/quantize_private.h"

__attribute__((format(printf, 3, 4))) static void put(fqi_quantize *q, const char *name, const char *format, ...)
{
    va_list ap;
    char *text = q->key_text[q->n_key];
    va_start(ap, format);
    vsnprintf(text, FQI_QUANT_KEY_LEN, format, ap);
    va_end(ap);
    q->key[q->n_key++] = (fqi_journal_key){ .name = name, .value = text };
}

static const char *yes(bool b) { return b ? "yes" : "no"; }

static void put_codes(fqi_quantize *q)
{
    const fqi_quant_settings *s = &q->settings;
    put(q, "method", "%s", s->method == FQ_METHOD_GPTQ ? "gptq" : "rtn");
    put(q, "format", "%s", q->o->packing == FQ_PACKING_GPTQ ? "gptq" : "compressed-tensors");
    put(q, "bits", "%d", s->grid.bits);
    put(q, "group-size", "%" PRId64, s->group_size);
    put(q, "asym", "%s", yes(!s->grid.sym));
    put(q, "textbook", "%s", yes(s->scales == FQI_SCALES_DYNAMIC));
    put(q, "lm-head", "%s", yes(q->o->lm_head));
    put(q, "scale", "%s", s->grid.rule == FQI_SCALE_MIN_MAX ? "min-max" : "weighted");
    put(q, "scale-type", "%s", s->grid.store == FQI_STORE_BOTH ? "both" : "fp16");
    put(q, "positive-scales", "%s", yes(!s->grid.signed_scale));
    put(q, "order", "%s", s->fold ? "fold" : s->act_order ? "static" : "none");
    put(q, "damp", "%.17g", s->damp);
    put(q, "refit", "%d", s->n_refit);
    put(q, "shift", "%.17g", s->shift);
    put(q, "min-expert-tokens", "%zu", s->min_expert_tokens);
}

static void put_lengths(fqi_quantize *q)
{
    const fq_model *m = &q->fitting.fitted;
    put(q, "architecture", "%s", q->fitting.as_llama ? "llama" : m->model_type);
    put(q, "intermediate_size", "%" PRId64 ", of experts %" PRId64 ", of the shared expert %" PRId64, m->intermediate_size, m->moe_intermediate_size, m->shared_expert_intermediate_size);
    put(q, "heads", "%" PRId64 " and %" PRId64 " of keys", m->num_attention_heads, m->num_key_value_heads);
    put(q, "vocab_size", "%" PRId64, m->vocab_size);
    if (q->fitting.changes) put(q, "layout", "%s", fqi_layout_name[q->fitting.layout.kind]);
    else put(q, "layout", "none");
}

void fqi_quant_keys(fqi_quantize *q)
{
    XXH3_state_t st;
    q->n_key = 0;
    put_codes(q);
    XXH3_64bits_reset(&st);
    for (size_t i = 0; i < q->n_key; i++) XXH3_64bits_update(&st, q->key_text[i], FQI_QUANT_KEY_LEN);
    q->options_hash = XXH3_64bits_digest(&st);
    if (q->settings.method == FQ_METHOD_GPTQ) put(q, "calibration", "%zu windows of %zu tokens (%016" PRIx64 ")", q->calib.n_window, q->calib.seqlen, q->calib.hash);
    put_lengths(q);
}
