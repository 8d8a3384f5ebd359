/* fs_write.c - writing a file front to back, past the page cache where that is possible.
 *
 *     0                flushed                 off
 *     |  in the file   |  block[0 .. fill)     |          off == flushed + fill, flushed a multiple of FQI_IO_ALIGN
 *
 * Whole blocks leave through the direct descriptor. A tail leaves through the ordinary one, and stays in the block: when more
 * bytes come, the block is written again as a whole, so a sync in the middle costs one partial write and breaks no alignment.
 * Space is reserved with FALLOC_FL_KEEP_SIZE: a full disk is found at once, and a file that was cut off by a crash is still
 * seen to be short, where a full-length file with zeros at its end would pass for a finished one. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/fs_flush.h"

#define DIRECT_FROM ((uint64_t)64 << 20)
#define FLUSHER_FROM ((uint64_t)2 * FQI_WRITE_BLOCK)

static int fsync_retry(int fd)
{
    int r;
    do r = fsync(fd);
    while (r != 0 && errno == EINTR); /* interrupted is not failed: nothing was reported lost */
    return r == 0 ? 0 : errno;
}

static int truncate_retry(int fd, uint64_t n)
{
    int r;
    do r = ftruncate(fd, (off_t)n);
    while (r != 0 && errno == EINTR);
    return r == 0 ? 0 : errno;
}

static fq_status no_space(const char *path, uint64_t total, fq_err *e)
{
    struct statvfs v;
    uint64_t avail = statvfs(path, &v) == 0 ? (uint64_t)v.f_bavail * (uint64_t)v.f_frsize : 0;
    fq_status s = fqi_fail(e, FQ_E_IO, FQI_FILE(path), "disk-space", "found %llu bytes free, expected %llu",
                           (unsigned long long)avail, (unsigned long long)total);
    if (e != NULL) e->sys_errno = ENOSPC;
    return s;
}

static fq_status reserve(const fqi_writer *w, uint64_t total, fq_err *e)
{
    if (total == 0) return FQ_OK;
    if (total > INT64_MAX) return fqi_fail_sys(e, w->path, "reserve", EFBIG);
    int r;
    do r = fallocate(w->fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)total);
    while (r != 0 && errno == EINTR);
    if (r == 0 || errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL) return FQ_OK;
    if (errno == ENOSPC) return no_space(w->path, total, e);
    return fqi_fail_sys(e, w->path, "reserve", errno);
}

