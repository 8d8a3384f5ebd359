/* fuzz_safetensors.c - the safetensors header against any bytes.
 *
 * Input: a whole file. The length check and the parser must not crash, and what they accept must keep what they promise: the
 * tensors tile the buffer, names are unique, the header that is written from the table is read back as the same table. */
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "format/safetensors.h"

#define CHECK(x)          \
    do {                  \
        if (!(x)) abort(); \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tiling(const fqi_st_header *h, uint64_t begin, uint64_t file_bytes)
{
    uint64_t end = begin;
    for (size_t i = 0; i < h->n_tensor; i++) {
        const fqi_tensor *t = &h->tensor[i];
        uint64_t bits = fq_dtype_bits((fq_dtype)t->dtype);
        CHECK(t->off == end && t->rank <= FQ_MAX_RANK && t->dtype < FQ_N_DTYPE && t->stride == NULL);
        for (unsigned d = 0; d < t->rank; d++) {
            CHECK(t->shape[d] >= 0);
            bits *= (uint64_t)t->shape[d]; /* cannot wrap where no dimension is 0: the parser saw to it */
        }
        CHECK(bits == t->bytes * 8);
        end += t->bytes;
    }
    CHECK(end == file_bytes);
}

static void check_same(const fqi_st_header *a, const fqi_st_header *b)
{
    CHECK(a->n_tensor == b->n_tensor && a->n_meta == b->n_meta);
    for (size_t i = 0; i < a->n_tensor; i++) {
        const fqi_tensor *x = &a->tensor[i], *y = &b->tensor[i];
        CHECK(strcmp(x->name, y->name) == 0 && x->bytes == y->bytes && x->dtype == y->dtype && x->rank == y->rank);
        CHECK(x->rank == 0 || memcmp(x->shape, y->shape, x->rank * sizeof *x->shape) == 0);
    }
    for (size_t i = 0; i < a->n_meta; i++)
        CHECK(strcmp(a->meta[i].key, b->meta[i].key) == 0 && strcmp(a->meta[i].value, b->meta[i].value) == 0);
}

/* Written in the table's order, read again: the same table. */
static void check_round_trip(const fqi_st_header *h, uint64_t data_bytes)
{
    fq_err e;
    fqi_str out = { 0 };
    fqi_st_header again;
    uint64_t n = 0;
    const char **kv = calloc(2 * h->n_meta + 1, sizeof *kv);
    CHECK(kv != NULL);
    for (size_t i = 0; i < h->n_meta; i++) {
        kv[i] = h->meta[i].key;
        kv[h->n_meta + i] = h->meta[i].value;
    }
    CHECK(fqi_st_write_header(h->tensor, h->n_tensor, kv, kv + h->n_meta, h->n_meta, &out, &e) == FQ_OK);
    uint64_t file_bytes = out.len + data_bytes;
    CHECK(fqi_st_length((const unsigned char *)out.s, file_bytes, NULL, &n, &e) == FQ_OK && n == out.len - 8);
    CHECK(fqi_st_parse(out.s + 8, (size_t)n, file_bytes, NULL, &again, &e) == FQ_OK);
    check_same(h, &again);
    fqi_st_free(&again);
    fqi_str_free(&out);
    free(kv);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    unsigned char first8[8] = { 0 };
    uint64_t n;
    fq_err e = { 0 };
    fqi_st_header h;
    memcpy(first8, data, size < 8 ? size : 8);
    if (fqi_st_length(first8, size, "input", &n, &e) != FQ_OK) {
        CHECK(e.code == FQ_E_INPUT && e.text[0] != '\0');
        return 0;
    }
    char *text = malloc((size_t)n);
    CHECK(text != NULL);
    memcpy(text, data + 8, (size_t)n);
    if (fqi_st_parse(text, (size_t)n, size, "input", &h, &e) == FQ_OK) {
        check_tiling(&h, 8 + n, size);
        check_round_trip(&h, size - 8 - n);
        fqi_st_free(&h);
    } else {
        CHECK(e.code == FQ_E_INPUT && e.text[0] != '\0');
    }
    free(text);
    return 0;
}
