/* The JSON scanner: every rule of RFC 8259 from both sides, tokens and their spans, and agreement with jansson on mutated texts.
 * Also the tree reader, which adds what only a tree can know. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "format/json_scan.h"
#include "format/json_tree.h"

/* Scans a private copy of exactly n bytes, so that a read past the end is seen by AddressSanitizer. */
static fq_status scan(const char *text, size_t n, bool keep, fq_err *e)
{
    char *copy = malloc(n != 0 ? n : 1);
    assert_non_null(copy);
    memcpy(copy, text, n);
    fqi_json_scan s;
    fqi_json_init(&s, copy, n, NULL, 0, keep);
    fq_status r;
    do {
        r = fqi_json_next(&s, e);
        assert_true(r != FQ_OK || (s.begin <= s.end && s.end <= n && s.depth <= FQI_JSON_DEPTH));
    } while (r == FQ_OK && s.kind != FQI_JSON_END);
    if (keep) assert_memory_equal(copy, text, n);
    free(copy);
    return r;
}

static void accepts(void **state)
{
    (void)state;
    static const char *const t[] = {
        "0", "-0", "1", "-1", "10", "0.5", "-0.0", "1e5", "1E+5", "1e-5", "1.25e10", "123456789012345678901234567890", "0e0",
        "true", "false", "null", "\"\"", "\"a\"", "[]", "{}", " [ ] ", "\t\r\n {\n}\r", "[1]", "[1,2]", "[ 1 , 2 ]", "[[]]", "[{}]",
        "{\"a\":1}", "{\"a\":1,\"b\":2}", "{ \"a\" : [ { } , null ] }", "{\"\":0}", "{\"a\":1,\"a\":2}",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\u0041\\u00e9\\u4e2d\"", "\"\\ud83d\\ude00\"", "\"\\uD83D\\uDE00\"", "\"\x7f\"",
        "\"\xc2\x80\"", "\"\xdf\xbf\"", "\"\xe0\xa0\x80\"", "\"\xed\x9f\xbf\"", "\"\xee\x80\x80\"", "\"\xef\xbf\xbf\"",
        "\"\xf0\x90\x80\x80\"", "\"\xf4\x8f\xbf\xbf\"", "\"\\u001f\"", "\"\\uffff\"",
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++)
        for (int keep = 0; keep < 2; keep++) {
            fq_err e = { 0 };
            if (scan(t[i], strlen(t[i]), keep != 0, &e) != FQ_OK) fail_msg("%s: %s", t[i], e.text);
        }
}

