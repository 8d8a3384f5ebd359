/* quant_text.c - quantization_config as text. See quant_text.h. */
#include "job/quant_text.h"

#include <inttypes.h>
#include <string.h>

static const char *yes(bool b) { return b ? "true" : "false"; }

/* Text inside quotes. */
static void put_text(fqi_str *s, const char *text)
{
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') fqi_str_printf(s, "\\%c", c);
        else if (c < 0x20) fqi_str_printf(s, "\\u%04x", c);
        else fqi_str_add(s, text, 1);
    }
}

/* Of experts: vLLM asks whether an entry is part of "...mlp.experts". */
static void put_block(const fqi_quant_block *b, const char *pad, fqi_str *s)
{
    fqi_str_printf(s, "\n%s    [", pad);
    for (size_t i = 0; i < b->n; i++) fqi_str_printf(s, "%s\"%s\"", i ? ", " : "", b->name[i]);
    const char *experts = b->experts ? strstr(b->name[0], "experts.") : NULL;
    if (experts) fqi_str_printf(s, ", \"%.*s\"", (int)(experts - b->name[0]) + (int)strlen("experts"), b->name[0]);
    fqi_str_puts(s, "]");
}

static void put_blocks(const fqi_quant_text *w, const char *pad, fqi_str *s)
{
    bool first = true;
    fqi_str_printf(s, ",\n%s  \"modules_in_block_to_quantize\": [", pad);
    for (size_t i = 0; i < w->n_block; i++) {
        if (w->block[i].n == 0) continue;
        if (!first) fqi_str_puts(s, ",");
        put_block(&w->block[i], pad, s);
        first = false;
    }
    if (w->lm_head) fqi_str_printf(s, ",\n%s    [\"lm_head\"]", pad);
    fqi_str_printf(s, "\n%s  ]", pad);
}

void fqi_quant_text_gptq(const fqi_quant_text *w, const char *pad, fqi_str *s)
{
    fqi_str_printf(s, "{\n%s  \"bits\": %d,\n%s  \"group_size\": %" PRId64 ",\n%s  \"desc_act\": %s,\n%s  \"sym\": %s,\n%s  \"lm_head\": %s,\n", pad, w->bits, pad,
                   w->group_size, pad, yes(w->order), pad, yes(w->sym), pad, yes(w->lm_head));
    fqi_str_printf(s, "%s  \"method\": \"gptq\",\n%s  \"quant_method\": \"gptq\",\n%s  \"format\": \"%s\",\n%s  \"checkpoint_format\": \"%s\",\n%s  \"pack_dtype\": \"int32\"", pad, pad, pad, w->format,
                   pad, w->format, pad);
    if (w->solved)
        fqi_str_printf(s, ",\n%s  \"damp_percent\": %.6g,\n%s  \"static_groups\": %s,\n%s  \"true_sequential\": true", pad, w->damp, pad, yes(w->static_groups), pad);
    if (w->n_plain > 0) fqi_str_printf(s, ",\n%s  \"dynamic\": {", pad);
    for (size_t i = 0; i < w->n_plain; i++) {
        fqi_str_printf(s, "%s\n%s    \"-:", i ? "," : "", pad);
        put_text(s, w->plain[i]);
        fqi_str_puts(s, "\": {}");
    }
    if (w->n_plain > 0) fqi_str_printf(s, "\n%s  }", pad);
    put_blocks(w, pad, s);
    fqi_str_printf(s, ",\n%s  \"meta\": {\n%s    \"quantizer\": [\"fitq:%s\"]\n%s  }\n%s}", pad, pad, FQ_VERSION, pad, pad);
}

void fqi_quant_text_ct(const fqi_quant_text *w, const char *pad, fqi_str *s)
{
    fqi_str_printf(s, "{\n%s  \"quant_method\": \"compressed-tensors\",\n%s  \"format\": \"pack-quantized\",\n%s  \"quantization_status\": \"compressed\",\n%s  \"global_compression_ratio\": null,\n", pad, pad, pad, pad);
    fqi_str_printf(s, "%s  \"ignore\": [", pad);
    if (!w->lm_head) fqi_str_puts(s, "\"lm_head\"");
    for (size_t i = 0; i < w->n_plain; i++) {
        fqi_str_printf(s, "%s\"re:", i || !w->lm_head ? ", " : "");
        put_text(s, w->plain[i]);
        fqi_str_puts(s, "\"");
    }
    fqi_str_printf(s, "],\n%s  \"kv_cache_scheme\": null,\n%s  \"config_groups\": {\n%s    \"group_0\": {\n%s      \"targets\": [\"Linear\"],\n%s      \"weights\": {", pad, pad, pad, pad, pad);
    fqi_str_printf(s, "\n%s        \"num_bits\": %d,\n%s        \"type\": \"int\",\n%s        \"symmetric\": %s,\n", pad, w->bits, pad, pad, yes(w->sym));
    if (w->group_size > 0) fqi_str_printf(s, "%s        \"strategy\": \"group\",\n%s        \"group_size\": %" PRId64 ",\n", pad, pad, w->group_size);
    else fqi_str_printf(s, "%s        \"strategy\": \"channel\",\n%s        \"group_size\": null,\n", pad, pad);
    fqi_str_printf(s, "%s        \"actorder\": %s,\n%s        \"dynamic\": false,\n%s        \"block_structure\": null,\n%s        \"observer\": \"minmax\",\n%s        \"observer_kwargs\": {}\n", pad,
                   w->order ? "\"group\"" : "null", pad, pad, pad, pad);
    fqi_str_printf(s, "%s      },\n%s      \"input_activations\": null,\n%s      \"output_activations\": null\n%s    }\n%s  }\n%s}", pad, pad, pad, pad, pad, pad);
}

/* null where readers find out themselves, and the head, which no list names, is all that is plain. */
void fqi_quant_text_awq(const fqi_quant_text *w, const char *pad, fqi_str *s)
{
    fqi_str_printf(s, "{\n%s  \"quant_method\": \"awq\",\n%s  \"bits\": %d,\n%s  \"group_size\": %" PRId64 ",\n%s  \"zero_point\": true,\n%s  \"version\": \"gemm\",\n", pad, pad, w->bits, pad,
                   w->group_size, pad, pad);
    if (w->lm_head) fqi_str_printf(s, "%s  \"lm_head\": true,\n", pad);
    fqi_str_printf(s, "%s  \"modules_to_not_convert\": %s", pad, w->n_skipped ? "[" : "null");
    for (size_t i = 0; i < w->n_skipped; i++) {
        fqi_str_puts(s, i ? ", \"" : "\"");
        put_text(s, w->skipped[i]);
        fqi_str_puts(s, "\"");
    }
    fqi_str_printf(s, "%s\n%s}", w->n_skipped ? "]" : "", pad);
}
