/* fs_file.c - reading: buffered for small things, past the page cache for bulk data.
 *
 * A fqi_file is never written to after it was opened, so many threads may read it. Direct reads want position, length and
 * address aligned, so the hull of the wanted range is read; the file system may still refuse (EINVAL), and then the same
 * range is read through the ordinary descriptor: slower, same bytes. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/fs.h"

#define DIRECT_FROM ((uint64_t)64 << 20) /* FQ_IO_AUTO: smaller files do not evict enough to matter */
#define CHUNK ((size_t)1 << 30)          /* one pread moves at most 0x7ffff000 bytes; a round number below that */

static const char *kind_name(mode_t m)
{
    if (S_ISDIR(m)) return "a folder";
    if (S_ISFIFO(m)) return "a FIFO";
    if (S_ISSOCK(m)) return "a socket";
    return "a device";
}

static fq_status refuse_kind(const char *path, mode_t m, fq_err *e)
{
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "file-kind", "found %s, expected a regular file", kind_name(m));
}

/* "No such file" of a name that every listing shows sends its reader looking for a typing error. */
static fq_status refuse_absent(const char *path, int err, fq_err *e)
{
    if (err == ENOENT && fqi_path_is_link(path)) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "file-kind", "found a link to nothing, expected a regular file");
    return fqi_fail_sys(e, path, "open", err);
}

/* The same file again with O_DIRECT, or -1. Compared by inode: the path may name another file by now. */
static int open_direct(const char *path, const struct stat *st)
{
    struct stat now;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_DIRECT);
    if (fd < 0) return -1;
    if (fstat(fd, &now) == 0 && now.st_dev == st->st_dev && now.st_ino == st->st_ino) return fd;
    close(fd);
    return -1;
}

fq_status fqi_file_open(fqi_file *f, const char *path, fq_io io, fq_err *e)
{
    struct stat st;
    /* Looked at before it is opened: opening a device can have effects, opening a FIFO can block. O_NONBLOCK and the second
     * look are for a path that changes in between. */
    if (stat(path, &st) != 0) return refuse_absent(path, errno, e);
    if (!S_ISREG(st.st_mode)) return refuse_kind(path, st.st_mode, e);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return fqi_fail_sys(e, path, "open", errno);
    fq_status s = FQ_OK;
    if (fstat(fd, &st) != 0) s = fqi_fail_sys(e, path, "stat", errno);
    else if (!S_ISREG(st.st_mode)) s = refuse_kind(path, st.st_mode, e);
    if (s != FQ_OK) {
        close(fd);
        return s;
    }
    uint64_t bytes = (uint64_t)st.st_size;
    bool direct = io == FQ_IO_DIRECT || (io == FQ_IO_AUTO && bytes >= DIRECT_FROM);
    *f = (fqi_file){ .fd = fd,
                     .fd_direct = direct ? open_direct(path, &st) : -1,
                     .bytes = bytes,
                     .mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
                     .path = path };
    return FQ_OK;
}

void fqi_file_close(fqi_file *f)
{
    if (f == NULL) return;
    if (f->fd >= 0) close(f->fd);
    if (f->fd_direct >= 0) close(f->fd_direct);
    f->fd = f->fd_direct = -1;
}

static fq_status check_range(const fqi_file *f, size_t n, uint64_t off, fq_err *e)
{
    uint64_t end;
    if (fqi_add_u64(off, n, &end) && end <= f->bytes) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_AT(f->path, NULL, off), "file-size", "found a file of %llu bytes, expected %zu more here",
                    (unsigned long long)f->bytes, n);
}

/* Reads until `n` bytes are there, the file ends or a call fails; *got tells how far it came. Returns errno. */
static int read_some(int fd, unsigned char *buf, size_t n, uint64_t off, size_t *got)
{
    for (*got = 0; *got < n;) {
        size_t want = n - *got < CHUNK ? n - *got : CHUNK;
        ssize_t k = pread(fd, buf + *got, want, (off_t)(off + *got));
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return errno;
        if (k == 0) return 0;
        *got += (size_t)k;
    }
    return 0;
}

