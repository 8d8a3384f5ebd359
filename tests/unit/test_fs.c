/* Files: what is written is what is read, directly and through the page cache, also after a resume; folders, paths, locks. Runs in a
 * temporary folder under TMPDIR. Direct I/O falls back where the file system has none, and the same checks hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fs.h"
#include "support.h"

static char root[256];

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/fitq-fs-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(root) == NULL) return -1;
    return chdir(root);
}

static int teardown(void **state)
{
    (void)state;
    fq_err e;
    return chdir("/") == 0 && fqi_remove_tree(root, &e) == FQ_OK ? 0 : -1;
}

#define FAILS(status, rule_, call)                           \
    do {                                                     \
        fq_err e_ = { 0 };                                   \
        fq_err *e = &e_;                                     \
        assert_int_equal((call), status);                    \
        assert_string_equal(e_.rule, rule_);                 \
        assert_true(strlen(e_.text) > strlen(rule_));        \
    } while (0)

static void spill(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static void assert_file(const char *path, const void *want, size_t n)
{
    char *got;
    size_t m;
    FQT_OK(fqi_file_slurp(path, 1u << 30, &got, &m, e));
    assert_int_equal(m, n);
    if (memcmp(got, want, n) != 0) fail_msg("%s: other bytes", path);
    free(got);
}

static unsigned char *pattern(size_t n)
{
    unsigned char *p = NULL;
    assert_int_equal(posix_memalign((void **)&p, FQI_IO_ALIGN, n + 1), 0);
    uint32_t x = 12345;
    for (size_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        p[i] = (unsigned char)(x >> 24);
    }
    return p;
}

static bool has_direct_io(void)
{
    int fd = open("probe", O_CREAT | O_WRONLY | O_DIRECT, 0666);
    if (fd >= 0) close(fd);
    unlink("probe");
    return fd >= 0;
}

/* ---- reading ---- */

static void read_ranges(void **state)
{
    (void)state;
    const size_t n = 3 * FQI_IO_ALIGN + 17;
    static const fq_io mode[] = { FQ_IO_BUFFERED, FQ_IO_DIRECT, FQ_IO_AUTO };
    unsigned char *p = pattern(n), *buf = pattern(n + (size_t)2 * FQI_IO_ALIGN), *data;
    FQT_OK(fqi_write_file("r", p, n, e));
    for (size_t m = 0; m < 3; m++) {
        fqi_file f;
        FQT_OK(fqi_file_open(&f, "r", mode[m], e));
        assert_int_equal(f.bytes, n);
        assert_true(f.mtime_ns > 0);
        if (mode[m] != FQ_IO_DIRECT) assert_int_equal(f.fd_direct, -1);
        else if (has_direct_io()) assert_true(f.fd_direct >= 0);
        static const size_t edge[] = { 0, 1, 4095, 4096, 4097, 8192, 12287, 12288, 12304, 12305 };
        const size_t n_edge = sizeof edge / sizeof edge[0];
        for (size_t i = 0; i < n_edge; i++)
            for (size_t k = i; k < n_edge; k++) {
                size_t off = edge[i], len = edge[k] - edge[i];
                memset(buf, 0xee, n + (size_t)2 * FQI_IO_ALIGN);
                FQT_OK(fqi_file_read_bulk(&f, buf, len, off, &data, e));
                assert_memory_equal(data, p + off, len);
                assert_true(data >= buf && data + len <= buf + len + (size_t)2 * FQI_IO_ALIGN);
                FQT_OK(fqi_file_read(&f, buf, len, off, e));
                assert_memory_equal(buf, p + off, len);
            }
        FAILS(FQ_E_INPUT, "file-size", fqi_file_read(&f, buf, 1, n, e));
        FAILS(FQ_E_INPUT, "file-size", fqi_file_read(&f, buf, n, 1, e));
        FAILS(FQ_E_INPUT, "file-size", fqi_file_read_bulk(&f, buf, 2, UINT64_MAX - 1, &data, e));
        fqi_file_close(&f);
        fqi_file_close(&f);
    }
    fqi_file_close(NULL);
    free(p);
    free(buf);
}

