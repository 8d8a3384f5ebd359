/* fitconfig.c - which members of config.json a fit changes. See fitconfig.h.
 *
 * A table of lengths; only members whose number changed are touched, so that the rest of the file keeps its bytes. */
#include "job/fitconfig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EDIT 16

typedef struct edits {
    fqi_edit edit[MAX_EDIT];
    char path[MAX_EDIT][96], value[MAX_EDIT][64];
    size_t n;
} edits;

static void add(edits *x, const char *prefix, const char *key, const char *value)
{
    snprintf(x->path[x->n], sizeof x->path[0], "%s%s", prefix, key);
    snprintf(x->value[x->n], sizeof x->value[0], "%s", value);
    x->edit[x->n] = (fqi_edit){ .path = x->path[x->n], .value = x->value[x->n] };
    x->n++;
}

static void add_int(edits *x, const char *prefix, const char *key, int64_t real, int64_t pad)
{
    char value[32];
    if (real == pad) return;
    snprintf(value, sizeof value, "%lld", (long long)pad);
    add(x, prefix, key, value);
}

/* Mixtral calls the width of an expert intermediate_size. */
static const char *expert_key(const fqi_config *c)
{
    const json_t *text = c->text_in_sub ? json_object_get(c->root, c->family->text_config) : c->root;
    return json_object_get(text, "moe_intermediate_size") ? "moe_intermediate_size" : "intermediate_size";
}

/* Qwen2 and Mistral are Llama with other defaults; in vLLM only Llama honours head_dim (docs/padding.md). attention_bias makes
 * the engine expect a bias on o_proj too: the job adds one of zeros. */
static void add_llama(edits *x, const fqi_config *c)
{
    add(x, "", "architectures", "[\n    \"LlamaForCausalLM\"\n  ]");
    add(x, "", "model_type", "\"llama\"");
    add(x, "", "attention_bias", c->model.q_bias ? "true" : "false");
    add(x, "", "mlp_bias", "false");
}

fq_status fqi_fit_config(const fqi_config *c, const char *file, const fq_model *fitted, bool as_llama, char **out, size_t *n, fq_err *e)
{
    const fq_model *m = &c->model;
    char prefix[64] = "";
    if (c->text_in_sub) snprintf(prefix, sizeof prefix, "%s.", c->family->text_config);
    edits *x = calloc(1, sizeof *x);
    if (!x) return fqi_fail(e, FQ_E_NOMEM, FQI_FILE(file), NULL, "out of memory");
    add_int(x, prefix, "intermediate_size", m->intermediate_size, fitted->intermediate_size);
    add_int(x, prefix, expert_key(c), m->moe_intermediate_size, fitted->moe_intermediate_size);
    add_int(x, prefix, "shared_expert_intermediate_size", m->shared_expert_intermediate_size, fitted->shared_expert_intermediate_size);
    add_int(x, prefix, "num_attention_heads", m->num_attention_heads, fitted->num_attention_heads);
    add_int(x, prefix, "num_key_value_heads", m->num_key_value_heads, fitted->num_key_value_heads);
    add_int(x, prefix, "vocab_size", m->vocab_size, fitted->vocab_size);
    if (fitted->head_dim_explicit && !m->head_dim_explicit) add_int(x, prefix, "head_dim", 0, m->head_dim);
    if (as_llama) add_llama(x, c);
    fq_status s = fqi_json_edit(c->text, c->n_text, file, x->edit, x->n, out, n, e);
    free(x);
    return s;
}
