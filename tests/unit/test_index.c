/* Tests of the index parser and of the bounded list of findings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "checkpoint/findings.h"
#include "checkpoint/index.h"

static fq_status parse(const char *json, fqi_index *x, char **text, fq_err *e)
{
    *text = strdup(json);
    assert_non_null(*text);
    return fqi_index_parse(*text, strlen(json), "i.json", x, e);
}

static void entries_are_sorted_and_numbered(void **state)
{
    (void)state;
    fqi_index x;
    char *text;
    fq_err e;
    assert_int_equal(parse("{\"weight_map\":{\"b\":\"2\",\"\\u0061\":\"1\",\"c\":\"2\",\"\":\"0\"},\"metadata\":{\"y\":[1],\"total_size\":9}}", &x, &text, &e), FQ_OK);
    assert_int_equal(x.n_entry, 4);
    assert_int_equal(x.n_file, 3);
    const char *name[] = { "", "a", "b", "c" }, *file[] = { "0", "1", "2", "2" };
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(x.entry[i].name, name[i]);
        assert_string_equal(x.file[x.entry[i].at], file[i]);
        assert_ptr_equal(fqi_index_find(&x, name[i]), &x.entry[i]);
    }
    assert_null(fqi_index_find(&x, "d"));
    assert_null(fqi_index_find(&x, "aa"));
    assert_true(x.has_total);
    assert_int_equal(x.total, 9);
    fqi_index_free(&x);
    free(text);
}

static void refusals(void **state)
{
    (void)state;
    static const struct { const char *json, *rule, *text; } rows[] = {
        { "", "json-syntax", "byte 0" },
        { "null", "index-object", "found null" },
        { "{}", "weight-map", "found no weight_map" },
        { "{\"weight_map\":{}}", "weight-map", "empty" },
        { "{\"weight_map\":{\"a\":{}}}", "weight-map", "byte 19: weight-map: found an object" },
        { "{\"weight_map\":{\"a\":\"f\",\"a\":\"f\"}}", "duplicate-key", "byte 23: duplicate-key: found a second entry, the first one is at byte 15" },
        { "{\"weight_map\":{\"a\":\"f\"},\"weight_map\":{\"b\":\"f\"}}", "duplicate-key", "a second weight_map" },
        { "{\"weight_map\":{\"a\":\"f\"},\"\\u0077eight_map\":{}}", "duplicate-key", "a second weight_map" },
        { "{\"weight_map\":{\"a\":\"f\"}} x", "json-syntax", "byte 25" },
        { "{\"weight_map\":{\"a\":\"f\"}", "json-syntax", "byte 23" },
        { "{\"weight_map\":{\"a\":\"f\",}}", "json-syntax", "byte 23" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fqi_index x = { .n_entry = 77 };
        char *text;
        fq_err e = { 0 };
        assert_int_equal(parse(rows[i].json, &x, &text, &e), FQ_E_INPUT);
        assert_string_equal(e.rule, rows[i].rule);
        if (!strstr(e.text, rows[i].text)) fail_msg("%s\n  is not: %s", e.text, rows[i].text);
        assert_int_equal(x.n_entry, 77);   /* untouched */
        free(text);
    }
}

static void odd_totals_are_told(void **state)
{
    (void)state;
    static const char *const odd[] = { "1.5", "1e3", "-1", "\"8\"", "null", "[1]", "9223372036854775808", "true" };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        char json[128], *text;
        fqi_index x;
        snprintf(json, sizeof json, "{\"metadata\":{\"total_size\":%s},\"weight_map\":{\"a\":\"f\"}}", odd[i]);
        assert_int_equal(parse(json, &x, &text, NULL), FQ_OK);
        assert_false(x.has_total);
        assert_true(x.total_odd);
        fqi_index_free(&x);
        free(text);
    }
}

/* 200,000 entries over 1,000 files in an order that is neither: the sort must not be the weak point. */
static void large_map(void **state)
{
    (void)state;
    enum { N = 200000, FILES = 1000 };
    char *json = malloc(N * 48 + 64);
    assert_non_null(json);
    size_t n = (size_t)sprintf(json, "{\"weight_map\":{");
    for (unsigned i = 0; i < N; i++) {
        unsigned k = i * 7919u % N;
        n += (size_t)sprintf(json + n, "%s\"t%u\":\"f%u\"", i ? "," : "", k, k % FILES);
    }
    n += (size_t)sprintf(json + n, "}}");
    fqi_index x;
    fq_err e;
    assert_int_equal(fqi_index_parse(json, n, "i.json", &x, &e), FQ_OK);
    assert_int_equal(x.n_entry, N);
    assert_int_equal(x.n_file, FILES);
    for (unsigned k = 0; k < N; k += 997) {
        char name[16], file[16];
        snprintf(name, sizeof name, "t%u", k);
        snprintf(file, sizeof file, "f%u", k % FILES);
        const fqi_index_entry *entry = fqi_index_find(&x, name);
        assert_non_null(entry);
        assert_string_equal(x.file[entry->at], file);
    }
    fqi_index_free(&x);
    free(json);
}

/* ---- findings ---- */

static void findings_are_capped_and_sorted(void **state)
{
    (void)state;
    fqi_arena arena = { 0 };
    fqi_findings f = { .arena = &arena };
    for (int i = 0; i < 50; i++) FQI_FIND(&f, FQ_NOTE, FQI_FILE("n"), "note-rule", "found %d, expected none", i);
    FQI_FIND(&f, FQ_WARNING, FQI_FILE("w"), "both", "found a warning, expected none");
    for (int i = 0; i < FQI_FINDINGS_PER_RULE + 3; i++) FQI_FIND(&f, FQ_ERROR, FQI_FILE("e"), "both", "found %d, expected none", i);
    fqi_finding_more(&f, FQ_ERROR, "both", 5);
    fqi_finding_more(&f, FQ_ERROR, "unseen", 5);
    assert_int_equal(fqi_findings_n_error(&f), FQI_FINDINGS_PER_RULE + 8);
    fq_finding *list;
    size_t n;
    assert_int_equal(fqi_findings_finish(&f, "all", &list, &n, NULL), FQ_OK);
    assert_int_equal(n, 2 * (FQI_FINDINGS_PER_RULE + 1) + 1);
    assert_string_equal(list[0].text, "e: both: found 0, expected none");
    assert_string_equal(list[FQI_FINDINGS_PER_RULE].text, "all: both: and 8 more");
    assert_string_equal(list[FQI_FINDINGS_PER_RULE + 1].text, "w: both: found a warning, expected none");
    assert_int_equal(list[FQI_FINDINGS_PER_RULE + 1].severity, FQ_WARNING);
    assert_string_equal(list[n - 1].text, "all: note-rule: and 30 more");
    for (size_t i = 1; i < n; i++) assert_true(list[i - 1].severity >= list[i].severity);
    fqi_findings_free(&f);
    fqi_arena_free(&arena);
}

static void no_findings(void **state)
{
    (void)state;
    fqi_arena arena = { 0 };
    fqi_findings f = { .arena = &arena };
    fq_finding *list;
    size_t n = 7;
    assert_int_equal(fqi_findings_finish(&f, "all", &list, &n, NULL), FQ_OK);
    assert_int_equal(n, 0);
    fqi_arena_free(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_are_sorted_and_numbered),
        cmocka_unit_test(refusals),
        cmocka_unit_test(odd_totals_are_told),
        cmocka_unit_test(large_map),
        cmocka_unit_test(findings_are_capped_and_sorted),
        cmocka_unit_test(no_findings),
    };
    return cmocka_run_group_tests_name("index", tests, NULL, NULL);
}
