/* reader.c - looking things up in a config.json, and the one form of complaint about a field. See reader.h. */
#include "arch/reader.h"

#include <stdio.h>
#include <stdlib.h>

const json_t *fqi_reader_member(const json_t *obj, const char *key)
{
    const json_t *v = obj ? json_object_get(obj, key) : NULL;
    return v && !json_is_null(v) ? v : NULL;
}

const json_t *fqi_reader_find(const fqi_reader *r, const char *key)
{
    const json_t *v = fqi_reader_member(r->sub, key);
    return v ? v : fqi_reader_member(r->root, key);
}

bool fqi_reader_has(const fqi_reader *r, const char *key)
{
    return json_object_get(r->sub, key) != NULL || json_object_get(r->root, key) != NULL;   /* jansson takes NULL for an object */
}

const json_t *fqi_reader_holder(const fqi_reader *r, const char *key)
{
    return fqi_reader_member(r->sub, key) ? r->sub : r->root;
}

/* The quotes of a string are ours, so they need no escape. */
const char *fqi_reader_show(const json_t *v, char out[FQI_NAME_MAX + 3])
{
    if (!v) return "nothing";
    if (json_is_string(v)) {
        char name[FQI_NAME_MAX + 1];
        (void)snprintf(out, FQI_NAME_MAX + 3, "\"%s\"", fqi_escape_n(name, json_string_value(v), json_string_length(v)));
        return out;
    }
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(15));   /* 17 digits would show -1e-6 as -9.9999999999999995e-7 */
    if (!text) return "a value";
    (void)fqi_escape(out, text);
    free(text);
    return out;
}

fq_status fqi_reader_fail(const fqi_reader *r, const char *key, const json_t *found, const char *expected, fq_err *e)
{
    char shown[FQI_NAME_MAX + 3];
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(r->file), FQI_RULE_FIELD, "%s: found %s, expected %s", key, fqi_reader_show(found, shown), expected);
}

fq_status fqi_reader_copies(const fqi_reader *r, const char *key, fq_err *e)
{
    const json_t *top = fqi_reader_member(r->root, key), *sub = fqi_reader_member(r->sub, key);
    if (!top || !sub || json_equal(top, sub)) return FQ_OK;
    char shown[FQI_NAME_MAX + 3], expected[FQI_NAME_MAX + 64];
    (void)snprintf(expected, sizeof expected, "%s as in text_config", fqi_reader_show(sub, shown));
    return fqi_reader_fail(r, key, top, expected, e);
}

const char *fqi_reader_label(const char *in, const char *key, char out[FQI_NAME_MAX + 1])
{
    (void)snprintf(out, FQI_NAME_MAX + 1, "%s%s%s", in ? in : "", in ? "." : "", key);
    return out;
}

fq_status fqi_reader_number(const fqi_reader *r, const json_t *obj, const char *in, const fqi_reader_real *want, double *out, fq_err *e)
{
    const json_t *v = fqi_reader_member(obj, want->key);
    if (!v && !want->required) return FQ_OK;
    if (v && json_is_number(v)) {
        double d = json_number_value(v);
        if (d >= want->min && d <= want->max) {   /* false for NaN */
            *out = d;
            return FQ_OK;
        }
    }
    char label[FQI_NAME_MAX + 1], expected[96];
    (void)snprintf(expected, sizeof expected, "a number from %g to %g", want->min, want->max);
    return fqi_reader_fail(r, fqi_reader_label(in, want->key, label), v, expected, e);
}