/* Reopens a file that an earlier run left, cut to resume_at bytes; what stands in its last, partial unit is read back. */
static fq_status reopen(fqi_writer *w, uint64_t resume_at, fq_err *e)
{
    struct stat st;
    w->fd = open(w->path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (w->fd < 0) return fqi_fail_sys(e, w->path, "open", errno);
    if (fstat(w->fd, &st) != 0) return fqi_fail_sys(e, w->path, "stat", errno);
    if (!S_ISREG(st.st_mode))
        return fqi_fail(e, FQ_E_RESUME, FQI_FILE(w->path), "file-kind", "found something else, expected a regular file");
    if ((uint64_t)st.st_size < resume_at)
        return fqi_fail(e, FQ_E_RESUME, FQI_FILE(w->path), "resume-length", "found %llu bytes, expected at least %llu",
                        (unsigned long long)st.st_size, (unsigned long long)resume_at);
    int err = truncate_retry(w->fd, resume_at);
    if (err != 0) return fqi_fail_sys(e, w->path, "truncate", err);
    w->off = resume_at;
    w->fill = (size_t)(resume_at % FQI_IO_ALIGN);
    w->flushed = resume_at - w->fill;
    fqi_file f = { .fd = w->fd, .fd_direct = -1, .bytes = resume_at, .path = w->path };
    return fqi_file_read(&f, w->block, w->fill, w->flushed, e);
}

/* The direct twin is an optimisation: any failure means that there is none. */
static void open_twin(fqi_writer *w, uint64_t total, fq_io io)
{
    struct stat a, b;
    if (io == FQ_IO_BUFFERED || (io == FQ_IO_AUTO && total < DIRECT_FROM)) return;
    int fd = open(w->path, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_DIRECT);
    if (fd < 0) return;
    if (fstat(w->fd, &a) == 0 && fstat(fd, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino) w->fd_direct = fd;
    else close(fd);
}

fq_status fqi_writer_open(fqi_writer *out, const char *path, uint64_t total, uint64_t resume_at, fq_io io, fq_err *e)
{
    fqi_writer w = { .fd = -1, .fd_direct = -1, .path = strdup(path) };
    void *block = NULL;
    if (posix_memalign(&block, FQI_IO_ALIGN, FQI_WRITE_BLOCK) == 0) w.block = block;
    if (w.path == NULL || w.block == NULL) {
        fqi_writer_abandon(&w);
        return fqi_fail_nomem(e, "write buffer");
    }
    fq_status s = FQ_OK;
    bool created = false;
    if (resume_at > 0) s = reopen(&w, resume_at, e);
    else {
        w.fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
        created = w.fd >= 0;
        if (!created) s = fqi_fail_sys(e, path, "create", errno);
    }
    if (s == FQ_OK) s = reserve(&w, total, e);
    if (s != FQ_OK) {
        if (created) unlink(path);
        fqi_writer_abandon(&w);
        return s;
    }
    open_twin(&w, total, io);
    if (total >= FLUSHER_FROM) w.flusher = fqi_flusher_start(w.fd, FQI_WRITE_BLOCK, FQI_IO_ALIGN);
    *out = w;
    return FQ_OK;
}

/* The full block leaves: behind our back where there is a flusher. A copy of the caller's bytes is the price, and cheap beside
 * waiting for the disk. */
static fq_status flush(fqi_writer *w, fq_err *e)
{
    int err = w->flusher ? fqi_flusher_hand(w->flusher, &w->fd_direct, &w->block, FQI_WRITE_BLOCK, w->flushed)
                         : fqi_write_block(w->fd, &w->fd_direct, w->block, FQI_WRITE_BLOCK, w->flushed);
    if (err != 0) return fqi_fail_sys(e, w->path, "write", err);
    w->flushed += FQI_WRITE_BLOCK;
    w->fill = 0;
    return FQ_OK;
}

fq_status fqi_writer_put(fqi_writer *w, const void *bytes, size_t n, fq_err *e)
{
    const unsigned char *p = bytes;
    if (n > UINT64_MAX - w->off) return fqi_fail_sys(e, w->path, "write", EFBIG);
    while (n != 0) {
        size_t k = n < FQI_WRITE_BLOCK - w->fill ? n : FQI_WRITE_BLOCK - w->fill;
        memcpy(w->block + w->fill, p, k);
        w->fill += k;
        w->off += k;
        p += k;
        n -= k;
        if (w->fill == FQI_WRITE_BLOCK) FQI_TRY(flush(w, e));
    }
    return FQ_OK;
}

static fq_status write_tail(fqi_writer *w, fq_err *e)
{
    int err = w->flusher ? fqi_flusher_wait(w->flusher) : 0;
    if (err == 0) err = fqi_write_all(w->fd, w->block, w->fill, w->flushed);
    return err == 0 ? FQ_OK : fqi_fail_sys(e, w->path, "write", err);
}

static fq_status sync_file(fqi_writer *w, fq_err *e)
{
    int err = fsync_retry(w->fd);
    return err == 0 ? FQ_OK : fqi_fail_sys(e, w->path, "fsync", err);
}

fq_status fqi_writer_sync(fqi_writer *w, fq_err *e)
{
    FQI_TRY(write_tail(w, e));
    return sync_file(w, e);
}

fq_status fqi_writer_close(fqi_writer *w, fq_err *e)
{
    fq_status s = write_tail(w, e);
    /* Also when nothing is to be cut: it gives back what was reserved beyond the end. */
    int err = s == FQ_OK ? truncate_retry(w->fd, w->off) : 0;
    if (err != 0) s = fqi_fail_sys(e, w->path, "truncate", err);
    if (s == FQ_OK) s = sync_file(w, e);
    int fd = w->fd;
    fqi_flusher_stop(w->flusher);   /* it holds the descriptor */
    w->flusher = NULL;
    w->fd = -1;
    /* After EINTR Linux has closed the descriptor, and the bytes are on the disk already. */
    if (close(fd) != 0 && errno != EINTR && s == FQ_OK) s = fqi_fail_sys(e, w->path, "close", errno);
    fqi_writer_abandon(w);
    return s;
}

void fqi_writer_abandon(fqi_writer *w)
{
    /* A zeroed writer has descriptors 0, which are not its own: only one with a path is open. */
    if (w != NULL && w->path != NULL) {
        fqi_flusher_stop(w->flusher);
        if (w->fd >= 0) close(w->fd);
        if (w->fd_direct >= 0) close(w->fd_direct);
        free(w->block);
        free(w->path);
    } else if (w != NULL) {
        free(w->block);
    }
    if (w != NULL) *w = (fqi_writer){ .fd = -1, .fd_direct = -1 };
}

/* ---- small files ---- */

/* Creates the temporary file beside path, with the mode of the file that it will replace. */
static fq_status write_temp(const char *temp, const char *path, const void *bytes, size_t n, fq_err *e)
{
    struct stat st;
    int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666), err;
    if (fd < 0) return fqi_fail_sys(e, temp, "create", errno);
    fq_status s = FQ_OK;
    if (lstat(path, &st) == 0 && S_ISREG(st.st_mode) && fchmod(fd, st.st_mode & 0777) != 0)
        s = fqi_fail_sys(e, temp, "chmod", errno);
    if (s == FQ_OK && (err = fqi_write_all(fd, bytes, n, 0)) != 0) s = fqi_fail_sys(e, temp, "write", err);
    if (s == FQ_OK && (err = fsync_retry(fd)) != 0) s = fqi_fail_sys(e, temp, "fsync", err);
    if (close(fd) != 0 && errno != EINTR && s == FQ_OK) s = fqi_fail_sys(e, temp, "close", errno);
    if (s == FQ_OK && rename(temp, path) != 0) s = fqi_fail_sys(e, path, "rename", errno);
    if (s != FQ_OK) unlink(temp);
    return s;
}

fq_status fqi_write_file(const char *path, const void *bytes, size_t n, fq_err *e)
{
    fqi_str temp = { 0 }, dir = { 0 };
    const char *slash = strrchr(path, '/');
    fqi_str_puts(&temp, path);
    fqi_str_printf(&temp, ".tmp-%ld", (long)getpid());
    if (slash == NULL) fqi_str_puts(&dir, ".");
    else fqi_str_add(&dir, path, slash == path ? 1 : (size_t)(slash - path));
    fq_status s = FQ_OK;
    if (temp.failed || dir.failed) s = fqi_fail_nomem(e, "path");
    if (s == FQ_OK) {
        unlink(temp.s); /* left by a killed process that had our pid */
        s = write_temp(temp.s, path, bytes, n, e);
    }
    if (s == FQ_OK) s = fqi_sync_dir(dir.s, e);
    fqi_str_free(&temp);
    fqi_str_free(&dir);
    return s;
}

#define COPY_BUFFER ((size_t)4 << 20)

/* Before the first byte: what only its owner may read must not be open to others for the time of the copy. Set-id and sticky bits
 * belong to the original. EPERM on a file of our own: a file system without permission bits, which loses nothing more by this. */
static fq_status keep_mode(const fqi_file *from, const fqi_writer *to, fq_err *e)
{
    struct stat st;
    if (fstat(from->fd, &st) != 0) return fqi_fail_sys(e, from->path, "stat", errno);
    if (fchmod(to->fd, st.st_mode & 0777) == 0 || errno == EPERM || errno == ENOTSUP || errno == ENOSYS) return FQ_OK;
    return fqi_fail_sys(e, to->path, "chmod", errno);
}

fq_status fqi_copy_file(const char *from, const char *to, fq_err *e)
{
    fqi_file f = FQI_FILE_NONE;
    fqi_writer w = { 0 };
    void *buf = NULL;
    FQI_TRY(fqi_file_open(&f, from, FQ_IO_AUTO, e));
    if (posix_memalign(&buf, FQI_IO_ALIGN, COPY_BUFFER + (size_t)2 * FQI_IO_ALIGN) != 0) {
        fqi_file_close(&f);
        return fqi_fail_nomem(e, "copy buffer");
    }
    fq_status s = fqi_writer_open(&w, to, f.bytes, 0, FQ_IO_AUTO, e);
    bool created = s == FQ_OK;
    if (created) s = keep_mode(&f, &w, e);
    for (uint64_t off = 0; s == FQ_OK && off < f.bytes;) {
        size_t k = f.bytes - off < COPY_BUFFER ? (size_t)(f.bytes - off) : COPY_BUFFER;
        unsigned char *data;
        s = fqi_file_read_bulk(&f, buf, k, off, &data, e);
        if (s == FQ_OK) s = fqi_writer_put(&w, data, k, e);
        off += k;
    }
    if (s == FQ_OK) s = fqi_writer_close(&w, e);
    else fqi_writer_abandon(&w);
    if (s != FQ_OK && created) unlink(to);
    free(buf);
    fqi_file_close(&f);
    return s;
}
