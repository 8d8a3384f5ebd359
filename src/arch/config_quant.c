/* config_quant.c - quantization_config -> the quantization members of fq_model.
 *
 * Four methods are understood; any other is FQ_QUANT_OTHER with its name, never taken for one of the four. A group size that does
 * not divide the input width of a projection is refused: readers disagree on such files (vLLM counts floor(K / g) groups, GPTQ's
 * packers write ceil(K / g)). Sources: AutoGPTQ quantization/config.py, AutoAWQ models/_config.py, compressed-tensors
 * quantization/quant_args.py, transformers utils/quantization_config.py (FineGrainedFP8Config). */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "arch/reader.h"

#define MAX_GROUP 1048576

static const json_t *not_null(const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    return v && !json_is_null(v) ? v : NULL;
}

static fq_status get_small(const fqi_reader *r, const json_t *obj, const char *key, int64_t min, int64_t max, int *out, fq_err *e)
{
    int64_t v;
    fqi_json_int want = { .key = key, .min = min, .max = max };
    FQI_TRY(fqi_json_get_int(obj, &want, r->file, &v, e));
    *out = (int)v;
    return FQ_OK;
}

/* -1 (a row is one group) or a positive number. */
static fq_status get_group(const fqi_reader *r, const json_t *obj, const char *key, int *out, fq_err *e)
{
    FQI_TRY(get_small(r, obj, key, -1, MAX_GROUP, out, e));
    if (*out == 0) return fqi_reader_fail(r, key, json_object_get(obj, key), "-1 or a positive number", e);
    return FQ_OK;
}

static fq_status check_group(const fqi_reader *r, fq_err *e)
{
    const fq_model *m = r->m;
    const struct { const char *what; int64_t length; } input[] = {
        { "hidden_size", m->hidden_size },
        { "intermediate_size", m->intermediate_size },
        { "moe_intermediate_size", m->moe_intermediate_size },
        { "shared_expert_intermediate_size", m->shared_expert_intermediate_size },
        { "num_attention_heads x head_dim", m->num_attention_heads * m->head_dim },
    };
    if (m->quant_group_size <= 0) return FQ_OK;
    /* Of a family without a table only the residual stream is surely an input of quantized projections. */
    size_t n = m->family[0] ? FQI_COUNT(input) : 1;
    for (size_t i = 0; i < n; i++)
        if (input[i].length % m->quant_group_size != 0)
            return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->file), "config-group", "group_size: found %d, expected a divisor of %s %" PRId64,
                            m->quant_group_size, input[i].what, input[i].length);
    return FQ_OK;
}

static fq_status read_gptq(const fqi_reader *r, const json_t *q, fq_err *e)
{
    fq_model *m = r->m;
    m->quant = FQ_QUANT_GPTQ;
    FQI_TRY(get_small(r, q, "bits", 2, 8, &m->quant_bits, e));
    FQI_TRY(get_group(r, q, "group_size", &m->quant_group_size, e));
    FQI_TRY(fqi_json_get_bool(q, "sym", true, r->file, &m->quant_sym, e));
    FQI_TRY(fqi_json_get_bool(q, "desc_act", false, r->file, &m->quant_desc_act, e));
    return check_group(r, e);
}

static fq_status read_awq(const fqi_reader *r, const json_t *q, fq_err *e)
{
    fq_model *m = r->m;
    bool zero_point;
    m->quant = FQ_QUANT_AWQ;
    FQI_TRY(get_small(r, q, not_null(q, "w_bit") ? "w_bit" : "bits", 2, 8, &m->quant_bits, e));
    FQI_TRY(get_group(r, q, not_null(q, "q_group_size") ? "q_group_size" : "group_size", &m->quant_group_size, e));
    FQI_TRY(fqi_json_get_bool(q, "zero_point", true, r->file, &zero_point, e));
    m->quant_sym = !zero_point;
    return check_group(r, e);
}

/* [rows, columns] of a block: the columns count along the input, as a group does. */
static fq_status get_block(const fqi_reader *r, const json_t *obj, const char *key, int *out, fq_err *e)
{
    const json_t *list = not_null(obj, key);
    bool good = json_is_array(list) && json_array_size(list) == 2;
    for (size_t i = 0; good && i < 2; i++) {
        const json_t *v = json_array_get(list, i);
        good = json_is_integer(v) && json_integer_value(v) >= 1 && json_integer_value(v) <= MAX_GROUP;
    }
    if (!good) return fqi_reader_fail(r, key, list, "two positive numbers", e);
    *out = (int)json_integer_value(json_array_get(list, 1));
    return FQ_OK;
}

static fq_status read_fp8(const fqi_reader *r, const json_t *q, fq_err *e)
{
    fq_model *m = r->m;
    m->quant = FQ_QUANT_FP8;
    m->quant_bits = 8;
    m->quant_sym = true;
    m->quant_group_size = -1;
    return not_null(q, "weight_block_size") ? get_block(r, q, "weight_block_size", &m->quant_group_size, e) : FQ_OK;
}