static void shrinks_while_read(void **state)
{
    (void)state;
    const size_t n = 5 * FQI_IO_ALIGN;
    static const fq_io mode[] = { FQ_IO_BUFFERED, FQ_IO_DIRECT };
    unsigned char *p = pattern(n), *buf = pattern(n + (size_t)2 * FQI_IO_ALIGN), *data;
    for (size_t m = 0; m < 2; m++) {
        fqi_file f;
        FQT_OK(fqi_write_file("s", p, n, e));
        FQT_OK(fqi_file_open(&f, "s", mode[m], e));
        assert_int_equal(truncate("s", 2 * FQI_IO_ALIGN + 100), 0);
        FQT_OK(fqi_file_read_bulk(&f, buf, 100, 2 * FQI_IO_ALIGN, &data, e)); /* all that is wanted is still there */
        assert_memory_equal(data, p + (size_t)2 * FQI_IO_ALIGN, 100);
        FAILS(FQ_E_IO, "changed-while-reading", fqi_file_read_bulk(&f, buf, 101, 2 * FQI_IO_ALIGN, &data, e));
        FAILS(FQ_E_IO, "changed-while-reading", fqi_file_read_bulk(&f, buf, 100, 4 * FQI_IO_ALIGN, &data, e));
        FAILS(FQ_E_IO, "changed-while-reading", fqi_file_read(&f, buf, n, 0, e));
        fqi_file_close(&f);
    }
    free(p);
    free(buf);
}

static void only_regular_files(void **state)
{
    (void)state;
    fqi_file f = FQI_FILE_NONE;
    assert_int_equal(mkfifo("fifo", 0666), 0);
    assert_int_equal(symlink("fifo", "to-fifo"), 0);
    FAILS(FQ_E_INPUT, "file-kind", fqi_file_open(&f, "fifo", FQ_IO_AUTO, e)); /* and does not block */
    FAILS(FQ_E_INPUT, "file-kind", fqi_file_open(&f, "to-fifo", FQ_IO_AUTO, e));
    FAILS(FQ_E_INPUT, "file-kind", fqi_file_open(&f, ".", FQ_IO_AUTO, e));
    FAILS(FQ_E_INPUT, "file-kind", fqi_file_open(&f, "/dev/zero", FQ_IO_AUTO, e));
    assert_int_equal(symlink("nothing", "to-nothing"), 0);
    FAILS(FQ_E_INPUT, "file-kind", fqi_file_open(&f, "to-nothing", FQ_IO_AUTO, e));
    FAILS(FQ_E_IO, "open", fqi_file_open(&f, "missing", FQ_IO_AUTO, e));
    assert_int_equal(f.fd, -1);
}

static void slurp_is_bounded(void **state)
{
    (void)state;
    char *text = NULL;
    size_t n;
    spill("ten", "0123456789");
    FQT_OK(fqi_file_slurp("ten", 10, &text, &n, e));
    assert_int_equal(n, 10);
    assert_string_equal(text, "0123456789");
    free(text);
    FAILS(FQ_E_INPUT, "file-size", fqi_file_slurp("ten", 9, &text, &n, e));
    spill("none", "");
    FQT_OK(fqi_file_slurp("none", 0, &text, &n, e));
    assert_string_equal(text, "");
    free(text);
}

/* ---- writing ---- */

/* Pieces of every size, syncs in between, a stop and a resume: the file is the bytes. */
static void write_pieces(fq_io io, unsigned seed, bool reserve)
{
    const size_t n = (size_t)(2.6 * FQI_WRITE_BLOCK) + 4711;
    unsigned char *p = pattern(n);
    fqi_writer w;
    srand(seed);
    size_t resume_at = 0;
    unlink("w");
    for (size_t off = 0; off < n;) {
        FQT_OK(fqi_writer_open(&w, "w", reserve ? n : 0, resume_at, io, e));
        assert_int_equal(w.off, resume_at);
        off = resume_at;
        /* the last round goes to the end, the others stop somewhere and leave bytes behind that the resume must cut */
        bool last = resume_at > n / 2;
        while (off < n && (last || rand() % 20 != 0)) {
            size_t k = rand() % 4 == 0 ? (size_t)rand() % (2 * FQI_WRITE_BLOCK) : (size_t)rand() % 9000;
            if (k > n - off) k = n - off;
            FQT_OK(fqi_writer_put(&w, p + off, k, e));
            off += k;
            assert_int_equal(w.off, off);
            if (rand() % 4 == 0) FQT_OK(fqi_writer_sync(&w, e));
        }
        if (off == n) {
            FQT_OK(fqi_writer_close(&w, e));
            break;
        }
        FQT_OK(fqi_writer_sync(&w, e));
        resume_at = off - (off == 0 ? 0 : (size_t)rand() % off / 3);
        FQT_OK(fqi_writer_put(&w, p, (size_t)rand() % 100, e)); /* not synced: may or may not be there */
        fqi_writer_abandon(&w);
        if (resume_at == 0) unlink("w");
    }
    assert_file("w", p, n);
    struct stat st;
    assert_int_equal(stat("w", &st), 0);
    assert_true((uint64_t)st.st_blocks * 512 <= n + FQI_WRITE_BLOCK); /* nothing stays reserved */
    free(p);
}

