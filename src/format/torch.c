/* torch.c - pytorch_model.bin: which tensors it holds and where their elements lie.
 *
 *     T/data.pkl     the state dict, pickled       T/data/<key>   the elements of one storage
 *     T/byteorder    "little" or "big"             T/...          anything else is ignored
 *
 * T is any folder name. The zip directory (torch_zip.c) says where entries are, the pickle (torch_pickle.c) what they mean;
 * here the two are compared: every storage that the pickle names must have exactly the bytes that it claims, and every tensor
 * must lie inside its storage. A loader that skips the first check reads the next tensor's bytes or past the end (pytorch
 * issue 170085). Strides are kept: transposed weights and slices of a fused weight are legal and are made contiguous by
 * whoever reads them. A view with more elements than its storage (an expanded tensor) is refused: a small file could claim
 * petabytes.
 *
 * Not read: the format of 2018-2020 without a zip, the tar of before, TorchScript archives. The message says how to convert. */
#include "format/torch.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/err.h"
#include "format/torch_pickle.h"
#include "format/torch_zip.h"

#define BAD(off, rule, ...) fqi_fail(e, FQ_E_INPUT, FQI_AT(b->file, NULL, (off)), rule, __VA_ARGS__)
#define HOW_TO_CONVERT "load it with torch 1.6 or later and torch.save it again, or store it as safetensors"

/* What is needed while one file is parsed. */
typedef struct parse {
    const fqi_bytes *b;
    fqi_zip zip;
    const char *folder;          /* T with its slash; points into the directory */
    size_t n_folder;
    char *key;                   /* scratch for entry names: folder + the longest suffix */
    unsigned char *text;         /* data.pkl; in the table's arena, because names stay there */
    fqi_pickle pickle;
    const fqi_zip_entry **entry; /* of each storage of the pickle */
    uint32_t *first_use;         /* of each zip entry: 1 + the storage that named it first */
    bool big_endian;
    uint32_t dict;               /* the state dict */
    uint64_t at;                 /* of data.pkl in the file, for messages */
    fqi_torch_table *table;
} parse;

/* ---- what it is not -------------------------------------------------------------------------------------------- */

static fq_status check_magic(const fqi_bytes *b, fq_err *e)
{
    static const unsigned char legacy[] = { 0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19,
                                           0x2e };
    unsigned char h[512] = { 0 };
    size_t n = b->n < sizeof h ? (size_t)b->n : sizeof h;
    if (n > 0) FQI_TRY(b->read(b->user, h, n, 0, e));
    if (n >= 4 && memcmp(h, "PK\003\004", 4) == 0) return FQ_OK;
    if (n >= sizeof legacy && memcmp(h, legacy, sizeof legacy) == 0)
        return BAD(0, "torch-legacy", "found the format before torch 1.6 (no zip), expected a zip archive: " HOW_TO_CONVERT);
    if (memcmp(h + 257, "ustar", 5) == 0)
        return BAD(0, "torch-tar", "found a tar, the format of torch 0.1, expected a zip archive: " HOW_TO_CONVERT);
    if (n >= 2 && h[0] == 0x80)
        return BAD(0, "torch-legacy", "found a bare pickle, expected a zip archive: " HOW_TO_CONVERT);
    if (memcmp(h, "version https://git-lfs", 23) == 0)
        return BAD(0, "git-lfs-pointer", "found a Git LFS pointer, expected the file itself (run git lfs pull)");
    if (n < 4) return BAD(0, "torch-magic", "found a file of %zu bytes, expected a zip archive", n);
    return BAD(0, "torch-magic", "found %02x %02x %02x %02x in a file of %llu bytes, expected a zip archive (50 4b 03 04)",
               h[0], h[1], h[2], h[3], (unsigned long long)b->n);
}

/* ---- entries --------------------------------------------------------------------------------------------------- */

