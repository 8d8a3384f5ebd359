/* fuzz_torch.c - any bytes as a torch checkpoint: an error or a table whose every element lies inside the file. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "format/torch.h"
#include "format/torch_pickle.h"

typedef struct input { const uint8_t *p; size_t n; } input;

static fq_status read_at(void *user, void *buf, size_t n, uint64_t off, fq_err *e)
{
    const input *in = user;
    (void)e;
    if (off > in->n || n > in->n - off) abort();   /* the parser has to check before it reads */
    memcpy(buf, in->p + off, n);
    return FQ_OK;
}

static void check(const fqi_torch_table *t, size_t n)
{
    for (size_t i = 0; i < t->n_tensor; i++) {
        const fqi_tensor *x = &t->tensor[i];
        uint64_t width = fq_dtype_bits(x->dtype) / 8, count = 1, last = 0;
        for (unsigned d = 0; d < x->rank; d++) count *= (uint64_t)x->shape[d];
        if (x->off > n || x->bytes != count * width || x->bytes > n) abort();
        if (count == 0) continue;
        for (unsigned d = 0; x->stride && d < x->rank; d++) last += (uint64_t)(x->shape[d] - 1) * (uint64_t)x->stride[d];
        if (!x->stride) last = count - 1;
        if (x->off + (last + 1) * width > n) abort();
        if (strlen(x->name) > n) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = { data, size };
    fqi_bytes b = { .user = &in, .n = size, .file = "fuzz", .read = read_at };
    fqi_torch_table t = { 0 };
    fq_err e = { 0 };
    if (fqi_torch_parse(&b, 1 << 20, true, &t, &e) == FQ_OK) check(&t, size);
    else if (e.code == FQ_OK || e.text[0] == '\0') abort();
    fqi_torch_free(&t);
    /* The pickle alone, which a CRC would otherwise hide from the mutations. */
    fqi_pickle p = { 0 };
    if (fqi_pickle_run(data, size, "fuzz", 0, &p, &e) == FQ_OK) fqi_pickle_free(&p);
    return 0;
}
