/* The safetensors header: exact bytes, write and read as inverses on random tables, real files, hostile sizes and names. The bad
 * files are in tests/corpus and test_corpus_safetensors.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/resource.h>

#include <cmocka.h>
#include <xxhash.h>

#include "base/fs.h"
#include "format/safetensors.h"
#include "support.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif

/* Parses a header as written by fqi_st_write_header, with a buffer of data_bytes behind it. *text is the caller's to free. */
static fq_status parse(const fqi_str *b, uint64_t data_bytes, char **text, fqi_st_header *h, fq_err *e)
{
    uint64_t n = 0, file = b->len + data_bytes;
    *text = NULL;
    FQI_TRY(fqi_st_length((const unsigned char *)b->s, file, "f", &n, e));
    assert_int_equal(n, b->len - 8);
    *text = malloc((size_t)n);
    assert_non_null(*text);
    memcpy(*text, b->s + 8, (size_t)n);
    return fqi_st_parse(*text, (size_t)n, file, "f", h, e);
}

static void dtype_table(void **state)
{
    (void)state;
    static const struct { fq_dtype d; const char *name; unsigned bits; } t[] = {
        { FQ_DTYPE_BOOL, "BOOL", 8 }, { FQ_DTYPE_F4, "F4", 4 },        { FQ_DTYPE_F6_E3M2, "F6_E3M2", 6 },
        { FQ_DTYPE_BF16, "BF16", 16 }, { FQ_DTYPE_F8_E4M3, "F8_E4M3", 8 }, { FQ_DTYPE_C64, "C64", 64 },
        { FQ_DTYPE_F32, "F32", 32 },  { FQ_DTYPE_U64, "U64", 64 },     { FQ_N_DTYPE, "?", 0 },
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        assert_string_equal(fq_dtype_name(t[i].d), t[i].name);
        assert_int_equal(fq_dtype_bits(t[i].d), t[i].bits);
    }
    for (int a = 0; a < FQ_N_DTYPE; a++)
        for (int b = 0; b < a; b++) assert_string_not_equal(fq_dtype_name((fq_dtype)a), fq_dtype_name((fq_dtype)b));
    assert_int_equal(FQ_N_DTYPE, 22);
}

static void exact_bytes(void **state)
{
    (void)state;
    static const int64_t s23[] = { 2, 3 }, s2[] = { 2 };
    const fqi_tensor t[] = {
        { .name = "w", .shape = s23, .rank = 2, .dtype = FQ_DTYPE_F32, .bytes = 24 },
        { .name = "b\"\n\x01\xc3\xa9", .shape = s2, .rank = 1, .dtype = FQ_DTYPE_BF16, .bytes = 4 },
        { .name = "s", .rank = 0, .dtype = FQ_DTYPE_U8, .bytes = 1 },
    };
    static const char want[] =
        "\xe0\0\0\0\0\0\0\0"
        "{\"__metadata__\":{\"format\":\"pt\"},\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
        "\"b\\\"\\n\\u0001\xc3\xa9\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[24,28]},"
        "\"s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[28,29]}}";
    fqi_str b = { 0 };
    fq_err e = { 0 };
    const char *key = "format", *value = "pt";
    assert_int_equal(fqi_st_write_header(t, 3, &key, &value, 1, &b, &e), FQ_OK);
    assert_int_equal(b.len % 8, 0);
    assert_memory_equal(b.s + 8, want + 8, sizeof want - 9);
    for (size_t i = sizeof want - 1; i < b.len; i++) assert_int_equal(b.s[i], ' ');
    assert_int_equal((unsigned char)b.s[0], b.len - 8);
    assert_true(b.len - (sizeof want - 1) < 8);
    size_t one = b.len;
    assert_int_equal(fqi_st_write_header(t, 3, &key, &value, 1, &b, &e), FQ_OK); /* appends */
    assert_int_equal(b.len, 2 * one);
    assert_memory_equal(b.s, b.s + one, one);
    fqi_str_free(&b);
    assert_int_equal(fqi_st_write_header(NULL, 0, NULL, NULL, 0, &b, &e), FQ_OK);
    assert_memory_equal(b.s, "\x08\0\0\0\0\0\0\0{}      ", 16);
    fqi_str_free(&b);
}

