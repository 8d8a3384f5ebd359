/* Lists of ids that are written as text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fitq.h"

static void read_lists(void **state)
{
    (void)state;
    static const struct { const char *text; size_t n; uint32_t id[3]; } t[] = {
        { "", 0, { 0 } }, { " \n", 0, { 0 } }, { "7", 1, { 7 } }, { "1 2,3", 3, { 1, 2, 3 } }, { "[1, 2]\r\n", 2, { 1, 2 } }, { "\t0,,00 ", 2, { 0, 0 } },
        { "4294967295", 1, { UINT32_MAX } }, { "00000000000000000000000000000001", 1, { 1 } },
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        uint32_t *ids = NULL;
        size_t n = 99;
        fq_err e = { 0 };
        if (fq_ids_parse(t[i].text, strlen(t[i].text), &ids, &n, &e) != FQ_OK) fail_msg("\"%s\": %s", t[i].text, e.text);
        assert_non_null(ids);
        assert_int_equal(n, t[i].n);
        assert_memory_equal(ids, t[i].id, n * sizeof *ids);
        fq_free(ids);
    }
}

/* The byte is that of the word, and the word is shown, whatever is in it. */
static void refuse_words(void **state)
{
    (void)state;
    static const struct { const char *text; size_t n; const char *says; } t[] = {
        { "1 x", 3, "byte 2: token-ids: found \"x\", expected ids below 2^32" },
        { "12a 3", 5, "byte 0: token-ids: found \"12a\"" },
        { "1,-2", 4, "byte 2: token-ids: found \"-2\"" },
        { "4294967296", 10, "byte 0: token-ids: found \"4294967296\"" },
        { "99999999999999999999999999", 26, "byte 0: token-ids: found \"99999999999999999999999999\"" },
        { "1\0002", 3, "byte 0: token-ids: found \"1\\x002\"" },
        { "5 \"6\"", 5, "byte 2: token-ids: found \"\\x226\\x22\"" },
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        uint32_t *ids = NULL;
        size_t n = 0;
        fq_err e = { 0 };
        assert_int_equal(fq_ids_parse(t[i].text, t[i].n, &ids, &n, &e), FQ_E_INPUT);
        assert_null(ids);
        if (strncmp(e.text, t[i].says, strlen(t[i].says)) != 0) fail_msg("\"%s\"", e.text);
    }
    char word[1000];
    fq_err e = { 0 };
    uint32_t *ids = NULL;
    size_t n = 0;
    memset(word, 'w', sizeof word);
    assert_int_equal(fq_ids_parse(word, sizeof word, &ids, &n, &e), FQ_E_INPUT);
    assert_non_null(strstr(e.text, "www...\", expected"));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(read_lists), cmocka_unit_test(refuse_words) };
    return cmocka_run_group_tests_name("ids", tests, NULL, NULL);
}
