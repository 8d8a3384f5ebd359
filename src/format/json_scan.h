/* json_scan.h - a strict JSON pull scanner that knows byte positions.
 *
 * Not a JSON library: values of config files are read with jansson (json_tree.h). This scanner exists for two things that no
 * tree can do: reading a 100 MB safetensors header in one pass without building a tree, and telling where in the text a value
 * stands, so that config.json can be edited without touching any other byte. No recursion, no allocation; RFC 8259 strictly:
 * no NaN, no comments, no trailing commas, valid UTF-8, no lone surrogates. */
#ifndef FITQ_FORMAT_JSON_SCAN_H
#define FITQ_FORMAT_JSON_SCAN_H

#include "base/err.h"

typedef enum fqi_json_kind {
    FQI_JSON_OBJECT, FQI_JSON_OBJECT_END, FQI_JSON_ARRAY, FQI_JSON_ARRAY_END,
    FQI_JSON_KEY, FQI_JSON_STRING, FQI_JSON_NUMBER, FQI_JSON_TRUE, FQI_JSON_FALSE, FQI_JSON_NULL,
    FQI_JSON_END   /* after the last value; only white space followed */
} fqi_json_kind;

#define FQI_JSON_DEPTH 64   /* deeper nesting is refused */

typedef struct fqi_json_scan {
    char *text;            /* writable: strings are unescaped in place and NUL-terminated */
    size_t n, pos;
    const char *file;      /* for messages */
    uint64_t base;         /* position of text[0] in the file, for messages */
    bool keep;             /* do not modify text (spans only: str is then NULL) */
    unsigned depth;
    uint64_t is_object;    /* bit d: level d is an object */
    int state;             /* what may come next; private */
    /* the current token */
    fqi_json_kind kind;
    size_t begin, end;     /* span in text, quotes included */
    char *str;             /* KEY, STRING: unescaped, NUL-terminated (a NUL inside is refused) */
    size_t str_len;
} fqi_json_scan;

void fqi_json_init(fqi_json_scan *s, char *text, size_t n, const char *file, uint64_t base, bool keep);
/* FQ_E_INPUT with the byte position on bad syntax. After FQI_JSON_END it stays there. */
fq_status fqi_json_next(fqi_json_scan *s, fq_err *e);
/* Current token is a NUMBER that must be a plain non-negative integer ("8", not "8.0", "8e0", "-0") < 2^63. Never goes
 * through double. what names it in the message. */
fq_status fqi_json_u63(const fqi_json_scan *s, const char *what, uint64_t *out, fq_err *e);
/* The current token in words, for "found X": 8.0, "text", an object. Returns out. */
char *fqi_json_describe(const fqi_json_scan *s, char out[FQI_NAME_MAX + 1]);
/* Skips the value whose first token is current (the whole object or array). */
fq_status fqi_json_skip(fqi_json_scan *s, fq_err *e);

#endif