/* ---- random tables ---- */

enum { MAX_TENSOR = 60, MAX_META = 6 };

typedef struct table {
    fqi_tensor t[MAX_TENSOR];
    int64_t shape[MAX_TENSOR][FQ_MAX_RANK];
    char name[MAX_TENSOR][48];
    size_t n;
    char meta[2 * MAX_META][48];
    const char *key[MAX_META], *value[MAX_META];
    size_t n_meta;
    uint64_t bytes;
} table;

/* A name with everything that must be escaped; the number makes it unique. */
static void random_name(char out[48], size_t i)
{
    static const char *const part[] = { "layers.", "\"", "\\", "\n", "\x1f", "\x7f", "\xc3\xa9", "\xf0\x9f\x98\x80", " ", "/", "" };
    snprintf(out, 48, "%s%s%zu%s", part[(size_t)rand() % 11], part[(size_t)rand() % 11], i, part[(size_t)rand() % 11]);
}

static void random_table(table *t)
{
    memset(t, 0, sizeof *t);
    t->n = (size_t)rand() % (MAX_TENSOR + 1);
    t->n_meta = (size_t)rand() % (MAX_META + 1);
    for (size_t i = 0; i < t->n_meta; i++) {
        random_name(t->meta[2 * i], i);
        random_name(t->meta[2 * i + 1], i);
        t->key[i] = t->meta[2 * i];
        t->value[i] = t->meta[2 * i + 1];
    }
    for (size_t i = 0; i < t->n; i++) {
        fqi_tensor *x = &t->t[i];
        random_name(t->name[i], i);
        x->name = t->name[i];
        x->dtype = (uint8_t)(rand() % FQ_N_DTYPE);
        x->rank = (uint8_t)(rand() % (FQ_MAX_RANK + 1));
        x->shape = t->shape[i];
        uint64_t bits = fq_dtype_bits((fq_dtype)x->dtype);
        for (unsigned d = 0; d < x->rank; d++) {
            t->shape[i][d] = rand() % 12 == 0 ? 0 : 1 + rand() % 5;
            bits *= (uint64_t)t->shape[i][d];
        }
        if (bits % 8 != 0) { /* make it whole */
            if (x->rank == 0) x->rank = 1, t->shape[i][0] = 4;
            else t->shape[i][0] *= 4;
            bits *= 4;
        }
        x->bytes = bits / 8;
        t->bytes += x->bytes;
    }
    if (rand() % 2 == 0) qsort(t->t, t->n, sizeof t->t[0], fqi_st_compare);
}

static void assert_same(const table *t, const fqi_st_header *h, size_t header)
{
    uint64_t off = header;
    assert_int_equal(h->n_tensor, t->n);
    assert_int_equal(h->n_meta, t->n_meta);
    for (size_t i = 0; i < t->n_meta; i++) {
        assert_string_equal(h->meta[i].key, t->key[i]);
        assert_string_equal(h->meta[i].value, t->value[i]);
    }
    /* tensors of no bytes may change places with each other: they are found by name */
    for (size_t i = 0; i < t->n; i++) {
        const fqi_tensor *x = &t->t[i], *y = NULL;
        for (size_t k = 0; k < h->n_tensor; k++)
            if (strcmp(h->tensor[k].name, x->name) == 0) y = &h->tensor[k];
        assert_non_null(y);
        assert_int_equal(y->off, off);
        assert_int_equal(y->bytes, x->bytes);
        assert_int_equal(y->dtype, x->dtype);
        assert_int_equal(y->rank, x->rank);
        assert_null(y->stride);
        assert_false(y->byteswap);
        for (unsigned d = 0; d < x->rank; d++) assert_int_equal(y->shape[d], x->shape[d]);
        off += x->bytes;
    }
    for (size_t i = 1; i < h->n_tensor; i++) assert_true(h->tensor[i - 1].off <= h->tensor[i].off);
}

