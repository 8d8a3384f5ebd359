/* decoder_rope.c - the rotary embedding that a config.json asks for, in all of its spellings.
 *
 * transformers 4 writes rope_theta and rope_scaling ({"rope_type" or, older, "type": ..., parameters}), transformers 5 one object
 * rope_parameters with everything in it; a file of a vision family may hold each at its top and in text_config, and files that went
 * through both versions have two or three of them. Engines read different ones, so all that are there must say the same. Refused
 * are kinds that the forward pass does not compute (longrope, ...), one embedding per kind of layer, and parameters out of range.
 *
 * Sources: transformers modeling_rope_utils.py, models/FAMILY/configuration_*.py (class defaults). */
#include <string.h>

#include "arch/decoder.h"
#include "arch/reader.h"

#define KIND(k) (1u << FQI_ROPE_##k)
#define SCALED (KIND(LINEAR) | KIND(DYNAMIC) | KIND(LLAMA3) | KIND(YARN))

static const fqi_reader_real theta_range = { .key = "rope_theta", .min = 1.001, .max = 1e15 };   /* yarn divides by its logarithm */
static const fqi_reader_real partial_range = { .key = "partial_rotary_factor", .min = 1e-3, .max = 1 };

/* Multimodal rotary embedding gives text the same position in all its sections: the default. */
static const struct { const char *name; fqi_rope_kind kind; } kinds[] = {
    { "default", FQI_ROPE_DEFAULT }, { "mrope", FQI_ROPE_DEFAULT }, { "linear", FQI_ROPE_LINEAR }, { "dynamic", FQI_ROPE_DYNAMIC },
    { "llama3", FQI_ROPE_LLAMA3 }, { "yarn", FQI_ROPE_YARN },
};

/* Numbers of a kind. Where it is not required the default stands; 0 = not given. */
static const struct { fqi_reader_real range; unsigned need, may; size_t at; double def; } parameter[] = {
    { { "factor", 1, 1e6, false }, SCALED, SCALED, offsetof(fqi_rope, factor), 1 },
    { { "low_freq_factor", 1e-6, 1e6, false }, KIND(LLAMA3), KIND(LLAMA3), offsetof(fqi_rope, low_freq_factor), 0 },
    { { "high_freq_factor", 1e-6, 1e6, false }, KIND(LLAMA3), KIND(LLAMA3), offsetof(fqi_rope, high_freq_factor), 0 },
    { { "beta_fast", 1e-6, 1e6, false }, 0, KIND(YARN), offsetof(fqi_rope, beta_fast), 32 },
    { { "beta_slow", 1e-6, 1e6, false }, 0, KIND(YARN), offsetof(fqi_rope, beta_slow), 1 },
    { { "attention_factor", 1e-3, 1e3, false }, 0, KIND(YARN), offsetof(fqi_rope, attention_factor), 0 },
    { { "mscale", 0, 1e3, false }, 0, KIND(YARN), offsetof(fqi_rope, mscale), 0 },
    { { "mscale_all_dim", 0, 1e3, false }, 0, KIND(YARN), offsetof(fqi_rope, mscale_all_dim), 0 },
};

/* Keys by which an engine computes something else. `neutral`: the value that changes nothing; -1 = none of them does. */
static const struct { const char *key; double neutral; } other[] = {
    { "attn_factor", 1 }, { "extrapolation_factor", 1 }, { "short_factor", -1 }, { "long_factor", -1 }, { "short_mscale", -1 },
    { "long_mscale", -1 }, { "alpha", -1 }, { "llama_4_scaling_beta", 0 }, { "scale_base", -1 },
};

static double *number_at(fqi_rope *rope, size_t i)
{
    return (double *)(void *)((char *)rope + parameter[i].at);
}

/* A number that may stand at several places, at all of them the same. *seen: 0 = none so far. */
static fq_status same_number(const fqi_reader *r, const json_t *obj, const char *in, const fqi_reader_real *range, double *seen, fq_err *e)
{
    double d = 0;
    char label[FQI_NAME_MAX + 1], expected[96];
    FQI_TRY(fqi_reader_number(r, obj, in, range, &d, e));
    if (d != 0 && *seen != 0 && d != *seen) {
        (void)snprintf(expected, sizeof expected, "%g as elsewhere in the file", *seen);
        return fqi_reader_fail(r, fqi_reader_label(in, range->key, label), fqi_reader_member(obj, range->key), expected, e);
    }
    if (d != 0) *seen = d;
    return FQ_OK;
}

/* ---- one object ------------------------------------------------------------------------------------------------ */

typedef struct source { const json_t *obj; const char *name; bool v5; } source;   /* v5: rope_parameters */

