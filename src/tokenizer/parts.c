/* parts.c - added tokens, normalizer, pre-tokenizer, post-processor and decoder, from the tree. See tokenizer.h.
 *
 * A type or a setting that is not in these tables is refused by name: leaving out a stage would give other ids, silently.
 *
 * Ids of added tokens: the tokenizers library takes the vocabulary's id where the content is in it and numbers the others on from the
 * end of the vocabulary, whatever "id" says. Here what the file says must be what comes out: a file where the two differ gives
 * other ids in every program that believes it. */
#include <string.h>

#include "format/json_tree.h"
#include "tokenizer/tokenizer.h"

fq_status fqi_tokenizer_unknown(const char *file, const char *what, const json_t *found, const char *expected, fq_err *e)
{
    char name[FQI_NAME_MAX + 1];
    const char *type = json_string_value(json_object_get(found, "type"));
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), what, "found %s%s%s, expected %s", type != NULL ? "\"" : "",
                    type != NULL ? fqi_escape(name, type) : json_is_object(found) ? "no type" : "no object", type != NULL ? "\"" : "", expected);
}

static bool is_type(const json_t *v, const char *name)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    return type != NULL && strcmp(type, name) == 0;
}

/* ---- added tokens --------------------------------------------------------------------------------------------------- */

static fq_status read_added(const json_t *v, size_t i, const char *file, fqi_added_token *a, int64_t *id, fq_err *e)
{
    static const struct { const char *key; size_t offset; } flag[] = {
        { "single_word", offsetof(fqi_added_token, single_word) }, { "lstrip", offsetof(fqi_added_token, lstrip) },
        { "rstrip", offsetof(fqi_added_token, rstrip) }, { "normalized", offsetof(fqi_added_token, normalized) },
        { "special", offsetof(fqi_added_token, special) },
    };
    const char *content;
    if (!json_is_object(v))
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "added-token", "found entry %zu that is no object, expected one", i);
    FQI_TRY(fqi_json_get_str(v, "content", NULL, file, &content, e));
    FQI_TRY(fqi_json_get_int(v, &(fqi_json_int){ .key = "id", .min = 0, .max = INT32_MAX }, file, id, e));
    if (content == NULL || *content == '\0')
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "added-token", "found no content of entry %zu, expected a text", i);
    a->content = content;
    a->n_content = strlen(content);
    if (a->n_content > FQI_ADDED_MAX)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "added-token", "found a content of %zu bytes of entry %zu, expected at most %d", a->n_content, i,
                        FQI_ADDED_MAX);
    a->normalized = true;   /* what the library takes it for when a file does not say, unless it is special */
    bool special = json_is_true(json_object_get(v, "special"));
    for (size_t k = 0; k < sizeof flag / sizeof flag[0]; k++) {
        bool *at = (bool *)((char *)a + flag[k].offset);
        FQI_TRY(fqi_json_get_bool(v, flag[k].key, strcmp(flag[k].key, "normalized") == 0 && !special, file, at, e));
    }
    return FQ_OK;
}

/* Puts the content into the trie of its class. */
static fq_status insert_added(fq_tokenizer *t, uint32_t i, const char *file, fq_err *e)
{
    const fqi_added_token *a = &t->added_token[i];
    char *made = NULL, name[FQI_NAME_MAX + 1];
    size_t n = a->n_content;
    bool fresh = false;
    if (a->normalized && t->info.nfc) FQI_TRY(fqi_nfc(a->content, a->n_content, &made, &n, e));
    fq_status s = fqi_added_insert(&t->added[a->normalized], made != NULL ? made : a->content, made != NULL ? n : a->n_content, i, &fresh, e);
    fq_free(made);
    if (s != FQ_OK || fresh) return s;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "added-token", "found \"%s\" a second time, expected every content once",
                    fqi_escape(name, a->content));
}

static fq_status give_id(fq_tokenizer *t, fqi_added_token *a, int64_t written, const char *file, fq_err *e)
{
    char name[FQI_NAME_MAX + 1];
    uint32_t known = fqi_strmap_find(&t->by_text, t->token, false, a->content, a->n_content);
    a->id = known != FQI_NO_ID ? known : (uint32_t)t->info.n_vocab;
    if (known != FQI_NO_ID && t->token[known].added)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "added-token", "found \"%s\" a second time, expected every content once",
                        fqi_escape(name, a->content));
    if (written != (int64_t)a->id)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "added-token-id", "found id %lld of \"%s\", expected %u, %s", (long long)written,
                        fqi_escape(name, a->content), a->id, known != FQI_NO_ID ? "that of the vocabulary" : "the next one");
    t->token[a->id] = (fqi_token){ .text = a->content, .bytes = a->content, .n_text = (uint32_t)a->n_content,
                                   .n_bytes = (uint32_t)a->n_content, .added = true, .special = a->special };
    if (known != FQI_NO_ID) return FQ_OK;
    fqi_strmap_put(&t->by_text, t->token, false, a->id);
    t->info.n_vocab++;
    return FQ_OK;
}