static void write_then_read(void **state)
{
    (void)state;
    static table t;
    unsigned seed = 99;
    print_message("seed %u\n", seed);
    srand(seed);
    for (int round = 0; round < 2000; round++) {
        fqi_str b = { 0 };
        fqi_st_header h = { 0 };
        fq_err e = { 0 };
        char *text;
        random_table(&t);
        assert_int_equal(fqi_st_write_header(t.t, t.n, t.key, t.value, t.n_meta, &b, &e), FQ_OK);
        assert_int_equal(b.len % 8, 0);
        if (parse(&b, t.bytes, &text, &h, &e) != FQ_OK) fail_msg("round %d: %s", round, e.text);
        assert_same(&t, &h, b.len);
        assert_ptr_equal(h.text, text);
        fqi_st_free(&h);
        free(text);
        /* one byte more or less behind it is an error */
        assert_int_equal(parse(&b, t.bytes + 1, &text, &h, &e), FQ_E_INPUT);
        assert_string_equal(e.rule, "file-size");
        free(text);
        fqi_str_free(&b);
    }
}

/* In the reference writer's order every tensor is aligned to its element, sub-byte types last. */
static void order_aligns(void **state)
{
    (void)state;
    static table t;
    srand(5);
    for (int round = 0; round < 500; round++) {
        random_table(&t);
        qsort(t.t, t.n, sizeof t.t[0], fqi_st_compare);
        uint64_t off = 0;
        for (size_t i = 0; i < t.n; i++) {
            unsigned size = fq_dtype_bits((fq_dtype)t.t[i].dtype) / 8;
            if (size > 1) assert_int_equal(off % size, 0);
            off += t.t[i].bytes;
            if (i == 0) continue;
            assert_true(t.t[i - 1].dtype >= t.t[i].dtype);
            if (t.t[i - 1].dtype == t.t[i].dtype) assert_true(strcmp(t.t[i - 1].name, t.t[i].name) < 0);
        }
    }
}

/* The order of the records in the header does not matter: the table is in the order of the data. */
static void record_order_is_free(void **state)
{
    (void)state;
    enum { N = 300 };
    srand(17);
    for (int round = 0; round < 50; round++) {
        size_t order[N];
        for (size_t i = 0; i < N; i++) order[i] = i;
        for (size_t i = N - 1; i > 0; i--) {
            size_t k = (size_t)rand() % (i + 1), x = order[i];
            order[i] = order[k];
            order[k] = x;
        }
        fqi_str b = { 0 };
        fqi_str_add(&b, "\0\0\0\0\0\0\0", 8);
        for (size_t i = 0; i < N; i++) /* every fourth is of no bytes */
            fqi_str_printf(&b, "%s\"t%zu\":{\"dtype\":\"U8\",\"shape\":[%d,2],\"data_offsets\":[%zu,%zu]}", i == 0 ? "{" : ",",
                           order[i], order[i] % 4 != 0, 2 * (order[i] - (order[i] + 3) / 4),
                           2 * (order[i] + 1 - (order[i] + 4) / 4));
        fqi_str_puts(&b, "}");
        for (unsigned i = 0; i < 8; i++) b.s[i] = (char)((b.len - 8) >> (8 * i) & 0xff);
        fqi_st_header h = { 0 };
        fq_err e = { 0 };
        char *text;
        if (parse(&b, 2 * (N - N / 4), &text, &h, &e) != FQ_OK) fail_msg("%s", e.text);
        for (size_t i = 0; i < N; i++) {
            char name[16];
            snprintf(name, sizeof name, "t%zu", i);
            assert_string_equal(h.tensor[i].name, name);
            assert_int_equal(h.tensor[i].shape[0], i % 4 != 0);
            assert_int_equal(h.tensor[i].shape[1], 2);
        }
        fqi_st_free(&h);
        free(text);
        fqi_str_free(&b);
    }
}

/* ---- refusals of the writer, outputs on failure ---- */

