/* fuzz_json.c - the JSON scanner against any bytes, and against jansson.
 *
 * Both modes must give the same verdict and the same tokens; spans must lie in the text, one behind the other; and jansson,
 * an independent strict parser, must give the same verdict. Three things are excepted: numbers that fit no C type, nesting
 * beyond our bound, and NUL bytes between tokens, which jansson takes for the end of the text ("2\0" is a number to it). */
#include <stdlib.h>
#include <string.h>

#include "format/json_scan.h"
#include "format/json_tree.h"

#define CHECK(x)          \
    do {                  \
        if (!(x)) abort(); \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_token(const fqi_json_scan *s, size_t after)
{
    char words[FQI_NAME_MAX + 1];
    CHECK(s->begin >= after && s->begin <= s->end && s->end <= s->n && s->depth <= FQI_JSON_DEPTH);
    CHECK(strlen(fqi_json_describe(s, words)) <= FQI_NAME_MAX);
    if (s->kind != FQI_JSON_KEY && s->kind != FQI_JSON_STRING) return;
    CHECK(s->str_len <= s->end - s->begin - 2);
    if (!s->keep) CHECK(strlen(s->str) == s->str_len);
}

/* Scans in both modes in step. */
static fq_status scan_both(char *text, char *kept, size_t n, bool *deep)
{
    fqi_json_scan a, b;
    fq_err ea = { 0 }, eb = { 0 };
    size_t after = 0;
    fqi_json_init(&a, text, n, "input", 0, false);
    fqi_json_init(&b, kept, n, "input", 0, true);
    for (;;) {
        fq_status ra = fqi_json_next(&a, &ea), rb = fqi_json_next(&b, &eb);
        CHECK(ra == rb && strcmp(ea.text, eb.text) == 0);
        *deep = strcmp(ea.rule, "json-depth") == 0;
        if (ra != FQ_OK) return ra;
        CHECK(a.kind == b.kind && a.begin == b.begin && a.end == b.end && a.depth == b.depth);
        check_token(&a, after);
        check_token(&b, after);
        after = a.end;
        if (a.kind == FQI_JSON_END) return FQ_OK;
    }
}

static void check_jansson(const char *text, size_t n, bool ours, bool deep)
{
    json_error_t err;
    json_t *v = json_loadb(text, n, JSON_DECODE_ANY, &err);
    bool number = v == NULL && json_error_code(&err) == json_error_numeric_overflow;
    bool nul = n != 0 && memchr(text, 0, n) != NULL;
    CHECK(!ours || v != NULL || number);
    if (!number && !deep && !nul) CHECK((v != NULL) == ours);
    json_decref(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), *kept = malloc(size + 1);
    json_t *root = NULL;
    bool deep = false;
    CHECK(text != NULL && kept != NULL);
    if (size != 0) { /* an empty input may be NULL */
        memcpy(text, data, size);
        memcpy(kept, data, size);
    }
    fq_status s = scan_both(text, kept, size, &deep);
    CHECK(size == 0 || memcmp(kept, data, size) == 0);
    check_jansson(kept, size, s == FQ_OK, deep);
    if (fqi_json_parse(kept, size, "input", &root, NULL) == FQ_OK) {
        CHECK(s == FQ_OK);
        json_decref(root);
    }
    free(text);
    free(kept);
    return 0;
}
