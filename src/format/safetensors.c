/* safetensors.c - the header of a safetensors file, read and written. See safetensors.h.
 *
 * Reading is one pass of the scanner over the header text and three checks over the finished table:
 *
 *     records      every field there once, of the right kind, and the size that shape and dtype say
 *     names        no two the same, compared after unescaping
 *     offsets      sorted by place the tensors tile the buffer: no hole, no overlap, no byte left over
 *
 * Readers disagree about headers that break these rules (first or last of two equal names wins; trailing bytes are another
 * file), so a file that breaks one may be another model elsewhere: it is refused, never repaired. A header may legally hold
 * millions of tensors in 100 MB, so memory and time are linear in it: names stay in the text, shapes lie in one pool, and no
 * step is worse than n log n, whatever the header says.
 *
 * The position in a message is where the record in question begins in the file, or the token that is wrong. */
#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/checked.h"
#include "base/err.h"
#include "base/utf8.h"
#include "format/json_scan.h"

#define META "__metadata__"
#define LENGTH_BYTES 8u

/* ---- length ---- */

/* What a file that is not safetensors often is: the message that helps is not the one about the length. */
static const char *looks_like(const unsigned char b[8])
{
    static const struct { const char *magic, *what; } known[] = {
        { "version ", "; this looks like a Git LFS pointer, not like the file itself" },
        { "PK\3\4", "; this looks like a zip archive" },
        { "GGUF", "; this looks like a GGUF file" },
        { "<!DOCTYP", "; this looks like a web page" },
        { "<!doctyp", "; this looks like a web page" },
        { "\x80\2", "; this looks like a Python pickle" },
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (memcmp(b, known[i].magic, strlen(known[i].magic)) == 0) return known[i].what;
    return "";
}

fq_status fqi_st_length(const unsigned char first8[8], uint64_t file_bytes, const char *file, uint64_t *n_header, fq_err *e)
{
    const fqi_where *w = FQI_AT(file, NULL, 0);
    if (file_bytes < LENGTH_BYTES)
        return fqi_fail(e, FQ_E_INPUT, w, "header-length", "found a file of %llu bytes, expected at least 8",
                        (unsigned long long)file_bytes);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--) n = n << 8 | first8[i];
    if (n > FQI_ST_MAX_HEADER)
        return fqi_fail(e, FQ_E_INPUT, w, "header-length", "found %llu, expected at most %u%s", (unsigned long long)n,
                        FQI_ST_MAX_HEADER, looks_like(first8));
    if (n > file_bytes - LENGTH_BYTES)
        return fqi_fail(e, FQ_E_INPUT, w, "header-length", "found %llu, expected at most %llu, the rest of the file",
                        (unsigned long long)n, (unsigned long long)(file_bytes - LENGTH_BYTES));
    if (n < 2) return fqi_fail(e, FQ_E_INPUT, w, "header-length", "found %llu, expected at least 2", (unsigned long long)n);
    *n_header = n;
    return FQ_OK;
}

/* ---- records ---- */

typedef struct parser {
    fqi_json_scan s;
    fqi_st_header h;
    size_t cap_tensor, cap_meta, n_dim, cap_dim;
    uint64_t data_off;     /* where the buffer begins in the file */
    const char *file;
    const char *name;      /* of the record in hand */
    uint64_t name_off;     /* of its opening quote */
    uint64_t meta_off;     /* of the key __metadata__, 0 if it was not seen */
    fq_err *e;
} parser;

/* At the current token, within the record in hand: "RULE: found X, expected ...". */
static fq_status bad_token(const parser *p, const char *rule, const char *expected)
{
    char found[FQI_NAME_MAX + 1];
    return fqi_fail(p->e, FQ_E_INPUT, FQI_AT(p->file, p->name, p->s.base + p->s.begin), rule, "found %s, expected %s",
                    fqi_json_describe(&p->s, found), expected);
}

/* Next token; a syntax error keeps its own message. */
static fq_status next(parser *p) { return fqi_json_next(&p->s, p->e); }

