/* input.c - reads to the end (see input.h). Pipes have no length, so the buffer grows as the bytes come. */
#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "output.h"

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

/* Everything to the end of a file or a pipe. */
static int read_all(int fd, input *in)
{
    for (;;) {
        if (in->n == in->cap) {
            size_t cap = in->cap == 0 ? 65536 : in->cap * 2;
            char *s = cap > in->cap ? realloc(in->s, cap) : NULL;
            if (s == NULL) return input_no_memory(in->name);
            in->s = s;
            in->cap = cap;
        }
        ssize_t got = read(fd, in->s + in->n, in->cap - in->n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return input_failed(in->name, "read", errno);
        if (got == 0) return 0;
        in->n += (size_t)got;
    }
}

int input_read(const char *path, input *in)
{
    if (path == NULL || strcmp(path, "-") == 0) {
        in->name = "standard input";
        return read_all(STDIN_FILENO, in);
    }
    in->name = path;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return input_failed(path, "open", errno);
    int status = read_all(fd, in);
    close(fd);
    return status;
}