static void write_and_resume(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 12; seed++) {
        print_message("seed %u\n", seed);
        write_pieces(seed % 2 == 0 ? FQ_IO_DIRECT : FQ_IO_BUFFERED, seed, seed % 3 == 0);
    }
}

static void large_reservation_is_cut_back(void **state)
{
    (void)state;
    fqi_writer w;
    struct stat st;
    FQT_OK(fqi_writer_open(&w, "big", (uint64_t)80 << 20, 0, FQ_IO_AUTO, e));
    if (has_direct_io()) assert_true(w.fd_direct >= 0);
    FQT_OK(fqi_writer_put(&w, "abc", 3, e));
    FQT_OK(fqi_writer_sync(&w, e));
    assert_int_equal(stat("big", &st), 0);
    assert_int_equal(st.st_size, 3); /* a crash now leaves a file that is seen to be short */
    FQT_OK(fqi_writer_close(&w, e));
    assert_file("big", "abc", 3);
    assert_int_equal(stat("big", &st), 0);
    assert_true(st.st_blocks * 512 < 1 << 20);
    unlink("big");
}

static void disk_too_small(void **state)
{
    (void)state;
    fqi_writer w = { 0 };
    fq_err err = { 0 };
    assert_int_equal(fqi_writer_open(&w, "huge", (uint64_t)1 << 42, 0, FQ_IO_BUFFERED, &err), FQ_E_IO);
    if (err.sys_errno == ENOSPC) assert_non_null(strstr(err.text, "expected 4398046511104"));
    assert_false(fqi_path_exists("huge"));
    FAILS(FQ_E_IO, "reserve", fqi_writer_open(&w, "huge", UINT64_MAX, 0, FQ_IO_BUFFERED, e));
    assert_false(fqi_path_exists("huge"));
    fqi_writer_abandon(&w); /* zeroed: must not close descriptor 0 */
    assert_true(fcntl(0, F_GETFD) >= 0 || errno == EBADF);
    fqi_writer_abandon(&w);
    fqi_writer_abandon(NULL);
}

static void writer_refuses(void **state)
{
    (void)state;
    fqi_writer w;
    spill("there", "old");
    assert_int_equal(symlink("nowhere", "dangling"), 0);
    FAILS(FQ_E_IO, "create", fqi_writer_open(&w, "there", 0, 0, FQ_IO_AUTO, e));
    FAILS(FQ_E_IO, "create", fqi_writer_open(&w, "dangling", 0, 0, FQ_IO_AUTO, e));
    assert_false(fqi_path_exists("nowhere"));
    FAILS(FQ_E_RESUME, "resume-length", fqi_writer_open(&w, "there", 0, 4, FQ_IO_AUTO, e));
    FAILS(FQ_E_IO, "open", fqi_writer_open(&w, "missing", 0, 4, FQ_IO_AUTO, e));
    assert_int_equal(symlink("there", "link"), 0);
    FAILS(FQ_E_IO, "open", fqi_writer_open(&w, "link", 0, 1, FQ_IO_AUTO, e));
    assert_file("there", "old", 3);
}

