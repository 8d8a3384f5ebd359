/* memory.c - does it fit into the memory of one GPU?
 *
 * Need = weights on one GPU (padding and copies of KV heads included) + KV cache for the context that was asked for + a fixed
 * 1.5 GiB for what engines take besides: the CUDA context, communication buffers, captured graphs, activations of one batch. That sum
 * is stated beside every answer, because it is an assumption, not a measurement: an engine told to prefill very long batches
 * takes more. The whole of the GPU counts; an engine that leaves a part of it alone unless told otherwise (engines.c) is named in the
 * note. No answer where the weights or the cache are not modelled: attention that is not plain, towers beside the text model. */
#include "plan/options.h"

static uint64_t need_of(const fqi_price *p, const fqi_ask *ask)
{
    return fqi_sat_add(fqi_sat_add(p->rank_bytes, FQI_OVERHEAD_BYTES), fqi_sat_mul(p->kv_token_bytes, (uint64_t)ask->context));
}

/* Would it fit at `bits` bits other than the format's own, in bf16 or in groups of integers with scale and zero point? */
static bool fits_at(const fqi_case *c, const fqi_dims *d, const fqi_ask *ask, int bits)
{
    fqi_case other = *c;
    other.bits = bits;
    other.group = bits == 16 ? 0 : c->group > 0 ? c->group : 128;
    if (!fqi_format_find(bits == 16 ? "bf16" : "gptq", &other.format)) return false;
    fqi_price p;
    fqi_price_of(&other, d, ask->kv_cache_bits, &p);
    return need_of(&p, ask) <= ask->gpu_memory_bytes;
}

void fqi_memory_fill(const fqi_case *c, const fqi_dims *d, const fqi_ask *ask, fq_plan_entry *out)
{
    static const int bits[] = { 16, 8, 4, 3, 2 };
    fqi_price p;
    fqi_price_of(c, d, ask->kv_cache_bits, &p);
    out->memory_asked = true;
    out->memory_known = c->shape->attention == FQI_ATT_PLAIN && !c->shape->m->vision_tower;
    if (!out->memory_known) return;
    out->memory_need_bytes = need_of(&p, ask);
    out->memory_fits = out->memory_need_bytes <= ask->gpu_memory_bytes;
    int64_t longest = c->shape->m->max_position_embeddings;
    uint64_t fixed = fqi_sat_add(p.rank_bytes, FQI_OVERHEAD_BYTES);
    out->longest_context = 0;
    if (fixed <= ask->gpu_memory_bytes) {
        uint64_t tokens = p.kv_token_bytes ? (ask->gpu_memory_bytes - fixed) / p.kv_token_bytes : (uint64_t)ask->context;
        out->longest_context = tokens > INT64_MAX ? INT64_MAX : (int64_t)tokens;
        if (longest && out->longest_context > longest) out->longest_context = longest;
    }
    out->bits_that_fit = 0;
    for (size_t i = 0; i < sizeof bits / sizeof *bits && out->bits_that_fit == 0; i++)
        if (bits[i] == c->bits ? out->memory_fits : fits_at(c, d, ask, bits[i])) out->bits_that_fit = bits[i];
    if (out->memory_fits && out->bits_that_fit < c->bits) out->bits_that_fit = c->bits; /* its scales are smaller than the others' */
}
