/* corpus_run.c - see corpus_run.h. cmocka tests take no arguments beyond their state, hence the one static record. */
#include "corpus_run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "make_ckpt.h"
#include "support.h"

static struct { const char *kind; int at_least; fqt_judge *judge; char *folder; } corpus;

static int make_corpus(const char *arguments)
{
    return fqt_python(NULL, "tests/corpus/make_corpus.py", arguments);
}

static int make(void **state)
{
    (void)state;
    char arguments[512];
    if (!fqt_has_python()) return 0;   /* the tests will say so */
    corpus.folder = fqt_tempdir();
    snprintf(arguments, sizeof arguments, "'%s' %s", corpus.folder, corpus.kind);
    return make_corpus(arguments);
}

static int clean(void **state)
{
    (void)state;
    if (corpus.folder) fqt_remove(corpus.folder);
    free(corpus.folder);
    return 0;
}

/* False and a message if the case is not as its row says. The table leaves out where the corpus lies. */
static bool fits(const char *name, int want_exit, const char *want)
{
    char path[512];
    fq_err e = { 0 };
    size_t n = (size_t)snprintf(path, sizeof path, "%s/%s/%s", corpus.folder, corpus.kind, name);
    alarm(60);   /* a FIFO that is opened would wait for ever */
    fq_status s = corpus.judge(path, &e);
    alarm(0);
    const char *got = s == FQ_OK ? "ok" : e.text;
    if (s != FQ_OK && strncmp(got, path, n) == 0) got += got[n] == '/' ? n + 1 : n + 2;
    if (-(int)s == want_exit && strcmp(got, want) == 0) return true;
    print_error("%s\n  expected %d %s\n  found    %d %s\n", name, want_exit, want, -(int)s, got);
    return false;
}

static void every_case(void **state)
{
    (void)state;
    fqt_need_python();
    char line[4096], path[512];
    int n = 0, n_bad = 0;
    snprintf(path, sizeof path, "%s/%s.expect", corpus.folder, corpus.kind);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        char *rest = line, *name = strsep(&rest, "\t"), *code = strsep(&rest, "\t");
        assert_non_null(rest);
        rest[strcspn(rest, "\n")] = '\0';
        n_bad += !fits(name, atoi(code), rest);
        n++;
    }
    fclose(f);
    print_message("%d cases\n", n);
    assert_int_equal(n_bad, 0);
    assert_true(n >= corpus.at_least);
}

static void published_table_is_current(void **state)
{
    (void)state;
    char arguments[128];
    fqt_need_python();
    snprintf(arguments, sizeof arguments, "--check %s", corpus.kind);
    assert_int_equal(make_corpus(arguments), 0);
}

int fqt_corpus_main(const char *kind, int at_least, fqt_judge *judge)
{
    corpus.kind = kind;
    corpus.at_least = at_least;
    corpus.judge = judge;
    const struct CMUnitTest tests[] = { cmocka_unit_test(every_case), cmocka_unit_test(published_table_is_current) };
    return cmocka_run_group_tests(tests, make, clean);
}