static fq_status kind_of(const fqi_reader *r, const source *s, const char *key, fqi_rope_kind *out, bool *given, fq_err *e)
{
    char label[FQI_NAME_MAX + 1];
    const json_t *v = fqi_reader_member(s->obj, key);
    *given = v != NULL;
    if (!v) return FQ_OK;
    for (size_t i = 0; json_is_string(v) && i < FQI_COUNT(kinds); i++)
        if (strcmp(kinds[i].name, json_string_value(v)) == 0) {
            *out = kinds[i].kind;
            return FQ_OK;
        }
    return fqi_reader_fail(r, fqi_reader_label(s->name, key, label), v,
                           "one of default, mrope, linear, dynamic, llama3, yarn (the forward pass computes no other)", e);
}

static fq_status read_kind(const fqi_reader *r, const source *s, fqi_rope_kind *out, fq_err *e)
{
    fqi_rope_kind kind = FQI_ROPE_DEFAULT, old = FQI_ROPE_DEFAULT;
    bool has_kind, has_old;
    char label[FQI_NAME_MAX + 1];
    FQI_TRY(kind_of(r, s, "rope_type", &kind, &has_kind, e));
    FQI_TRY(kind_of(r, s, "type", &old, &has_old, e));
    if (has_kind && has_old && kind != old)
        return fqi_reader_fail(r, fqi_reader_label(s->name, "type", label), json_object_get(s->obj, "type"), "the same as rope_type", e);
    /* transformers 5 leaves it out of a default one; with a factor it was forgotten. */
    if (!has_kind && !has_old && (!s->v5 || fqi_reader_member(s->obj, "factor")))
        return fqi_reader_fail(r, fqi_reader_label(s->name, "rope_type", label), NULL, "the kind of rotary embedding", e);
    *out = has_kind ? kind : old;
    return FQ_OK;
}

static fq_status read_numbers(const fqi_reader *r, const source *s, fqi_rope *rope, fq_err *e)
{
    const unsigned kind = 1u << rope->kind;
    for (size_t i = 0; i < FQI_COUNT(parameter); i++) {
        fqi_reader_real want = parameter[i].range;
        want.required = (parameter[i].need & kind) != 0;
        if (!(parameter[i].may & kind)) continue;
        *number_at(rope, i) = parameter[i].def;
        FQI_TRY(fqi_reader_number(r, s->obj, s->name, &want, number_at(rope, i), e));
    }
    return FQ_OK;
}

static fq_status check_numbers(const fqi_reader *r, const source *s, const fqi_rope *rope, fq_err *e)
{
    char label[FQI_NAME_MAX + 1], expected[96];
    const char *key = NULL;
    if (rope->kind == FQI_ROPE_LLAMA3 && rope->high_freq_factor <= rope->low_freq_factor) {
        key = "high_freq_factor";
        (void)snprintf(expected, sizeof expected, "more than low_freq_factor %g", rope->low_freq_factor);
    } else if (rope->kind == FQI_ROPE_YARN && rope->beta_fast < rope->beta_slow) {
        key = "beta_fast";
        (void)snprintf(expected, sizeof expected, "at least beta_slow %g", rope->beta_slow);
    }
    return key ? fqi_reader_fail(r, fqi_reader_label(s->name, key, label), fqi_reader_member(s->obj, key), expected, e) : FQ_OK;
}

/* original_max_position_embeddings; llama3 has no meaning without it, yarn takes max_position_embeddings. */
static fq_status read_original(const fqi_reader *r, const source *s, fqi_rope *rope, fq_err *e)
{
    static const char key[] = "original_max_position_embeddings";
    char label[FQI_NAME_MAX + 1];
    const json_t *inside = fqi_reader_member(s->obj, key), *v = inside ? inside : fqi_reader_find(r, key);
    const char *in = inside ? s->name : NULL;
    const bool need = rope->kind == FQI_ROPE_LLAMA3 || rope->kind == FQI_ROPE_YARN;
    rope->original_max = rope->max_position;
    if (!need || (!v && rope->kind == FQI_ROPE_YARN && rope->max_position > 0)) return FQ_OK;
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : 0;
    if (n < 1 || n > FQI_MAX_POSITION) {
        in = v ? in : s->name;
        return fqi_reader_fail(r, fqi_reader_label(in, key, label), v, "an integer from 1 to 1099511627776", e);
    }
    rope->original_max = n;
    return FQ_OK;
}

static fq_status refuse_others(const fqi_reader *r, const source *s, fqi_rope_kind kind, fq_err *e)
{
    char label[FQI_NAME_MAX + 1];
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)s->obj, key, v)   /* jansson's iterator asks for a tree that may be written to */
        if (json_is_object(v)) {
            char name[FQI_NAME_MAX + 1];
            return fqi_reader_fail(r, fqi_reader_label(s->name, fqi_escape(name, key), label), v,
                                   "one rotary embedding for all layers (the forward pass computes no other)", e);
        }
    for (size_t i = 0; kind != FQI_ROPE_DEFAULT && i < FQI_COUNT(other); i++) {
        const json_t *found = fqi_reader_member(s->obj, other[i].key);
        if (!found || (json_is_number(found) && json_number_value(found) == other[i].neutral)) continue;
        return fqi_reader_fail(r, fqi_reader_label(s->name, other[i].key, label), found, "nothing (the forward pass does not compute it)", e);
    }
    return FQ_OK;
}