static void writer_refuses(void **state)
{
    (void)state;
    static const int64_t s3[] = { 3 }, huge[] = { INT64_MAX, 2 };
    static const struct { fqi_tensor t; fq_status status; const char *rule; } c[] = {
        { { .name = "__metadata__", .shape = s3, .rank = 1, .dtype = FQ_DTYPE_U8, .bytes = 3 }, FQ_E_INPUT, "tensor-name" },
        { { .name = "\xff", .shape = s3, .rank = 1, .dtype = FQ_DTYPE_U8, .bytes = 3 }, FQ_E_INPUT, "tensor-name" },
        { { .name = "a", .shape = s3, .rank = 1, .dtype = FQ_DTYPE_U8, .bytes = 4 }, FQ_E_USAGE, "tensor-size" },
        { { .name = "a", .shape = s3, .rank = 9, .dtype = FQ_DTYPE_U8, .bytes = 3 }, FQ_E_USAGE, "tensor-record" },
        { { .name = "a", .shape = s3, .rank = 1, .dtype = FQ_N_DTYPE, .bytes = 3 }, FQ_E_USAGE, "tensor-record" },
        { { .name = "a", .shape = s3, .rank = 1, .dtype = FQ_DTYPE_F4, .bytes = 1 }, FQ_E_INPUT, "tensor-size" },
        { { .name = "a", .shape = huge, .rank = 2, .dtype = FQ_DTYPE_U8, .bytes = 3 }, FQ_E_INPUT, "shape-overflow" },
    };
    fqi_str b = { 0 };
    fqi_str_puts(&b, "before");
    for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
        fq_err e = { 0 };
        assert_int_equal(fqi_st_write_header(&c[i].t, 1, NULL, NULL, 0, &b, &e), c[i].status);
        assert_string_equal(e.rule, c[i].rule);
        assert_string_equal(b.s, "before");
        assert_int_equal(b.len, 6);
    }
    fq_err e = { 0 };
    const char *key = "k", *value = "\xc3";
    assert_int_equal(fqi_st_write_header(NULL, 0, &key, &value, 1, &b, &e), FQ_E_INPUT);
    char *big = malloc(FQI_ST_MAX_HEADER + 2);
    assert_non_null(big);
    memset(big, 'x', FQI_ST_MAX_HEADER + 1);
    big[FQI_ST_MAX_HEADER + 1] = '\0';
    value = big;
    assert_int_equal(fqi_st_write_header(NULL, 0, &key, &value, 1, &b, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "header-length");
    assert_string_equal(b.s, "before");
    free(big);
    fqi_str_free(&b);
    b.failed = true;
    assert_int_equal(fqi_st_write_header(NULL, 0, NULL, NULL, 0, &b, &e), FQ_E_NOMEM);
    fqi_str_free(&b);
}

static void failure_leaves_outputs_alone(void **state)
{
    (void)state;
    char text[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}, \"b\":{}}";
    fqi_st_header h;
    memset(&h, 0x5a, sizeof h);
    assert_int_equal(fqi_st_parse(text, sizeof text - 1, sizeof text + 100, NULL, &h, NULL), FQ_E_INPUT);
    for (size_t i = 0; i < sizeof h; i++) assert_int_equal(((unsigned char *)&h)[i], 0x5a);
    assert_int_equal(fqi_st_parse(text, 0, 100, NULL, &h, NULL), FQ_E_INPUT);
    assert_int_equal(fqi_st_parse(text, 1, 100, NULL, &h, NULL), FQ_E_INPUT);
    assert_int_equal(fqi_st_parse(text, 20, 10, NULL, &h, NULL), FQ_E_INPUT);
    uint64_t n = 42;
    assert_int_equal(fqi_st_length((const unsigned char *)"\xff\xff\xff\xff\xff\xff\xff\xff", 1000, NULL, &n, NULL), FQ_E_INPUT);
    assert_int_equal(n, 42);
    fqi_st_free(NULL);
}

/* ---- hostile names ---- */