static void refuses(void **state)
{
    (void)state;
    static const struct { const char *text, *error; } t[] = {
        { "", "byte 0: json-syntax: found the end of the text, expected a value" },
        { " ", "byte 1: json-syntax: found the end of the text, expected a value" },
        { "[", "byte 1: json-syntax: found the end of the text, expected a value" },
        { "{", "byte 1: json-syntax: found the end of the text, expected a key or '}'" },
        { "]", "byte 0: json-syntax: found ']', expected a value" },
        { "[1", "byte 2: json-syntax: found the end of the text, expected ',' or ']'" },
        { "[1}", "byte 2: json-syntax: found '}', expected ',' or ']'" },
        { "{\"a\":1]", "byte 6: json-syntax: found ']', expected ',' or '}'" },
        { "{\"a\"}", "byte 4: json-syntax: found '}', expected ':'" },
        { "{\"a\":}", "byte 5: json-syntax: found '}', expected a value" },
        { "{\"a\":1,}", "byte 7: json-syntax: found '}', expected a key" },
        { "[1,]", "byte 3: json-syntax: found ']', expected a value" },
        { "[,1]", "byte 1: json-syntax: found ',', expected a value" },
        { "[1,,2]", "byte 3: json-syntax: found ',', expected a value" },
        { "{,}", "byte 1: json-syntax: found ',', expected a key or '}'" },
        { "{1:2}", "byte 1: json-syntax: found '1', expected a key or '}'" },
        { "[1 2]", "byte 3: json-syntax: found '2', expected ',' or ']'" },
        { "1 2", "byte 2: json-syntax: found '2', expected nothing more" },
        { "{}x", "byte 2: json-syntax: found 'x', expected nothing more" },
        { "{}\xc2\xa0", "byte 2: json-syntax: found byte 0xc2, expected nothing more" },
        { "\xef\xbb\xbf{}", "byte 0: json-syntax: found byte 0xef, expected a value" },
        { "\f1", "byte 0: json-syntax: found byte 0x0c, expected a value" },
        { "NaN", "byte 0: json-syntax: found 'N', expected a value" },
        { "Infinity", "byte 0: json-syntax: found 'I', expected a value" },
        { "-Infinity", "byte 1: json-number: found 'I', expected a digit" },
        { "True", "byte 0: json-syntax: found 'T', expected a value" },
        { "tru", "byte 3: json-syntax: found the end of the text, expected true" },
        { "nul1", "byte 3: json-syntax: found '1', expected null" },
        { "falsey", "byte 5: json-syntax: found 'y', expected nothing more" },
        { "// c\n1", "byte 0: json-syntax: found '/', expected a value" },
        { "'a'", "byte 0: json-syntax: found ''', expected a value" },
        { "01", "byte 1: json-syntax: found '1', expected nothing more" },
        { "-01", "byte 2: json-syntax: found '1', expected nothing more" },
        { "-", "byte 1: json-number: found the end of the text, expected a digit" },
        { "+1", "byte 0: json-syntax: found '+', expected a value" },
        { ".5", "byte 0: json-syntax: found '.', expected a value" },
        { "1.", "byte 2: json-number: found the end of the text, expected a digit" },
        { "1.e5", "byte 2: json-number: found 'e', expected a digit" },
        { "1e", "byte 2: json-number: found the end of the text, expected a digit" },
        { "1e+", "byte 3: json-number: found the end of the text, expected a digit" },
        { "0x10", "byte 1: json-syntax: found 'x', expected nothing more" },
        { "1_000", "byte 1: json-syntax: found '_', expected nothing more" },
        { "\"", "byte 1: json-string: found the end of the text, expected a closing quote" },
        { "\"a", "byte 2: json-string: found the end of the text, expected a closing quote" },
        { "\"\\", "byte 2: json-string: found the end of the text, expected one of \" \\ / b f n r t u after a backslash" },
        { "\"\\a\"", "byte 2: json-string: found 'a', expected one of \" \\ / b f n r t u after a backslash" },
        { "\"\\u12", "byte 5: json-string: found the end of the text, expected four hexadecimal digits after \\u" },
        { "\"\\u12g4\"", "byte 5: json-string: found 'g', expected four hexadecimal digits after \\u" },
        { "\"\\u0000\"", "byte 1: json-string: found a NUL character, which fitq refuses in strings" },
        { "\"\\ud800\"", "byte 1: json-string: found a lone surrogate \\ud800, expected a pair" },
        { "\"\\ud800\\n\"", "byte 1: json-string: found a lone surrogate \\ud800, expected a pair" },
        { "\"\\ud800\\u0041\"", "byte 1: json-string: found a lone surrogate \\ud800, expected a pair" },
        { "\"\\udfff\"", "byte 1: json-string: found a lone surrogate \\udfff, expected a pair" },
        { "\"\\ud800\\", "byte 1: json-string: found a lone surrogate \\ud800, expected a pair" },
        { "\"\\ud800\\u", "byte 9: json-string: found the end of the text, expected four hexadecimal digits after \\u" },
        { "\"a\nb\"", "byte 2: json-string: found byte 0x0a, expected no control character in a string" },
        { "\"\x1f\"", "byte 1: json-string: found byte 0x1f, expected no control character in a string" },
        { "\"\x80\"", "byte 1: json-utf8: found byte 0x80, expected valid UTF-8" },
        { "\"\xc1\xbf\"", "byte 1: json-utf8: found byte 0xc1, expected valid UTF-8" },
        { "\"\xe0\x9f\xbf\"", "byte 1: json-utf8: found byte 0xe0, expected valid UTF-8" },
        { "\"\xed\xa0\x80\"", "byte 1: json-utf8: found byte 0xed, expected valid UTF-8" },
        { "\"\xf0\x8f\xbf\xbf\"", "byte 1: json-utf8: found byte 0xf0, expected valid UTF-8" },
        { "\"\xf4\x90\x80\x80\"", "byte 1: json-utf8: found byte 0xf4, expected valid UTF-8" },
        { "\"\xe2\x82\"", "byte 1: json-utf8: found byte 0xe2, expected valid UTF-8" },
        { "\"\xf0\x9f", "byte 1: json-utf8: found byte 0xf0, expected valid UTF-8" },
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++)
        for (int keep = 0; keep < 2; keep++) {
            fq_err e = { 0 };
            assert_int_equal(scan(t[i].text, strlen(t[i].text), keep != 0, &e), FQ_E_INPUT);
            assert_string_equal(e.text, t[i].error);
        }
    fq_err e = { 0 };
    assert_int_equal(scan("1\0", 2, true, &e), FQ_E_INPUT);
    assert_string_equal(e.text, "byte 1: json-syntax: found byte 0x00, expected nothing more");
    assert_int_equal(scan("\"a\0b\"", 5, true, &e), FQ_E_INPUT);
    /* every proper prefix of a container is an error, and says so at its end or before */
    static const char whole[] = "{\"k\\u0041\":[1.5e3,true,null,\"\xc3\xa9\"],\"m\":{\"n\":-2}}";
    for (size_t n = 0; n < sizeof whole - 1; n++) assert_int_equal(scan(whole, n, false, &e), FQ_E_INPUT);
    assert_int_equal(scan(whole, sizeof whole - 1, false, &e), FQ_OK);
}