static void write_error_is_reported(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0) { /* its own limit, its own exit */
        fqi_writer w;
        fq_err e = { 0 };
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 1 << 20, 1 << 20 });
        unsigned char *p = pattern((size_t)2 << 20);
        fq_status s = fqi_writer_open(&w, "limited", 0, 0, FQ_IO_DIRECT, &e);
        if (s == FQ_OK) s = fqi_writer_put(&w, p, (size_t)2 << 20, &e);
        if (s == FQ_OK) s = fqi_writer_close(&w, &e);
        else fqi_writer_abandon(&w);
        _exit(s == FQ_E_IO && e.sys_errno == EFBIG && strcmp(e.rule, "write") == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void modes_follow_umask(void **state)
{
    (void)state;
    struct stat st;
    fqi_writer w;
    mode_t old = umask(027);
    FQT_OK(fqi_writer_open(&w, "m1", 0, 0, FQ_IO_AUTO, e));
    FQT_OK(fqi_writer_close(&w, e));
    FQT_OK(fqi_write_file("m2", "x", 1, e));
    FQT_OK(fqi_mkdir("m3", e));
    assert_true(stat("m1", &st) == 0 && (st.st_mode & 0777) == 0640);
    assert_true(stat("m2", &st) == 0 && (st.st_mode & 0777) == 0640);
    assert_true(stat("m3", &st) == 0 && (st.st_mode & 0777) == 0750);
    assert_int_equal(chmod("m2", 0604), 0);
    FQT_OK(fqi_write_file("m2", "yy", 2, e)); /* a replacement keeps the mode that someone chose */
    assert_true(stat("m2", &st) == 0 && (st.st_mode & 0777) == 0604);
    assert_file("m2", "yy", 2);
    umask(old);
    FAILS(FQ_E_IO, "mkdir", fqi_mkdir("m3", e));
}

static void write_file_is_atomic(void **state)
{
    (void)state;
    fqi_arena a = { 0 };
    fqi_dirent *d;
    size_t n;
    FQT_OK(fqi_mkdir("at", e));
    FQT_OK(fqi_write_file("at/f", "one", 3, e));
    FQT_OK(fqi_write_file("at/f", "", 0, e));
    assert_file("at/f", "", 0);
    FQT_OK(fqi_dir_list("at", &a, &d, &n, e));
    assert_int_equal(n, 1); /* no temporary file stays */
    FAILS(FQ_E_IO, "create", fqi_write_file("no-such-folder/f", "x", 1, e));
    FQT_OK(fqi_mkdir("at/dir", e));
    FAILS(FQ_E_IO, "rename", fqi_write_file("at/dir", "x", 1, e));
    FQT_OK(fqi_dir_list("at", &a, &d, &n, e));
    assert_int_equal(n, 2);
    fqi_arena_free(&a);
}

static void copies(void **state)
{
    (void)state;
    const size_t n = ((size_t)9 << 20) + 5;
    unsigned char *p = pattern(n);
    FQT_OK(fqi_write_file("c1", p, n, e));
    FQT_OK(fqi_copy_file("c1", "c2", e));
    assert_file("c2", p, n);
    FAILS(FQ_E_IO, "create", fqi_copy_file("c1", "c2", e));
    assert_file("c2", p, n);
    FQT_OK(fqi_write_file("c0", "", 0, e));
    FQT_OK(fqi_copy_file("c0", "c3", e));
    assert_file("c3", "", 0);
    FAILS(FQ_E_INPUT, "file-kind", fqi_copy_file(".", "c4", e));
    assert_false(fqi_path_exists("c4"));
    free(p);
}

static void copies_keep_permissions(void **state)
{
    (void)state;
    static const struct { const char *from, *to; mode_t mode, want; } t[] = {
        { "p1", "q1", 0755, 0755 }, { "p2", "q2", 0600, 0600 }, { "p3", "q3", 0444, 0444 }, { "p4", "q4", 0666, 0666 },
        { "p5", "q5", 04751, 0751 }, /* who it runs as is not for a copy to decide */
    };
    mode_t old = umask(027);
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        struct stat st;
        spill(t[i].from, "text");
        assert_int_equal(chmod(t[i].from, t[i].mode), 0);
        FQT_OK(fqi_copy_file(t[i].from, t[i].to, e));
        assert_file(t[i].to, "text", 4);
        assert_int_equal(stat(t[i].to, &st), 0);
        if ((st.st_mode & 07777) != t[i].want) fail_msg("%s: found mode %o, expected %o", t[i].to, st.st_mode & 07777, t[i].want);
    }
    umask(old);
}

