/* Every file of the safetensors part of the corpus against its published expectation: status and the exact error line. The files
 * are made by tests/corpus/make_corpus.py into a temporary folder. Without python3 the test is skipped. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fs.h"
#include "format/safetensors.h"

static char folder[64];

static const char *source_dir(void)
{
    const char *s = getenv("FITQ_SOURCE_DIR");
    return s != NULL ? s : ".";
}

static int make(void **state)
{
    (void)state;
    char cmd[4096];
    fq_err e;
    snprintf(folder, sizeof folder, "/tmp/fitq-corpus-XXXXXX");
    if (mkdtemp(folder) == NULL) return -1;
    snprintf(cmd, sizeof cmd, "python3 '%s/tests/corpus/make_corpus.py' '%s' safetensors", source_dir(), folder);
    if (system("python3 -c '' 2>/dev/null") != 0) { /* the tests will say so */
        fqi_remove_tree(folder, &e);
        folder[0] = '\0';
        return 0;
    }
    return system(cmd);
}

static int clean(void **state)
{
    (void)state;
    fq_err e;
    return folder[0] == '\0' || fqi_remove_tree(folder, &e) == FQ_OK ? 0 : -1;
}

static fq_status parse_file(const char *path, fq_err *e)
{
    fqi_file f = FQI_FILE_NONE;
    fqi_st_header h = { 0 };
    unsigned char first8[8] = { 0 };
    uint64_t n = 0;
    char *text = NULL;
    FQI_TRY(fqi_file_open(&f, path, FQ_IO_BUFFERED, e));
    fq_status s = fqi_file_read(&f, first8, f.bytes < 8 ? (size_t)f.bytes : 8, 0, e);
    if (s == FQ_OK) s = fqi_st_length(first8, f.bytes, path, &n, e);
    if (s == FQ_OK) {
        text = malloc((size_t)n);
        assert_non_null(text);
        s = fqi_file_read(&f, text, (size_t)n, 8, e);
    }
    if (s == FQ_OK) s = fqi_st_parse(text, (size_t)n, f.bytes, path, &h, e);
    if (s == FQ_OK) /* what was accepted can be used */
        for (size_t i = 0; i < h.n_tensor; i++) assert_true(h.tensor[i].off + h.tensor[i].bytes <= f.bytes);
    fqi_st_free(&h);
    free(text);
    fqi_file_close(&f);
    return s;
}

/* One row of the table; false and a line on stderr if it is not as expected. */
static bool check_row(const char *name, int want_exit, const char *want)
{
    char path[512];
    fq_err e = { 0 };
    snprintf(path, sizeof path, "%s/safetensors/%s", folder, name);
    fq_status s = parse_file(path, &e);
    const char *got = s == FQ_OK ? "ok" : e.text;
    if (s != FQ_OK && strncmp(got, path, strlen(path)) == 0) got += strlen(path) + 2;
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
    snprintf(path, sizeof path, "%s/safetensors.expect", folder);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f) != NULL) {
        char *rest = line, *name = strsep(&rest, "\t"), *code = strsep(&rest, "\t");
        assert_non_null(rest);
        rest[strcspn(rest, "\n")] = '\0';
        n_bad += !check_row(name, atoi(code), rest);
        n++;
    }
    fclose(f);
    print_message("%d files\n", n);
    assert_int_equal(n_bad, 0);
    assert_true(n >= 200); /* a corpus that lost its files would pass as well */
}

static void published_table_is_current(void **state)
{
    (void)state;
    if (folder[0] == '\0') skip();
    char cmd[4096];
    snprintf(cmd, sizeof cmd, "python3 '%s/tests/corpus/make_corpus.py' --check safetensors", source_dir());
    assert_int_equal(system(cmd), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_file),
        cmocka_unit_test(published_table_is_current),
    };
    return cmocka_run_group_tests_name("corpus_safetensors", tests, make, clean);
}
