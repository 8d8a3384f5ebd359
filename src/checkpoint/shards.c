/* shards.c - reading the header of every file into one table of tensors, and that table against the index.
 *
 * A damaged file does not stop the others: its error becomes a finding and its tensors are missing. Only what says nothing about the
 * checkpoint (no memory, a disk that fails, no permission) ends the call. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "checkpoint/opening.h"

#define MAX_PICKLE ((uint64_t)FQI_ST_MAX_HEADER)

typedef struct reading {
    fqi_opening *o;
    size_t cap_tensor, cap_shard;
    uint64_t header_bytes;      /* of all files so far */
} reading;

void fqi_tables_free(fqi_ckpt_tables *t)
{
    if (t == NULL) return;
    for (size_t i = 0; i < t->n; i++) {
        fqi_st_free(&t->table[i].st);
        fqi_torch_free(&t->table[i].torch);
        free(t->table[i].text);
    }
    free(t->table);
    free(t);
}

/* ---- one file ------------------------------------------------------------------------------------------------------ */

static fq_status append(reading *r, fqi_tensor *tensor, size_t n, fq_err *e)
{
    fq_ckpt *c = r->o->c;
    if (!fqi_grow((void **)&c->tensor, &r->cap_tensor, c->n_tensor + n, sizeof *c->tensor)) return fqi_fail_nomem(e, "table of tensors");
    for (size_t i = 0; i < n; i++) {
        c->tensor[c->n_tensor + i] = tensor[i];
        c->tensor[c->n_tensor + i].shard = (uint32_t)c->n_shard;
    }
    c->n_tensor += n;
    return FQ_OK;
}

/* A table of millions is handed over, not copied, when it is the only one. */
static fq_status take_tensors(reading *r, fqi_st_header *st, fq_err *e)
{
    fq_ckpt *c = r->o->c;
    if (r->o->n_file != 1) {
        FQI_TRY(append(r, st->tensor, st->n_tensor, e));
        free(st->tensor);
    } else {
        c->tensor = st->tensor;
        c->n_tensor = r->cap_tensor = st->n_tensor;
        for (size_t i = 0; i < c->n_tensor; i++) c->tensor[i].shard = 0;
    }
    st->tensor = NULL;
    return FQ_OK;
}

static fq_status read_safetensors(reading *r, const fqi_file *f, fqi_shard *s, fqi_ckpt_table *t, fq_err *e)
{
    unsigned char first8[8] = { 0 };
    uint64_t n;
    FQI_TRY(fqi_file_read(f, first8, f->bytes < 8 ? (size_t)f->bytes : 8, 0, e));
    FQI_TRY(fqi_st_length(first8, f->bytes, f->path, &n, e));
    if (n > FQI_CKPT_MAX_HEADERS - r->header_bytes)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(f->path), "headers-total", "found more than %llu bytes of headers in all files", (unsigned long long)FQI_CKPT_MAX_HEADERS);
    r->header_bytes += n;
    t->text = malloc((size_t)n + 1);
    if (!t->text) return fqi_fail_nomem(e, "header");
    FQI_TRY(fqi_file_read(f, t->text, (size_t)n, 8, e));
    s->header_hash = XXH3_64bits(t->text, (size_t)n);
    FQI_TRY(fqi_st_parse(t->text, (size_t)n, f->bytes, f->path, &t->st, e));
    if (n % 8 != 0)
        FQI_FIND(r->o->find, FQ_NOTE, FQI_FILE(f->path), "header-alignment", "found %llu header bytes, expected a multiple of 8 (readers that map the file copy more)", (unsigned long long)n);
    return take_tensors(r, &t->st, e);
}

static fq_status read_at(void *user, void *buf, size_t n, uint64_t off, fq_err *e) { return fqi_file_read(user, buf, n, off, e); }

