/* Every config.json of the corpus against its published expectation: status and the exact error line. A folder case is opened with
 * its weights. The files are made by tests/corpus/make_corpus.py into a temporary folder. Without python3 the test is skipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fs.h"

static char folder[64];

static const char *source_dir(void)
{
    const char *s = getenv("FITQ_SOURCE_DIR");
    return s ? s : ".";
}

static int make(void **state)
{
    (void)state;
    char cmd[4096];
    if (system("python3 -c '' 2>/dev/null") != 0) return 0;   /* the tests will say so */
    snprintf(folder, sizeof folder, "/tmp/fitq-corpus-XXXXXX");
    if (!mkdtemp(folder)) return -1;
    snprintf(cmd, sizeof cmd, "python3 '%s/tests/corpus/make_corpus.py' '%s' config", source_dir(), folder);
    return system(cmd);
}

static int clean(void **state)
{
    (void)state;
    fq_err e;
    return folder[0] == '\0' || fqi_remove_tree(folder, &e) == FQ_OK ? 0 : -1;
}

static fq_status read_case(const char *path, fq_err *e)
{
    fq_model m;
    FQI_TRY(fq_model_read(path, &m, e));
    if (!fqi_path_is_dir(path)) return FQ_OK;
    fq_ckpt *c;
    FQI_TRY(fq_ckpt_open(path, NULL, &c, e));
    fq_status s = fq_ckpt_check(c, e);
    fq_ckpt_close(c);
    return s;
}

/* One row of the table; false and a line on stderr if it is not as expected. */
static bool check_row(const char *name, int want_exit, const char *want)
{
    char path[512];
    fq_err e = { .code = FQ_OK };
    snprintf(path, sizeof path, "%s/config/%s", folder, name);
    fq_status s = read_case(path, &e);
    const char *got = s == FQ_OK ? "ok" : e.text;
    const size_t n = strlen(path);
    if (s != FQ_OK && strncmp(got, path, n) == 0) got += got[n] == '/' ? n + 1 : n + 2;
    if (-(int)s == want_exit && strcmp(got, want) == 0) return true;
    print_error("%s\n  expected %d %s\n  found    %d %s\n", name, want_exit, want, -(int)s, got);
    return false;
}

static void every_file(void **state)
{
    (void)state;
    if (folder[0] == '\0') {
        print_message("python3 is missing: corpus not checked\n");
        skip();
    }
    char path[128], line[4096];
    int n = 0, n_bad = 0;
    snprintf(path, sizeof path, "%s/config.expect", folder);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        char *rest = line, *name = strsep(&rest, "\t"), *code = strsep(&rest, "\t");
        assert_non_null(rest);
        rest[strcspn(rest, "\n")] = '\0';
        n_bad += !check_row(name, atoi(code), rest);
        n++;
    }
    fclose(f);
    print_message("%d files\n", n);
    assert_int_equal(n_bad, 0);
    assert_true(n >= 80);   /* a corpus that lost its files would pass as well */
}

static void published_table_is_current(void **state)
{
    (void)state;
    if (folder[0] == '\0') skip();
    char cmd[4096];
    snprintf(cmd, sizeof cmd, "python3 '%s/tests/corpus/make_corpus.py' --check config", source_dir());
    assert_int_equal(system(cmd), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_file),
        cmocka_unit_test(published_table_is_current),
    };
    return cmocka_run_group_tests_name("corpus_config", tests, make, clean);
}