static fq_status parse_dtype(parser *p, uint8_t *out)
{
    if (p->s.kind == FQI_JSON_STRING)
        for (unsigned i = 0; i < FQ_N_DTYPE; i++)
            if (strcmp(p->s.str, fq_dtype_name((fq_dtype)i)) == 0) {
                *out = (uint8_t)i;
                return FQ_OK;
            }
    fqi_str list = { 0 };
    for (unsigned i = 0; i < FQ_N_DTYPE; i++)
        fqi_str_printf(&list, "%s%s", i == 0 ? "one of " : ", ", fq_dtype_name((fq_dtype)i));
    fq_status s = list.failed ? fqi_fail_nomem(p->e, "message") : bad_token(p, "dtype", list.s);
    fqi_str_free(&list);
    return s;
}

#define SHAPE_EXPECTED "an array of at most 8 integers from 0 to 2^63-1"
_Static_assert(FQ_MAX_RANK == 8, "the message says 8");

/* The dims go to the end of the pool; t->shape is set when the pool no longer moves. */
static fq_status parse_shape(parser *p, fqi_tensor *t)
{
    if (p->s.kind != FQI_JSON_ARRAY) return bad_token(p, "shape", SHAPE_EXPECTED);
    if (!fqi_grow((void **)&p->h.dims, &p->cap_dim, p->n_dim + FQ_MAX_RANK, sizeof *p->h.dims))
        return fqi_fail_nomem(p->e, "shapes");
    for (t->rank = 0;; t->rank++) {
        uint64_t v;
        FQI_TRY(next(p));
        if (p->s.kind == FQI_JSON_ARRAY_END) break;
        if (t->rank == FQ_MAX_RANK)
            return fqi_fail(p->e, FQ_E_INPUT, FQI_AT(p->file, p->name, p->s.base + p->s.begin), "shape",
                            "found a 9th dimension, expected at most 8");
        if (fqi_json_u63(&p->s, "shape", &v, NULL) != FQ_OK) return bad_token(p, "shape", SHAPE_EXPECTED);
        p->h.dims[p->n_dim + t->rank] = (int64_t)v;
    }
    return FQ_OK;
}

#define OFFSETS_EXPECTED "an array of two integers from 0 to 2^63-1"

/* begin and end, relative to the buffer. */
static fq_status parse_offsets(parser *p, uint64_t range[2])
{
    if (p->s.kind != FQI_JSON_ARRAY) return bad_token(p, "data-offsets", OFFSETS_EXPECTED);
    for (int i = 0; i < 2; i++) {
        FQI_TRY(next(p));
        if (fqi_json_u63(&p->s, "data_offsets", &range[i], NULL) != FQ_OK)
            return bad_token(p, "data-offsets", OFFSETS_EXPECTED);
    }
    FQI_TRY(next(p));
    if (p->s.kind != FQI_JSON_ARRAY_END) return bad_token(p, "data-offsets", OFFSETS_EXPECTED);
    return FQ_OK;
}

/* Bytes of a tensor. The product of the dimensions that are not 0 must fit as well: otherwise [0, huge, huge] would pass or
 * fail by the order in which it is multiplied, and strides could not be computed. */
static fq_status tensor_bytes(parser *p, const fqi_tensor *t, const int64_t *shape, uint64_t *bytes)
{
    const fqi_where *w = FQI_AT(p->file, p->name, p->name_off);
    int64_t n = 1;
    bool zero = false;
    uint64_t bits;
    for (unsigned i = 0; i < t->rank; i++) {
        if (shape[i] == 0) zero = true;
        else if (!fqi_mul_i64(n, shape[i], &n))
            return fqi_fail(p->e, FQ_E_INPUT, w, "shape-overflow", "found a product of dimensions beyond 2^63-1");
    }
    if (zero) n = 0;
    if (!fqi_mul_u64((uint64_t)n, fq_dtype_bits((fq_dtype)t->dtype), &bits))
        return fqi_fail(p->e, FQ_E_INPUT, w, "shape-overflow", "found %lld elements of %s, a size beyond 2^64-1 bits",
                        (long long)n, fq_dtype_name((fq_dtype)t->dtype));
    if (bits % 8 != 0)
        return fqi_fail(p->e, FQ_E_INPUT, w, "tensor-size", "found %lld elements of %s, expected a whole number of bytes",
                        (long long)n, fq_dtype_name((fq_dtype)t->dtype));
    *bytes = bits / 8;
    return FQ_OK;
}