static uint64_t hash_descriptors(const fqi_tensor *t, size_t n)
{
    uint64_t h = n;
    for (size_t i = 0; i < n; i++) {
        uint64_t place[4] = { h, t[i].off, t[i].bytes, (uint64_t)t[i].dtype << 8 | t[i].rank };
        h = XXH3_64bits_withSeed(place, sizeof place, XXH3_64bits(t[i].name, strlen(t[i].name)));
        if (t[i].rank > 0) h = XXH3_64bits_withSeed(t[i].shape, t[i].rank * sizeof *t[i].shape, h);
        if (t[i].stride) h = XXH3_64bits_withSeed(t[i].stride, t[i].rank * sizeof *t[i].stride, h);
    }
    return h;
}

static fq_status read_torch(reading *r, fqi_file *f, fqi_shard *s, fqi_ckpt_table *t, fq_err *e)
{
    fqi_bytes bytes = { .user = f, .n = f->bytes, .file = f->path, .read = read_at };
    FQI_TRY(fqi_torch_parse(&bytes, MAX_PICKLE, false, &t->torch, e));
    s->header_hash = hash_descriptors(t->torch.tensor, t->torch.n_tensor);
    if (t->torch.crc_unchecked)
        FQI_FIND(r->o->find, FQ_NOTE, FQI_FILE(f->path), "crc-unchecked", "found entries without a CRC: a flipped bit in them cannot be seen");
    char shown[FQI_NAME_MAX + 1];
    if (t->torch.wrapper && *t->torch.wrapper)
        FQI_FIND(r->o->find, FQ_NOTE, FQI_FILE(f->path), "state-dict-level", "found the tensors under the key %s, expected them at the top: that level is left out",
                 fqi_escape(shown, t->torch.wrapper));
    return append(r, t->torch.tensor, t->torch.n_tensor, e);
}

static fq_status read_file(reading *r, fqi_file *f, fqi_shard *s, fq_err *e)
{
    fqi_ckpt_tables *tables = r->o->c->priv;
    if (!fqi_grow((void **)&tables->table, &tables->cap, tables->n + 1, sizeof *tables->table)) return fqi_fail_nomem(e, "tables of the files");
    fqi_ckpt_table *t = &tables->table[tables->n++];
    *t = (fqi_ckpt_table){ 0 };
    return s->torch ? read_torch(r, f, s, t, e) : read_safetensors(r, f, s, t, e);
}

/* ---- may it be opened, and is it there ------------------------------------------------------------------------------ */

/* Not *may: refused, and a finding says why. Nothing is opened here. */
static fq_status may_open(fqi_opening *o, const char *name, const char *path, bool *may, fq_err *e)
{
    *may = false;
    char shown[FQI_NAME_MAX + 1];
    const char *where = o->has_index ? o->index_path : path;
    if (!fqi_name_is_plain(name)) {
        FQI_FIND(o->find, FQ_ERROR, FQI_FILE(where), "shard-name", "found \"%s\", expected the name of a file in the folder", fqi_escape(shown, name));
        return FQ_OK;
    }
    size_t n = strlen(name);
    bool st = n > 12 && strcmp(name + n - 12, ".safetensors") == 0;
    if (!st && !fqi_is_torch_name(name)) {
        FQI_FIND(o->find, FQ_ERROR, FQI_FILE(where), "shard-name", "found \"%s\", expected a name ending in .safetensors or .bin", fqi_escape(shown, name));
        return FQ_OK;
    }
    *may = o->single;   /* the user named it, links and all */
    if (*may) return FQ_OK;
    if (!fqi_path_exists(path)) {
        FQI_FIND(o->find, FQ_ERROR, FQI_FILE(where), "shard-missing", "found no %s in the folder, expected the file", fqi_escape(shown, name));
        return FQ_OK;
    }
    FQI_TRY(fqi_source_allows(o->c->dir, path, may, e));
    if (!*may)
        FQI_FIND(o->find, FQ_ERROR, FQI_FILE(path), "link-leaves-folder", "found a link to nothing or to something outside, expected a file in the folder");
    return FQ_OK;
}