/* Names whose hashes share their low bits, so that they all fall on one place of the table. */
static void colliding_names(void **state)
{
    (void)state;
    enum { N = 700 };
    for (int twice = 0; twice < 2; twice++) {
        fqi_str b = { 0 };
        char name[16] = "", first[16] = "";
        fqi_str_add(&b, "\0\0\0\0\0\0\0", 8);
        size_t n = 0;
        for (unsigned i = 0; n < N; i++) {
            snprintf(name, sizeof name, "%u", i);
            if ((XXH3_64bits(name, strlen(name)) & 2047) != 0) continue;
            if (n == 3) snprintf(first, sizeof first, "%s", name);
            if (twice != 0 && n == N - 1) snprintf(name, sizeof name, "%s", first);
            fqi_str_printf(&b, "%s\"%s\":{\"dtype\":\"F4\",\"shape\":[0],\"data_offsets\":[0,0]}", n++ == 0 ? "{" : ",", name);
        }
        fqi_str_puts(&b, "}");
        for (unsigned i = 0; i < 8; i++) b.s[i] = (char)((b.len - 8) >> (8 * i) & 0xff);
        fqi_st_header h = { 0 };
        fq_err e = { 0 };
        char *text, want[64];
        fq_status s = parse(&b, 0, &text, &h, &e);
        assert_int_equal(s, twice != 0 ? FQ_E_INPUT : FQ_OK);
        snprintf(want, sizeof want, "found tensor name \"%s\" again, first at byte ", first);
        if (twice != 0) assert_non_null(strstr(e.text, want));
        fqi_st_free(&h);
        free(text);
        fqi_str_free(&b);
    }
}

/* The largest legal header: 100 MB, 1.77 million tensors. Linear in time and memory. Sanitizers get a tenth of it: they are there
 * to see errors, not to be waited for. */
#ifdef SANITIZED
#define LARGEST (FQI_ST_MAX_HEADER / 10)
#else
#define LARGEST FQI_ST_MAX_HEADER
#endif
static void largest_header(void **state)
{
    (void)state;
    fqi_str b = { 0 };
    size_t n = 0;
    char last[24];
    fqi_str_puts(&b, "{");
    while (b.len < LARGEST - 64)
        fqi_str_printf(&b, "%s\"%zx\":{\"dtype\":\"F4\",\"shape\":[0],\"data_offsets\":[0,0]}", n == 0 ? "" : ",", n), n++;
    fqi_str_puts(&b, "}");
    assert_false(b.failed);
    struct rusage before, after;
    fqi_st_header h = { 0 };
    fq_err e = { 0 };
    getrusage(RUSAGE_SELF, &before);
    if (fqi_st_parse(b.s, b.len, b.len + 8, "f", &h, &e) != FQ_OK) fail_msg("%s", e.text);
    getrusage(RUSAGE_SELF, &after);
    assert_int_equal(h.n_tensor, n);
    snprintf(last, sizeof last, "%zx", n - 1);
    assert_string_equal(h.tensor[n - 1].name, last);
    double seconds = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec) +
                     (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec) * 1e-6 +
                     (double)(after.ru_stime.tv_sec - before.ru_stime.tv_sec) +
                     (double)(after.ru_stime.tv_usec - before.ru_stime.tv_usec) * 1e-6;
    print_message("%zu tensors, %.2f s, at most %ld MB resident\n", n, seconds, after.ru_maxrss / 1024);
#ifndef SANITIZED
    assert_true(seconds < 3);
    assert_true(after.ru_maxrss / 1024 < 300);
#endif
    fqi_st_free(&h);
    fqi_str_free(&b);
}

/* Mutated headers: no crash, and what is accepted tiles its file. */
static void mutations(void **state)
{
    (void)state;
    static const char seed_text[] =
        "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
        "\"b\":{\"shape\":[],\"dtype\":\"U8\",\"data_offsets\":[24,25]},\"c\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[25,25]}}";
    static const char bits[] = "0123456789-.eE\"\\,:[]{}abcu \n\xc3\x80";
    unsigned seed = 31;
    int n_good = 0;
    print_message("seed %u\n", seed);
    srand(seed);
    for (int round = 0; round < 60000; round++) {
        size_t n = sizeof seed_text - 1;
        char *text = malloc(n);
        assert_non_null(text);
        memcpy(text, seed_text, n);
        for (int k = rand() % 3; k >= 0; k--) text[(size_t)rand() % n] = bits[(size_t)rand() % (sizeof bits - 1)];
        fqi_st_header h = { 0 };
        fq_err e = { 0 };
        uint64_t file = 8 + n + 25, end = 8 + n;
        if (fqi_st_parse(text, n, file, "f", &h, &e) == FQ_OK) {
            n_good++;
            for (size_t i = 0; i < h.n_tensor; i++) {
                assert_int_equal(h.tensor[i].off, end);
                end += h.tensor[i].bytes;
            }
            assert_int_equal(end, file);
            fqi_st_free(&h);
        } else {
            assert_true(e.text[0] != '\0' && e.code == FQ_E_INPUT);
        }
        free(text);
    }
    print_message("%d accepted\n", n_good);
    assert_true(n_good > 100);
}

