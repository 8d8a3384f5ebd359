/* json_tree.c - reading values through jansson. See json_tree.h.
 *
 * The text goes through our own scanner first: it tells positions the same way for every file that fitq reads, and it bounds
 * the nesting before a recursive parser sees the text. What is left for jansson to find is what only a tree can: duplicate
 * keys, and numbers that fit no C type. */
#include "format/json_tree.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
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

/* ---- what jansson refused -------------------------------------------------------------------------------------------- */

/* jansson says in words of its own where it stopped: only the position is taken from it, and the scanner walks there again to
 * learn the field. `level` holds, for each object around the token, where it begins and its current key. */
typedef struct refused {
    fqi_json_scan scan;
    char *copy;              /* strings are unescaped in place */
    struct { size_t open; const char *key; } level[FQI_JSON_DEPTH + 1];
    unsigned depth;          /* of the innermost container */
} refused;

/* The token that ends at `end`. False: there is none, or no memory. */
static bool walk_to(refused *r, const char *text, size_t n, size_t end)
{
    r->copy = fqi_calloc(n + 1, 1);
    if (r->copy == NULL) return false;
    memcpy(r->copy, text, n);
    fqi_json_init(&r->scan, r->copy, n, NULL, 0, false);
    while (fqi_json_next(&r->scan, NULL) == FQ_OK && r->scan.kind != FQI_JSON_END) {
        r->depth = r->scan.depth;
        if (r->scan.kind == FQI_JSON_OBJECT || r->scan.kind == FQI_JSON_ARRAY) {
            r->level[r->depth].open = r->scan.begin;
            r->level[r->depth].key = NULL;
        }
        if (r->scan.kind == FQI_JSON_KEY) r->level[r->depth].key = r->scan.str;
        if (r->scan.end == end && (r->scan.kind == FQI_JSON_KEY || r->scan.kind == FQI_JSON_NUMBER)) return true;
    }
    return false;
}

/* "quantization_config.bits"; no key at all: "a value". */
static const char *field_path(const refused *r, char out[FQI_NAME_MAX + 1])
{
    fqi_str path = { 0 };
    for (unsigned i = 0; i <= r->depth; i++)
        if (r->level[i].key != NULL) fqi_str_printf(&path, "%s%s", path.len > 0 ? "." : "", r->level[i].key);
    if (path.failed || path.len == 0) strcpy(out, "a value");
    else fqi_escape_n(out, path.s, path.len);
    fqi_str_free(&path);
    return out;
}

/* Where the innermost object has the current key for the first time. */
static size_t first_place(const refused *r, const char *text, size_t n)
{
    const size_t open = r->level[r->depth].open;
    const char *key = r->level[r->depth].key;
    size_t at = r->scan.begin;
    char *copy = fqi_calloc(n - open + 1, 1);
    if (copy == NULL) return at;
    memcpy(copy, text + open, n - open);
    fqi_json_scan s;
    fqi_json_init(&s, copy, n - open, NULL, 0, false);
    bool found = false;
    while (!found && fqi_json_next(&s, NULL) == FQ_OK && open + s.begin < at) found = s.kind == FQI_JSON_KEY && s.depth == 1 && strcmp(s.str, key) == 0;
    if (found) at = open + s.begin;
    free(copy);
    return at;
}

static fq_status fail_refused(const char *text, size_t n, const char *file, size_t end, fq_err *e)
{
    refused r = { 0 };
    char field[FQI_NAME_MAX + 1], found[FQI_NAME_MAX + 1];
    if (!walk_to(&r, text, n, end)) {
        free(r.copy);
        return fqi_fail_nomem(e, file);
    }
    const fqi_where *where = FQI_AT(file, NULL, r.scan.begin);
    field_path(&r, field);
    fq_status s;
    if (r.scan.kind == FQI_JSON_KEY) {
        s = fqi_fail(e, FQ_E_INPUT, where, "json-duplicate-key", "%s: found it a second time, the first is at byte %zu, expected it once", field, first_place(&r, text, n));
    } else {
        bool real = memchr(text + r.scan.begin, '.', end - r.scan.begin) || memchr(text + r.scan.begin, 'e', end - r.scan.begin) || memchr(text + r.scan.begin, 'E', end - r.scan.begin);
        s = fqi_fail(e, FQ_E_INPUT, where, "json-number", "%s: found %s, expected %s", field, fqi_json_describe(&r.scan, found), real ? "a number between -1.8e308 and 1.8e308" : "an integer of 64 bits");
    }
    free(r.copy);
    return s;
}

/* jansson's lexer does not look whether its buffer grew: without memory a byte of a string is missing, or a syntax error is found. Its
 * allocator, whichever the process has given it, is therefore watched; what it returns and how it is freed stay the same. */
static json_malloc_t watched_malloc;
static _Thread_local bool without_memory;

static void *watching_malloc(size_t n)
{
    void *p = watched_malloc(n);
    if (p == NULL) without_memory = true;
    return p;
}

static void begin_watching(void)
{
    json_free_t give_back;
    json_get_alloc_funcs(&watched_malloc, &give_back);
    json_set_alloc_funcs(watching_malloc, give_back);
}

static void watch_memory(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, begin_watching);
}

fq_status fqi_json_parse(const char *text, size_t n, const char *file, json_t **out, fq_err *e)
{
    json_error_t err;
    FQI_TRY(check_syntax(text, n, file, e));
    watch_memory();
    without_memory = false;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &err);
    if (without_memory) {
        json_decref(root);
        return fqi_fail_nomem(e, file);
    }
    if (root != NULL) {
        *out = root;
        return FQ_OK;
    }
    /* The syntax was checked above: whatever else jansson finds wrong with it is a token that its memory could not hold. */
    enum json_error_code code = json_error_code(&err);
    if ((code != json_error_duplicate_key && code != json_error_numeric_overflow) || err.position < 0) return fqi_fail_nomem(e, file);
    return fail_refused(text, n, file, (size_t)err.position, e);
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