static fq_status read_source(const fqi_reader *r, const source *s, int64_t max_position, fqi_rope *out, fq_err *e)
{
    static const fqi_json_int position = { .key = "max_position_embeddings", .min = 1, .max = FQI_MAX_POSITION };
    fqi_rope rope = { .factor = 1, .truncate = true, .max_position = max_position };
    char label[FQI_NAME_MAX + 1];
    FQI_TRY(refuse_others(r, s, FQI_ROPE_DEFAULT, e));
    FQI_TRY(read_kind(r, s, &rope.kind, e));
    FQI_TRY(refuse_others(r, s, rope.kind, e));
    FQI_TRY(read_numbers(r, s, &rope, e));
    FQI_TRY(check_numbers(r, s, &rope, e));
    if (rope.kind == FQI_ROPE_DYNAMIC && max_position == 0)   /* says so */
        FQI_TRY(fqi_json_get_int(r->root, &position, r->file, &rope.max_position, e));
    FQI_TRY(read_original(r, s, &rope, e));
    const json_t *v = rope.kind == FQI_ROPE_YARN ? fqi_reader_member(s->obj, "truncate") : NULL;
    if (v && !json_is_boolean(v)) return fqi_reader_fail(r, fqi_reader_label(s->name, "truncate", label), v, "true or false", e);
    if (v) rope.truncate = json_is_true(v);
    *out = rope;
    return FQ_OK;
}

static bool same_rope(fqi_rope a, fqi_rope b)
{
    for (size_t i = 0; i < FQI_COUNT(parameter); i++)
        if (*number_at(&a, i) != *number_at(&b, i)) return false;
    return a.kind == b.kind && a.original_max == b.original_max && a.truncate == b.truncate;
}

/* ---- the whole ------------------------------------------------------------------------------------------------- */

static fq_status set_dimensions(const fqi_reader *r, int64_t head_dim, double partial, fqi_rope *rope, fq_err *e)
{
    rope->dim = (int64_t)((double)head_dim * partial);   /* cut, as int() does; head_dim is at most 2^16 */
    const bool dynamic = rope->kind == FQI_ROPE_DYNAMIC;
    if (rope->dim >= (dynamic ? 4 : 2) && rope->dim % 2 == 0) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->file), "rope-dimensions",
                    "found %lld dimensions of a head that rotate (head_dim %lld, partial_rotary_factor %g), expected an even number%s",
                    (long long)rope->dim, (long long)head_dim, partial, dynamic ? " of at least 4" : "");
}

fq_status fqi_reader_rope(const fqi_reader *r, int64_t head_dim, int64_t max_position, fqi_rope *out, fq_err *e)
{
    static const struct { const char *name; bool v5; } name[] = { { "rope_parameters", true }, { "rope_scaling", false } };
    const json_t *level[] = { r->sub, r->root };
    const char *first = NULL;
    double theta = 0, partial = 0;
    fqi_rope rope = { .kind = FQI_ROPE_DEFAULT, .factor = 1, .truncate = true, .max_position = max_position, .original_max = max_position };
    for (size_t l = 0; l < FQI_COUNT(level); l++) {
        FQI_TRY(same_number(r, level[l], NULL, &theta_range, &theta, e));
        FQI_TRY(same_number(r, level[l], NULL, &partial_range, &partial, e));
        for (size_t i = 0; i < FQI_COUNT(name); i++) {
            fqi_rope read;
            const source s = { fqi_reader_member(level[l], name[i].name), name[i].name, name[i].v5 };
            if (!s.obj) continue;
            if (!json_is_object(s.obj)) return fqi_reader_fail(r, s.name, s.obj, "an object or null", e);
            FQI_TRY(same_number(r, s.obj, s.name, &theta_range, &theta, e));
            FQI_TRY(same_number(r, s.obj, s.name, &partial_range, &partial, e));
            FQI_TRY(read_source(r, &s, max_position, &read, e));
            if (first && !same_rope(rope, read))
                return fqi_reader_fail(r, s.name, s.obj, "the same rotary embedding as elsewhere in the file", e);
            rope = read;
            first = s.name;
        }
    }
    rope.theta = theta != 0 ? theta : r->rules->rope_theta;
    if (rope.theta == 0) return fqi_reader_fail(r, theta_range.key, NULL, "a number: versions of this family's class fill in different ones", e);
    FQI_TRY(set_dimensions(r, head_dim, partial != 0 ? partial : 1, &rope, e));
    *out = rope;
    return FQ_OK;
}
