/* torch_mem.h - for the tests of the torch reader: a file in memory behind the reader's interface, and files that a Python
 * tool of tests/ makes. */
#ifndef FITQ_TESTS_TORCH_MEM_H
#define FITQ_TESTS_TORCH_MEM_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "format/torch.h"

typedef struct mem_file {
    unsigned char *bytes;
    size_t n;
    size_t n_read;      /* calls so far */
    size_t fail_at;     /* this call fails with FQ_E_IO; 0 = none */
    size_t largest;     /* longest read asked for */
} mem_file;

/* Reads past the end are a mistake of the reader: it must have checked. */
static inline fq_status mem_read(void *user, void *buf, size_t n, uint64_t off, fq_err *e)
{
    mem_file *m = user;
    if (++m->n_read == m->fail_at) return fqi_fail_sys(e, "mem", "read", 5);
    if (off > m->n || n > m->n - off) {
        fprintf(stderr, "read of %zu bytes at %llu of %zu\n", n, (unsigned long long)off, m->n);
        abort();
    }
    if (n > m->largest) m->largest = n;
    memcpy(buf, m->bytes + off, n);
    return FQ_OK;
}

static inline fqi_bytes mem_bytes(mem_file *m) { return (fqi_bytes){ .user = m, .n = m->n, .file = "mem", .read = mem_read }; }

/* Whole file, NUL behind the last byte; *n may be NULL. NULL if it cannot be read. */
static inline unsigned char *mem_slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    size_t len = 0, cap = 1 << 16;
    unsigned char *p = malloc(cap);
    for (size_t k; p && (k = fread(p + len, 1, cap - len - 1, f)) > 0;) {
        len += k;
        if (cap - len < 2) p = realloc(p, cap *= 2);
    }
    fclose(f);
    if (!p) abort();
    p[len] = 0;
    if (n) *n = len;
    return p;
}

/* New folder under $TMPDIR. */
static inline void mem_tempdir(char out[256])
{
    const char *t = getenv("TMPDIR");
    snprintf(out, 256, "%s/fitq-torch-XXXXXX", t ? t : "/tmp");
    if (!mkdtemp(out)) abort();
}

/* Runs $FITQ_SOURCE_DIR/TOOL ARGS with Python; its exit status, -1 if it could not be run. */
static inline int mem_python(const char *python, const char *tool, const char *args)
{
    char cmd[2048];
    const char *root = getenv("FITQ_SOURCE_DIR");
    snprintf(cmd, sizeof cmd, "PYTHONDONTWRITEBYTECODE=1 %s '%s/%s' %s 2>&1", python, root ? root : ".", tool, args);
    int s = system(cmd);
    return s < 0 || s > 0xffff || (s & 0x7f) ? -1 : s >> 8;
}

static inline void mem_remove(const char *dir)
{
    char cmd[512];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    if (system(cmd) != 0) fprintf(stderr, "could not remove %s\n", dir);
}

#endif