/* Tables with room for the added ones. */
static fq_status make_room(fq_tokenizer *t, size_t n, fq_err *e)
{
    size_t cap = t->info.n_vocab, all = t->info.n_vocab + n;
    void *table = t->token;
    t->added_token = fqi_arena_alloc(&t->arena, n * sizeof *t->added_token);
    if (t->added_token == NULL || !fqi_grow(&table, &cap, all, sizeof *t->token)) return fqi_fail_nomem(e, "added tokens");
    t->token = table;
    t->added[0].token = t->added[1].token = t->added_token;
    fqi_strmap larger = { 0 };
    if (!fqi_strmap_init(&larger, all)) return fqi_fail_nomem(e, "added tokens");
    for (size_t i = 0; i < t->info.n_vocab; i++) fqi_strmap_put(&larger, t->token, false, (uint32_t)i);
    fq_free(t->by_text.slot);
    t->by_text = larger;
    return FQ_OK;
}

fq_status fqi_tokenizer_added(fq_tokenizer *t, const json_t *list, const char *file, fq_err *e)
{
    size_t n = json_array_size(list);
    if (list == NULL || json_is_null(list)) return FQ_OK;
    if (!json_is_array(list)) return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "added-token", "found no list of added_tokens, expected one");
    if (n == 0) return FQ_OK;
    FQI_TRY(make_room(t, n, e));
    for (size_t i = 0; i < n; i++) {
        fqi_added_token *a = &t->added_token[i];
        int64_t written = 0;
        FQI_TRY(read_added(json_array_get(list, i), i, file, a, &written, e));
        a->content = fqi_arena_strndup(&t->arena, a->content, a->n_content);
        if (a->content == NULL) return fqi_fail_nomem(e, "added tokens");
        FQI_TRY(give_id(t, a, written, file, e));
        FQI_TRY(insert_added(t, (uint32_t)i, file, e));
        t->info.n_added++;
    }
    return FQ_OK;
}

/* ---- normalizer ----------------------------------------------------------------------------------------------------- */

fq_status fqi_tokenizer_normalizer(fq_tokenizer *t, const json_t *v, const char *file, fq_err *e)
{
    if (v == NULL || json_is_null(v)) return FQ_OK;
    if (is_type(v, "NFC")) {
        t->info.nfc = true;
        return FQ_OK;
    }
    if (!is_type(v, "Sequence")) return fqi_tokenizer_unknown(file, "normalizer", v, "NFC, a Sequence of it, or null", e);
    const json_t *list = json_object_get(v, "normalizers");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        if (!is_type(one, "NFC")) return fqi_tokenizer_unknown(file, "normalizer", one, "NFC, a Sequence of it, or null", e);
        t->info.nfc = true;
    }
    return FQ_OK;
}

/* ---- pre-tokenizer -------------------------------------------------------------------------------------------------- */

/* What ByteLevel cuts by when it is asked to: GPT-2's pattern. */
static const char byte_level_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
static const char pretok_known[] = "ByteLevel, Split, Digits, Punctuation, or a Sequence that ends in ByteLevel";

static fq_status add_split(fq_tokenizer *t, const char *pattern, size_t n, bool literal, fqi_stage stage, const char *file, fq_err *e)
{
    FQI_TRY(fqi_regex_compile(pattern, n, literal, file, &stage.code, e));
    return fqi_pretok_add(&t->pretok, stage, file, e);
}

static fq_status behavior(const json_t *v, const char *def, const char *file, fqi_split *out, fq_err *e)
{
    static const char *const name[] = { "Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext" };
    const char *found;
    char shown[FQI_NAME_MAX + 1];
    FQI_TRY(fqi_json_get_str(v, "behavior", def, file, &found, e));
    for (size_t i = 0; found != NULL && i < sizeof name / sizeof name[0]; i++) {
        if (strcmp(found, name[i]) != 0) continue;
        *out = (fqi_split)i;   /* in the order of the enum */
        return FQ_OK;
    }
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "pre-tokenizer", "found behavior \"%s\", expected Isolated, Removed, Contiguous, "
                    "MergedWithPrevious or MergedWithNext", found != NULL ? fqi_escape(shown, found) : "");
}

