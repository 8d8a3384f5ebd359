/* json_tree.c - reading values through jansson. See json_tree.h.
 *
 * The text goes through our own scanner first: it tells positions the same way for every file that fitq reads, and it bounds
 * the nesting before a recursive parser sees the text. What is left for jansson to find is what only a tree can: duplicate
 * keys, and numbers that fit no C type. */
#include "format/json_tree.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "format/json_scan.h"

static fq_status check_syntax(const char *text, size_t n, const char *file, fq_err *e)
{
    fqi_json_scan s;
    fqi_json_init(&s, (char *)(uintptr_t)text, n, file, 0, true); /* keep: the text is not written to */
    do FQI_TRY(fqi_json_next(&s, e));
    while (s.kind != FQI_JSON_END);
    return FQ_OK;
}

fq_status fqi_json_parse(const char *text, size_t n, const char *file, json_t **out, fq_err *e)
{
    json_error_t err;
    char found[FQI_NAME_MAX + 1];
    FQI_TRY(check_syntax(text, n, file, e));
    errno = 0;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &err);
    if (root != NULL) {
        *out = root;
        return FQ_OK;
    }
    const char *rule = "json-syntax";
    /* jansson's lexer calls an allocation that failed a syntax error */
    if (errno == ENOMEM) return fqi_fail_nomem(e, file);
    switch (json_error_code(&err)) {
    case json_error_out_of_memory: return fqi_fail_nomem(e, file);
    case json_error_duplicate_key: rule = "json-duplicate-key"; break;
    case json_error_numeric_overflow: rule = "json-number"; break;
    default: break;
    }
    /* The syntax was checked above: what jansson finds wrong with it now is a token that its memory could not hold. */
    enum json_error_code code = json_error_code(&err);
    if (code == json_error_invalid_syntax || code == json_error_premature_end_of_input || err.text[0] == '\0') return fqi_fail_nomem(e, file);
    uint64_t pos = err.position < 0 ? FQI_NO_OFFSET : (uint64_t)err.position;
    return fqi_fail(e, FQ_E_INPUT, FQI_AT(file, NULL, pos), rule, "%s", fqi_escape(found, err.text));
}

static int add_text(const char *bytes, size_t n, void *str)
{
    fqi_str_add(str, bytes, n);   /* a failure sticks in it */
    return 0;
}

fq_status fqi_json_print(const json_t *v, size_t flags, fqi_str *out, fq_err *e)
{
    if (v == NULL || json_dump_callback(v, add_text, out, flags) != 0 || out->failed) return fqi_fail_nomem(e, "JSON text");
    return FQ_OK;
}

/* "found X" for a value of the wrong type or size. */
static const char *describe(const json_t *v, char out[FQI_NAME_MAX + 1])
{
    char name[FQI_NAME_MAX + 1];
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_NULL: return "null";
    case JSON_INTEGER: snprintf(out, FQI_NAME_MAX + 1, "%" JSON_INTEGER_FORMAT, json_integer_value(v)); return out;
    case JSON_REAL: /* always with a point or an exponent, so that 8.0 does not read as the integer that was asked for */
        snprintf(out, FQI_NAME_MAX + 1, "%.17g", json_real_value(v));
        if (strpbrk(out, ".e") == NULL) strcat(out, ".0");
        return out;
    case JSON_STRING:
        fqi_escape_n(name, json_string_value(v), json_string_length(v));
        snprintf(out, FQI_NAME_MAX + 1, "\"%.*s\"", FQI_NAME_MAX - 2, name);
        return out;
    }
    return "something else";
}

/* NULL and FQ_OK when the field is absent or null. */
static const json_t *field(const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    return v == NULL || json_is_null(v) ? NULL : v;
}

fq_status fqi_json_get_int(const json_t *obj, const fqi_json_int *want, const char *file, int64_t *out, fq_err *e)
{
    const json_t *v = field(obj, want->key);
    char found[FQI_NAME_MAX + 1];
    if (v == NULL && want->has_default) {
        *out = want->def;
        return FQ_OK;
    }
    if (v != NULL && json_is_integer(v) && json_integer_value(v) >= want->min && json_integer_value(v) <= want->max) {
        *out = json_integer_value(v);
        return FQ_OK;
    }
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "json-field", "%s: found %s, expected an integer from %lld to %lld",
                    want->key, v == NULL ? "nothing" : describe(v, found), (long long)want->min, (long long)want->max);
}

fq_status fqi_json_get_bool(const json_t *obj, const char *key, bool def, const char *file, bool *out, fq_err *e)
{
    const json_t *v = field(obj, key);
    char found[FQI_NAME_MAX + 1];
    if (v != NULL && !json_is_boolean(v))
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "json-field", "%s: found %s, expected true or false", key,
                        describe(v, found));
    *out = v == NULL ? def : json_is_true(v);
    return FQ_OK;
}

fq_status fqi_json_get_str(const json_t *obj, const char *key, const char *def, const char *file, const char **out, fq_err *e)
{
    const json_t *v = field(obj, key);
    char found[FQI_NAME_MAX + 1];
    if (v != NULL && !json_is_string(v))
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "json-field", "%s: found %s, expected a string", key,
                        describe(v, found));
    *out = v == NULL ? def : json_string_value(v);
    return FQ_OK;
}
