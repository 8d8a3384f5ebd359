/* input.c - reads to the end (see input.h). Pipes have no length, so the buffer grows as the bytes come. */
#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "output.h"
#include "signals.h"

int input_failed(const char *name, const char *what, int err)
{
    fq_err e = { .code = FQ_E_IO };
    snprintf(e.text, sizeof e.text, "%.1024s: %s: %s", name, what, strerror(err));
    return out_error(&e);
}

int input_no_memory(const char *name)
{
    fq_err e = { .code = FQ_E_NOMEM };
    snprintf(e.text, sizeof e.text, "out of memory: %.1024s", name);
    return out_error(&e);
}

int input_too_long(const char *name, size_t most)
{
    fq_err e = { .code = FQ_E_INPUT };
    snprintf(e.text, sizeof e.text, "%.1024s: file-size: found more than %zu bytes, expected at most that", name, most);
    return out_error(&e);
}

/* Everything to the end of a file or a pipe, at most `most` bytes of it. read() is called only when something is there: a signal
 * interrupts poll(), whatever SA_RESTART says, and a pipe that nobody writes to can be given up. */
static int read_all(int fd, size_t most, input *in)
{
    for (;;) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        if (poll(&p, 1, -1) < 0 && errno != EINTR) return input_failed(in->name, "poll", errno);
        if (signals_cancelled(NULL)) return -FQ_E_CANCELLED;
        if (p.revents == 0) continue;
        if (in->n > most) return input_too_long(in->name, most);
        if (in->n == in->cap) {
            size_t cap = in->cap == 0 ? 65536 : in->cap * 2;
            char *s = realloc(in->s, cap);
            if (s == NULL) return input_no_memory(in->name);
            in->s = s;
            in->cap = cap;
        }
        ssize_t got = read(fd, in->s + in->n, in->cap - in->n);
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (got < 0) return input_failed(in->name, "read", errno);
        if (got == 0) return 0;
        in->n += (size_t)got;
    }
}

/* Opening a FIFO waits for its writer, and SA_RESTART begins that again after every signal: it is opened without waiting. read_all then
 * waits in poll(), which tells a pipe that has had no writer yet from one whose last writer has gone. */
static int open_input(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);
    if (flags >= 0) (void)fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
    return fd;
}

static int wrong_kind(const char *path, const char *found)
{
    fq_err e = { .code = FQ_E_INPUT };
    snprintf(e.text, sizeof e.text, "%.1024s: file-kind: found %s, expected a file or a pipe", path, found);
    return out_error(&e);
}

int input_read(const char *path, size_t most, input *in)
{
    if (path == NULL || strcmp(path, "-") == 0) {
        in->name = "standard input";
        return read_all(STDIN_FILENO, most, in);
    }
    in->name = path;
    int fd = open_input(path);
    const int err = errno;
    struct stat st;
    if (fd < 0 && err == ENOENT && lstat(path, &st) == 0) return wrong_kind(path, "a link to nothing");
    if (fd < 0) return input_failed(path, "open", err);
    int status = fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) ? wrong_kind(path, "a folder") : read_all(fd, most, in);
    close(fd);
    return status;
}
