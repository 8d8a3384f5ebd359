/* test_config_edit.c - editing touches the bytes it must and no other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "arch/config.h"
#include "base/fs.h"
#include "support.h"

typedef struct edit_case { const char *text, *path, *value, *expected; } edit_case;

static const edit_case table[] = {
    /* a value is replaced, whatever stands around it */
    { "{\"a\": 1, \"b\": 1e-06}", "a", "2", "{\"a\": 2, \"b\": 1e-06}" },
    { "{ \"a\" :1 , \"b\":10000.0 }\n", "b", "7", "{ \"a\" :1 , \"b\":7 }\n" },
    { "{\"a\":[1, 2],\"b\":{\"a\":3}}", "a", "4", "{\"a\":4,\"b\":{\"a\":3}}" },
    { "{\"a\":1,\"b\":{\"a\":3}}", "b.a", "{}", "{\"a\":1,\"b\":{\"a\":{}}}" },
    { "{\"b\":{\"a\":3},\"a\":1}", "a", "9", "{\"b\":{\"a\":3},\"a\":9}" },
    { "{\"x\":{\"y\":{\"z\":1}}}", "x.y.z", "[true]", "{\"x\":{\"y\":{\"z\":[true]}}}" },
    { "\xc3\xa4", "a", "1", NULL },
    { "{\"h\xc3\xa4\": 1, \"a\": 2}", "a", "3", "{\"h\xc3\xa4\": 1, \"a\": 3}" },
    /* a key spelled with escapes is the same key, and keeps its spelling */
    { "{\"\\u0061\\u005f\": 1}", "a_", "2", "{\"\\u0061\\u005f\": 2}" },
    { "{\"\\\"\": 1, \"a\": \"\\\"}\", \"b\": 1}", "b", "2", "{\"\\\"\": 1, \"a\": \"\\\"}\", \"b\": 2}" },
    /* a new member goes last and copies the style */
    { "{\"a\":1,\"b\":2}", "c", "3", "{\"a\":1,\"b\":2,\"c\":3}" },
    { "{\"a\": 1}", "c", "3", "{\"a\": 1,\"c\": 3}" },
    { "{\n  \"a\": 1\n}", "c", "3", "{\n  \"a\": 1,\n  \"c\": 3\n}" },
    { "{\n  \"a\": 1,\n  \"b\": 2\n}\n", "c", "3", "{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}\n" },
    { "{\r\n\t\"a\" : 1,\r\n\t\"b\" : 2\r\n}", "c", "3", "{\r\n\t\"a\" : 1,\r\n\t\"b\" : 2,\r\n\t\"c\" : 3\r\n}" },
    { "{\n    \"a\": 1\n  , \"b\": 2 }", "c", "3", "{\n    \"a\": 1\n  , \"b\": 2\n  , \"c\": 3 }" },
    { "{\n  \"t\": {\n    \"a\": 1,\n    \"b\": [\n      1\n    ]\n  }\n}", "t.c", "3",
      "{\n  \"t\": {\n    \"a\": 1,\n    \"b\": [\n      1\n    ],\n    \"c\": 3\n  }\n}" },
    /* the first member of an empty object */
    { "{}", "c", "3", "{\"c\": 3}" },
    { "{ }", "c", "3", "{\"c\": 3 }" },
    { "{\n}", "c", "3", "{\"c\": 3\n}" },
    { "{\"a\":1,\"t\":{}}", "t.c", "3", "{\"a\":1,\"t\":{\"c\": 3}}" },
    { "{\n  \"a\": 1,\n  \"t\": {}\n}", "t.c", "3", "{\n  \"a\": 1,\n  \"t\": {\n    \"c\": 3\n  }\n}" },
    { "{\r\n\t\"t\": {}\r\n}", "t.c", "3", "{\r\n\t\"t\": {\r\n\t\t\"c\": 3\r\n\t}\r\n}" },
    { "{\n  \"s\": {\n    \"t\": {}\n  }\n}", "s.t.c", "3", "{\n  \"s\": {\n    \"t\": {\n      \"c\": 3\n    }\n  }\n}" },
    { "{\"a\": 1\n  , \"t\": {}\n}", "t.c", "3", "{\"a\": 1\n  , \"t\": {\"c\": 3}\n}" },
    /* removal */
    { "{\"a\": 1, \"b\": 2, \"c\": 3}", "a", NULL, "{\"b\": 2, \"c\": 3}" },
    { "{\"a\": 1, \"b\": 2, \"c\": 3}", "b", NULL, "{\"a\": 1, \"c\": 3}" },
    { "{\"a\": 1, \"b\": 2, \"c\": 3 }", "c", NULL, "{\"a\": 1, \"b\": 2 }" },
    { "{\"a\": 1}", "a", NULL, "{}" },
    { "{\n  \"a\": 1\n}", "a", NULL, "{}" },
    { "{\"a\": 1}", "b", NULL, "{\"a\": 1}" },
    { "{\"a\": {\"b\": 1}}", "a.c", NULL, "{\"a\": {\"b\": 1}}" },
    /* refused */
    { "{\"a\": 1, \"a\": 2}", "a", "3", NULL },
    { "{\"a\": 1, \"\\u0061\": 2}", "a", "3", NULL },
    { "{\"a\": 1}", "a.b", "3", NULL },
    { "{\"a\": 1}", "t.b", "3", NULL },
    { "{\"a\": [{}]}", "a.b", "3", NULL },
    { "[1]", "a", "3", NULL },
    { "{\"a\": 1", "a", "3", NULL },
    { "{\"a\": 1} x", "a", "3", NULL },
    { "", "a", "3", NULL },
    { "{\"a\": 1}", "a", "", NULL },
    { "{\"a\": 1}", "a", "NaN", NULL },
    { "{\"a\": 1}", "a", "1}", NULL },
    { "{\"a\": 1}", "", "1", NULL },
    { "{\"a\": 1}", ".a", "1", NULL },
    { "{\"a\": 1}", "a.", "1", NULL },
    { "{\"a\": 1}", "a..b", "1", NULL },
    { "{\"a\": 1}", "a\"b", "1", NULL },
};

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const edit_case *c = &table[i];
        fqi_edit edit = { .path = c->path, .value = c->value };
        char *out = NULL;
        size_t n = 0;
        fq_err e = { .code = FQ_OK };
        fq_status s = fqi_json_edit(c->text, strlen(c->text), "f", &edit, 1, &out, &n, &e);
        if ((s == FQ_OK) != (c->expected != NULL)) fail_msg("%s: %s: status %d %s", c->text, c->path, (int)s, e.text);
        if (s != FQ_OK) {
            assert_null(out);
            assert_true(s == FQ_E_INPUT || s == FQ_E_USAGE);
            assert_memory_equal(e.text, "f: ", 3);
            continue;
        }
        assert_string_equal(out, c->expected);
        assert_int_equal(n, strlen(c->expected));
        free(out);
    }
}

