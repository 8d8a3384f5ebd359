/* test_scratch.c - a file without a name: what was written is read, nothing stays behind, and a full disk is found before the work. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/fs_scratch.h"
#include "make_ckpt.h"
#include "support.h"

static size_t n_entry(const char *path)
{
    DIR *d = opendir(path);
    size_t n = 0;
    assert_non_null(d);
    while (readdir(d)) n++;
    (void)closedir(d);
    return n - 2;
}

static void test_holds(void **state)
{
    (void)state;
    fqi_scratch s = FQI_SCRATCH_NONE;
    fq_err e = { 0 };
    enum { N = 300000 };
    unsigned char *a = malloc(N), *b = malloc(N);
    for (size_t i = 0; i < N; i++) a[i] = (unsigned char)(i * 7 + i / 251);
    assert_int_equal(fqi_scratch_open(&s, fqt_dir, 2 * N, &e), FQ_OK);
    assert_int_equal(n_entry(fqt_dir), 0);   /* it has no name */
    assert_int_equal(fcntl(s.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    struct stat st;
    assert_int_equal(fstat(s.fd, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_true((uint64_t)st.st_blocks * 512 >= 2 * N);   /* the room is taken */
    assert_int_equal(fqi_scratch_write(&s, a, N, N, &e), FQ_OK);
    assert_int_equal(fqi_scratch_write(&s, a + 100, 1000, 5, &e), FQ_OK);
    assert_int_equal(fqi_scratch_read(&s, b, N, N, &e), FQ_OK);
    assert_memory_equal(a, b, N);
    assert_int_equal(fqi_scratch_read(&s, b, 1000, 5, &e), FQ_OK);
    assert_memory_equal(a + 100, b, 1000);
    assert_int_equal(fqi_scratch_read(&s, b, 0, 0, &e), FQ_OK);
    assert_int_equal(fqi_scratch_read(&s, b, N, N + 1, &e), FQ_E_IO);   /* past what was reserved */
    assert_string_equal(e.rule, "scratch");
    fqi_scratch_close(&s);
    assert_int_equal(s.fd, -1);
    fqi_scratch_close(&s);
    free(a);
    free(b);
}

static void test_where(void **state)
{
    (void)state;
    fqi_scratch s = FQI_SCRATCH_NONE;
    fq_err e = { 0 };
    char *before = getenv("TMPDIR") ? strdup(getenv("TMPDIR")) : NULL, *missing = fqt_join(fqt_dir, "missing");
    assert_int_equal(setenv("TMPDIR", fqt_dir, 1), 0);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(fqi_scratch_open(&s, i ? NULL : "", 10, &e), FQ_OK);
        assert_string_equal(s.dir, fqt_dir);
        fqi_scratch_close(&s);
    }
    assert_int_equal(setenv("TMPDIR", "", 1), 0);
    assert_int_equal(fqi_scratch_open(&s, NULL, 10, &e), FQ_OK);
    assert_string_equal(s.dir, "/tmp");
    fqi_scratch_close(&s);
    assert_int_equal(setenv("TMPDIR", missing, 1), 0);
    assert_int_equal(fqi_scratch_open(&s, NULL, 10, &e), FQ_E_IO);
    assert_non_null(strstr(e.text, missing));
    assert_int_equal(fqi_scratch_open(&s, "/proc/self/mem", 10, &e), FQ_E_IO);   /* no folder */
    if (before) assert_int_equal(setenv("TMPDIR", before, 1), 0);
    else assert_int_equal(unsetenv("TMPDIR"), 0);
    free(before);
    free(missing);
}

/* What the disk has not is refused now, with both sizes. */
static void test_no_space(void **state)
{
    (void)state;
    fqi_scratch s = FQI_SCRATCH_NONE;
    fq_err e = { 0 };
    const uint64_t much[] = { UINT64_MAX, (uint64_t)INT64_MAX + 1, (uint64_t)INT64_MAX, fqi_free_bytes(fqt_dir) / 2 * 3 };
    for (size_t i = 0; i < 4; i++) {
        char want[64];
        (void)snprintf(want, sizeof want, "expected %llu for", (unsigned long long)much[i]);
        assert_int_equal(fqi_scratch_open(&s, fqt_dir, much[i], &e), FQ_E_IO);
        assert_string_equal(e.rule, "space");
        assert_non_null(strstr(e.text, want));
        assert_int_equal(s.fd, -1);
    }
}

/* Files may not become as large: found when room is reserved, and by a write beyond it. */
static void test_limit(void **state)
{
    (void)state;
    fqi_scratch s = FQI_SCRATCH_NONE;
    fq_err e = { 0 };
    struct rlimit old, small;
    static const char zeros[8192];
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 65536;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    fq_status too_large = fqi_scratch_open(&s, fqt_dir, 65537, &e);
    int err = e.sys_errno;
    fq_status fits = fqi_scratch_open(&s, fqt_dir, 65536, &e), inside = fqi_scratch_write(&s, zeros, 8192, 57344, &e), beyond = fqi_scratch_write(&s, zeros, 8192, 61440, &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(too_large, FQ_E_IO);
    assert_int_equal(err, EFBIG);
    assert_int_equal(fits, FQ_OK);
    assert_int_equal(inside, FQ_OK);
    assert_int_equal(beyond, FQ_E_IO);   /* after a short count */
    assert_int_equal(e.sys_errno, EFBIG);
    assert_non_null(strstr(e.text, fqt_dir));
    fqi_scratch_close(&s);
}

static int teardown(void **state)
{
    size_t left = n_entry(fqt_dir);
    return fqt_dir_teardown(state) == 0 && left == 0 ? 0 : 1;
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_holds), cmocka_unit_test(test_where), cmocka_unit_test(test_no_space), cmocka_unit_test(test_limit) };
    return cmocka_run_group_tests(tests, fqt_dir_setup, teardown);
}