enum { HAS_DTYPE = 1, HAS_SHAPE = 2, HAS_OFFSETS = 4 };

/* The field whose key is the current token. Unknown members are skipped, as the reference does. */
static fq_status parse_field(parser *p, unsigned *seen, fqi_tensor *t, uint64_t range[2])
{
    static const struct { const char *key; unsigned bit; } field[] = {
        { "dtype", HAS_DTYPE }, { "shape", HAS_SHAPE }, { "data_offsets", HAS_OFFSETS },
    };
    unsigned bit = 0;
    for (size_t i = 0; i < sizeof field / sizeof field[0]; i++)
        if (strcmp(p->s.str, field[i].key) == 0) bit = field[i].bit;
    if ((*seen & bit) != 0) return bad_token(p, "duplicate-field", "each field once");
    *seen |= bit;
    FQI_TRY(next(p));
    switch (bit) {
    case HAS_DTYPE: return parse_dtype(p, &t->dtype);
    case HAS_SHAPE: return parse_shape(p, t);
    case HAS_OFFSETS: return parse_offsets(p, range);
    default: return fqi_json_skip(&p->s, p->e);
    }
}

/* What the fields say together: all there, in order, and the size that shape and dtype make. */
static fq_status check_record(parser *p, unsigned seen, fqi_tensor *t, const uint64_t range[2])
{
    const fqi_where *w = FQI_AT(p->file, p->name, p->name_off);
    if (seen != (HAS_DTYPE | HAS_SHAPE | HAS_OFFSETS))
        return fqi_fail(p->e, FQ_E_INPUT, w, "missing-field", "found no %s, expected dtype, shape and data_offsets",
                        (seen & HAS_DTYPE) == 0 ? "dtype" : (seen & HAS_SHAPE) == 0 ? "shape" : "data_offsets");
    if (range[1] < range[0])
        return fqi_fail(p->e, FQ_E_INPUT, w, "data-offsets", "found the end %llu before the begin %llu",
                        (unsigned long long)range[1], (unsigned long long)range[0]);
    FQI_TRY(tensor_bytes(p, t, p->h.dims + p->n_dim, &t->bytes));
    if (t->bytes != range[1] - range[0])
        return fqi_fail(p->e, FQ_E_INPUT, w, "tensor-size", "found %llu bytes, expected %llu, which shape and dtype say",
                        (unsigned long long)(range[1] - range[0]), (unsigned long long)t->bytes);
    t->off = p->data_off + range[0]; /* both below 2^63 and 2^27: cannot wrap */
    return FQ_OK;
}

static fq_status parse_tensor(parser *p)
{
    fqi_tensor t = { .name = p->name };
    uint64_t range[2] = { 0, 0 };
    unsigned seen = 0;
    if (p->s.kind != FQI_JSON_OBJECT) return bad_token(p, "tensor-record", "an object");
    for (;;) {
        FQI_TRY(next(p));
        if (p->s.kind == FQI_JSON_OBJECT_END) break;
        FQI_TRY(parse_field(p, &seen, &t, range));
    }
    FQI_TRY(check_record(p, seen, &t, range));
    if (!fqi_grow((void **)&p->h.tensor, &p->cap_tensor, p->h.n_tensor + 1, sizeof *p->h.tensor))
        return fqi_fail_nomem(p->e, "tensor table");
    p->h.tensor[p->h.n_tensor++] = t;
    p->n_dim += t.rank;
    return FQ_OK;
}

static fq_status parse_metadata(parser *p)
{
    uint64_t pos = p->name_off;
    p->name = NULL;
    if (p->meta_off != 0)
        return fqi_fail(p->e, FQ_E_INPUT, FQI_AT(p->file, NULL, pos), "duplicate-name",
                        "found __metadata__ again, first at byte %llu", (unsigned long long)p->meta_off);
    p->meta_off = pos;
    if (p->s.kind == FQI_JSON_NULL) return FQ_OK; /* the reference takes it for absent */
    if (p->s.kind != FQI_JSON_OBJECT) return bad_token(p, "metadata", "an object of strings");
    for (;;) {
        FQI_TRY(next(p));
        if (p->s.kind == FQI_JSON_OBJECT_END) return FQ_OK;
        const char *key = p->s.str;
        FQI_TRY(next(p));
        if (p->s.kind != FQI_JSON_STRING) return bad_token(p, "metadata", "a string");
        if (!fqi_grow((void **)&p->h.meta, &p->cap_meta, p->h.n_meta + 1, sizeof *p->h.meta))
            return fqi_fail_nomem(p->e, "metadata table");
        p->h.meta[p->h.n_meta].key = key;
        p->h.meta[p->h.n_meta++].value = p->s.str;
    }
}

