/* load.c - tokenizer.json into memory. See tokenizer.h.
 *
 * Three passes: one over the whole text for its syntax and for where the vocabulary and the merges are; a tree of everything else
 * (those two are blanked out of a copy, so that positions stay true); and the two themselves, in place. Memory is a small multiple
 * of the file, whatever ids stand in it.
 *
 * "truncation" and "padding" are read over: they are settings of a training run, and whoever asks for the ids of a text wants
 * all of them. */
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "format/json_scan.h"
#include "format/json_tree.h"
#include "tokenizer/tokenizer.h"

/* ---- where the large members are ------------------------------------------------------------------------------------ */

typedef struct place { size_t begin, end; fqi_json_kind kind; } place;   /* end = 0: not there */

static bool key_is(const fqi_json_scan *s, const char *name)
{
    size_t n = strlen(name);
    return s->end - s->begin == n + 2 && memcmp(s->text + s->begin + 1, name, n) == 0;
}

static fq_status locate_model(fqi_json_scan *s, place *vocab, place *merges, fq_err *e)
{
    for (;;) {
        FQI_TRY(fqi_json_next(s, e));
        if (s->kind == FQI_JSON_OBJECT_END) return FQ_OK;
        place *p = key_is(s, "vocab") ? vocab : key_is(s, "merges") ? merges : NULL;
        FQI_TRY(fqi_json_next(s, e));
        size_t begin = s->begin;
        fqi_json_kind kind = s->kind;
        FQI_TRY(fqi_json_skip(s, e));
        if (p != NULL) *p = (place){ begin, s->end, kind };
    }
}

static fq_status locate(fq_tokenizer *t, size_t n, const char *file, place *vocab, place *merges, fq_err *e)
{
    fqi_json_scan s;
    char found[FQI_NAME_MAX + 1];
    fqi_json_init(&s, t->json, n, file, 0, true);
    FQI_TRY(fqi_json_next(&s, e));
    if (s.kind != FQI_JSON_OBJECT)
        return fqi_fail(e, FQ_E_INPUT, FQI_AT(file, NULL, s.begin), "tokenizer-file", "found %s, expected an object",
                        fqi_json_describe(&s, found));
    for (;;) {
        FQI_TRY(fqi_json_next(&s, e));
        if (s.kind == FQI_JSON_OBJECT_END) break;
        bool model = key_is(&s, "model");
        FQI_TRY(fqi_json_next(&s, e));
        if (model && s.kind == FQI_JSON_OBJECT) FQI_TRY(locate_model(&s, vocab, merges, e));
        else FQI_TRY(fqi_json_skip(&s, e));
    }
    return fqi_json_next(&s, e);   /* nothing but white space may follow */
}

/* A value of the same kind with nothing in it. */
static void blank(char *text, const place *p)
{
    if (p->end == 0 || (p->kind != FQI_JSON_OBJECT && p->kind != FQI_JSON_ARRAY)) return;
    memset(text + p->begin + 1, ' ', p->end - p->begin - 2);
}

static fq_status rest_of_file(const fq_tokenizer *t, size_t n, const char *file, const place *vocab, const place *merges, json_t **out,
                              fq_err *e)
{
    char *copy = malloc(n + 1);
    if (copy == NULL) return fqi_fail_nomem(e, file);
    memcpy(copy, t->json, n + 1);
    blank(copy, vocab);
    blank(copy, merges);
    fq_status s = fqi_json_parse(copy, n, file, out, e);
    free(copy);
    return s;
}

/* ---- the model ------------------------------------------------------------------------------------------------------ */

static fq_status must_be_off(const json_t *model, const char *key, const char *file, fq_err *e)
{
    const json_t *v = json_object_get(model, key);
    bool off = v == NULL || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0) || json_is_false(v) ||
               (json_is_number(v) && json_number_value(v) == 0);
    if (off) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "model-option", "found %s set, expected a model without it (not supported)", key);
}

static fq_status check_model(const json_t *root, const char *file, const json_t **out, fq_err *e)
{
    static const char *const off[] = { "dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback" };
    const json_t *model = json_object_get(root, "model");
    const char *version, *type;
    FQI_TRY(fqi_json_get_str(root, "version", "", file, &version, e));
    if (strcmp(version, "1.0") != 0)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "tokenizer-version", "found version \"%.32s\", expected \"1.0\"", version);
    if (!json_is_object(model)) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "tokenizer-file", "found no model, expected an object");
    FQI_TRY(fqi_json_get_str(model, "type", "BPE", file, &type, e));   /* files of 2019 do not say it */
    if (strcmp(type, "BPE") != 0) return fqi_tokenizer_unknown(file, "model", model, "BPE", e);
    for (size_t i = 0; i < sizeof off / sizeof off[0]; i++) FQI_TRY(must_be_off(model, off[i], file, e));
    *out = model;
    return FQ_OK;
}

