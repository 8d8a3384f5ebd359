/* vocab.c - the two large members of tokenizer.json: the vocabulary and the merges. See tokenizer.h.
 *
 * Read by the pull scanner, in place: no tree, and no table is larger than the text that fills it. Ids must be 0 .. n - 1, each of
 * them once: a hole would be an id that no text gives and no decoder knows, and the number of an id decides no allocation. */
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "format/json_scan.h"
#include "tokenizer/tokenizer.h"

/* ---- strings to ids ------------------------------------------------------------------------------------------------ */

bool fqi_strmap_init(fqi_strmap *m, size_t n)
{
    size_t size = 16;
    while (size < n * 2) size *= 2;
    m->slot = fqi_calloc(size, sizeof *m->slot);
    m->mask = size - 1;
    return m->slot != NULL;
}

static bool same(const fqi_token *t, bool bytes, const char *key, size_t n)
{
    return bytes ? t->n_bytes == n && memcmp(t->bytes, key, n) == 0 : t->n_text == n && memcmp(t->text, key, n) == 0;
}

static uint32_t *find_slot(const fqi_strmap *m, const fqi_token *token, bool bytes, const char *key, size_t n)
{
    size_t i = (size_t)XXH3_64bits(key, n) & m->mask;
    while (m->slot[i] != 0 && !same(&token[m->slot[i] - 1], bytes, key, n)) i = (i + 1) & m->mask;
    return &m->slot[i];
}

uint32_t fqi_strmap_find(const fqi_strmap *m, const fqi_token *token, bool bytes, const char *key, size_t n)
{
    return *find_slot(m, token, bytes, key, n) - 1;   /* 0 - 1 is FQI_NO_ID */
}

bool fqi_strmap_put(fqi_strmap *m, const fqi_token *token, bool bytes, uint32_t id)
{
    const fqi_token *t = &token[id];
    uint32_t *slot = bytes ? find_slot(m, token, true, t->bytes, t->n_bytes) : find_slot(m, token, false, t->text, t->n_text);
    if (*slot != 0) return false;
    *slot = id + 1;
    return true;
}

/* ---- vocabulary ---------------------------------------------------------------------------------------------------- */

typedef struct entry { const char *text; size_t n, at; uint64_t id; } entry;

static fq_status read_entries(fqi_json_scan *s, entry **list, size_t *n, fq_err *e)
{
    size_t cap = 0;
    FQI_TRY(fqi_json_next(s, e));   /* { */
    for (;;) {
        FQI_TRY(fqi_json_next(s, e));
        if (s->kind == FQI_JSON_OBJECT_END) return FQ_OK;
        entry it = { .text = s->str, .n = s->str_len, .at = s->begin };
        FQI_TRY(fqi_json_next(s, e));
        FQI_TRY(fqi_json_u63(s, "id of a token", &it.id, e));
        if (!fqi_grow((void **)list, &cap, *n + 1, sizeof it)) return fqi_fail_nomem(e, "vocabulary");
        (*list)[(*n)++] = it;
    }
}

/* Bytes of every token: of the same length as its text or shorter. */
static fq_status decode_token(fq_tokenizer *t, fqi_token *k, fq_err *e)
{
    size_t n = 0;
    char *bytes = fqi_arena_alloc(&t->arena, k->n_text > 0 ? k->n_text : 1);
    if (bytes == NULL) return fqi_fail_nomem(e, "vocabulary");
    k->mapped = fqi_alphabet_decode(k->text, k->n_text, bytes, &n);
    k->bytes = k->mapped ? bytes : k->text;
    k->n_bytes = k->mapped ? (uint32_t)n : k->n_text;
    return FQ_OK;
}

static fq_status place_entries(fq_tokenizer *t, const entry *list, size_t n, const char *file, fq_err *e)
{
    char name[FQI_NAME_MAX + 1], other[FQI_NAME_MAX + 1];
    for (size_t i = 0; i < n; i++) {
        const entry *it = &list[i];
        fqi_escape_n(name, it->text, it->n);
        if (it->id >= n)
            return fqi_fail(e, FQ_E_INPUT, FQI_AT(file, NULL, it->at), "vocab-id", "found id %llu of token \"%s\", expected an id below %zu, the number of tokens",
                            (unsigned long long)it->id, name, n);
        fqi_token *k = &t->token[it->id];
        if (k->text != NULL)
            return fqi_fail(e, FQ_E_INPUT, FQI_AT(file, NULL, it->at), "vocab-id", "found id %llu of token \"%s\", expected another than that of \"%s\"",
                            (unsigned long long)it->id, name, fqi_escape_n(other, k->text, k->n_text));
        *k = (fqi_token){ .text = it->text, .n_text = (uint32_t)it->n };
        FQI_TRY(decode_token(t, k, e));
        if (!fqi_strmap_put(&t->by_text, t->token, false, (uint32_t)it->id))
            return fqi_fail(e, FQ_E_INPUT, FQI_AT(file, NULL, it->at), "vocab-token", "found \"%s\" a second time, expected every token once", name);
    }
    return FQ_OK;
}