/* ---- paths and folders ---- */

static void plain_names(void **state)
{
    (void)state;
    static const char *const good[] = { "a", "model-00001-of-00002.safetensors", "...", ".x", "a b", "h\xc3\xa9" };
    static const char *const wrong[] = { "", ".", "..", "a/b", "/", "/a", "a/", "a\nb", "\x1b", "a\x7f" };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) assert_true(fqi_name_is_plain(good[i]));
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) assert_false(fqi_name_is_plain(wrong[i]));
}

static void joins(void **state)
{
    (void)state;
    static const char *const t[][3] = { { "a", "b", "a/b" }, { "a/", "b", "a/b" }, { "/", "b", "/b" }, { "", "b", "b" } };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        char *s = fqi_path_join(t[i][0], t[i][1]);
        assert_string_equal(s, t[i][2]);
        free(s);
    }
}

static void inside(void **state)
{
    (void)state;
    FQT_OK(fqi_mkdir("in", e));
    FQT_OK(fqi_mkdir("in/sub", e));
    FQT_OK(fqi_mkdir("in2", e));
    spill("in/f", "");
    spill("outside", "");
    assert_int_equal(symlink("f", "in/good"), 0);
    assert_int_equal(symlink("../outside", "in/escape"), 0);
    assert_int_equal(symlink("/etc/hostname", "in/absolute"), 0);
    assert_int_equal(symlink("nothing", "in/dangling"), 0);
    assert_int_equal(symlink("..", "in/up"), 0);
    assert_int_equal(symlink("in", "link-in"), 0);
    static const struct { const char *dir, *path; bool in; } t[] = {
        { "in", "in/f", true },           { "in", "in/good", true },      { "in", "in/sub/../f", true },
        { "in", "in/missing", true },     { "in/", "in/f", true },        { "link-in", "in/f", true },
        { "in", "link-in/f", true },      { "in", "in/escape", false },   { "in", "in/absolute", false },
        { "in", "in/dangling", false },   { "in", "in/up/outside", false }, { "in", "in/../outside", false },
        { "in", "in", false },            { "in", "in2", false },         { "in", "in2/f", false },
        { "in", "/etc/passwd", false },   { "in", "in/missing/../../outside", false }, { "missing", "missing/f", false },
        { "/", "/etc", true },
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        bool in = !t[i].in;
        FQT_OK(fqi_path_is_inside(t[i].dir, t[i].path, &in, e));
        if (in != t[i].in) fail_msg("%s in %s", t[i].path, t[i].dir);
    }
}

static void overlaps(void **state)
{
    (void)state;
    FQT_OK(fqi_mkdir("ov", e));
    FQT_OK(fqi_mkdir("ov/sub", e));
    FQT_OK(fqi_mkdir("ov2", e));
    assert_int_equal(symlink("ov/sub", "ov-link"), 0);
    static const struct { const char *a, *b; bool overlap; } t[] = {
        { "ov", "ov", true },       { "ov", "./ov/", true },     { "ov", "ov/sub", true },    { "ov", "ov-link", true },
        { "ov", "ov/new", true },   { "ov/new", "ov", true },    { "ov", "ov2", false },      { "ov", "ov-new", false },
        { "new", "new", true },     { "new", "new/deep/x", true }, { "new", "new2", false },  { "ov/sub", "ov/other", false },
        { "ov", "ov\nnew", false },  { "ov", "ov/a\x01\n", true }, { "ov/\n", "ov/\n/b", true }, { "ov", "...", false },
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        bool ab, ba;
        FQT_OK(fqi_path_overlaps(t[i].a, t[i].b, &ab, e));
        FQT_OK(fqi_path_overlaps(t[i].b, t[i].a, &ba, e));
        if (ab != t[i].overlap || ba != t[i].overlap) fail_msg("%s and %s", t[i].a, t[i].b);
    }
}