/* Where it happened: file and position of the text in the file. */
static void error_names_the_place(void **state)
{
    (void)state;
    char text[] = "[1,x]";
    fqi_json_scan s;
    fq_err e = { 0 };
    fqi_json_init(&s, text, 5, "dir/config.json", 1000, false);
    while (fqi_json_next(&s, &e) == FQ_OK) {}
    assert_string_equal(e.text, "dir/config.json: byte 1003: json-syntax: found 'x', expected a value");
}

static void tokens_and_spans(void **state)
{
    (void)state;
    static const char text[] = " {\"a\\u0062\" : [ 12 , \"x\\ny\" ], \"c\":{ },\"d\":true}";
    static const struct { fqi_json_kind kind; const char *span, *str; unsigned depth; } want[] = {
        { FQI_JSON_OBJECT, "{", NULL, 1 },       { FQI_JSON_KEY, "\"a\\u0062\"", "ab", 1 }, { FQI_JSON_ARRAY, "[", NULL, 2 },
        { FQI_JSON_NUMBER, "12", NULL, 2 },      { FQI_JSON_STRING, "\"x\\ny\"", "x\ny", 2 }, { FQI_JSON_ARRAY_END, "]", NULL, 1 },
        { FQI_JSON_KEY, "\"c\"", "c", 1 },       { FQI_JSON_OBJECT, "{", NULL, 2 },         { FQI_JSON_OBJECT_END, "}", NULL, 1 },
        { FQI_JSON_KEY, "\"d\"", "d", 1 },       { FQI_JSON_TRUE, "true", NULL, 1 },        { FQI_JSON_OBJECT_END, "}", NULL, 0 },
        { FQI_JSON_END, "", NULL, 0 },           { FQI_JSON_END, "", NULL, 0 },
    };
    for (int keep = 0; keep < 2; keep++) {
        char copy[sizeof text];
        memcpy(copy, text, sizeof text);
        fqi_json_scan s;
        fqi_json_init(&s, copy, sizeof text - 1, "f", 0, keep != 0);
        for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
            assert_int_equal(fqi_json_next(&s, NULL), FQ_OK);
            assert_int_equal(s.kind, want[i].kind);
            assert_int_equal(s.end - s.begin, strlen(want[i].span));
            assert_memory_equal(text + s.begin, want[i].span, s.end - s.begin);
            assert_int_equal(s.depth, want[i].depth);
            if (want[i].str == NULL) continue;
            assert_int_equal(s.str_len, strlen(want[i].str));
            if (keep != 0) assert_null(s.str);
            else assert_string_equal(s.str, want[i].str);
        }
    }
}