/* FQ_E_INPUT: it is damaged, or it is no regular file. */
static fq_status open_and_read(reading *r, fqi_shard *s, fq_err *e)
{
    fqi_file f = FQI_FILE_NONE;
    fq_status status = fqi_file_open(&f, s->path, FQ_IO_BUFFERED, e);
    if (status != FQ_OK) return status;
    s->bytes = f.bytes;
    s->mtime_ns = f.mtime_ns;
    status = read_file(r, &f, s, e);
    fqi_file_close(&f);
    return status;
}

static fq_status read_one(reading *r, size_t k, fq_err *e)
{
    fqi_opening *o = r->o;
    fq_ckpt *c = o->c;
    fqi_shard s = { .name = fqi_arena_strdup(&c->arena, o->file[k]), .torch = fqi_is_torch_name(o->file[k]) };
    s.path = o->single ? fqi_arena_strdup(&c->arena, o->path) : fqi_arena_printf(&c->arena, "%s/%s", c->dir, o->file[k]);
    if (!s.name || !s.path || !fqi_grow((void **)&c->shard, &r->cap_shard, c->n_shard + 1, sizeof *c->shard)) return fqi_fail_nomem(e, "list of files");
    bool may;
    FQI_TRY(may_open(o, s.name, s.path, &may, e));
    if (!may) return FQ_OK;
    fq_err why;
    fq_status status = open_and_read(r, &s, &why);
    if (status == FQ_E_INPUT) {
        fqi_finding_from(o->find, FQ_ERROR, &why);
    } else if (status != FQ_OK) {
        if (e) *e = why;
        return status;
    } else {
        o->shard_of_file[k] = c->n_shard;
    }
    c->shard[c->n_shard++] = s;
    return FQ_OK;
}

/* ---- the table against the index -------------------------------------------------------------------------------------- */

static int by_name_then_shard(const void *a, const void *b)
{
    const fqi_tensor *x = a, *y = b;
    int c = strcmp(x->name, y->name);
    return c != 0 ? c : (x->shard > y->shard) - (x->shard < y->shard);
}

static void say_two(fqi_opening *o, const fqi_tensor *t, size_t n)
{
    char a[FQI_NAME_MAX + 1], b[FQI_NAME_MAX + 1];
    const fqi_shard *s = o->c->shard;
    FQI_FIND(o->find, FQ_ERROR, FQI_TENSOR(o->has_index ? o->index_path : o->c->dir, t->name), "tensor-in-two-files",
             "found it in %s and %s (%zu in all), expected one", fqi_escape(a, s[t[0].shard].name), fqi_escape(b, s[t[1].shard].name), n);
}

/* The index names `entry`; t[0..n) hold it, none or several. Returns which one counts. */
static size_t judge_entry(fqi_opening *o, const fqi_index_entry *entry, const fqi_tensor *t, size_t n)
{
    char a[FQI_NAME_MAX + 1], b[FQI_NAME_MAX + 1];
    size_t want = o->shard_of_file[entry->at];
    if (n == 0) {
        if (want != SIZE_MAX)   /* a file that cannot be read has been reported already */
            FQI_FIND(o->find, FQ_ERROR, FQI_TENSOR(o->index_path, entry->name), "tensor-in-no-file", "found it in no file, expected it in %s", fqi_escape(a, entry->file));
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        if (t[i].shard == want) return i;
    }
    FQI_FIND(o->find, FQ_ERROR, FQI_TENSOR(o->index_path, entry->name), "tensor-in-wrong-file", "found it in %s, expected it in %s",
             fqi_escape(a, o->c->shard[t[0].shard].name), fqi_escape(b, entry->file));
    return 0;
}