static void test_several_edits(void **state)
{
    (void)state;
    const char *text = "{\n  \"a\": 1,\n  \"t\": {\n    \"x\": 1\n  }\n}\n";
    const fqi_edit edit[] = { { "t.y", "2" }, { "a", "[\n    \"L\"\n  ]" }, { "t.x", NULL }, { "z", "false" } };
    char *out;
    size_t n;
    fq_err e;
    assert_int_equal(fqi_json_edit(text, strlen(text), "f", edit, 4, &out, &n, &e), FQ_OK);
    assert_string_equal(out, "{\n  \"a\": [\n    \"L\"\n  ],\n  \"t\": {\n    \"y\": 2\n  },\n  \"z\": false\n}\n");
    free(out);
    assert_int_equal(fqi_json_edit(text, strlen(text), "f", edit, 0, &out, &n, &e), FQ_OK);
    assert_string_equal(out, text);
    free(out);
}

/* ---- property: an edit and its reverse give back the text ---------------------------------------------------------- */

static uint64_t rng;
static unsigned draw(unsigned n)
{
    return (unsigned)(fqt_random(&rng) >> 33) % n;
}

typedef struct text { char s[16384]; size_t n; } text;

static void put(text *t, const char *s)
{
    size_t k = strlen(s);
    assert_true(t->n + k < sizeof t->s);
    memcpy(t->s + t->n, s, k + 1);
    t->n += k;
}

/* style 0: compact; 1: two spaces and LF; 2: tabs and CRLF; 3: odd spaces on one line. */
static void line(text *t, unsigned style, unsigned depth)
{
    if (style == 1 || style == 2) {
        put(t, style == 1 ? "\n" : "\r\n");
        for (unsigned i = 0; i < depth; i++) put(t, style == 1 ? "  " : "\t");
    } else if (style == 3) {
        put(t, "  ");
    }
}

static void random_value(text *t, unsigned style, unsigned depth);

/* Members k0, k1, ... */
static void random_object(text *t, unsigned style, unsigned depth)
{
    unsigned n = draw(depth == 1 ? 6 : 4);
    char key[16];
    put(t, "{");
    for (unsigned i = 0; i < n; i++) {
        if (i) put(t, style == 3 ? " ," : ",");
        line(t, style, depth);
        snprintf(key, sizeof key, draw(4) ? "\"k%u\"" : "\"\\u006b%u\"", i);
        put(t, key);
        put(t, style == 0 ? ":" : style == 3 ? " : " : ": ");
        random_value(t, style, depth + 1);
    }
    if (n) line(t, style, depth - 1);
    put(t, "}");
}