static const fqi_zip_entry *find(parse *p, const char *prefix, const char *name, size_t n_name)
{
    size_t n_prefix = strlen(prefix), n = p->n_folder;
    memcpy(p->key + n, prefix, n_prefix);
    memcpy(p->key + n + n_prefix, name, n_name);
    return fqi_zip_find(&p->zip, p->key, n + n_prefix + n_name);
}

static bool ends_with(const fqi_zip_entry *t, const char *end)
{
    size_t n = strlen(end);
    return t->n_name >= n && memcmp(t->name + t->n_name - n, end, n) == 0;
}

/* The top folder is that of the first entry, as in torch's reader. A second data.pkl in another top folder would be what a
 * reader with another rule loads. */
static fq_status find_folder(parse *p, fq_err *e)
{
    const fqi_bytes *b = p->b;
    const fqi_zip_entry *t = &p->zip.entry[p->zip.first];
    char name[FQI_NAME_MAX + 1];
    const char *slash = memchr(t->name, '/', t->n_name);
    if (!slash)
        return BAD(t->dir_off, "torch-folder", "found entry %s outside of a folder, expected all in one",
                   fqi_escape_n(name, t->name, t->n_name));
    p->folder = t->name;
    p->n_folder = (size_t)(slash - t->name) + 1;
    p->key = fqi_calloc(p->n_folder + FQI_PK_MAX_KEY + 32, 1);
    if (!p->key) return fqi_fail_nomem(e, "entry name");
    memcpy(p->key, p->folder, p->n_folder);
    for (size_t i = 0; i < p->zip.n_entry; i++) {
        t = &p->zip.entry[i];
        const char *s = memchr(t->name, '/', t->n_name);
        bool top = s && t->n_name - (size_t)(s - t->name) == strlen("/data.pkl");
        bool ours = t->n_name >= p->n_folder && memcmp(t->name, p->folder, p->n_folder) == 0;
        if (top && !ours && ends_with(t, "/data.pkl"))
            return BAD(t->dir_off, "torch-folder", "found a second data.pkl, %s, expected one",
                       fqi_escape_n(name, t->name, t->n_name));
    }
    return FQ_OK;
}

static fq_status check_byteorder(parse *p, fq_err *e)
{
    const fqi_bytes *b = p->b;
    const fqi_zip_entry *t = find(p, "", "byteorder", 9);
    char s[8] = { 0 };
    if (!t) return FQ_OK;   /* older than torch 2.0: little */
    if (t->bytes <= 6) FQI_TRY(fqi_zip_read(b, t, s, e));
    p->big_endian = strcmp(s, "big") == 0;
    if (!p->big_endian && strcmp(s, "little") != 0) return BAD(t->off, "torch-byteorder", "found neither 'little' nor 'big'");
    return FQ_OK;
}

static fq_status check_crcs(parse *p, bool read_all, fq_err *e)
{
    for (size_t i = 0; i < p->zip.n_entry; i++) {
        const fqi_zip_entry *t = &p->zip.entry[i];
        if (t->crc == 0 && t->bytes > 0) p->table->crc_unchecked = true;
        if (read_all) FQI_TRY(fqi_zip_check_crc(p->b, t, e));
    }
    return FQ_OK;
}

static fq_status read_pickle(parse *p, uint64_t max_pickle, fq_err *e)
{
    const fqi_bytes *b = p->b;
    const fqi_zip_entry *t = find(p, "", "constants.pkl", 13);
    if (t)
        return BAD(t->dir_off, "torch-script",
                   "found a TorchScript archive (constants.pkl), expected a state dict: save model.state_dict() instead");
    t = find(p, "", "data.pkl", 8);
    if (!t) return BAD(p->zip.dir_off, "torch-pickle", "found no data.pkl in the first folder, expected one");
    p->at = t->off;
    if (t->bytes > max_pickle)
        return BAD(t->off, "torch-pickle", "found a data.pkl of %llu bytes, expected at most %llu",
                   (unsigned long long)t->bytes, (unsigned long long)max_pickle);
    p->text = fqi_arena_alloc(&p->table->arena, (size_t)t->bytes + 1);   /* +1: names are NUL-terminated in place */
    if (!p->text) return fqi_fail_nomem(e, "data.pkl");
    FQI_TRY(fqi_zip_read(b, t, p->text, e));
    return fqi_pickle_run(p->text, (size_t)t->bytes, b->file, t->off, &p->pickle, e);
}

