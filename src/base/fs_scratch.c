/* fs_scratch.c - files without a name (see fs_scratch.h). O_TMPFILE where the file system has it; else a name that is removed as soon as
 * it is open. */
#include "base/fs_scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/fs_flush.h"

static int open_unnamed(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL)) return fd;
    char *name = fqi_path_join(dir, "fitq-scratch-XXXXXX");
    if (!name) {
        errno = ENOMEM;
        return -1;
    }
    fd = mkostemp(name, O_CLOEXEC);
    if (fd >= 0) (void)unlink(name);
    free(name);
    return fd;
}

static fq_status no_space(fq_err *e, const char *dir, uint64_t room, uint64_t bytes)
{
    return fqi_fail(e, FQ_E_IO, FQI_FILE(dir), "space", "found %" PRIu64 " bytes free, expected %" PRIu64 " for activations (another folder: --scratch)", room, bytes);
}

fq_status fqi_scratch_open(fqi_scratch *s, const char *dir, uint64_t bytes, fq_err *e)
{
    const char *from_env = getenv("TMPDIR");
    if (!dir || !dir[0]) dir = from_env && from_env[0] ? from_env : "/tmp";
    uint64_t room = fqi_free_bytes(dir);
    if (room < bytes || bytes > INT64_MAX) return no_space(e, dir, room, bytes);
    fqi_scratch n = { .fd = open_unnamed(dir), .dir = strdup(dir) };
    int err = errno;
    if (n.fd < 0 || !n.dir) {
        fqi_scratch_close(&n);
        return n.fd < 0 ? fqi_fail_sys(e, dir, "open a scratch file", err) : fqi_fail_nomem(e, "path");
    }
    int r = 0;
    if (bytes > 0)
        do r = fallocate(n.fd, 0, 0, (off_t)bytes);
        while (r != 0 && errno == EINTR);
    err = errno;
    if (r != 0 && err != EOPNOTSUPP && err != ENOSYS) {
        fqi_scratch_close(&n);
        return err == ENOSPC ? no_space(e, dir, fqi_free_bytes(dir), bytes) : fqi_fail_sys(e, dir, "reserve space for a scratch file", err);
    }
    *s = n;
    return FQ_OK;
}

fq_status fqi_scratch_read(const fqi_scratch *s, void *buf, size_t n, uint64_t off, fq_err *e)
{
    for (size_t got = 0; got < n;) {
        ssize_t r = pread(s->fd, (char *)buf + got, n - got, (off_t)(off + got));
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return fqi_fail_sys(e, s->dir, "read a scratch file", errno);
        if (r == 0) return fqi_fail(e, FQ_E_IO, FQI_FILE(s->dir), "scratch", "found the end at byte %" PRIu64 ", expected %" PRIu64, off + got, off + n);
        got += (size_t)r;
    }
    return FQ_OK;
}

fq_status fqi_scratch_write(const fqi_scratch *s, const void *buf, size_t n, uint64_t off, fq_err *e)
{
    int err = fqi_write_all(s->fd, buf, n, off);
    return err ? fqi_fail_sys(e, s->dir, "write a scratch file", err) : FQ_OK;
}

void fqi_scratch_close(fqi_scratch *s)
{
    if (s->fd >= 0) (void)close(s->fd);
    free(s->dir);
    *s = FQI_SCRATCH_NONE;
}