static fq_status read_buffered(const fqi_file *f, void *buf, size_t n, uint64_t off, fq_err *e)
{
    size_t got;
    int err = read_some(f->fd, buf, n, off, &got);
    if (err != 0) return fqi_fail_sys(e, f->path, "read", err);
    if (got == n) return FQ_OK;
    return fqi_fail(e, FQ_E_IO, FQI_AT(f->path, NULL, off + got), "changed-while-reading",
                    "found the end of the file, expected it at byte %llu", (unsigned long long)f->bytes);
}

fq_status fqi_file_read(const fqi_file *f, void *buf, size_t n, uint64_t off, fq_err *e)
{
    FQI_TRY(check_range(f, n, off, e));
    return read_buffered(f, buf, n, off, e);
}

void fqi_file_expect(const fqi_file *f, uint64_t off, uint64_t n) { (void)posix_fadvise(f->fd, (off_t)off, (off_t)n, POSIX_FADV_WILLNEED); }

/* True if all of it was in the page cache, where it is ten times faster than the disk. Nothing waits, but a miss may make the kernel read
 * ahead behind our back (6.18 does): those bytes are then read twice, the price of asking (docs/performance.md). */
static bool read_cached(const fqi_file *f, unsigned char *buf, size_t n, uint64_t off)
{
    for (size_t got = 0; got < n;) {
        struct iovec v = { .iov_base = buf + got, .iov_len = n - got < CHUNK ? n - got : CHUNK };
        ssize_t k = preadv2(f->fd, &v, 1, (off_t)(off + got), RWF_NOWAIT);
        if (k <= 0) return false;
        got += (size_t)k;
    }
    return true;
}

fq_status fqi_file_read_bulk(const fqi_file *f, void *buf, size_t n, uint64_t off, unsigned char **data, fq_err *e)
{
    FQI_TRY(check_range(f, n, off, e));
    if (f->fd_direct < 0 || n == 0) {
        FQI_TRY(read_buffered(f, buf, n, off, e));
        *data = buf;
        return FQ_OK;
    }
    if (read_cached(f, buf, n, off)) {
        *data = buf;
        return FQ_OK;
    }
    const uint64_t mask = FQI_IO_ALIGN - 1;
    uint64_t begin = off & ~mask;
    size_t skip = (size_t)(off - begin), hull = (size_t)(((off + n + mask) & ~mask) - begin), got;
    unsigned char *wanted = (unsigned char *)buf + skip;
    int err = read_some(f->fd_direct, buf, hull, begin, &got);
    if (err != 0 && err != EINVAL) return fqi_fail_sys(e, f->path, "read", err);
    /* EINVAL: no direct I/O here after all, or a count that ended unaligned at the end of the file. The ordinary descriptor
     * reads the rest, and is the one that tells whether the file became shorter. */
    size_t have = got > skip ? got - skip : 0;
    if (have < n) FQI_TRY(read_buffered(f, wanted + have, n - have, off + have, e));
    *data = wanted;
    return FQ_OK;
}

fq_status fqi_file_slurp(const char *path, uint64_t max, char **out, size_t *n, fq_err *e)
{
    fqi_file f = FQI_FILE_NONE;
    FQI_TRY(fqi_file_open(&f, path, FQ_IO_BUFFERED, e));
    fq_status s = FQ_OK;
    char *text = NULL;
    if (f.bytes > max || f.bytes >= SIZE_MAX)
        s = fqi_fail(e, FQ_E_INPUT, FQI_FILE(path), "file-size", "found %llu bytes, expected at most %llu",
                     (unsigned long long)f.bytes, (unsigned long long)max);
    else if ((text = malloc((size_t)f.bytes + 1)) == NULL) s = fqi_fail_nomem(e, path);
    else s = fqi_file_read(&f, text, (size_t)f.bytes, 0, e);
    fqi_file_close(&f);
    if (s != FQ_OK) {
        free(text);
        return s;
    }
    text[f.bytes] = '\0';
    *out = text;
    *n = (size_t)f.bytes;
    return FQ_OK;
}

double fqi_now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