static void unescapes(void **state)
{
    (void)state;
    static const struct { const char *in, *out; } t[] = {
        { "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t" },
        { "\"\\u0001\\u007f\\u0080\\u07ff\\u0800\\uffff\"", "\x01\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf" },
        { "\"\\ud800\\udc00\\udbff\\udfff\"", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf" },
        { "\"a\\u00e9b\xc3\xa9" "c\"", "a\xc3\xa9" "b\xc3\xa9" "c" },
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        char copy[128];
        snprintf(copy, sizeof copy, "%s", t[i].in);
        fqi_json_scan s;
        fqi_json_init(&s, copy, strlen(copy), NULL, 0, false);
        assert_int_equal(fqi_json_next(&s, NULL), FQ_OK);
        assert_string_equal(s.str, t[i].out);
        assert_int_equal(s.str_len, strlen(t[i].out));
    }
}

static void depth_is_bounded(void **state)
{
    (void)state;
    char text[400] = "";
    fq_err e = { 0 };
    memset(text, '[', 64);
    memset(text + 64, ']', 64);
    assert_int_equal(scan(text, 128, false, &e), FQ_OK);
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    assert_int_equal(scan(text, 130, false, &e), FQ_E_INPUT);
    assert_string_equal(e.text, "byte 64: json-depth: found deeper nesting, expected at most 64 levels");
    /* levels of both kinds keep their kind */
    fqi_str b = { 0 };
    for (int i = 0; i < 64; i++) fqi_str_puts(&b, i % 3 == 0 ? "[" : "{\"k\":");
    fqi_str_puts(&b, "0");
    for (int i = 63; i >= 0; i--) fqi_str_puts(&b, i % 3 == 0 ? "]" : "}");
    assert_int_equal(scan(b.s, b.len, false, &e), FQ_OK);
    b.s[b.len - 2] = b.s[b.len - 2] == ']' ? '}' : ']';
    assert_int_equal(scan(b.s, b.len, false, &e), FQ_E_INPUT);
    fqi_str_free(&b);
}

static void skips_values(void **state)
{
    (void)state;
    char text[] = "[{\"a\":[1,{\"b\":[]}],\"c\":2},3,[[[]]],\"s\",4]";
    static const fqi_json_kind first[] = { FQI_JSON_OBJECT, FQI_JSON_NUMBER, FQI_JSON_ARRAY, FQI_JSON_STRING, FQI_JSON_NUMBER };
    fqi_json_scan s;
    fqi_json_init(&s, text, strlen(text), NULL, 0, true);
    assert_int_equal(fqi_json_next(&s, NULL), FQ_OK);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(fqi_json_next(&s, NULL), FQ_OK);
        assert_int_equal(s.kind, first[i]);
        assert_int_equal(fqi_json_skip(&s, NULL), FQ_OK);
        assert_int_equal(s.depth, 1);
    }
    assert_int_equal(fqi_json_next(&s, NULL), FQ_OK);
    assert_int_equal(s.kind, FQI_JSON_ARRAY_END);
    char cut[] = "{\"a\":[1";
    fqi_json_init(&s, cut, strlen(cut), NULL, 0, true);
    assert_int_equal(fqi_json_next(&s, NULL), FQ_OK);
    assert_int_equal(fqi_json_skip(&s, NULL), FQ_E_INPUT);
}

static void integers(void **state)
{
    (void)state;
    static const struct { const char *text; bool good; uint64_t value; } t[] = {
        { "0", true, 0 },          { "8", true, 8 },       { "9223372036854775807", true, INT64_MAX },
        { "9223372036854775808", false, 0 },               { "18446744073709551615", false, 0 },
        { "18446744073709551616", false, 0 },              { "18446744073709551624", false, 0 },
        { "-0", false, 0 },        { "-8", false, 0 },     { "8.0", false, 0 },   { "8e0", false, 0 },  { "\"8\"", false, 0 },
        { "null", false, 0 },      { "[8]", false, 0 },    { "99999999999999999999999999999999999999", false, 0 },
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        char copy[64];
        uint64_t v = 77;
        fq_err e = { 0 };
        snprintf(copy, sizeof copy, "%s", t[i].text);
        fqi_json_scan s;
        fqi_json_init(&s, copy, strlen(copy), "f", 10, false);
        assert_int_equal(fqi_json_next(&s, &e), FQ_OK);
        fq_status r = fqi_json_u63(&s, "shape", &v, &e);
        assert_int_equal(r, t[i].good ? FQ_OK : FQ_E_INPUT);
        assert_int_equal(v, t[i].good ? t[i].value : 77);
        if (!t[i].good) assert_non_null(strstr(e.text, "f: byte 10: json-integer: shape: found "));
    }
}

/* ---- agreement with another parser ---- */