static fq_status read_split(fq_tokenizer *t, const json_t *v, const char *file, fq_err *e)
{
    const json_t *pattern = json_object_get(v, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"), *text = json_object_get(pattern, "String");
    const json_t *found = regex != NULL ? regex : text;
    fqi_stage stage = { 0 };
    if (!json_is_string(found))
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "pre-tokenizer", "found a Split without a pattern, expected a Regex or a String");
    FQI_TRY(behavior(v, NULL, file, &stage.split, e));
    FQI_TRY(fqi_json_get_bool(v, "invert", false, file, &stage.invert, e));
    return add_split(t, json_string_value(found), json_string_length(found), regex == NULL, stage, file, e);
}

static fq_status read_byte_level(fq_tokenizer *t, const json_t *v, const char *file, fq_err *e)
{
    bool space, regex;
    FQI_TRY(fqi_json_get_bool(v, "add_prefix_space", true, file, &space, e));
    FQI_TRY(fqi_json_get_bool(v, "use_regex", true, file, &regex, e));
    if (space) FQI_TRY(fqi_pretok_add(&t->pretok, (fqi_stage){ .code = NULL }, file, e));
    if (!regex) return FQ_OK;
    return add_split(t, byte_level_pattern, sizeof byte_level_pattern - 1, false, (fqi_stage){ .split = FQI_SPLIT_ISOLATED }, file, e);
}

static fq_status read_stage(fq_tokenizer *t, const json_t *v, const char *file, bool *byte_level, fq_err *e)
{
    static const char digits[] = "\\p{N}", punctuation[] = "[\\p{P}\\x21-\\x2f\\x3a-\\x40\\x5b-\\x60\\x7b-\\x7e]";
    fqi_stage stage = { .split = FQI_SPLIT_ISOLATED };
    *byte_level = is_type(v, "ByteLevel");
    if (*byte_level) return read_byte_level(t, v, file, e);
    if (is_type(v, "Split")) return read_split(t, v, file, e);
    if (is_type(v, "Digits")) {
        bool each;
        FQI_TRY(fqi_json_get_bool(v, "individual_digits", false, file, &each, e));
        if (!each) stage.split = FQI_SPLIT_CONTIGUOUS;
        return add_split(t, digits, sizeof digits - 1, false, stage, file, e);
    }
    if (is_type(v, "Punctuation")) {
        FQI_TRY(behavior(v, "Isolated", file, &stage.split, e));
        return add_split(t, punctuation, sizeof punctuation - 1, false, stage, file, e);
    }
    return fqi_tokenizer_unknown(file, "pre-tokenizer", v, pretok_known, e);
}

/* ByteLevel turns text into the byte alphabet: it must be there, and nothing can follow it. */
static fq_status read_pretok(fq_tokenizer *t, const json_t *v, const char *file, fq_err *e)
{
    const json_t *list = is_type(v, "Sequence") ? json_object_get(v, "pretokenizers") : NULL;
    size_t n = list != NULL ? json_array_size(list) : 1;
    bool byte_level = false;
    if (!json_is_object(v)) return fqi_tokenizer_unknown(file, "pre-tokenizer", v, pretok_known, e);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = list != NULL ? json_array_get(list, i) : v;
        if (byte_level) return fqi_tokenizer_unknown(file, "pre-tokenizer", one, "nothing behind ByteLevel", e);
        FQI_TRY(read_stage(t, one, file, &byte_level, e));
    }
    if (byte_level) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "pre-tokenizer", "found no ByteLevel, expected it at the end (only byte-level BPE is supported)");
}

/* ---- post-processor ------------------------------------------------------------------------------------------------- */

static fq_status template_ids(const fq_tokenizer *t, const json_t *table, const json_t *token, const char *file, fqi_ids *out, fq_err *e)
{
    char name[FQI_NAME_MAX + 1];
    const char *id = json_string_value(json_object_get(token, "id"));
    const json_t *ids = id != NULL ? json_object_get(json_object_get(table, id), "ids") : NULL;
    if (!json_is_array(ids))
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "post-processor", "found no ids of special token \"%s\", expected a list",
                        id != NULL ? fqi_escape(name, id) : "");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *v = json_array_get(ids, i);
        json_int_t k = json_is_integer(v) ? json_integer_value(v) : -1;
        if (k < 0 || (uint64_t)k >= t->info.n_vocab)
            return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "post-processor", "found id %lld of special token \"%s\", expected an id below %zu",
                            (long long)k, fqi_escape(name, id), t->info.n_vocab);
        if (!fqi_ids_add(out, (uint32_t)k)) return fqi_fail_nomem(e, "post-processor");
    }
    return FQ_OK;
}

