/* json_tree.h - jansson with fitq's error line and without its leniency.
 *
 * Duplicate keys and numbers that overflow are refused with their field and place; getters name the file and the field. */
#ifndef FITQ_FORMAT_JSON_TREE_H
#define FITQ_FORMAT_JSON_TREE_H

#include <jansson.h>

#include "base/err.h"
#include "base/mem.h"

/* Parses n bytes. Caller json_decref()s. */
fq_status fqi_json_parse(const char *text, size_t n, const char *file, json_t **out, fq_err *e);

/* Appends the text of v; flags are jansson's. json_dumps is not used for what is written to disk: up to at least 2.14 it does not
 * look whether its buffer could grow after an object's key, and then leaves a quote out of a text that it calls whole. */
fq_status fqi_json_print(const json_t *v, size_t flags, fqi_str *out, fq_err *e);

/* Integer field in [min, max]; absent (or null): FQ_E_INPUT, unless has_default, then *out = def. Reals are refused even if
 * integral. */
typedef struct fqi_json_int { const char *key; int64_t min, max; bool has_default; int64_t def; } fqi_json_int;
fq_status fqi_json_get_int(const json_t *obj, const fqi_json_int *want, const char *file, int64_t *out, fq_err *e);
fq_status fqi_json_get_bool(const json_t *obj, const char *key, bool def, const char *file, bool *out, fq_err *e);
/* Borrowed from the tree; absent or null: *out = def. */
fq_status fqi_json_get_str(const json_t *obj, const char *key, const char *def, const char *file, const char **out, fq_err *e);

#endif