static const char *const seeds[] = {
    "{\"a\":[1,-2.5e3,true,false,null],\"b\":{\"c\":\"x\\u00e9\\n\\ud83d\\ude00\"}}",
    "[[],{},\"\",0,-0,1E+2,[[\"\\\\\",\"\\\"\"]]]",
    "{\"dtype\":\"F32\",\"shape\":[4,8],\"data_offsets\":[0,128]}",
    " [ \"h\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80\" , 9223372036854775807 ] ",
};

static size_t mutate(char *text, size_t n, size_t cap)
{
    static const char bits[] = "{}[]\",:\\/0123456789-+.eEtrufalsn \n\tx\x01\x80\xc3\xed\xa0\xf4\xff";
    for (int i = 1 + rand() % 4; i > 0; i--) {
        size_t at = n != 0 ? (size_t)rand() % n : 0;
        char c = bits[(size_t)rand() % (sizeof bits - 1)];
        switch (rand() % 4) {
        case 0: if (n != 0) text[at] = c; break;
        case 1: if (n != 0) { memmove(text + at, text + at + 1, n - at - 1); n--; } break;
        case 2: if (n < cap) { memmove(text + at + 1, text + at, n - at); text[at] = c; n++; } break;
        default: if (n != 0) n = (size_t)rand() % n; break;
        }
        if (rand() % 3 != 0) break;
    }
    return n;
}

/* jansson is strict too; it refuses more only where a number fits no C type. */
static bool jansson_accepts(const char *text, size_t n, bool *number)
{
    json_error_t err;
    json_t *v = json_loadb(text, n, JSON_DECODE_ANY, &err);
    *number = v == NULL && json_error_code(&err) == json_error_numeric_overflow;
    json_decref(v);
    return v != NULL;
}

static void agrees_with_jansson(void **state)
{
    (void)state;
    unsigned seed = 4711;
    int n_good = 0, n_number = 0;
    print_message("seed %u\n", seed);
    srand(seed);
    for (int round = 0; round < 200000; round++) {
        char text[256];
        fq_err e = { 0 };
        bool number;
        const char *from = seeds[(size_t)rand() % (sizeof seeds / sizeof seeds[0])];
        memcpy(text, from, strlen(from));
        size_t n = mutate(text, strlen(from), sizeof text);
        fq_status s = scan(text, n, round % 2 == 0, &e);
        bool theirs = jansson_accepts(text, n, &number);
        n_good += theirs;
        n_number += number;
        if (!number && theirs != (s == FQ_OK)) {
            char shown[FQI_NAME_MAX + 1];
            fail_msg("%s: jansson %s, scanner %s", fqi_escape_n(shown, text, n), theirs ? "accepts" : "refuses",
                     s == FQ_OK ? "accepts" : e.text);
        }
    }
    print_message("%d accepted by both, %d with numbers too large for jansson\n", n_good, n_number);
    assert_true(n_good > 10000); /* otherwise the mutations are too wild to say anything */
}

/* ---- the tree ---- */

static void tree_refuses(void **state)
{
    (void)state;
    static const struct { const char *text, *start; } t[] = {
        { "{\"a\":1,\"a\":2}", "config.json: byte 7: json-duplicate-key: a: found it a second time, the first is at byte 1, expected it once" },
        { "{\"a\":1,\"\\u0061\":2}", "config.json: byte 7: json-duplicate-key: a: found it a second time, the first is at byte 1, expected it once" },
        { "{\"b\":[{\"b\":1}],\"a\":{\"\xc3\xa9\":{\"b\":0},\"b\":1,\"b\":1}}",
          "config.json: byte 39: json-duplicate-key: a.b: found it a second time, the first is at byte 33, expected it once" },
        { "{\"\\u001b\\u0027\":0, \"\\u001b'\":0}", "config.json: byte 19: json-duplicate-key: \\x1b\\x27: found it a second time, the first is at byte 1," },
        { "{\"a\":1e400}", "config.json: byte 5: json-number: a: found 1e400, expected a number between -1.8e308 and 1.8e308" },
        { "{\"b\":{\"x\":1},\"a\":[0, {\"c\":[-1E999,2]}]}", "config.json: byte 27: json-number: a.c: found -1E999, expected a number between" },
        { "{\"a\":9223372036854775808}", "config.json: byte 5: json-number: a: found 9223372036854775808, expected an integer of 64 bits" },
        { "-9223372036854775809", "config.json: byte 0: json-number: a value: found -9223372036854775809, expected an integer of 64 bits" },
        { "{\"a\":NaN}", "config.json: byte 5: json-syntax: found 'N', expected a value" },
        { "{\"a\":1,}", "config.json: byte 7: json-syntax: found '}', expected a key" },
        { "", "config.json: byte 0: json-syntax: found the end of the text, expected a value" },
    };
    static const char *const rule[] = { "json-duplicate-key", "json-duplicate-key", "json-duplicate-key", "json-duplicate-key", "json-number",
                                        "json-number", "json-number", "json-number", "json-syntax", "json-syntax", "json-syntax" };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        json_t *root = NULL;
        fq_err e = { 0 };
        assert_int_equal(fqi_json_parse(t[i].text, strlen(t[i].text), "config.json", &root, &e), FQ_E_INPUT);
        assert_null(root);
        assert_string_equal(e.rule, rule[i]);
        if (strncmp(e.text, t[i].start, strlen(t[i].start)) != 0) fail_msg("%s\nexpected %s", e.text, t[i].start);
    }
}