/* "single": special tokens, one Sequence A, special tokens. */
static fq_status read_template(const fq_tokenizer *t, const json_t *v, const char *file, fqi_ids side[2], fq_err *e)
{
    const json_t *single = json_object_get(v, "single"), *table = json_object_get(v, "special_tokens");
    size_t n_text = 0;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *one = json_array_get(single, i);
        const json_t *token = json_object_get(one, "SpecialToken"), *text = json_object_get(one, "Sequence");
        const char *which = json_string_value(json_object_get(text, "id"));
        if (token != NULL) FQI_TRY(template_ids(t, table, token, file, &side[n_text > 0], e));
        else if (which != NULL && strcmp(which, "A") == 0) n_text++;
        else return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "post-processor", "found an unknown entry in a template, expected SpecialToken or Sequence A");
    }
    if (n_text == 1) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, FQI_FILE(file), "post-processor", "found a template with the text %zu times, expected it once", n_text);
}

/* The ids of one more template go outside of those that are there. */
static fq_status wrap(fq_tokenizer *t, const fqi_ids side[2], fq_err *e)
{
    fq_tokenizer_info *in = &t->info;
    uint32_t *prefix = fqi_arena_alloc(&t->arena, (side[0].n + in->n_prefix + 1) * sizeof *prefix);
    uint32_t *suffix = fqi_arena_alloc(&t->arena, (side[1].n + in->n_suffix + 1) * sizeof *suffix);
    if (prefix == NULL || suffix == NULL) return fqi_fail_nomem(e, "post-processor");
    for (size_t i = 0; i < side[0].n; i++) prefix[i] = side[0].v[i];
    for (size_t i = 0; i < in->n_prefix; i++) prefix[side[0].n + i] = in->prefix[i];
    for (size_t i = 0; i < in->n_suffix; i++) suffix[i] = in->suffix[i];
    for (size_t i = 0; i < side[1].n; i++) suffix[in->n_suffix + i] = side[1].v[i];
    in->prefix = prefix;
    in->suffix = suffix;
    in->n_prefix += side[0].n;
    in->n_suffix += side[1].n;
    return FQ_OK;
}

static fq_status read_post(fq_tokenizer *t, const json_t *v, const char *file, fq_err *e)
{
    if (is_type(v, "ByteLevel")) return FQ_OK;   /* only moves offsets */
    if (!is_type(v, "TemplateProcessing"))
        return fqi_tokenizer_unknown(file, "post-processor", v, "ByteLevel, TemplateProcessing, a Sequence of them, or null", e);
    fqi_ids side[2] = { { 0 }, { 0 } };
    fq_status s = read_template(t, v, file, side, e);
    if (s == FQ_OK) s = wrap(t, side, e);
    fq_free(side[0].v);
    fq_free(side[1].v);
    return s;
}

static fq_status read_posts(fq_tokenizer *t, const json_t *v, const char *file, fq_err *e)
{
    if (v == NULL || json_is_null(v)) return FQ_OK;
    if (!is_type(v, "Sequence")) return read_post(t, v, file, e);
    const json_t *list = json_object_get(v, "processors");
    for (size_t i = 0; i < json_array_size(list); i++) FQI_TRY(read_post(t, json_array_get(list, i), file, e));
    return FQ_OK;
}

/* ---- decoder -------------------------------------------------------------------------------------------------------- */

static fq_status check_decoder(const json_t *v, const char *file, fq_err *e)
{
    static const char known[] = "ByteLevel, a Sequence of it, or null";
    if (v == NULL || json_is_null(v) || is_type(v, "ByteLevel")) return FQ_OK;
    if (!is_type(v, "Sequence")) return fqi_tokenizer_unknown(file, "decoder", v, known, e);
    const json_t *list = json_object_get(v, "decoders");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!is_type(json_array_get(list, i), "ByteLevel")) return fqi_tokenizer_unknown(file, "decoder", json_array_get(list, i), known, e);
    return FQ_OK;
}

fq_status fqi_tokenizer_pipeline(fq_tokenizer *t, const json_t *root, const char *file, fq_err *e)
{
    FQI_TRY(read_pretok(t, json_object_get(root, "pre_tokenizer"), file, e));
    FQI_TRY(read_posts(t, json_object_get(root, "post_processor"), file, e));
    return check_decoder(json_object_get(root, "decoder"), file, e);
}
