/* torch_mem.h - for the tests of the torch reader: a file in memory behind the reader's interface. */
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

#endif