/* Walks table and index side by side, both in name order, and keeps one tensor per name. */
static void settle(fqi_opening *o)
{
    fq_ckpt *c = o->c;
    size_t kept = 0, i = 0, j = 0, n_entry = o->has_index ? o->index.n_entry : 0;
    while (i < c->n_tensor || j < n_entry) {
        int order = i == c->n_tensor ? 1 : j == n_entry ? -1 : strcmp(c->tensor[i].name, o->index.entry[j].name);
        if (order > 0) {
            judge_entry(o, &o->index.entry[j++], NULL, 0);
            continue;
        }
        size_t end = i + 1;
        while (end < c->n_tensor && strcmp(c->tensor[end].name, c->tensor[i].name) == 0) end++;
        if (end - i > 1) say_two(o, &c->tensor[i], end - i);
        size_t choice = 0;
        if (order == 0)
            choice = judge_entry(o, &o->index.entry[j++], &c->tensor[i], end - i);
        else if (o->has_index)
            FQI_FIND(o->find, FQ_WARNING, FQI_TENSOR(c->shard[c->tensor[i].shard].path, c->tensor[i].name), "tensor-not-in-index", "found no entry in the index, expected one");
        fqi_tensor chosen = c->tensor[i + choice];
        c->tensor[kept++] = chosen;
        i = end;
    }
    c->n_tensor = kept;
}

/* Sorting the records themselves moves 56 bytes and follows two names at each step; a header may legally hold millions. So the
 * first bytes of each name and an index are sorted, and the records are put in their places once. */
typedef struct sort_key { uint64_t head; uint32_t i; } sort_key;

static int by_head(const void *a, const void *b, void *tensors)
{
    const sort_key *x = a, *y = b;
    const fqi_tensor *t = tensors;
    if (x->head != y->head) return x->head < y->head ? -1 : 1;
    return by_name_then_shard(&t[x->i], &t[y->i]);
}

/* The bytes at `from` of a name, as a number that orders like them. */
static uint64_t head_of(const char *name, size_t from)
{
    uint64_t head = 0;
    size_t n = strnlen(name, from);
    for (size_t i = 0; i < 8; i++) {
        unsigned char c = n == from ? (unsigned char)name[from + i] : 0;
        head = head << 8 | c;
        if (c == 0) return head << 8 * (7 - i);
    }
    return head;
}

/* How many first bytes all names share: "model.layers." would make every head equal. */
static size_t common_prefix(const fqi_tensor *t, size_t n)
{
    size_t k = strlen(t[0].name);
    for (size_t i = 1; i < n; i++) {
        size_t same = 0;
        while (same < k && t[i].name[same] == t[0].name[same]) same++;
        k = same;
    }
    return k;
}

/* key[k].i is the record that belongs at k: follow each cycle once. */
static void permute(fqi_tensor *t, sort_key *key, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        if (key[k].i == k) continue;
        fqi_tensor first = t[k];
        size_t at = k;
        while (key[at].i != k) {
            size_t from = key[at].i;
            t[at] = t[from];
            key[at].i = (uint32_t)at;
            at = from;
        }
        t[at] = first;
        key[at].i = (uint32_t)at;
    }
}

static fq_status sort_tensors(fqi_tensor *t, size_t n, fq_err *e)
{
    bool sorted = true;
    for (size_t i = 1; i < n && sorted; i++) sorted = by_name_then_shard(&t[i - 1], &t[i]) <= 0;
    if (sorted) return FQ_OK;
    sort_key *key = n <= UINT32_MAX ? fqi_calloc(n, sizeof *key) : NULL;
    if (!key) return fqi_fail_nomem(e, "tensor table");
    size_t from = common_prefix(t, n);
    for (size_t i = 0; i < n; i++) key[i] = (sort_key){ .head = head_of(t[i].name, from), .i = (uint32_t)i };
    qsort_r(key, n, sizeof *key, by_head, t);
    permute(t, key, n);
    free(key);
    return FQ_OK;
}

fq_status fqi_shards_read(fqi_opening *o, fq_err *e)
{
    reading r = { .o = o };
    o->shard_of_file = fqi_calloc(o->n_file, sizeof *o->shard_of_file);
    if (!o->shard_of_file) return fqi_fail_nomem(e, "list of files");
    for (size_t k = 0; k < o->n_file; k++) {
        o->shard_of_file[k] = SIZE_MAX;
        FQI_TRY(read_one(&r, k, e));
    }
    FQI_TRY(sort_tensors(o->c->tensor, o->c->n_tensor, e));
    if (!o->apart) settle(o);
    return FQ_OK;
}