/* Every byte must have a token, or there must be one for what is unknown: otherwise text would vanish. */
static fq_status find_bytes(fq_tokenizer *t, const json_t *model, const char *file, fq_err *e)
{
    const char *unk;
    fqi_bpe *b = &t->bpe;
    FQI_TRY(fqi_json_get_str(model, "unk_token", NULL, file, &unk, e));
    FQI_TRY(fqi_json_get_bool(model, "fuse_unk", false, file, &b->fuse_unk, e));
    b->unk_id = FQI_NO_ID;
    if (unk != NULL) {
        char name[FQI_NAME_MAX + 1];
        b->unk_id = fqi_strmap_find(&t->by_text, t->token, false, unk, strlen(unk));
        if (b->unk_id == FQI_NO_ID)
            return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "unk-token", "found \"%s\", expected a token of the vocabulary", fqi_escape(name, unk));
    }
    for (unsigned i = 0; i < 256; i++) b->byte_id[i] = FQI_BPE_NO_SYMBOL;
    for (size_t i = 0; i < t->info.n_model; i++)
        if (t->token[i].mapped && t->token[i].n_bytes == 1) b->byte_id[(unsigned char)t->token[i].bytes[0]] = (uint32_t)i;
    for (unsigned i = 0; i < 256; i++)
        if (b->byte_id[i] == FQI_BPE_NO_SYMBOL && unk == NULL)
            return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "byte-token", "found no token of byte 0x%02x, expected one of each (or an unk_token)", i);
    return FQ_OK;
}

static fq_status index_model(fq_tokenizer *t, const json_t *model, const char *file, fq_err *e)
{
    FQI_TRY(find_bytes(t, model, file, e));
    t->bpe.n_token = t->info.n_model;
    t->bpe.length = fqi_calloc(t->info.n_model, sizeof *t->bpe.length);
    if (t->bpe.length == NULL) return fqi_fail_nomem(e, "vocabulary");
    for (size_t i = 0; i < t->info.n_model; i++) t->bpe.length[i] = t->token[i].n_bytes;
    FQI_TRY(fqi_bpe_index(&t->bpe, e));
    FQI_TRY(fqi_json_get_bool(model, "ignore_merges", false, file, &t->ignore_merges, e));
    if (!t->ignore_merges) return FQ_OK;
    if (!fqi_strmap_init(&t->by_bytes, t->info.n_model)) return fqi_fail_nomem(e, "vocabulary");
    for (size_t i = 0; i < t->info.n_model; i++)
        if (t->token[i].mapped) fqi_strmap_put(&t->by_bytes, t->token, true, (uint32_t)i);
    return FQ_OK;
}

static fq_status read_model(fq_tokenizer *t, const json_t *root, const char *file, const place *vocab, const place *merges, fq_err *e)
{
    const json_t *model = NULL;
    FQI_TRY(check_model(root, file, &model, e));
    if (vocab->end == 0 || vocab->kind != FQI_JSON_OBJECT)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "tokenizer-file", "found no vocab in the model, expected an object");
    if (merges->end == 0 || merges->kind != FQI_JSON_ARRAY)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "tokenizer-file", "found no merges in the model, expected a list");
    FQI_TRY(fqi_vocab_read(t, vocab->begin, vocab->end, file, e));
    FQI_TRY(fqi_merges_read(t, merges->begin, merges->end, file, e));
    return index_model(t, model, file, e);
}

/* ---- the file ------------------------------------------------------------------------------------------------------- */

static fq_status build(fq_tokenizer *t, size_t n, const char *file, fq_err *e)
{
    place vocab = { 0 }, merges = { 0 };
    json_t *root = NULL;
    FQI_TRY(locate(t, n, file, &vocab, &merges, e));
    FQI_TRY(rest_of_file(t, n, file, &vocab, &merges, &root, e));
    fq_status s = read_model(t, root, file, &vocab, &merges, e);
    if (s == FQ_OK) s = fqi_tokenizer_normalizer(t, json_object_get(root, "normalizer"), file, e);
    if (s == FQ_OK) s = fqi_tokenizer_added(t, json_object_get(root, "added_tokens"), file, e);
    if (s == FQ_OK) s = fqi_tokenizer_pipeline(t, root, file, e);
    json_decref(root);
    return s;
}

fq_status fqi_tokenizer_parse(char *text, size_t n, const char *file, fq_tokenizer **out, fq_err *e)
{
    fq_tokenizer *t = fqi_calloc(1, sizeof *t);
    if (t == NULL) {
        free(text);
        return fqi_fail_nomem(e, "tokenizer");
    }
    t->json = text;
    fq_status s = build(t, n, file, e);
    if (s == FQ_OK) *out = t;
    else fq_tokenizer_close(t);
    return s;
}

fq_status fq_tokenizer_open(const char *path, fq_tokenizer **out, fq_err *e)
{
    char *inside = NULL, *text;
    size_t n;
    if (!path || !*path) return fqi_fail(e, FQ_E_USAGE, NULL, NULL, "no path given");
    if (fqi_path_is_dir(path)) {
        inside = fqi_path_join(path, "tokenizer.json");
        if (inside == NULL) return fqi_fail_nomem(e, path);
        path = inside;
    }
    fq_status s = fqi_file_slurp(path, FQI_TOKENIZER_MAX, &text, &n, e);
    if (s == FQ_OK) s = fqi_tokenizer_parse(text, n, path, out, e);
    free(inside);
    return s;
}

void fq_tokenizer_close(fq_tokenizer *t)
{
    if (t == NULL) return;
    fqi_arena_free(&t->arena);
    fqi_bpe_free(&t->bpe);
    fqi_added_free(&t->added[0]);
    fqi_added_free(&t->added[1]);
    fqi_pretok_free(&t->pretok);
    free(t->by_text.slot);
    free(t->by_bytes.slot);
    free(t->token);
    free(t->json);
    free(t);
}