static void tree_fields(void **state)
{
    (void)state;
    static const char text[] = "{\"i\":8,\"r\":8.0,\"neg\":-1,\"s\":\"x\\u001b\",\"t\":true,\"n\":null,\"o\":{},\"a\":[]}";
    json_t *root = NULL;
    fq_err e = { 0 };
    int64_t i = 0;
    bool b = false;
    const char *s = NULL;
    assert_int_equal(fqi_json_parse(text, sizeof text - 1, "f", &root, &e), FQ_OK);
#define INT(...) fqi_json_get_int(root, &(fqi_json_int){ __VA_ARGS__ }, "f", &i, &e)
    assert_true(INT("i", 1, 8, false, 0) == FQ_OK && i == 8);
    assert_int_equal(INT("i", 1, 7, false, 0), FQ_E_INPUT);
    assert_string_equal(e.text, "f: json-field: i: found 8, expected an integer from 1 to 7");
    assert_int_equal(INT("r", 1, 9, true, 5), FQ_E_INPUT);
    assert_string_equal(e.text, "f: json-field: r: found 8.0, expected an integer from 1 to 9");
    assert_int_equal(INT("neg", 0, 9, true, 5), FQ_E_INPUT);
    assert_int_equal(INT("s", 0, 9, false, 0), FQ_E_INPUT);
    assert_string_equal(e.text, "f: json-field: s: found \"x\\x1b\", expected an integer from 0 to 9");
    assert_int_equal(INT("missing", 0, 9, false, 0), FQ_E_INPUT);
    assert_string_equal(e.text, "f: json-field: missing: found nothing, expected an integer from 0 to 9");
    assert_int_equal(INT("n", 0, 9, false, 0), FQ_E_INPUT);
    assert_true(INT("n", 0, 9, true, -7) == FQ_OK && i == -7);
    assert_int_equal(INT("o", 0, 9, true, 0), FQ_E_INPUT);
    assert_int_equal(i, -7); /* untouched by failures */
    assert_true(fqi_json_get_bool(root, "t", false, "f", &b, &e) == FQ_OK && b);
    assert_true(fqi_json_get_bool(root, "n", true, "f", &b, &e) == FQ_OK && b);
    assert_int_equal(fqi_json_get_bool(root, "i", true, "f", &b, &e), FQ_E_INPUT);
    assert_true(fqi_json_get_str(root, "s", NULL, "f", &s, &e) == FQ_OK && strcmp(s, "x\x1b") == 0);
    assert_true(fqi_json_get_str(root, "n", "def", "f", &s, &e) == FQ_OK && strcmp(s, "def") == 0);
    assert_int_equal(fqi_json_get_str(root, "a", "def", "f", &s, &e), FQ_E_INPUT);
    assert_string_equal(e.text, "f: json-field: a: found an array, expected a string");
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accepts),          cmocka_unit_test(refuses),      cmocka_unit_test(error_names_the_place),
        cmocka_unit_test(tokens_and_spans), cmocka_unit_test(unescapes),    cmocka_unit_test(depth_is_bounded),
        cmocka_unit_test(skips_values),     cmocka_unit_test(integers),     cmocka_unit_test(agrees_with_jansson),
        cmocka_unit_test(tree_refuses),     cmocka_unit_test(tree_fields),
    };
    return cmocka_run_group_tests_name("json_scan", tests, NULL, NULL);
}