static fq_status parse_records(parser *p)
{
    /* White space before the brace is legal JSON and the reference reads it, though its README says otherwise. */
    size_t start = 0;
    while (start < p->s.n && strchr(" \t\r\n", p->s.text[start]) && p->s.text[start] != '\0') start++;
    if (start == p->s.n || p->s.text[start] != '{') {
        char found[FQI_NAME_MAX + 1];
        return fqi_fail(p->e, FQ_E_INPUT, FQI_AT(p->file, NULL, p->s.base + start), "header-start", "found \"%s\", expected \"{\"",
                        fqi_escape_n(found, p->s.text + start, start < p->s.n));
    }
    FQI_TRY(next(p));
    for (;;) {
        p->name = NULL;
        FQI_TRY(next(p));
        if (p->s.kind == FQI_JSON_OBJECT_END) break;
        p->name = p->s.str;
        p->name_off = p->s.base + p->s.begin;
        FQI_TRY(next(p));
        FQI_TRY(strcmp(p->name, META) == 0 ? parse_metadata(p) : parse_tensor(p));
    }
    return next(p); /* nothing but white space until the end of the header */
}

/* ---- names ---- */

/* Rows of a table whose first member is the name; both tables have one like that. */
typedef struct names { const unsigned char *row; size_t n, stride; } names;

static const char *name_at(const names *t, size_t i)
{
    const char *s;
    memcpy(&s, t->row + i * t->stride, sizeof s);
    return s;
}

/* Equal names in the order of the text, which is the order of their addresses. */
static int compare_names(const void *a, const void *b)
{
    const char *x = *(const char *const *)a, *y = *(const char *const *)b;
    int r = strcmp(x, y);
    return r != 0 ? r : x < y ? -1 : x > y;
}

/* n log n whatever the names are; for names made to collide. */
static fq_status duplicate_by_sort(const names *t, const char **first, const char **second, fq_err *e)
{
    const char **all = fqi_calloc(t->n, sizeof *all);
    if (all == NULL) return fqi_fail_nomem(e, "name table");
    for (size_t i = 0; i < t->n; i++) all[i] = name_at(t, i);
    qsort(all, t->n, sizeof *all, compare_names);
    for (size_t i = 1; i < t->n && *first == NULL; i++)
        if (strcmp(all[i - 1], all[i]) == 0) {
            *first = all[i - 1];
            *second = all[i];
        }
    free(all);
    return FQ_OK;
}

#define MAX_PROBE 256 /* at half load a longer run does not happen by chance */

/* *first stays NULL when there is no duplicate. Slots hold an index plus 1. */
static fq_status find_duplicate(const names *t, const char **first, const char **second, fq_err *e)
{
    size_t cap = 16;
    while (cap < 2 * t->n) cap *= 2;
    uint32_t *slot = fqi_calloc(cap, sizeof *slot);
    if (slot == NULL) return fqi_fail_nomem(e, "name table");
    bool crowded = false;
    for (size_t i = 0; i < t->n && *first == NULL && !crowded; i++) {
        const char *name = name_at(t, i);
        size_t k = (size_t)XXH3_64bits(name, strlen(name)) & (cap - 1), probe = 0;
        for (; slot[k] != 0 && !crowded; k = (k + 1) & (cap - 1)) {
            if (strcmp(name_at(t, slot[k] - 1), name) == 0) {
                *first = name_at(t, slot[k] - 1);
                *second = name;
                break;
            }
            crowded = ++probe == MAX_PROBE;
        }
        slot[k] = (uint32_t)i + 1; /* a header of 100 MB holds fewer than 2^32 names */
    }
    free(slot);
    return crowded ? duplicate_by_sort(t, first, second, e) : FQ_OK;
}

