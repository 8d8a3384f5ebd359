/* fitconfig.c - which members of config.json a fit changes. See fitconfig.h.
 *
 * A table of lengths; only members whose number changed are touched, so that the rest of the file keeps its bytes. */
#include "job/fitconfig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"

#define MAX_EDIT 24
#define MAX_QUANTIZE_CONFIG ((size_t)16 << 20)

typedef struct edits {
    fqi_edit edit[MAX_EDIT];
    char path[MAX_EDIT][FQI_CONFIG_PATH_MAX], value[MAX_EDIT][64];
    size_t n;
} edits;

static void add(edits *x, const char *path, const char *value)
{
    snprintf(x->path[x->n], sizeof x->path[0], "%.*s", FQI_CONFIG_PATH_MAX - 1, path);
    snprintf(x->value[x->n], sizeof x->value[0], "%s", value);
    x->edit[x->n] = (fqi_edit){ .path = x->path[x->n], .value = x->value[x->n] };
    x->n++;
}

static void add_removal(edits *x, const char *path)
{
    add(x, path, "");
    x->edit[x->n - 1].value = NULL;
}

/* A multimodal file may hold the number twice, and families name it differently: fqi_config_paths knows. */
static void add_int(edits *x, const fqi_config *c, const char *field, int64_t real, int64_t pad)
{
    char value[32], path[2][FQI_CONFIG_PATH_MAX];
    if (real == pad) return;
    snprintf(value, sizeof value, "%lld", (long long)pad);
    size_t n = fqi_config_paths(c, field, path);
    for (size_t i = 0; i < (n > 0 ? n : 1); i++) add(x, path[i], value);
}

static bool has(const fqi_config *c, const char *key) { return json_object_get(c->root, key) != NULL; }

static void add_absent_int(edits *x, const fqi_config *c, const char *key, int64_t value)
{
    char text[32];
    if (has(c, key)) return;
    snprintf(text, sizeof text, "%lld", (long long)value);
    add(x, key, text);
}

/* Qwen2 and Mistral are Llama with other defaults; in vLLM only Llama honours head_dim (docs/padding.md). What their classes leave
 * unsaid must be said now, where Llama's class would fill in something else; attention_bias makes the engine expect a bias on
 * o_proj too: the job adds one of zeros. Defaults: transformers models/{qwen2,mistral}/configuration_*.py. */
static void add_llama(edits *x, const fqi_config *c)
{
    const fq_model *m = &c->model;
    bool mistral = strcmp(m->model_type, "mistral") == 0;
    add(x, "architectures", "[\n    \"LlamaForCausalLM\"\n  ]");
    add(x, "model_type", "\"llama\"");
    add(x, "attention_bias", m->q_bias ? "true" : "false");
    add(x, "mlp_bias", m->mlp_bias ? "true" : "false");
    add_absent_int(x, c, "max_position_embeddings", mistral ? 131072 : 32768);
    add_absent_int(x, c, "num_key_value_heads", m->num_key_value_heads);
    if (has(c, "sliding_window")) add(x, "sliding_window", "null");   /* not used by the source; an engine may look at the number alone */
    if (has(c, "auto_map")) add_removal(x, "auto_map");               /* it names the old classes */
}

/* The member that says how many channels share a scale: of the whole, or of each group of modules (compressed-tensors). */
static fq_status add_group(edits *x, const fqi_config *c, const char *file, int64_t group, fq_err *e)
{
    json_t *q = json_object_get(c->root, "quantization_config"), *groups = json_object_get(q, "config_groups"), *one;
    const char *key, *plain = json_object_get(q, "q_group_size") ? "q_group_size" : "group_size";
    char path[FQI_CONFIG_PATH_MAX], value[32];
    const size_t before = x->n;
    snprintf(value, sizeof value, "%lld", (long long)group);
    if (json_is_integer(json_object_get(q, plain))) {
        snprintf(path, sizeof path, "quantization_config.%s", plain);
        add(x, path, value);
    }
    json_object_foreach(groups, key, one) {
        if (!json_is_integer(json_object_get(json_object_get(one, "weights"), "group_size")) || strchr(key, '.') || strlen(key) > 32 || x->n + 1 >= MAX_EDIT) continue;
        snprintf(path, sizeof path, "quantization_config.config_groups.%s.weights.group_size", key);
        add(x, path, value);
    }
    if (x->n > before) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "regroup", "found no group_size in quantization_config, expected one to change");
}

/* Only where it is said: what says nothing is read as false. */
static void add_desc_act(edits *x, const fqi_config *c, const char *value)
{
    if (value && json_is_boolean(json_object_get(json_object_get(c->root, "quantization_config"), "desc_act"))) add(x, "quantization_config.desc_act", value);
}

fq_status fqi_fit_quantize_config(const char *dir, const fqi_fit_quant *quant, char **out, size_t *n, fq_err *e)
{
    char value[32], *path = fqi_path_join(dir, "quantize_config.json"), *text = NULL;
    size_t length;
    *out = NULL;
    if (!path) return fqi_fail_nomem(e, "path");
    fq_status s = FQ_OK;
    if (fqi_path_exists(path)) s = fqi_file_slurp(path, MAX_QUANTIZE_CONFIG, &text, &length, e);
    json_t *root = NULL;
    if (s == FQ_OK && text) s = fqi_json_parse(text, length, path, &root, e);
    if (s == FQ_OK && text) {
        fqi_edit edit[2];
        size_t n_edit = 0;
        snprintf(value, sizeof value, "%lld", (long long)quant->group);
        if (quant->group && json_is_integer(json_object_get(root, "group_size"))) edit[n_edit++] = (fqi_edit){ .path = "group_size", .value = value };
        if (quant->desc_act && json_is_boolean(json_object_get(root, "desc_act"))) edit[n_edit++] = (fqi_edit){ .path = "desc_act", .value = quant->desc_act };
        if (n_edit > 0) s = fqi_json_edit(text, length, path, edit, n_edit, out, n, e);
    }
    json_decref(root);
    free(text);
    free(path);
    return s;
}

fq_status fqi_fit_config(const fqi_config *c, const char *file, const fq_model *fitted, bool as_llama, const fqi_fit_quant *quant, char **out, size_t *n, fq_err *e)
{
    const fq_model *m = &c->model;
    edits *x = calloc(1, sizeof *x);
    if (!x) return fqi_fail_nomem(e, "config.json");
    const struct { const char *field; int64_t real, pad; } length[] = {
        { "intermediate_size", m->intermediate_size, fitted->intermediate_size },
        { "moe_intermediate_size", m->moe_intermediate_size, fitted->moe_intermediate_size },
        { "shared_expert_intermediate_size", m->shared_expert_intermediate_size, fitted->shared_expert_intermediate_size },
        { "num_attention_heads", m->num_attention_heads, fitted->num_attention_heads },
        { "num_key_value_heads", m->num_key_value_heads, fitted->num_key_value_heads },
        { "vocab_size", m->vocab_size, fitted->vocab_size },
        { "head_dim", fitted->head_dim_explicit && !m->head_dim_explicit ? 0 : m->head_dim, m->head_dim },
    };
    for (size_t i = 0; i < sizeof length / sizeof length[0]; i++) add_int(x, c, length[i].field, length[i].real, length[i].pad);
    if (as_llama) add_llama(x, c);
    fq_status s = quant && quant->group ? add_group(x, c, file, quant->group, e) : FQ_OK;
    if (quant) add_desc_act(x, c, quant->desc_act);
    if (s == FQ_OK) s = fqi_json_edit(c->text, c->n_text, file, x->edit, x->n, out, n, e);
    free(x);
    return s;
}
