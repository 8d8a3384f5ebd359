/* fuzz_config.c - any bytes as config.json: refused with a message, or read into a model whose numbers agree with each other; and
 * an edit of what was accepted gives a text that reads as the edited model. */
#include <stdlib.h>
#include <string.h>

#include "arch/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
    if (!good) abort();
}

static void check_model(const fqi_config *c)
{
    const fq_model *m = &c->model;
    int64_t n_sparse = 0;
    require(m->hidden_size > 0 && m->vocab_size > 0 && m->num_hidden_layers > 0 && m->head_dim > 0);
    require(m->num_key_value_heads > 0 && m->num_attention_heads % m->num_key_value_heads == 0);
    require(m->n_dense_layer >= 0 && m->n_moe_layer >= 0 && m->n_dense_layer + m->n_moe_layer == m->num_hidden_layers);
    require((m->n_dense_layer > 0) == (m->intermediate_size > 0));
    require((m->n_moe_layer > 0) == (m->moe_intermediate_size > 0));
    require(m->n_moe_layer == 0 || (m->num_experts_per_tok > 0 && m->num_experts_per_tok <= m->num_experts));
    for (int64_t i = 0; i < m->num_hidden_layers; i++) n_sparse += c->layer_is_sparse[i];
    require(n_sparse == m->n_moe_layer);
    require((m->family[0] != '\0') == (c->family != NULL));
    require(m->quant_group_size >= -1);
}

static void check_edit(const fqi_config *c)
{
    char path[2][FQI_CONFIG_PATH_MAX], *text;
    fqi_edit edit[2];
    size_t n = fqi_config_paths(c, "vocab_size", path), n_text;
    fqi_config again;
    for (size_t i = 0; i < n; i++) edit[i] = (fqi_edit){ path[i], "77" };
    require(n > 0);
    require(fqi_json_edit(c->text, c->n_text, "fuzz", edit, n, &text, &n_text, NULL) == FQ_OK);
    require(fqi_config_parse(text, n_text, "fuzz", &again, NULL) == FQ_OK);
    require(again.model.vocab_size == 77 && again.model.hidden_size == c->model.hidden_size);
    fqi_config_free(&again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fqi_config c;
    fq_err e = { .code = FQ_OK };
    fq_status s = fqi_config_parse((const char *)data, size, "fuzz", &c, &e);
    if (s != FQ_OK) {
        require(s == FQ_E_INPUT && e.code == s && e.rule[0] != '\0' && strlen(e.text) < sizeof e.text);
        return 0;
    }
    check_model(&c);
    check_edit(&c);
    fqi_config_free(&c);
    return 0;
}