/* what: "tensor name", "metadata key". Names stand in the text one byte behind their opening quote. */
static fq_status check_names(const parser *p, const void *table, size_t n, size_t stride, const char *what)
{
    const names t = { .row = table, .n = n, .stride = stride };
    const char *first = NULL, *second = NULL;
    char name[FQI_NAME_MAX + 1];
    FQI_TRY(find_duplicate(&t, &first, &second, p->e));
    if (first == NULL) return FQ_OK;
    uint64_t at1 = p->s.base + (uint64_t)(first - p->s.text) - 1, at2 = p->s.base + (uint64_t)(second - p->s.text) - 1;
    return fqi_fail(p->e, FQ_E_INPUT, FQI_AT(p->file, NULL, at2), "duplicate-name", "found %s \"%s\" again, first at byte %llu",
                    what, fqi_escape(name, first), (unsigned long long)at1);
}

/* ---- offsets ---- */

/* By place; a tensor of no bytes before the one that begins there; then in the order of the header. */
static int compare_place(const fqi_tensor *a, const fqi_tensor *b)
{
    if (a->off != b->off) return a->off < b->off ? -1 : 1;
    if (a->bytes != b->bytes) return a->bytes < b->bytes ? -1 : 1;
    return a->name < b->name ? -1 : a->name > b->name;
}

typedef struct place { uint64_t off; size_t i; } place;

static int compare_place_r(const void *a, const void *b, void *table)
{
    const place *x = a, *y = b;
    const fqi_tensor *t = table;
    if (x->off != y->off) return x->off < y->off ? -1 : 1;
    return compare_place(&t[x->i], &t[y->i]);
}

/* Sorts small keys and then moves each tensor once: sorting the tensors themselves would need a second table of them. */
static fq_status sort_by_place(fqi_tensor *t, size_t n, fq_err *e)
{
    bool sorted = true;
    for (size_t i = 1; i < n && sorted; i++) sorted = compare_place(&t[i - 1], &t[i]) <= 0;
    if (sorted) return FQ_OK;
    place *key = fqi_calloc(n, sizeof *key);
    if (key == NULL) return fqi_fail_nomem(e, "tensor order");
    for (size_t i = 0; i < n; i++) key[i] = (place){ .off = t[i].off, .i = i };
    qsort_r(key, n, sizeof *key, compare_place_r, t);
    for (size_t i = 0; i < n; i++) { /* follow each cycle of the permutation; key[k].i == k marks what is done */
        if (key[i].i == i) continue;
        fqi_tensor first = t[i];
        size_t k = i;
        while (key[k].i != i) {
            size_t from = key[k].i;
            t[k] = t[from];
            key[k].i = k;
            k = from;
        }
        t[k] = first;
        key[k].i = k;
    }
    free(key);
    return FQ_OK;
}

static fq_status check_tiling(const parser *p, uint64_t file_bytes)
{
    uint64_t end = p->data_off;
    char before[FQI_NAME_MAX + 1];
    for (size_t i = 0; i < p->h.n_tensor; i++) {
        const fqi_tensor *t = &p->h.tensor[i];
        if (t->off != end) {
            const fqi_where *w = FQI_AT(p->file, t->name, p->s.base + (uint64_t)(t->name - p->s.text) - 1);
            const char *rule = t->off > end ? "data-hole" : "data-overlap";
            unsigned long long begin = t->off - p->data_off, want = end - p->data_off;
            if (i == 0) return fqi_fail(p->e, FQ_E_INPUT, w, rule, "found data_offsets from %llu, expected 0", begin);
            return fqi_fail(p->e, FQ_E_INPUT, w, rule, "found data_offsets from %llu, expected %llu, the end of tensor %s", begin,
                            want, fqi_escape(before, t[-1].name));
        }
        if (!fqi_add_u64(end, t->bytes, &end))
            return fqi_fail(p->e, FQ_E_INPUT, FQI_TENSOR(p->file, t->name), "data-offsets", "found an end beyond 2^64-1");
    }
    if (end == file_bytes) return FQ_OK;
    if (p->h.n_tensor == 0)
        return fqi_fail(p->e, FQ_E_INPUT, FQI_FILE(p->file), "file-size", "found %llu bytes, expected %llu, where the header ends",
                        (unsigned long long)file_bytes, (unsigned long long)end);
    return fqi_fail(p->e, FQ_E_INPUT, FQI_FILE(p->file), "file-size", "found %llu bytes, expected %llu, where tensor %s ends",
                    (unsigned long long)file_bytes, (unsigned long long)end,
                    fqi_escape(before, p->h.tensor[p->h.n_tensor - 1].name));
}