/* ---- storages -------------------------------------------------------------------------------------------------- */

static fq_status check_storage(parse *p, const fqi_pk_storage *s, const fqi_zip_entry *t, const char *key, fq_err *e)
{
    const fqi_bytes *b = p->b;
    uint64_t bytes;
    if (s->numel < 0)
        return BAD(s->at, "storage-numel", "found %lld elements in storage %s, expected 0 or more", (long long)s->numel, key);
    if (!fqi_mul_u64((uint64_t)s->numel, s->untyped ? 1 : fq_dtype_bits(s->dtype) / 8, &bytes))
        return BAD(s->at, "storage-numel", "found %lld elements of %s in storage %s, expected a size below 2^64 bytes",
                   (long long)s->numel, fq_dtype_name(s->dtype), key);
    if (bytes != t->bytes)
        return BAD(s->at, "storage-size", "found %llu bytes in the entry of storage %s, expected %llu (%lld elements of %s)",
                   (unsigned long long)t->bytes, key, (unsigned long long)bytes, (long long)s->numel,
                   s->untyped ? "one byte" : fq_dtype_name(s->dtype));
    return FQ_OK;
}

/* torch keeps the first class it saw for a key; a reader that takes the class of each mention would see other numbers. */
static fq_status check_reuse(parse *p, size_t i, const fqi_zip_entry *t, const char *key, fq_err *e)
{
    const fqi_bytes *b = p->b;
    uint32_t *use = &p->first_use[t - p->zip.entry];
    const fqi_pk_storage *s = &p->pickle.storage[i];
    if (*use == 0) {
        *use = (uint32_t)i + 1;
        return FQ_OK;
    }
    const fqi_pk_storage *first = &p->pickle.storage[*use - 1];
    if (first->dtype == s->dtype && first->untyped == s->untyped) return FQ_OK;
    return BAD(s->at, "storage-class", "found storage %s as %s, expected %s as at byte %llu", key, fq_dtype_name(s->dtype),
               fq_dtype_name(first->dtype), (unsigned long long)first->at);
}

static fq_status bind_storages(parse *p, fq_err *e)
{
    const fqi_bytes *b = p->b;
    p->entry = fqi_calloc(p->pickle.n_storage, sizeof *p->entry);
    p->first_use = fqi_calloc(p->zip.n_entry, sizeof *p->first_use);
    if (!p->entry || !p->first_use) return fqi_fail_nomem(e, "storage table");
    for (size_t i = 0; i < p->pickle.n_storage; i++) {
        const fqi_pk_storage *s = &p->pickle.storage[i];
        const char *k = (const char *)p->text + s->key.i;
        char key[FQI_NAME_MAX + 1];
        const fqi_zip_entry *t = find(p, "data/", k, s->key.n);
        fqi_escape_n(key, k, s->key.n);
        if (!t) return BAD(s->at, "storage-missing", "found no entry data/%s, expected the storage that the pickle names", key);
        FQI_TRY(check_storage(p, s, t, key, e));
        FQI_TRY(check_reuse(p, i, t, key, e));
        p->entry[i] = t;
    }
    return FQ_OK;
}

/* ---- the state dict in what was pickled ------------------------------------------------------------------------ */

static bool holds_tensor(const fqi_pickle *k, uint32_t dict)
{
    for (uint32_t i = k->dict[dict].first; i != FQI_PK_END; i = k->pair[i].next)
        if (k->pair[i].value.kind == FQI_PK_TENSOR) return true;
    return false;
}

