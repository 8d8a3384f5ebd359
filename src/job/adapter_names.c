/* adapter_names.c - the names that PEFT gives to the tensors of a LoRA adapter.
 *
 *     base_model.model.model.layers.0.mlp.down_proj.lora_A.weight            as saved
 *     base_model.model.model.layers.0.mlp.down_proj.lora_A.default.weight    with the adapter's name, as in a state dict
 *     base_model.model.lm_head.weight                                        modules_to_save
 *     base_model.model.lm_head.modules_to_save.default.weight                the same in a state dict */
#include <string.h>

#include "job/adapter.h"

static const struct { const char *word; fqi_lora_kind kind; } words[] = {
    { ".lora_A.", FQI_LORA_A }, { ".lora_B.", FQI_LORA_B }, { ".lora_embedding_A", FQI_LORA_EMBEDDING_A }, { ".lora_embedding_B", FQI_LORA_EMBEDDING_B },
    { ".lora_magnitude_vector", FQI_LORA_MAGNITUDE }, { ".modules_to_save.", FQI_LORA_WEIGHT }, { ".base_layer.", FQI_LORA_WEIGHT },
};

static const char *after(const char *s, const char *prefix)
{
    const size_t n = strlen(prefix);
    return strncmp(s, prefix, n) == 0 ? s + n : s;
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), m = strlen(end);
    return n > m && strcmp(s + n - m, end) == 0;
}

bool fqi_lora_name_parse(const char *name, fqi_lora_name *out)
{
    const char *s = after(name, "base_model.model."), *end = NULL;
    const bool bias = ends_with(s, ".bias"), weight = ends_with(s, ".weight");
    for (size_t i = 0; i < sizeof words / sizeof *words && !end; i++)
        if ((end = strstr(s, words[i].word))) out->kind = words[i].kind;
    if (!end) {
        if (!bias && !weight) return false;
        out->kind = FQI_LORA_WEIGHT;
        end = strrchr(s, '.');
    }
    if (out->kind == FQI_LORA_WEIGHT && bias) out->kind = FQI_LORA_BIAS;
    if ((out->kind == FQI_LORA_A || out->kind == FQI_LORA_B) && !weight) return false;   /* lora_A.bias: of lora_bias, which is a bias of r */
    const size_t n = (size_t)(end - s);
    if (n == 0 || n >= sizeof out->module) return false;
    memcpy(out->module, s, n);
    out->module[n] = '\0';
    return true;
}