/* ---- reading ---- */

/* Gives back what the tables reserved and did not need. A failure to shrink is none. */
static void shrink(void **ptr, size_t n, size_t size)
{
    void *p = n == 0 ? NULL : realloc(*ptr, n * size);
    if (p != NULL) *ptr = p;
}

static void set_shapes(parser *p)
{
    shrink((void **)&p->h.tensor, p->h.n_tensor, sizeof *p->h.tensor);
    shrink((void **)&p->h.dims, p->n_dim, sizeof *p->h.dims);
    const int64_t *at = p->h.dims; /* not NULL when there is a tensor: every record made room for a shape */
    for (size_t i = 0; i < p->h.n_tensor; i++) {
        p->h.tensor[i].shape = at;
        at += p->h.tensor[i].rank;
    }
}

fq_status fqi_st_parse(char *text, size_t n, uint64_t file_bytes, const char *file, fqi_st_header *out, fq_err *e)
{
    parser p = { .file = file, .data_off = LENGTH_BYTES + (uint64_t)n, .e = e };
    if (n < 2 || n > FQI_ST_MAX_HEADER || n > file_bytes)
        return fqi_fail(e, FQ_E_INPUT, FQI_AT(file, NULL, 0), "header-length", "found %zu, expected 2 to %u", n,
                        FQI_ST_MAX_HEADER);
    fqi_json_init(&p.s, text, n, file, LENGTH_BYTES, false);
    fq_status s = parse_records(&p);
    if (s == FQ_OK) {
        set_shapes(&p);
        s = check_names(&p, p.h.tensor, p.h.n_tensor, sizeof *p.h.tensor, "tensor name");
    }
    if (s == FQ_OK) s = check_names(&p, p.h.meta, p.h.n_meta, sizeof *p.h.meta, "metadata key");
    if (s == FQ_OK) s = sort_by_place(p.h.tensor, p.h.n_tensor, e);
    if (s == FQ_OK) s = check_tiling(&p, file_bytes);
    if (s != FQ_OK) {
        fqi_st_free(&p.h);
        return s;
    }
    p.h.text = text;
    *out = p.h;
    return FQ_OK;
}

void fqi_st_free(fqi_st_header *h)
{
    if (h == NULL) return;
    free(h->tensor);
    free(h->meta);
    free(h->dims);
    *h = (fqi_st_header){ 0 };
}

/* ---- writing ---- */