/* Value of a key, None if there is none. */
static fq_status find_key(parse *p, uint32_t dict, const char *key, fqi_pk_val *out, fq_err *e)
{
    const fqi_bytes *b = p->b;
    const fqi_pickle *k = &p->pickle;
    bool found = false;
    *out = (fqi_pk_val){ .kind = FQI_PK_NONE };
    for (uint32_t i = k->dict[dict].first; i != FQI_PK_END; i = k->pair[i].next) {
        if (!fqi_pk_is(k, k->pair[i].key, key)) continue;
        if (found) return BAD(p->at, "duplicate-name", "found key %s twice, expected it once", key);
        found = true;
        *out = k->pair[i].value;
    }
    return FQ_OK;
}

/* A dict under one of the three keys that trainers use wins over tensors beside it (those are random states and the like). */
static fq_status find_state_dict(parse *p, fq_err *e)
{
    static const char *const wrapper[] = { "state_dict", "model", "module" };
    const fqi_bytes *b = p->b;
    const fqi_pickle *k = &p->pickle;
    if (k->root.kind != FQI_PK_DICT)
        return BAD(p->at, "state-dict", "found a pickled %s, expected a dict of tensors", fqi_pk_kind_name(k->root.kind));
    uint32_t root = (uint32_t)k->root.i;
    p->dict = root;
    p->table->wrapper = "";
    for (size_t w = 0; w < sizeof wrapper / sizeof wrapper[0]; w++) {
        fqi_pk_val v;
        FQI_TRY(find_key(p, root, wrapper[w], &v, e));
        if (v.kind != FQI_PK_DICT || !holds_tensor(k, (uint32_t)v.i)) continue;
        if (p->table->wrapper[0])
            return BAD(p->at, "state-dict", "found tensors under both %s and %s, expected one state dict", p->table->wrapper,
                       wrapper[w]);
        p->table->wrapper = wrapper[w];
        p->dict = (uint32_t)v.i;
    }
    if (!holds_tensor(k, p->dict))
        return BAD(p->at, "state-dict",
                   "found a dict of %u items without tensors, expected tensors in it or under state_dict, model or module",
                   k->dict[root].n);
    return FQ_OK;
}

/* ---- tensors --------------------------------------------------------------------------------------------------- */

#define BAD_TENSOR(at_, rule, ...) fqi_fail(e, FQ_E_INPUT, FQI_AT(b->file, name, (at_)), rule, __VA_ARGS__)

/* Number of elements; the product of the sizes other than 0 must fit too, so that the verdict does not depend on the order. */
static fq_status count_elements(const fqi_bytes *b, const char *name, const fqi_pk_tensor *t, const int64_t *size, uint64_t *n,
                                fq_err *e)
{
    int64_t prod = fq_dtype_bits(t->dtype) / 8;
    bool empty = false;
    for (unsigned d = 0; d < t->rank; d++) {
        if (size[d] < 0)
            return BAD_TENSOR(t->at, "tensor-size", "found dimension %lld, expected 0 or more", (long long)size[d]);
        if (size[d] == 0) empty = true;
        else if (!fqi_mul_i64(prod, size[d], &prod)) return BAD_TENSOR(t->at, "tensor-size", "found a size beyond 2^63 bytes");
    }
    *n = empty ? 0 : (uint64_t)prod / (fq_dtype_bits(t->dtype) / 8);
    return FQ_OK;
}

