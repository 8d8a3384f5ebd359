/* Form of the error line, and what names may not do to a terminal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <errno.h>

#include <cmocka.h>

#include "base/err.h"

static void form_of_the_line(void **state)
{
    (void)state;
    fq_err e;
    memset(&e, 0xff, sizeof e); /* whatever was there before */
    assert_int_equal(fqi_fail(&e, FQ_E_INPUT, FQI_AT("a.bin", "w", 12), "some-rule", "found %d, expected %d", 1, 2), FQ_E_INPUT);
    assert_string_equal(e.text, "a.bin: tensor w: byte 12: some-rule: found 1, expected 2");
    assert_string_equal(e.rule, "some-rule");
    assert_int_equal(e.code, FQ_E_INPUT);
    assert_int_equal(e.sys_errno, 0);
    fqi_fail(&e, FQ_E_IO, FQI_FILE("f"), NULL, "text");
    assert_string_equal(e.text, "f: text");
    assert_string_equal(e.rule, "");
    fqi_fail(&e, FQ_E_USAGE, NULL, "rule", "text");
    assert_string_equal(e.text, "rule: text");
    fqi_fail(&e, FQ_E_USAGE, FQI_TENSOR(NULL, "w"), NULL, "text");
    assert_string_equal(e.text, "tensor w: text");
    fqi_fail(&e, FQ_E_USAGE, FQI_AT(NULL, NULL, 0), NULL, "text");
    assert_string_equal(e.text, "byte 0: text");
}

static void null_is_allowed(void **state)
{
    (void)state;
    assert_int_equal(fqi_fail(NULL, FQ_E_NUMERIC, FQI_FILE("f"), "r", "x"), FQ_E_NUMERIC);
    assert_int_equal(fqi_fail_sys(NULL, "f", "open", ENOENT), FQ_E_IO);
    assert_int_equal(fqi_fail_nomem(NULL, "x"), FQ_E_NOMEM);
}

static void system_and_memory(void **state)
{
    (void)state;
    fq_err e;
    assert_int_equal(fqi_fail_sys(&e, "dir/f", "open", ENOENT), FQ_E_IO);
    assert_string_equal(e.text, "dir/f: open: No such file or directory");
    assert_int_equal(e.sys_errno, ENOENT);
    assert_int_equal(fqi_fail_nomem(&e, "tensor table"), FQ_E_NOMEM);
    assert_string_equal(e.text, "out-of-memory: tensor table");
    assert_int_equal(e.sys_errno, 0);
}

/* A message that wraps the message that is already in e. */
static void may_quote_itself(void **state)
{
    (void)state;
    fq_err e;
    fqi_fail(&e, FQ_E_INPUT, FQI_FILE("f"), "first", "cause");
    fqi_fail(&e, FQ_E_RESUME, FQI_FILE("g"), "second", "%s", e.text);
    assert_string_equal(e.text, "g: second: f: first: cause");
}

static void long_things_are_cut(void **state)
{
    (void)state;
    fq_err e;
    char *big = malloc(100001);
    assert_non_null(big);
    memset(big, 'x', 100000);
    big[100000] = '\0';
    fqi_fail(&e, FQ_E_INPUT, FQI_AT(big, big, 1), big, "%s", big);
    assert_true(strlen(e.text) < sizeof e.text);
    assert_true(strlen(e.rule) < sizeof e.rule);
    /* a long path leaves room for the rest of the line */
    fqi_fail(&e, FQ_E_INPUT, FQI_AT(big, big, 1), "rule", "found X");
    assert_non_null(strstr(e.text, ": byte 1: rule: found X"));
    free(big);
}