/* A JSON string, escaped the way the reference writer does. False if s is not UTF-8. */
static bool write_string(fqi_str *out, const char *s)
{
    static const char named[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const unsigned char *t = (const unsigned char *)s;
    size_t n = strlen(s), run = 0, i = 0;
    fqi_str_add(out, "\"", 1);
    while (i < n) {
        uint32_t code;
        size_t len = fqi_utf8_sequence(t + i, n - i, &code);
        if (len == 0) return false;
        if (code >= 0x20 && code != '"' && code != '\\') { i += len; continue; }
        fqi_str_add(out, s + run, i - run);
        const char *p = strchr(named, (int)code);
        if (p != NULL) fqi_str_printf(out, "\\%c", letter[p - named]);
        else fqi_str_printf(out, "\\u%04x", (unsigned)code);
        run = ++i;
    }
    fqi_str_add(out, s + run, n - run);
    fqi_str_add(out, "\"", 1);
    return true;
}

static fq_status write_metadata(const char *const *key, const char *const *value, size_t n, fqi_str *out, fq_err *e)
{
    char name[FQI_NAME_MAX + 1];
    if (n == 0) return FQ_OK;
    fqi_str_puts(out, "\"" META "\":{");
    for (size_t i = 0; i < n; i++) {
        bool good = write_string(out, key[i]);
        fqi_str_puts(out, ":");
        good = write_string(out, value[i]) && good;
        if (!good)
            return fqi_fail(e, FQ_E_INPUT, NULL, "metadata", "found key \"%s\" or its value not in UTF-8",
                            fqi_escape(name, key[i]));
        if (i + 1 < n) fqi_str_puts(out, ",");
    }
    fqi_str_puts(out, "}");
    return FQ_OK;
}

static fq_status write_tensor(const fqi_tensor *t, uint64_t *end, fqi_str *out, fq_err *e)
{
    parser p = { .name = t->name, .name_off = FQI_NO_OFFSET, .e = e };
    uint64_t bytes, begin = *end;
    if (strcmp(t->name, META) == 0 || !write_string(out, t->name))
        return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(NULL, t->name), "tensor-name", "found a name that safetensors cannot hold");
    if (t->rank > FQ_MAX_RANK || t->dtype >= FQ_N_DTYPE)
        return fqi_fail(e, FQ_E_USAGE, FQI_TENSOR(NULL, t->name), "tensor-record", "found rank %u and dtype %u", t->rank,
                        t->dtype);
    FQI_TRY(tensor_bytes(&p, t, t->shape, &bytes));
    if (bytes != t->bytes || !fqi_add_u64(begin, bytes, end) || *end > INT64_MAX)
        return fqi_fail(e, FQ_E_USAGE, FQI_TENSOR(NULL, t->name), "tensor-size", "found %llu bytes at %llu, expected %llu",
                        (unsigned long long)t->bytes, (unsigned long long)begin, (unsigned long long)bytes);
    fqi_str_printf(out, ":{\"dtype\":\"%s\",\"shape\":[", fq_dtype_name((fq_dtype)t->dtype));
    for (unsigned i = 0; i < t->rank; i++) fqi_str_printf(out, "%s%lld", i == 0 ? "" : ",", (long long)t->shape[i]);
    fqi_str_printf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin, (unsigned long long)*end);
    return FQ_OK;
}

static fq_status write_json(const fqi_tensor *t, size_t n, const char *const *meta_key, const char *const *meta_value,
                            size_t n_meta, fqi_str *out, fq_err *e)
{
    uint64_t end = 0;
    fqi_str_puts(out, "{");
    FQI_TRY(write_metadata(meta_key, meta_value, n_meta, out, e));
    for (size_t i = 0; i < n; i++) {
        if (i != 0 || n_meta != 0) fqi_str_puts(out, ",");
        FQI_TRY(write_tensor(&t[i], &end, out, e));
    }
    fqi_str_puts(out, "}");
    return FQ_OK;
}

fq_status fqi_st_write_header(const fqi_tensor *t, size_t n, const char *const *meta_key, const char *const *meta_value,
                              size_t n_meta, fqi_str *out, fq_err *e)
{
    size_t start = out->len;
    fqi_str_add(out, "\0\0\0\0\0\0\0", LENGTH_BYTES);
    fq_status s = write_json(t, n, meta_key, meta_value, n_meta, out, e);
    while (s == FQ_OK && !out->failed && (out->len - start) % 8 != 0) fqi_str_puts(out, " ");
    uint64_t length = out->len - start - LENGTH_BYTES;
    if (s == FQ_OK && out->failed) s = fqi_fail_nomem(e, "header");
    if (s == FQ_OK && length > FQI_ST_MAX_HEADER)
        s = fqi_fail(e, FQ_E_INPUT, NULL, "header-length", "found %llu, expected at most %u: too many tensors for one file",
                     (unsigned long long)length, FQI_ST_MAX_HEADER);
    if (s != FQ_OK) {
        if (out->s != NULL) out->s[out->len = start] = '\0';
        return s;
    }
    for (unsigned i = 0; i < LENGTH_BYTES; i++) out->s[start + i] = (char)(length >> (8 * i) & 0xff);
    return FQ_OK;
}

int fqi_st_compare(const void *a, const void *b)
{
    const fqi_tensor *x = a, *y = b;
    if (x->dtype != y->dtype) return x->dtype > y->dtype ? -1 : 1;
    return strcmp(x->name, y->name);
}