static void random_value(text *t, unsigned style, unsigned depth)
{
    static const char *const scalar[] = { "1e-06", "1000000.0", "\"a\\\"}{\"", "null", "true", "[ 1,2, {\"k0\":3} ]", "-0.0", "29568" };
    if (depth < 5 && draw(3) == 0) random_object(t, style, depth);
    else put(t, scalar[draw(8)]);
}

/* A random path that exists or would be new: walks down while there are objects. */
static void random_path(const char *s, size_t n, char path[128])
{
    fq_err e;
    json_t *root, *at;
    assert_int_equal(fqi_json_parse(s, n, "f", &root, &e), FQ_OK);
    path[0] = '\0';
    for (at = root;;) {
        unsigned k = draw(7);
        snprintf(path + strlen(path), 32, "%sk%u", path[0] ? "." : "", k);
        const char *dot = strrchr(path, '.');
        at = json_object_get(at, dot ? dot + 1 : path);
        if (!at || !json_is_object(at) || draw(3) == 0) break;
    }
    json_decref(root);
}

/* The text of a member's value, by asking for it to be replaced with a marker that is found again. */
static char *value_text(const char *s, size_t n, const char *path)
{
    char *out;
    size_t n_out, i = 0;
    fq_err e;
    const fqi_edit edit = { path, "\"@@\"" };
    assert_int_equal(fqi_json_edit(s, n, "f", &edit, 1, &out, &n_out, &e), FQ_OK);
    while (s[i] == out[i]) i++;
    if (out[i] != '"' || i > n) i--;   /* a string value shares the opening quote */
    size_t n_value = n - (n_out - 4);
    char *v = calloc(n_value + 1, 1);
    memcpy(v, s + i, n_value);
    free(out);
    return v;
}

static bool exists(const char *s, size_t n, const char *path)
{
    fq_err e;
    json_t *root;
    char copy[128], *save = NULL;
    assert_int_equal(fqi_json_parse(s, n, "f", &root, &e), FQ_OK);
    snprintf(copy, sizeof copy, "%s", path);
    const json_t *at = root;
    for (char *w = strtok_r(copy, ".", &save); w && at; w = strtok_r(NULL, ".", &save)) at = json_object_get(at, w);
    bool found = at != NULL;
    json_decref(root);
    return found;
}

static void test_reverse(void **state)
{
    (void)state;
    const uint64_t seed = 20240611;
    print_message("seed %llu\n", (unsigned long long)seed);
    rng = seed;
    unsigned n_replaced = 0, n_inserted = 0;
    for (int round = 0; round < 20000; round++) {
        text t = { .n = 0 };
        unsigned style = draw(4);
        random_object(&t, style, 1);
        if (draw(2)) put(&t, "\n");
        char path[128], *there, *back, *old = NULL;
        size_t n_there, n_back;
        fq_err e;
        random_path(t.s, t.n, path);
        bool present = exists(t.s, t.n, path);
        if (present) old = value_text(t.s, t.n, path);
        static const char *const fresh[] = { "29696", "\"x\"", "[1,\n2]", "{}" };
        const fqi_edit edit = { path, fresh[draw(4)] }, reverse = { path, old };
        if (fqi_json_edit(t.s, t.n, "f", &edit, 1, &there, &n_there, &e) != FQ_OK) fail_msg("%s: %s: %s", t.s, path, e.text);
        assert_true(exists(there, n_there, path));
        assert_int_equal(fqi_json_edit(there, n_there, "f", &reverse, 1, &back, &n_back, &e), FQ_OK);
        if (n_back != t.n || memcmp(back, t.s, t.n) != 0) fail_msg("round %d, %s:\n%s\n%s\n%s", round, path, t.s, there, back);
        n_replaced += present;
        n_inserted += !present;
        free(there); free(back); free(old);
    }
    assert_true(n_replaced > 1000 && n_inserted > 1000);
}

/* Every published config survives: an edit of the width changes that number and nothing else. */
static void test_real_config(void **state)
{
    (void)state;
    const char *data = fqt_data();
    char path[4096], *s, *out;
    size_t n, n_out;
    fq_err e;
    snprintf(path, sizeof path, "%s/configs/Qwen--Qwen2-72B-Instruct.json", data);
    assert_int_equal(fqi_file_slurp(path, 1u << 20, &s, &n, &e), FQ_OK);
    const fqi_edit edit = { "intermediate_size", "29696" };
    assert_int_equal(fqi_json_edit(s, n, path, &edit, 1, &out, &n_out, &e), FQ_OK);
    assert_int_equal(n, n_out);
    char *old = strstr(s, "29568");
    assert_non_null(old);
    memcpy(old, "29696", 5);
    assert_memory_equal(s, out, n);
    free(s);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_several_edits),
        cmocka_unit_test(test_reverse),
        cmocka_unit_test(test_real_config),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