/* One config group's "weights". */
static fq_status read_ct_weights(const fqi_reader *r, const json_t *w, fq_err *e)
{
    fq_model *m = r->m;
    const char *strategy;
    FQI_TRY(get_small(r, w, "num_bits", 1, 16, &m->quant_bits, e));
    const char *type;
    FQI_TRY(fqi_json_get_str(w, "type", "int", r->file, &type, e));
    if (strcmp(type, "float") == 0 && m->quant_bits == 8) m->quant = FQ_QUANT_FP8;
    FQI_TRY(fqi_json_get_bool(w, "symmetric", true, r->file, &m->quant_sym, e));
    FQI_TRY(fqi_json_get_str(w, "strategy", not_null(w, "group_size") ? "group" : "channel", r->file, &strategy, e));
    const json_t *order = not_null(w, "actorder");
    const char *kind = json_is_string(order) ? json_string_value(order) : "";
    m->quant_desc_act = strcmp(kind, "group") == 0 || strcmp(kind, "dynamic") == 0;
    if (strcmp(strategy, "block") == 0) return get_block(r, w, "block_structure", &m->quant_group_size, e);
    m->quant_group_size = -1;
    if (strcmp(strategy, "group") != 0 && strcmp(strategy, "tensor_group") != 0) return FQ_OK;
    FQI_TRY(get_small(r, w, "group_size", 1, MAX_GROUP, &m->quant_group_size, e));
    return check_group(r, e);
}

/* The first group (in file order) that quantizes weights stands for the model; a mixture of schemes is beyond these members. */
static fq_status read_ct(const fqi_reader *r, const json_t *q, fq_err *e)
{
    const json_t *groups = not_null(q, "config_groups"), *group;
    const char *key;
    r->m->quant = FQ_QUANT_COMPRESSED_TENSORS;
    if (!json_is_object(groups)) return fqi_reader_fail(r, "config_groups", groups, "an object", e);
    json_object_foreach((json_t *)(uintptr_t)groups, key, group) {
        if (!json_is_object(group)) return fqi_reader_fail(r, "config_groups", group, "objects", e);
        const json_t *w = not_null(group, "weights");
        if (!w) continue;
        if (!json_is_object(w)) return fqi_reader_fail(r, "weights", w, "an object", e);
        return read_ct_weights(r, w, e);
    }
    return fqi_reader_fail(r, "config_groups", groups, "a group that has weights", e);
}

static fq_status read_other(const fqi_reader *r, const json_t *q, fq_err *e)
{
    fq_model *m = r->m;
    m->quant = FQ_QUANT_OTHER;
    if (strcmp(m->quant_name, "mxfp4") == 0) {   /* OCP microscaling: blocks of 32 by definition; the config says no more */
        m->quant_bits = 4;
        m->quant_group_size = 32;
        return FQ_OK;
    }
    if (not_null(q, "bits")) FQI_TRY(get_small(r, q, "bits", 1, 16, &m->quant_bits, e));
    if (not_null(q, "group_size")) FQI_TRY(get_group(r, q, "group_size", &m->quant_group_size, e));
    return FQ_OK;
}

static const char *const place[] = { "quantization_config", "compression_config" };   /* the second is the older name */

const json_t *fqi_config_quant(const fqi_config *c)
{
    const char *key = c->family && c->family->text_config[0] ? c->family->text_config : "text_config";
    const fqi_reader r = { .root = c->root, .sub = c->text_in_sub ? json_object_get(c->root, key) : NULL };
    const json_t *q = fqi_reader_find(&r, place[0]);
    return q ? q : fqi_reader_find(&r, place[1]);
}

fq_status fqi_reader_quant(const fqi_reader *r, fq_err *e)
{
    const json_t *q = fqi_reader_find(r, place[0]);
    const char *where = q ? place[0] : place[1], *name;
    if (!q) q = fqi_reader_find(r, place[1]);
    if (!q) return FQ_OK;
    if (!json_is_object(q)) return fqi_reader_fail(r, where, q, "an object", e);
    FQI_TRY(fqi_json_get_str(q, "quant_method", not_null(q, "config_groups") ? "compressed-tensors" : NULL, r->file, &name, e));
    if (!name || !name[0] || strlen(name) >= sizeof r->m->quant_name)
        return fqi_reader_fail(r, "quant_method", json_object_get(q, "quant_method"), "the name of a quantization method", e);
    (void)snprintf(r->m->quant_name, sizeof r->m->quant_name, "%s", name);
    if (strcmp(name, "gptq") == 0) return read_gptq(r, q, e);
    if (strcmp(name, "awq") == 0) return read_awq(r, q, e);
    if (strcmp(name, "fp8") == 0) return read_fp8(r, q, e);
    if (strcmp(name, "compressed-tensors") == 0) return read_ct(r, q, e);
    return read_other(r, q, e);
}
