/* Every folder of the index part of the corpus against its published expectation: what fq_ckpt_open and fq_ckpt_check say
 * together. The folders are made by tests/corpus/make_corpus.py into a temporary folder. Without python3 the test is skipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fitq.h"
#include "make_ckpt.h"

static char *folder;

static int make(void **state)
{
    (void)state;
    const char *root = getenv("FITQ_SOURCE_DIR");
    char cmd[4096];
    if (system("python3 -c '' 2>/dev/null") != 0) return 0;   /* the test will say so */
    folder = fqt_tempdir();
    snprintf(cmd, sizeof cmd, "python3 '%s/tests/corpus/make_corpus.py' '%s' index", root ? root : ".", folder);
    return system(cmd);
}

static int clean(void **state)
{
    (void)state;
    if (folder) fqt_remove(folder);
    free(folder);
    return 0;
}

static fq_status open_and_check(const char *path, fq_err *e)
{
    fq_ckpt *c = NULL;
    fq_status s = fq_ckpt_open(path, NULL, &c, e);
    if (s != FQ_OK) return s;
    s = fq_ckpt_check(c, e);
    for (size_t i = 0; i < fq_ckpt_get_info(c)->n_tensor; i++) {   /* what is listed can be asked for */
        fq_tensor_info t;
        fq_ckpt_get_tensor(c, i, &t);
        assert_non_null(t.name);
        assert_non_null(t.shard);
    }
    fq_ckpt_close(c);
    return s;
}

static bool check_row(const char *name, int want_exit, const char *want)
{
    char path[512];
    fq_err e = { 0 };
    snprintf(path, sizeof path, "%s/index/%s", folder, name);
    alarm(60);   /* a FIFO that is opened would wait for ever */
    fq_status s = open_and_check(path, &e);
    alarm(0);
    const char *got = s == FQ_OK ? "ok" : e.text;
    if (s != FQ_OK && strncmp(got, path, strlen(path)) == 0) {
        got += strlen(path);
        got += *got == '/' ? 1 : 2;
    }
    if (-(int)s == want_exit && strcmp(got, want) == 0) return true;
    print_error("%s\n  expected %d %s\n  found    %d %s\n", name, want_exit, want, -(int)s, got);
    return false;
}

static void every_folder(void **state)
{
    (void)state;
    if (!folder) {
        print_message("python3 is missing: corpus not checked\n");
        skip();
    }
    char line[4096];
    int n = 0, n_bad = 0;
    char *table = fqt_join(folder, "index.expect");
    FILE *f = fopen(table, "r");
    free(table);
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        char *rest = line, *name = strsep(&rest, "\t"), *code = strsep(&rest, "\t");
        assert_non_null(rest);
        rest[strcspn(rest, "\n")] = '\0';
        n_bad += !check_row(name, atoi(code), rest);
        n++;
    }
    fclose(f);
    print_message("%d folders\n", n);
    assert_int_equal(n_bad, 0);
    assert_true(n >= 80);   /* a corpus that lost its folders would pass as well */
}

static void published_table_is_current(void **state)
{
    (void)state;
    if (!folder) skip();
    const char *root = getenv("FITQ_SOURCE_DIR");
    char cmd[4096];
    snprintf(cmd, sizeof cmd, "python3 '%s/tests/corpus/make_corpus.py' --check index", root ? root : ".");
    assert_int_equal(system(cmd), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_folder),
        cmocka_unit_test(published_table_is_current),
    };
    return cmocka_run_group_tests_name("corpus_index", tests, make, clean);
}