static void escapes(void **state)
{
    (void)state;
    static const struct { const char *in, *out; } t[] = {
        { "", "" },
        { "model.layers.0.mlp", "model.layers.0.mlp" },
        { "\x1b[31m\n\r\t", "\\x1b[31m\\x0a\\x0d\\x09" },
        { "\x7f", "\\x7f" },
        { "\"'\\", "\\x22\\x27\\x5c" },
        { "h\xc3\xa9 \xe4\xb8\xad \xf0\x9f\x98\x80", "h\xc3\xa9 \xe4\xb8\xad \xf0\x9f\x98\x80" },
        { "\xc2\x80\xc2\x9f", "\\xc2\\x80\\xc2\\x9f" },                     /* C1 */
        { "\xc2\xa0", "\xc2\xa0" },                                         /* the first that is not */
        { "\xe2\x80\xaa\xe2\x80\xae", "\\xe2\\x80\\xaa\\xe2\\x80\\xae" },   /* U+202A, U+202E */
        { "\xe2\x80\xaf", "\xe2\x80\xaf" },
        { "\xe2\x81\xa6\xe2\x81\xa9", "\\xe2\\x81\\xa6\\xe2\\x81\\xa9" },   /* U+2066, U+2069 */
        { "\xe2\x80\xa8", "\\xe2\\x80\\xa8" },                              /* line separator */
        { "\x80\xff", "\\x80\\xff" },
        { "\xc0\xaf", "\\xc0\\xaf" },                                       /* overlong */
        { "\xed\xa0\x80", "\\xed\\xa0\\x80" },                              /* surrogate */
        { "\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80" },                     /* beyond U+10FFFF */
        { "a\xe2\x82", "a\\xe2\\x82" },                                     /* cut sequence */
    };
    char out[FQI_NAME_MAX + 1];
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) assert_string_equal(fqi_escape(out, t[i].in), t[i].out);
    assert_string_equal(fqi_escape_n(out, "a\0b", 3), "a\\x00b");
    fq_err e;
    fqi_fail(&e, FQ_E_INPUT, FQI_AT("a\x1b", "b\n", FQI_NO_OFFSET), NULL, "x");
    assert_string_equal(e.text, "a\\x1b: tensor b\\x0a: x");
}

/* Any bytes, any length: printable, at most 200, and never cut inside a character or an escape. */
static void escaped_is_safe(void **state)
{
    (void)state;
    unsigned seed = 20240917;
    print_message("seed %u\n", seed);
    srand(seed);
    for (int round = 0; round < 20000; round++) {
        char in[300], out[FQI_NAME_MAX + 1], again[FQI_NAME_MAX + 1];
        size_t n = (size_t)rand() % sizeof in;
        for (size_t i = 0; i < n; i++) in[i] = (char)(rand() % 3 != 0 ? 'a' + rand() % 26 : rand());
        fqi_escape_n(out, in, n);
        size_t m = strlen(out);
        assert_true(m <= FQI_NAME_MAX);
        for (size_t i = 0; i < m; i++) assert_true((unsigned char)out[i] >= 0x20 && out[i] != 0x7f);
        /* with the backslashes gone it is plain text, so escaping changes nothing: no broken character is in it */
        for (size_t i = 0; i < m; i++)
            if (out[i] == '\\') out[i] = '/';
        assert_string_equal(fqi_escape(again, out), out);
    }
    char in[201], out[FQI_NAME_MAX + 1];
    memset(in, 'n', 201);
    assert_int_equal(strlen(fqi_escape_n(out, in, 200)), 200);
    assert_int_equal(out[199], 'n');
    assert_int_equal(strlen(fqi_escape_n(out, in, 201)), 200);
    assert_string_equal(out + 196, "n...");
}

static void budgets(void **state)
{
    (void)state;
    static const struct { uint64_t bytes; const char *text; } t[] = {
        { 0, "0 bytes" }, { 1, "1 byte" }, { (1 << 20) - 1, "1048575 bytes" }, { 1 << 20, "1 MiB" }, { (2 << 20) - 1, "1 MiB" },
        { UINT64_MAX, "17592186044415 MiB" },
    };
    char out[FQI_BUDGET_MAX + 1];
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) assert_string_equal(fqi_show_budget(out, t[i].bytes), t[i].text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(form_of_the_line),    cmocka_unit_test(null_is_allowed), cmocka_unit_test(system_and_memory),
        cmocka_unit_test(may_quote_itself),    cmocka_unit_test(escapes),         cmocka_unit_test(escaped_is_safe),
        cmocka_unit_test(long_things_are_cut), cmocka_unit_test(budgets),
    };
    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