/* capacity: elements in the storage. */
static fq_status check_view(const fqi_bytes *b, const char *name, const fqi_pk_tensor *t, const int64_t *size,
                            const int64_t *stride, uint64_t n, uint64_t capacity, fq_err *e)
{
    if (t->offset < 0 || (uint64_t)t->offset > capacity)
        return BAD_TENSOR(t->at, "tensor-offset", "found offset %lld, expected at most the %llu elements of its storage",
                          (long long)t->offset, (unsigned long long)capacity);
    int64_t last = t->offset;
    for (unsigned d = 0; d < t->rank; d++) {
        int64_t reach;
        if (stride[d] < 0)
            return BAD_TENSOR(t->at, "tensor-stride", "found stride %lld, expected 0 or more", (long long)stride[d]);
        if (n > 0 && (!fqi_mul_i64(size[d] - 1, stride[d], &reach) || !fqi_add_i64(last, reach, &last)))
            return BAD_TENSOR(t->at, "tensor-stride", "found a stride that leads beyond 2^63");
    }
    if (n > 0 && (uint64_t)last >= capacity)
        return BAD_TENSOR(t->at, "tensor-stride",
                          "found element %lld as the last one, expected less than the %llu of its storage", (long long)last,
                          (unsigned long long)capacity);
    if (n > capacity)
        return BAD_TENSOR(t->at, "tensor-expanded",
                          "found %llu elements on a storage of %llu, expected no more than that (an expanded view)",
                          (unsigned long long)n, (unsigned long long)capacity);
    return FQ_OK;
}

static bool is_row_major(unsigned rank, const int64_t *size, const int64_t *stride, uint64_t n)
{
    int64_t expected = 1;
    for (unsigned d = rank; n > 0 && d-- > 0;) {
        if (size[d] != 1 && stride[d] != expected) return false;
        expected *= size[d];   /* at most n */
    }
    return true;
}

static fq_status build_tensor(parse *p, const fqi_pk_tensor *t, const char *name, int64_t *dims, fqi_tensor *out, fq_err *e)
{
    const fqi_bytes *b = p->b;
    const fqi_zip_entry *data = p->entry[t->storage];
    unsigned width = fq_dtype_bits(t->dtype) / 8;
    int64_t *size = dims, *stride = dims + t->rank;
    uint64_t n = 0;
    for (unsigned d = 0; d < t->rank; d++) {
        size[d] = p->pickle.item[t->size + d].i;
        stride[d] = p->pickle.item[t->stride + d].i;
    }
    FQI_TRY(count_elements(b, name, t, size, &n, e));
    if (data->bytes % width != 0)
        return BAD_TENSOR(t->at, "storage-size", "found %llu bytes, expected a multiple of the %u of %s",
                          (unsigned long long)data->bytes, width, fq_dtype_name(t->dtype));
    FQI_TRY(check_view(b, name, t, size, stride, n, data->bytes / width, e));
    *out = (fqi_tensor){
        .name = name, .shape = size, .stride = is_row_major(t->rank, size, stride, n) ? NULL : stride,
        .off = data->off + (uint64_t)t->offset * width, .bytes = n * width, .dtype = t->dtype, .rank = t->rank,
        .byteswap = p->big_endian && width > 1,
    };
    return FQ_OK;
}

static int by_place(const void *x, const void *y)
{
    const fqi_tensor *a = *(const fqi_tensor *const *)x, *b = *(const fqi_tensor *const *)y;
    return (a->name > b->name) - (a->name < b->name);
}

static int by_name(const void *x, const void *y)
{
    return strcmp((*(const fqi_tensor *const *)x)->name, (*(const fqi_tensor *const *)y)->name);
}

/* Equal pointers first: a key that the memo repeats a million times must not be compared letter by letter as often. */
static fq_status check_duplicates(parse *p, fq_err *e)
{
    fqi_torch_table *t = p->table;
    const fqi_bytes *b = p->b;
    const char *twice = NULL;
    const fqi_tensor **at = fqi_calloc(t->n_tensor, sizeof *at);
    if (!at) return fqi_fail_nomem(e, "tensor names");
    for (size_t i = 0; i < t->n_tensor; i++) at[i] = &t->tensor[i];
    qsort(at, t->n_tensor, sizeof *at, by_place);
    for (size_t i = 1; i < t->n_tensor && !twice; i++)
        if (at[i - 1]->name == at[i]->name) twice = at[i]->name;
    if (!twice) qsort(at, t->n_tensor, sizeof *at, by_name);
    for (size_t i = 1; i < t->n_tensor && !twice; i++)
        if (by_name(&at[i - 1], &at[i]) == 0) twice = at[i]->name;
    free(at);
    if (!twice) return FQ_OK;
    char name[FQI_NAME_MAX + 1];
    return BAD(p->at, "duplicate-name", "found tensor %s twice in the state dict, expected it once", fqi_escape(name, twice));
}