/* As somebody whom permissions stop; the checks run in a process of their own. */
static void assert_as_nobody(bool (*check)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        if (geteuid() == 0 && setuid(65534) != 0) _exit(2);
        _exit(check() ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static bool closed_folder_is_named(void)
{
    fq_err e = { 0 };
    bool overlap;
    if (fqi_path_overlaps("ov", "closed/x", &overlap, &e) != FQ_E_IO || strcmp(e.rule, "resolve") != 0 || e.sys_errno != EACCES) return false;
    return fqi_path_check_place("closed/dir/x", 0, &e) == FQ_E_IO && strcmp(e.rule, "stat") == 0 && e.sys_errno == EACCES;
}

static void cannot_be_told(void **state)
{
    (void)state;
    bool overlap;
    FAILS(FQ_E_IO, "resolve", fqi_path_overlaps("ov", "missing/../x", &overlap, e));
    FAILS(FQ_E_IO, "resolve", fqi_path_overlaps("missing/.", "ov", &overlap, e));
    FQT_OK(fqi_mkdir("closed", e));
    FQT_OK(fqi_mkdir("closed/dir", e));
    assert_int_equal(chmod(root, 0755), 0);
    assert_int_equal(chmod("closed", 0), 0);
    assert_as_nobody(closed_folder_is_named);
    assert_int_equal(chmod("closed", 0755), 0);
}

static void places(void **state)
{
    (void)state;
    FQT_OK(fqi_mkdir("pl", e));
    spill("pl/file", "");
    assert_int_equal(symlink("pl", "pl-link"), 0);
    long most = pathconf("pl", _PC_NAME_MAX);
    assert_true(most >= 143 && most < 1000);
    char name[1100] = "pl/";
    memset(name + 3, 'x', 1000);
    name[3 + most] = '\0';
    FQT_OK(fqi_path_check_place(name, 0, e));
    FAILS(FQ_E_IO, "name-too-long", fqi_path_check_place(name, 1, e));
    FAILS(FQ_E_IO, "name-too-long", fqi_path_check_place(name + 3, 1, e));
    FAILS(FQ_E_IO, "name-too-long", fqi_path_check_place("x", 100000, e));
    strcat(name, "/");
    FQT_OK(fqi_path_check_place(name, 0, e));
    strcpy(name + 3 + most, "x");
    FAILS(FQ_E_IO, "name-too-long", fqi_path_check_place(name, 0, e));
    static const struct { const char *path, *rule; } t[] = {
        { "x", NULL },           { "./x", NULL },       { "pl", NULL },      { "pl/x", NULL },     { "pl/x/", NULL },
        { "pl//x", NULL },       { "/x", NULL },        { "/", NULL },       { "pl/file", NULL },  { "pl/\n", NULL },
        { "pl-link/x", NULL },   { "pl/../x", NULL },   { "no/x", "parent-missing" },          { "no/../x", "parent-missing" },
        { "no/such/x", "parent-missing" },              { "pl/file/x", "parent-missing" },     { "pl/file/x/y", "parent-missing" },
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        fq_err err = { 0 };
        fq_status s = fqi_path_check_place(t[i].path, 20, &err);
        if (s != (t[i].rule ? FQ_E_IO : FQ_OK) || (t[i].rule && strcmp(err.rule, t[i].rule) != 0)) fail_msg("%s: %s", t[i].path, err.text);
    }
}

static void lists(void **state)
{
    (void)state;
    fqi_arena a = { 0 };
    fqi_dirent *d = NULL;
    size_t n = 99;
    FQT_OK(fqi_mkdir("ls", e));
    FQT_OK(fqi_dir_list("ls", &a, &d, &n, e));
    assert_int_equal(n, 0);
    FQT_OK(fqi_mkdir("ls/dir", e));
    spill("ls/b", "12345");
    spill("ls/a", "");
    assert_int_equal(symlink("b", "ls/to-b"), 0);
    assert_int_equal(symlink("dir", "ls/to-dir"), 0);
    assert_int_equal(symlink("nowhere", "ls/to-nowhere"), 0);
    assert_int_equal(mkfifo("ls/fifo", 0666), 0);
    FQT_OK(fqi_dir_list("ls", &a, &d, &n, e));
    static const fqi_dirent want[] = {
        { (char *)(uintptr_t)"a", false, true, false, 0 },          { (char *)(uintptr_t)"b", false, true, false, 5 },
        { (char *)(uintptr_t)"dir", true, false, false, 0 },        { (char *)(uintptr_t)"fifo", false, false, false, 0 },
        { (char *)(uintptr_t)"to-b", false, true, true, 5 },        { (char *)(uintptr_t)"to-dir", true, false, true, 0 },
        { (char *)(uintptr_t)"to-nowhere", false, false, true, 0 },
    };
    assert_int_equal(n, sizeof want / sizeof want[0]);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(d[i].name, want[i].name);
        assert_int_equal(d[i].is_dir, want[i].is_dir);
        assert_int_equal(d[i].is_file, want[i].is_file);
        assert_int_equal(d[i].is_link, want[i].is_link);
        assert_int_equal(d[i].bytes, want[i].bytes);
    }
    FAILS(FQ_E_IO, "open", fqi_dir_list("missing", &a, &d, &n, e));
    FAILS(FQ_E_IO, "open", fqi_dir_list("ls/b", &a, &d, &n, e));
    fqi_arena_free(&a);
}

static void removes(void **state)
{
    (void)state;
    FQT_OK(fqi_mkdir("keep", e));
    spill("keep/f", "x");
    FQT_OK(fqi_mkdir("rm", e));
    FQT_OK(fqi_mkdir("rm/a", e));
    FQT_OK(fqi_mkdir("rm/a/b", e));
    spill("rm/a/b/f", "x");
    assert_int_equal(symlink("../keep", "rm/link"), 0);
    assert_int_equal(symlink("keep", "rm-link"), 0);
    FQT_OK(fqi_remove_tree("rm", e));
    assert_false(fqi_path_exists("rm"));
    FQT_OK(fqi_remove_tree("rm-link", e));
    assert_false(fqi_path_exists("rm-link"));
    assert_true(fqi_path_exists("keep/f"));
    FQT_OK(fqi_remove_tree("rm", e));
    FQT_OK(fqi_remove_tree("keep/f", e));
    assert_true(fqi_path_is_dir("keep"));
}

static void commits(void **state)
{
    (void)state;
    FQT_OK(fqi_mkdir("st", e));
    spill("st/f", "new");
    FQT_OK(fqi_commit_dir("st", "out", false, e));
    assert_file("out/f", "new", 3);
    assert_false(fqi_path_exists("st"));
    FQT_OK(fqi_mkdir("st", e));
    spill("st/f", "newer");
    FAILS(FQ_E_IO, "target-exists", fqi_commit_dir("st", "out", false, e));
    assert_file("out/f", "new", 3);
    FQT_OK(fqi_commit_dir("st/", "out/", true, e));
    assert_file("out/f", "newer", 5);
    assert_false(fqi_path_exists("st"));
    FQT_OK(fqi_mkdir("st", e));
    FQT_OK(fqi_commit_dir("st", "out2", true, e)); /* replace, and there is nothing to replace */
    FQT_OK(fqi_mkdir("st", e));
    assert_int_equal(symlink("out", "out-link"), 0);
    FAILS(FQ_E_IO, "target-kind", fqi_commit_dir("st", "out-link", true, e));
    spill("file", "x");
    FAILS(FQ_E_IO, "target-kind", fqi_commit_dir("st", "file", true, e));
    FAILS(FQ_E_IO, "rename", fqi_commit_dir("st", "missing/out", false, e));
    FAILS(FQ_E_IO, "open", fqi_commit_dir("missing", "out3", false, e));
    assert_true(fqi_path_is_dir("st"));
    FQT_OK(fqi_remove_tree("st", e));
    fqi_arena a = { 0 };
    fqi_dirent *d;
    size_t n;
    FQT_OK(fqi_dir_list(".", &a, &d, &n, e));
    for (size_t i = 0; i < n; i++) assert_null(strstr(d[i].name, ".old-"));
    fqi_arena_free(&a);
}

/* ---- locks ---- */

static void lock_excludes(void **state)
{
    (void)state;
    char want[64];
    fq_err err = { 0 };
    FQT_OK(fqi_lock("lock", e));
    assert_int_equal(fqi_lock("lock", &err), FQ_E_IO); /* held by us is held as well */
    assert_string_equal(err.rule, "lock");
    snprintf(want, sizeof want, "process %ld on", (long)getpid());
    assert_non_null(strstr(err.text, want));
    pid_t pid = fork();
    if (pid == 0) {
        fq_status s = fqi_lock("lock", &err);
        fqi_unlock("lock"); /* not ours: must stay */
        _exit(s == FQ_E_IO && fqi_path_exists("lock") ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    fqi_unlock("lock");
    assert_false(fqi_path_exists("lock"));
    fqi_unlock("lock");
    FAILS(FQ_E_IO, "lock", fqi_lock("missing/lock", e));
}

static void stale_lock_is_taken_over(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0) _exit(fqi_lock("stale", NULL) == FQ_OK ? 0 : 1); /* dies with the lock */
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_true(fqi_path_exists("stale"));
    FQT_OK(fqi_lock("stale", e));
    fqi_unlock("stale");
    /* our pid, but of a process that started at another time: the pid was used again */
    char text[128], host[65] = "";
    gethostname(host, sizeof host - 1);
    snprintf(text, sizeof text, "%ld 1 %s\n", (long)getpid(), host);
    spill("reused", text);
    FQT_OK(fqi_lock("reused", e));
    fqi_unlock("reused");
    snprintf(text, sizeof text, "%ld 1 another-host.example\n", (long)pid);
    spill("elsewhere", text);
    FAILS(FQ_E_IO, "lock", fqi_lock("elsewhere", e));
    spill("junk", "hello\x1b[31m");
    FAILS(FQ_E_IO, "lock", fqi_lock("junk", e));
    spill("empty", "");
    FAILS(FQ_E_IO, "lock", fqi_lock("empty", e));
}

/* Many processes find the same stale lock: one gets it. */
static void one_of_many_takes_over(void **state)
{
    (void)state;
    enum { N = 12 };
    for (int round = 0; round < 10; round++) {
        int ready[2], status, won = 0;
        pid_t pid[N];
        char byte;
        assert_int_equal(pipe(ready), 0);
        pid[0] = fork();
        if (pid[0] == 0) _exit(fqi_lock("race", NULL) == FQ_OK ? 0 : 1);
        waitpid(pid[0], &status, 0);
        for (int i = 0; i < N; i++) {
            pid[i] = fork();
            if (pid[i] != 0) continue;
            close(ready[1]);
            if (read(ready[0], &byte, 1) != 0) _exit(2); /* all start when the writing end closes */
            fq_status s = fqi_lock("race", NULL);
            usleep(100000); /* hold it until the others have tried */
            _exit(s == FQ_OK ? 0 : 1);
        }
        close(ready[1]);
        close(ready[0]);
        for (int i = 0; i < N; i++) {
            waitpid(pid[i], &status, 0);
            won += WIFEXITED(status) && WEXITSTATUS(status) == 0;
        }
        assert_int_equal(won, 1);
        unlink("race");
    }
}

static void clock_goes_on(void **state)
{
    (void)state;
    double t = fqi_now_seconds();
    usleep(2000);
    assert_true(fqi_now_seconds() > t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(read_ranges),
        cmocka_unit_test(shrinks_while_read),
        cmocka_unit_test(only_regular_files),
        cmocka_unit_test(slurp_is_bounded),
        cmocka_unit_test(write_and_resume),
        cmocka_unit_test(large_reservation_is_cut_back),
        cmocka_unit_test(disk_too_small),
        cmocka_unit_test(writer_refuses),
        cmocka_unit_test(write_error_is_reported),
        cmocka_unit_test(modes_follow_umask),
        cmocka_unit_test(write_file_is_atomic),
        cmocka_unit_test(copies),
        cmocka_unit_test(copies_keep_permissions),
        cmocka_unit_test(plain_names),
        cmocka_unit_test(joins),
        cmocka_unit_test(inside),
        cmocka_unit_test(overlaps),
        cmocka_unit_test(cannot_be_told),
        cmocka_unit_test(places),
        cmocka_unit_test(lists),
        cmocka_unit_test(removes),
        cmocka_unit_test(commits),
        cmocka_unit_test(lock_excludes),
        cmocka_unit_test(stale_lock_is_taken_over),
        cmocka_unit_test(one_of_many_takes_over),
        cmocka_unit_test(clock_goes_on),
    };
    return cmocka_run_group_tests_name("fs", tests, setup, teardown);
}