fq_status fqi_vocab_read(fq_tokenizer *t, size_t begin, size_t end, const char *file, fq_err *e)
{
    fqi_json_scan s;
    entry *list = NULL;
    size_t n = 0;
    fqi_json_init(&s, t->json + begin, end - begin, file, begin, false);
    fq_status st = read_entries(&s, &list, &n, e);
    for (size_t i = 0; i < n; i++) list[i].at += begin;
    if (st == FQ_OK && n == 0) st = fqi_fail(e, FQ_E_INPUT, FQI_AT(file, NULL, begin), "vocab-size", "found no token, expected a vocabulary");
    if (st == FQ_OK) {
        t->token = fqi_calloc(n, sizeof *t->token);
        t->info.n_model = t->info.n_vocab = n;
        if (t->token == NULL || !fqi_strmap_init(&t->by_text, n)) st = fqi_fail_nomem(e, "vocabulary");
    }
    if (st == FQ_OK) st = place_entries(t, list, n, file, e);
    free(list);
    return st;
}

/* ---- merges -------------------------------------------------------------------------------------------------------- */

typedef struct reader {
    fq_tokenizer *t;
    const char *file;
    size_t begin;        /* of the list in the file */
    fqi_str joined;
} reader;

static fq_status find_part(const reader *r, size_t at, const char *what, const char *text, size_t n, uint32_t *id, fq_err *e)
{
    char name[FQI_NAME_MAX + 1];
    *id = fqi_strmap_find(&r->t->by_text, r->t->token, false, text, n);
    if (*id != FQI_NO_ID) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_AT(r->file, NULL, r->begin + at), "merge", "found %s \"%s\", expected a token of the vocabulary", what,
                    fqi_escape_n(name, text, n));
}

static fq_status add_merge(reader *r, size_t at, const char *a, size_t n_a, const char *b, size_t n_b, fq_err *e)
{
    fqi_bpe *bpe = &r->t->bpe;
    fqi_merge m;
    FQI_TRY(find_part(r, at, "the part", a, n_a, &m.left, e));
    FQI_TRY(find_part(r, at, "the part", b, n_b, &m.right, e));
    r->joined.len = 0;
    fqi_str_add(&r->joined, a, n_a);
    fqi_str_add(&r->joined, b, n_b);
    if (r->joined.failed) return fqi_fail_nomem(e, "merges");
    FQI_TRY(find_part(r, at, "the result", r->joined.s, r->joined.len, &m.id, e));
    const fqi_token *k = r->t->token;
    r->t->info.n_merge++;
    /* Parts of other characters than the byte alphabet's never come up. An empty part (its token is "") neither. */
    if (!k[m.left].mapped || !k[m.right].mapped || n_a == 0 || n_b == 0) return FQ_OK;
    if (!fqi_grow((void **)&bpe->merge, &bpe->cap_merge, bpe->n_merge + 1, sizeof m)) return fqi_fail_nomem(e, "merges");
    bpe->merge[bpe->n_merge++] = m;
    return FQ_OK;
}

static fq_status not_two(const reader *r, const fqi_json_scan *s, fq_err *e)
{
    char found[FQI_NAME_MAX + 1];
    return fqi_fail(e, FQ_E_INPUT, FQI_AT(r->file, NULL, r->begin + s->begin), "merge", "found %s, expected two tokens",
                    fqi_json_describe(s, found));
}

/* "a b" */
static fq_status merge_string(reader *r, const fqi_json_scan *s, fq_err *e)
{
    const char *space = memchr(s->str, ' ', s->str_len);
    if (s->str_len >= 8 && memcmp(s->str, "#version", 8) == 0) return FQ_OK;   /* a line of merges.txt that was copied along */
    if (space == NULL) return not_two(r, s, e);
    size_t n_a = (size_t)(space - s->str), n_b = s->str_len - n_a - 1;
    if (n_a == 0 || n_b == 0 || memchr(space + 1, ' ', n_b) != NULL) return not_two(r, s, e);
    return add_merge(r, s->begin, s->str, n_a, space + 1, n_b, e);
}

/* ["a", "b"] */
static fq_status merge_pair(reader *r, fqi_json_scan *s, fq_err *e)
{
    size_t at = s->begin, n_a;
    FQI_TRY(fqi_json_next(s, e));
    if (s->kind != FQI_JSON_STRING) return not_two(r, s, e);
    const char *a = s->str;
    n_a = s->str_len;
    FQI_TRY(fqi_json_next(s, e));
    if (s->kind != FQI_JSON_STRING) return not_two(r, s, e);
    FQI_TRY(add_merge(r, at, a, n_a, s->str, s->str_len, e));
    FQI_TRY(fqi_json_next(s, e));
    return s->kind == FQI_JSON_ARRAY_END ? FQ_OK : not_two(r, s, e);
}

static fq_status read_merges(reader *r, fqi_json_scan *s, fq_err *e)
{
    FQI_TRY(fqi_json_next(s, e));   /* [ */
    for (;;) {
        FQI_TRY(fqi_json_next(s, e));
        if (s->kind == FQI_JSON_ARRAY_END) return FQ_OK;
        if (s->kind == FQI_JSON_STRING) FQI_TRY(merge_string(r, s, e));
        else if (s->kind == FQI_JSON_ARRAY) FQI_TRY(merge_pair(r, s, e));
        else return not_two(r, s, e);
    }
}

fq_status fqi_merges_read(fq_tokenizer *t, size_t begin, size_t end, const char *file, fq_err *e)
{
    reader r = { .t = t, .file = file, .begin = begin };
    fqi_json_scan s;
    fqi_json_init(&s, t->json + begin, end - begin, file, begin, false);
    fq_status st = read_merges(&r, &s, e);
    fqi_str_free(&r.joined);
    return st;
}