/* ---- real files ---- */

/* Reads a real file's header; if it was written in the usual way, writing it again gives the same bytes. */
static void check_real(const char *path, size_t n_tensor, bool same_bytes)
{
    fqi_file f;
    fq_err e = { 0 };
    unsigned char first8[8];
    uint64_t n;
    fqi_st_header h;
    if (fqi_file_open(&f, path, FQ_IO_BUFFERED, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_int_equal(fqi_file_read(&f, first8, 8, 0, &e), FQ_OK);
    if (fqi_st_length(first8, f.bytes, path, &n, &e) != FQ_OK) fail_msg("%s", e.text);
    char *text = malloc((size_t)n), *orig = malloc((size_t)n);
    assert_true(text != NULL && orig != NULL);
    assert_int_equal(fqi_file_read(&f, text, (size_t)n, 8, &e), FQ_OK);
    memcpy(orig, text, (size_t)n);
    if (fqi_st_parse(text, (size_t)n, f.bytes, path, &h, &e) != FQ_OK) fail_msg("%s", e.text);
    print_message("%s: %zu tensors\n", path, h.n_tensor);
    if (n_tensor != 0) assert_int_equal(h.n_tensor, n_tensor);
    const char *key[64], *value[64];
    assert_true(h.n_meta <= 64);
    for (size_t i = 0; i < h.n_meta; i++) {
        key[i] = h.meta[i].key;
        value[i] = h.meta[i].value;
    }
    fqi_str b = { 0 };
    assert_int_equal(fqi_st_write_header(h.tensor, h.n_tensor, key, value, h.n_meta, &b, &e), FQ_OK);
    if (same_bytes) {
        assert_int_equal(b.len, n + 8);
        assert_memory_equal(b.s, first8, 8);
        assert_memory_equal(b.s + 8, orig, (size_t)n);
    }
    fqi_str_free(&b);
    fqi_st_free(&h);
    free(text);
    free(orig);
    fqi_file_close(&f);
}

static void own_example(void **state)
{
    (void)state;
    char path[4096];
    snprintf(path, sizeof path, "%s/examples/tiny-qwen2/model.safetensors", fqt_source());
    check_real(path, 0, false);
}

static void third_party_files(void **state)
{
    (void)state;
    static const struct { const char *name; bool same_bytes; } t[] = {
        { "safetensors/hadamards.safetensors", true },
        { "models/tiny-golden/tiny_llama.safetensors", true },
        { "models/tiny-golden/tiny_qwen3_moe.safetensors", true },
        { "models/tiny-golden/tiny_llama-00001-of-00002.safetensors", true },
    };
    const char *dir = fqt_data();
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", dir, t[i].name);
        check_real(path, 0, t[i].same_bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dtype_table),         cmocka_unit_test(exact_bytes),     cmocka_unit_test(write_then_read),
        cmocka_unit_test(order_aligns),        cmocka_unit_test(record_order_is_free), cmocka_unit_test(writer_refuses),
        cmocka_unit_test(failure_leaves_outputs_alone), cmocka_unit_test(colliding_names), cmocka_unit_test(largest_header),
        cmocka_unit_test(mutations),           cmocka_unit_test(own_example),     cmocka_unit_test(third_party_files),
    };
    return cmocka_run_group_tests_name("safetensors", tests, NULL, NULL);
}
