/* test_decoder.c - what running a model needs of config.json: every published one, windows layer by layer, class defaults.
 *
 * What is refused, and with which words, is in tests/corpus/decoder_cases.py. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "arch/decoder.h"
#include "support.h"

#define FAMILIES "qwen2, qwen3, qwen2_moe, qwen3_moe, llama, mistral, mixtral, qwen2_vl, qwen2_5_vl, qwen3_vl"
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* ---- published configurations ----------------------------------------------------------------------------------- */

typedef struct published {
    const char *file, *refused;   /* refused: the message behind the file's name; NULL = it can be run */
    fqi_rope_kind kind;
    int64_t dim;
    double theta, eps, factor;
    int64_t original_max, max_position;
    bool norm_topk;
    size_t n_eos;
    uint32_t first_eos;
} published;

static const published published_table[] = {
    { "MACLAB-HFUT--PsycoLLM_Qwen1.5-14B-Chat.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 32768, 32768, false, 1, 151645 },
    { "MaziyarPanahi--Qwen1.5-MoE-A2.7B-Wikihow.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 8192, 8192, false, 1, 151643 },
    { .file = "Qwen--Qwen-14B-Chat.json", .refused = "unknown-family: found model_type \"qwen\", expected one of " FAMILIES },
    { .file = "Qwen--Qwen-72B-Chat.json", .refused = "unknown-family: found model_type \"qwen\", expected one of " FAMILIES },
    { "Qwen--Qwen1.5-0.5B-Chat.json", NULL, FQI_ROPE_DEFAULT, 64, 1e6, 1e-6, 1, 32768, 32768, false, 1, 151645 },
    { "Qwen--Qwen1.5-1.8B-Chat.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 512, 512, false, 1, 151645 },
    { "Qwen--Qwen1.5-110B-Chat.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 32768, 32768, false, 1, 151645 },
    { "Qwen--Qwen1.5-7B-Chat.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 32768, 32768, false, 1, 151645 },
    { "Qwen--Qwen2-1.5B-Instruct.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 32768, 32768, false, 1, 151645 },
    { .file = "Qwen--Qwen2-57B-A14B-Instruct.partial.json", .refused = "json-field: vocab_size: found nothing, expected an integer from 1 to 134217728" },
    { "Qwen--Qwen2-72B-Instruct.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 32768, 32768, false, 1, 151645 },
    { "Qwen--Qwen2-7B-Instruct.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 32768, 32768, false, 1, 151645 },
    { "Qwen--Qwen2.5-1.5B.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 131072, 131072, false, 1, 151643 },
    { "Qwen--Qwen2.5-14B-Instruct.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 32768, 32768, false, 1, 151645 },
    { "Qwen--Qwen2.5-32B.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-5, 1, 131072, 131072, false, 1, 151643 },
    { "Qwen--Qwen2.5-72B.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-5, 1, 131072, 131072, false, 1, 151643 },
    { "Qwen--Qwen2.5-7B-Instruct.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 32768, 32768, false, 1, 151645 },
    { "Qwen--Qwen2.5-7B.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 131072, 131072, false, 1, 151643 },
    { "Qwen--Qwen2.5-VL-3B-Instruct.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 8192, 8192, false, 1, 151645 },
    { "Qwen--Qwen3-0.6B.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 40960, 40960, false, 1, 151645 },
    { "Qwen--Qwen3-1.7B.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 40960, 40960, false, 1, 151645 },
    { "Qwen--Qwen3-14B.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 40960, 40960, false, 1, 151645 },
    { "Qwen--Qwen3-235B-A22B-FP8.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 40960, 40960, true, 1, 151645 },
    { "Qwen--Qwen3-235B-A22B.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 40960, 40960, true, 1, 151645 },
    { "Qwen--Qwen3-30B-A3B.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 40960, 40960, true, 1, 151645 },
    { "Qwen--Qwen3-32B-FP8.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 40960, 40960, false, 1, 151645 },
    { "Qwen--Qwen3-32B.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 40960, 40960, false, 1, 151645 },
    { "Qwen--Qwen3-8B.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-6, 1, 40960, 40960, false, 1, 151645 },
    { "Qwen--Qwen3-Coder-480B-A35B-Instruct.json", NULL, FQI_ROPE_DEFAULT, 128, 1e7, 1e-6, 1, 262144, 262144, true, 1, 151645 },
    { .file = "Qwen--Qwen3-Next-80B-A3B-Thinking.json", .refused = "unknown-family: found model_type \"qwen3_next\", expected one of " FAMILIES },
    { .file = "Qwen--Qwen3.5-27B.json", .refused = "unknown-family: found model_type \"qwen3_5\", expected one of " FAMILIES },
    { .file = "deepseek-ai--DeepSeek-R1.json", .refused = "unknown-family: found model_type \"deepseek_v3\", expected one of " FAMILIES },
    { .file = "deepseek-ai--DeepSeek-V2-Lite.json", .refused = "unknown-family: found model_type \"deepseek_v2\", expected one of " FAMILIES },
    { .file = "deepseek-ai--DeepSeek-V3.json", .refused = "unknown-family: found model_type \"deepseek_v3\", expected one of " FAMILIES },
    { "meta-llama--Llama-2-13b-chat-hf.json", NULL, FQI_ROPE_DEFAULT, 128, 10000, 1e-5, 1, 4096, 4096, false, 1, 2 },
    { "meta-llama--Llama-2-7b-chat-hf.json", NULL, FQI_ROPE_DEFAULT, 128, 10000, 1e-5, 1, 4096, 4096, false, 1, 2 },
    { "meta-llama--Llama-3.1-70B-Instruct.json", NULL, FQI_ROPE_LLAMA3, 128, 500000, 1e-5, 8, 8192, 131072, false, 3, 128001 },
    { "meta-llama--Llama-3.1-8B-Instruct.json", NULL, FQI_ROPE_DEFAULT, 128, 500000, 1e-5, 1, 131072, 131072, false, 1, 128009 },
    { .file = "meta-llama--Llama-4-Scout-17B-16E-Instruct.json", .refused = "unknown-family: found model_type \"llama4\", expected one of " FAMILIES },
    { "meta-llama--Meta-Llama-3.1-405B.json", NULL, FQI_ROPE_LLAMA3, 128, 500000, 1e-5, 8, 8192, 131072, false, 1, 128001 },
    { "meta-llama--Meta-Llama-3.1-70B.json", NULL, FQI_ROPE_LLAMA3, 128, 500000, 1e-5, 8, 8192, 131072, false, 1, 128001 },
    { "meta-llama--Meta-Llama-3.1-8B.json", NULL, FQI_ROPE_LLAMA3, 128, 500000, 1e-5, 8, 8192, 131072, false, 1, 128001 },
    { "mistralai--Mistral-7B-Instruct-v0.2.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-5, 1, 512, 512, false, 1, 2 },
    { "mistralai--Mixtral-8x22B-v0.1.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-5, 1, 65536, 65536, true, 1, 2 },
    { "mistralai--Mixtral-8x7B-v0.1.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-5, 1, 32768, 32768, true, 1, 2 },
    { .file = "moonshotai--Kimi-K2-Instruct.json", .refused = "unknown-family: found model_type \"kimi_k2\", expected one of " FAMILIES },
    { "odd-vocab/qingy2024--Qwen2.6-14B-Instruct.json", NULL, FQI_ROPE_DEFAULT, 128, 1e6, 1e-5, 1, 131072, 131072, false, 1, 151643 },
    { .file = "openai--gpt-oss-120b.json", .refused = "unknown-family: found model_type \"gpt_oss\", expected one of " FAMILIES },
    { "unsloth--Qwen2.5-0.5B-Instruct.json", NULL, FQI_ROPE_DEFAULT, 64, 1e6, 1e-6, 1, 32768, 32768, false, 1, 151645 },
    { .file = "zai-org--GLM-4.5.json", .refused = "unknown-family: found model_type \"glm4_moe\", expected one of " FAMILIES },
    { .file = "zai-org--GLM-4.7-FP8.json", .refused = "unknown-family: found model_type \"glm4_moe\", expected one of " FAMILIES },
};

static void check_published(const published *p, const char *path)
{
    fqi_config c;
    fqi_decoder d;
    fq_err e;
    fq_status s = fqi_config_load(path, &c, &e);
    if (s == FQ_OK) {
        s = fqi_decoder_read(&c, path, &d, &e);
        fqi_config_free(&c);
    }
    if (p->refused) {
        assert_int_equal(s, FQ_E_INPUT);
        assert_string_equal(e.text + strlen(path) + 2, p->refused);
        return;
    }
    if (s != FQ_OK) fail_msg("%s", e.text);
    if (d.rope.kind != p->kind || d.rope.dim != p->dim || d.rope.theta != p->theta || d.rms_norm_eps != p->eps || d.rope.factor != p->factor ||
        d.rope.original_max != p->original_max || d.rope.max_position != p->max_position || d.norm_topk_prob != p->norm_topk ||
        d.n_eos != p->n_eos || d.eos[0] != p->first_eos)
        fail_msg("%s is not as the table says", p->file);
    for (int64_t i = 0; i < d.model.num_hidden_layers; i++) assert_int_equal(d.window[i], 0);   /* none of these has a window */
    fqi_decoder_free(&d);
}

static void published_configs(void **state)
{
    (void)state;
    const char *data = fqt_data();
    for (size_t i = 0; i < COUNT(published_table); i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/configs/%s", data, published_table[i].file);
        check_published(&published_table[i], path);
    }
}

static void table_has_every_published_config(void **state)
{
    (void)state;
    static const char *const folder[] = { "", "odd-vocab/" };
    const char *data = fqt_data();
    for (size_t f = 0; f < COUNT(folder); f++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/configs/%s", data, folder[f]);
        DIR *dir = opendir(path);
        assert_non_null(dir);
        for (struct dirent *d; (d = readdir(dir)) != NULL;) {
            size_t n = strlen(d->d_name), i = 0;
            if (n < 5 || strcmp(d->d_name + n - 5, ".json") != 0) continue;
            snprintf(path, sizeof path, "%s%s", folder[f], d->d_name);
            while (i < COUNT(published_table) && strcmp(published_table[i].file, path) != 0) i++;
            if (i == COUNT(published_table)) fail_msg("%s is not in the table", path);
        }
        closedir(dir);
    }
}

/* ---- small ones -------------------------------------------------------------------------------------------------- */

/* A model of eight layers with the members of `more` (text that begins with a comma, or ""). */
static fq_status read_small(const char *model_type, const char *more, fqi_decoder *d, fq_err *e)
{
    char text[4096];
    fqi_config c;
    snprintf(text, sizeof text,
             "{\"model_type\": \"%s\", \"hidden_size\": 64, \"intermediate_size\": 96, \"moe_intermediate_size\": 32, \"num_hidden_layers\": 8,"
             "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"vocab_size\": 100, \"num_local_experts\": 4, \"num_experts_per_tok\": 2,"
             "\"shared_expert_intermediate_size\": 32, \"rms_norm_eps\": 1e-6%s}",
             model_type, more);
    fq_status s = fqi_config_parse(text, strlen(text), "small", &c, e);
    if (s != FQ_OK) return s;
    s = fqi_decoder_read(&c, "small", d, e);
    if (s == FQ_OK) {
        bool any = false;
        for (int64_t i = 0; i < d->model.num_hidden_layers; i++) any = any || d->window[i] > 0;
        assert_int_equal(any, d->model.sliding_window);   /* what the planner was told */
        assert_memory_equal(d->sparse, c.layer_is_sparse, 8 * sizeof *d->sparse);
        assert_ptr_equal(d->family, fqi_family_find(model_type));
    }
    fqi_config_free(&c);
    return s;
}

static void read_good(const char *model_type, const char *more, fqi_decoder *d)
{
    fq_err e;
    if (read_small(model_type, more, d, &e) != FQ_OK) fail_msg("%s%s: %s", model_type, more, e.text);
}

/* Sources: transformers models/FAMILY/configuration_FAMILY.py. */
static void class_defaults(void **state)
{
    (void)state;
    static const struct { const char *family; double theta; bool norm_topk; } table[] = {
        { "qwen2", 1e4, false }, { "qwen3", 1e4, false }, { "qwen2_moe", 1e4, false }, { "qwen3_moe", 1e4, false }, { "llama", 1e4, false },
        { "mistral", 1e4, false }, { "mixtral", 1e6, true }, { "qwen2_vl", 1e6, false }, { "qwen2_5_vl", 1e6, false } };
    for (size_t i = 0; i < COUNT(table); i++) {
        fqi_decoder d;
        read_good(table[i].family, "", &d);
        assert_true(d.rope.kind == FQI_ROPE_DEFAULT && d.rope.theta == table[i].theta && d.rope.factor == 1);
        assert_int_equal(d.rope.dim, d.model.head_dim);
        assert_int_equal(d.norm_topk_prob, table[i].norm_topk);
        assert_int_equal(d.n_eos, 0);
        assert_int_equal(d.rope.max_position, 0);
        fqi_decoder_free(&d);
    }
}

static void routing(void **state)
{
    (void)state;
    static const struct { const char *family, *more; bool norm_topk; } table[] = {
        { "qwen3_moe", ", \"norm_topk_prob\": true", true }, { "qwen3_moe", ", \"norm_topk_prob\": false", false },
        { "qwen2_moe", ", \"norm_topk_prob\": true", true }, { "mixtral", ", \"norm_topk_prob\": false", true } };
    for (size_t i = 0; i < COUNT(table); i++) {
        fqi_decoder d;
        read_good(table[i].family, table[i].more, &d);
        assert_int_equal(d.norm_topk_prob, table[i].norm_topk);
        fqi_decoder_free(&d);
    }
}

#define USE ", \"use_sliding_window\": true, \"sliding_window\": 5"
#define TYPES ", \"sliding_window\": 5, \"layer_types\": [\"full_attention\", \"sliding_attention\", \"full_attention\", \"full_attention\"," \
              "\"sliding_attention\", \"sliding_attention\", \"full_attention\", \"full_attention\"]"

static void windows_layer_by_layer(void **state)
{
    (void)state;
    static const struct { const char *family, *more; int64_t window[8]; } table[] = {
        { "qwen2", "", { 0 } },
        { "qwen2", ", \"sliding_window\": 5", { 0 } },
        { "qwen2", USE, { 0 } },                                  /* max_window_layers: 28 in the class */
        { "qwen2", USE ", \"max_window_layers\": 8", { 0 } },
        { "qwen2", USE ", \"max_window_layers\": 5", { 0, 0, 0, 0, 0, 5, 5, 5 } },
        { "qwen2", USE ", \"max_window_layers\": 0", { 5, 5, 5, 5, 5, 5, 5, 5 } },
        { "qwen2", ", \"use_sliding_window\": false, \"sliding_window\": 5, \"max_window_layers\": 0", { 0 } },
        { "qwen3", USE ", \"max_window_layers\": 6", { 0, 0, 0, 0, 0, 0, 5, 5 } },
        { "qwen2_vl", USE ", \"max_window_layers\": 7", { 0, 0, 0, 0, 0, 0, 0, 5 } },
        { "qwen2_vl", USE, { 0 } },                               /* 80 */
        { "qwen2_moe", USE, { 5, 0, 5, 0, 5, 0, 5, 0 } },         /* every second one below max_window_layers */
        { "qwen2_moe", USE ", \"max_window_layers\": 3", { 5, 0, 5, 0, 0, 0, 0, 0 } },
        { "qwen2_moe", USE ", \"max_window_layers\": 0", { 0 } },
        { "qwen3_moe", USE, { 5, 5, 5, 5, 5, 5, 5, 5 } },
        { "qwen3_moe", USE ", \"max_window_layers\": 3", { 5, 5, 5, 5, 5, 5, 5, 5 } },
        { "qwen3_moe", ", \"sliding_window\": 5", { 0 } },
        { "mistral", "", { 4096, 4096, 4096, 4096, 4096, 4096, 4096, 4096 } },
        { "mistral", ", \"sliding_window\": 5", { 5, 5, 5, 5, 5, 5, 5, 5 } },
        { "mistral", ", \"sliding_window\": null", { 0 } },
        { "mixtral", "", { 0 } },
        { "mixtral", ", \"sliding_window\": 5", { 5, 5, 5, 5, 5, 5, 5, 5 } },
        { "llama", ", \"sliding_window\": 5", { 0 } },
        { "llama", TYPES, { 0, 5, 0, 0, 5, 5, 0, 0 } },           /* layer_types goes before every rule */
        { "mistral", TYPES, { 0, 5, 0, 0, 5, 5, 0, 0 } },
        { "qwen3", TYPES ", \"use_sliding_window\": true, \"max_window_layers\": 0", { 0, 5, 0, 0, 5, 5, 0, 0 } },
        { "qwen2_moe", TYPES ", \"use_sliding_window\": true", { 0, 5, 0, 0, 5, 5, 0, 0 } },
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        fqi_decoder d;
        read_good(table[i].family, table[i].more, &d);
        for (int k = 0; k < 8; k++)
            if (d.window[k] != table[i].window[k])
                fail_msg("%s%s: layer %d: %lld, expected %lld", table[i].family, table[i].more, k, (long long)d.window[k], (long long)table[i].window[k]);
        fqi_decoder_free(&d);
    }
}

static bool same_rope(const fqi_rope *a, const fqi_rope *b)
{
    return a->kind == b->kind && a->dim == b->dim && a->theta == b->theta && a->factor == b->factor && a->low_freq_factor == b->low_freq_factor &&
           a->high_freq_factor == b->high_freq_factor && a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow &&
           a->attention_factor == b->attention_factor && a->mscale == b->mscale && a->mscale_all_dim == b->mscale_all_dim &&
           a->truncate == b->truncate && a->original_max == b->original_max && a->max_position == b->max_position;
}

#define LLAMA3 "\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192"
#define DEEPSEEK "\"beta_fast\": 16, \"beta_slow\": 2, \"factor\": 40, \"mscale\": 1.0, \"mscale_all_dim\": 0.5, \"original_max_position_embeddings\": 4096"

static void rotary_embeddings(void **state)
{
    (void)state;
    static const struct { const char *more; fqi_rope rope; } table[] = {
        { ", \"rope_theta\": 5000, \"max_position_embeddings\": 77",
          { FQI_ROPE_DEFAULT, 16, 5000, 1, 0, 0, 0, 0, 0, 0, 0, true, 77, 77 } },
        { ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 3}, \"max_position_embeddings\": 77",
          { FQI_ROPE_LINEAR, 16, 1e4, 3, 0, 0, 0, 0, 0, 0, 0, true, 77, 77 } },
        { ", \"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 1.5}, \"max_position_embeddings\": 77, \"partial_rotary_factor\": 0.5",
          { FQI_ROPE_DYNAMIC, 8, 1e4, 1.5, 0, 0, 0, 0, 0, 0, 0, true, 77, 77 } },
        { ", \"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", " LLAMA3 "}, \"max_position_embeddings\": 131072",
          { FQI_ROPE_LLAMA3, 16, 5e5, 8, 1, 4, 0, 0, 0, 0, 0, true, 8192, 131072 } },
        { ", \"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 500000, " LLAMA3 "}, \"max_position_embeddings\": 131072",
          { FQI_ROPE_LLAMA3, 16, 5e5, 8, 1, 4, 0, 0, 0, 0, 0, true, 8192, 131072 } },
        { ", \"rope_scaling\": {\"type\": \"yarn\", " DEEPSEEK "}, \"max_position_embeddings\": 163840",
          { FQI_ROPE_YARN, 16, 1e4, 40, 0, 0, 16, 2, 0, 1, 0.5, true, 4096, 163840 } },
        { ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4, \"attention_factor\": 1.25, \"truncate\": false}, \"max_position_embeddings\": 32768",
          { FQI_ROPE_YARN, 16, 1e4, 4, 0, 0, 32, 1, 1.25, 0, 0, false, 32768, 32768 } },
        { ", \"rope_parameters\": {\"rope_theta\": 1e7, \"partial_rotary_factor\": 0.25, \"mrope_section\": [1, 1], \"mrope_interleaved\": true}",
          { FQI_ROPE_DEFAULT, 4, 1e7, 1, 0, 0, 0, 0, 0, 0, 0, true, 0, 0 } },
    };
    for (size_t i = 0; i < COUNT(table); i++) {
        fqi_decoder d;
        read_good("llama", table[i].more, &d);
        if (!same_rope(&d.rope, &table[i].rope)) fail_msg("llama%s", table[i].more);
        fqi_decoder_free(&d);
    }
}

static void ends(void **state)
{
    (void)state;
    fqi_decoder d;
    read_good("qwen2", ", \"eos_token_id\": 99", &d);
    assert_true(d.n_eos == 1 && d.eos[0] == 99);
    fqi_decoder_free(&d);
    read_good("qwen2", ", \"eos_token_id\": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]", &d);
    assert_true(d.n_eos == 16 && d.eos[0] == 0 && d.eos[15] == 15);
    fqi_decoder_free(&d);
}

static void failure_leaves_the_output(void **state)
{
    (void)state;
    fqi_decoder d = { .n_eos = 7 };
    assert_int_equal(read_small("qwen2", ", \"eos_token_id\": 100", &d, NULL), FQ_E_INPUT);
    assert_int_equal(read_small("gemma3_text", "", &d, NULL), FQ_E_INPUT);
    assert_int_equal(d.n_eos, 7);
    assert_null(d.window);
    fqi_decoder_free(&d);
    fqi_decoder_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_configs),
        cmocka_unit_test(table_has_every_published_config),
        cmocka_unit_test(class_defaults),
        cmocka_unit_test(routing),
        cmocka_unit_test(windows_layer_by_layer),
        cmocka_unit_test(rotary_embeddings),
        cmocka_unit_test(ends),
        cmocka_unit_test(failure_leaves_the_output),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