/* The name as a string that ends in NUL. Its text is followed by at least one opcode, which was read already. */
static fq_status read_name(parse *p, fqi_pk_val key, const char **out, fq_err *e)
{
    const fqi_bytes *b = p->b;
    if (key.kind != FQI_PK_STR)
        return BAD(p->at, "state-dict", "found a key that is %s, expected a tensor name", fqi_pk_kind_name(key.kind));
    char *s = (char *)p->text + key.i;
    s[key.n] = '\0';
    *out = s;
    return FQ_OK;
}

static fq_status build_table(parse *p, fq_err *e)
{
    const fqi_pickle *k = &p->pickle;
    const fqi_bytes *b = p->b;
    fqi_torch_table *t = p->table;
    size_t n_dim = 0, n = k->dict[p->dict].n;
    for (uint32_t i = k->dict[p->dict].first; i != FQI_PK_END; i = k->pair[i].next)
        if (k->pair[i].value.kind == FQI_PK_TENSOR) n_dim += 2u * k->tensor[k->pair[i].value.i].rank;
    t->tensor = fqi_arena_alloc(&t->arena, n * sizeof *t->tensor);
    int64_t *dims = fqi_arena_alloc(&t->arena, n_dim * sizeof *dims);
    if (!t->tensor || !dims) return fqi_fail_nomem(e, "tensor table");
    for (uint32_t i = k->dict[p->dict].first; i != FQI_PK_END; i = k->pair[i].next) {
        const char *name = NULL;
        fqi_pk_val v = k->pair[i].value;
        FQI_TRY(read_name(p, k->pair[i].key, &name, e));
        if (v.kind != FQI_PK_TENSOR)
            return fqi_fail(e, FQ_E_INPUT, FQI_TENSOR(b->file, name), "state-dict",
                            "found a value that is %s, expected a tensor", fqi_pk_kind_name(v.kind));
        const fqi_pk_tensor *pt = &k->tensor[v.i];
        FQI_TRY(build_tensor(p, pt, name, dims, &t->tensor[t->n_tensor], e));
        dims += 2u * pt->rank;
        t->n_tensor++;
    }
    return check_duplicates(p, e);
}

/* ---- the whole ------------------------------------------------------------------------------------------------- */

static fq_status load(parse *p, uint64_t max_pickle, bool check_crc, fq_err *e)
{
    FQI_TRY(check_magic(p->b, e));
    FQI_TRY(fqi_zip_open(p->b, &p->zip, e));
    FQI_TRY(find_folder(p, e));
    FQI_TRY(read_pickle(p, max_pickle, e));
    FQI_TRY(check_byteorder(p, e));
    FQI_TRY(bind_storages(p, e));
    FQI_TRY(find_state_dict(p, e));
    FQI_TRY(build_table(p, e));
    return check_crcs(p, check_crc, e);
}

fq_status fqi_torch_parse(const fqi_bytes *b, uint64_t max_pickle, bool check_crc, fqi_torch_table *out, fq_err *e)
{
    fqi_torch_table table = { 0 };
    parse p = { .b = b, .table = &table };
    fq_status s = load(&p, max_pickle, check_crc, e);
    fqi_zip_free(&p.zip);
    fqi_pickle_free(&p.pickle);
    free(p.key);
    free(p.entry);
    free(p.first_use);
    if (s == FQ_OK) *out = table;
    else fqi_torch_free(&table);
    return s;
}

void fqi_torch_free(fqi_torch_table *t)
{
    if (!t) return;
    fqi_arena_free(&t->arena);
    *t = (fqi_torch_table){ 0 };
}
