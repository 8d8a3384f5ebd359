/* test_tokenizer.c - ids against published ones, with real tokenizers; and the rules of each stage on small files made here. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/fs.h"
#include "support.h"
#include "tokenizer/tokenizer.h"

static char *slurp(const char *base, const char *name, size_t *n)
{
    char path[4096], *text;
    fq_err e;
    snprintf(path, sizeof path, "%s/%s", base, name);
    if (fqi_file_slurp(path, UINT64_C(1) << 30, &text, n, &e) != FQ_OK) fail_msg("%s", e.text);
    return text;
}

static fq_tokenizer *open_at(const char *base, const char *name)
{
    char path[4096];
    fq_tokenizer *t = NULL;
    fq_err e;
    snprintf(path, sizeof path, "%s/%s", base, name);
    if (fq_tokenizer_open(path, &t, &e) != FQ_OK) fail_msg("%s", e.text);
    return t;
}

/* ---- comparing -------------------------------------------------------------------------------------------------------- */

static void print_ids(const char *what, const uint32_t *ids, size_t n)
{
    fprintf(stderr, "  %s:", what);
    for (size_t i = 0; i < n && i < 60; i++) fprintf(stderr, " %u", ids[i]);
    fprintf(stderr, "\n");
}

/* Ids as wanted, and back to the text (or to what NFC makes of it). */
static bool gives(const fq_tokenizer *t, const char *text, size_t n, const uint32_t *want, size_t n_want)
{
    uint32_t *ids;
    size_t n_ids, n_back, n_nfc = n;
    char *back, *nfc = NULL;
    fq_err e;
    if (fq_tokenizer_encode(t, text, n, NULL, &ids, &n_ids, &e) != FQ_OK) fail_msg("%s", e.text);
    bool good = n_ids == n_want && memcmp(ids, want, n_want * sizeof *want) == 0;
    if (!good) {
        fprintf(stderr, "text: %.*s\n", (int)(n < 200 ? n : 200), text);
        print_ids("expected", want, n_want);
        print_ids("found   ", ids, n_ids);
    }
    if (fq_tokenizer_decode(t, ids, n_ids, NULL, &back, &n_back, &e) != FQ_OK) fail_msg("%s", e.text);
    if (fq_tokenizer_get_info(t)->nfc && fqi_nfc(text, n, &nfc, &n_nfc, &e) != FQ_OK) fail_msg("%s", e.text);
    const char *expected = nfc != NULL ? nfc : text;
    if (nfc == NULL) n_nfc = n;
    bool prefixed = false;   /* add_prefix_space adds to the text, before every part of it */
    for (size_t i = 0; i < t->pretok.n_stage; i++) prefixed = prefixed || t->pretok.stage[i].code == NULL;
    if (!prefixed && (n_back != n_nfc || memcmp(back, expected, n_back) != 0)) {
        fprintf(stderr, "text: %.*s\n  decoded: %s\n", (int)(n < 200 ? n : 200), text, back);
        good = false;
    }
    free(nfc);
    fq_free(ids);
    fq_free(back);
    return good;
}

static size_t parse_ids(const char *line, uint32_t *out, size_t max)
{
    size_t n = 0;
    for (char *end; n < max; line = end) {
        unsigned long v = strtoul(line, &end, 10);
        if (end == line) break;
        out[n++] = (uint32_t)v;
    }
    return n;
}

/* ---- published ids ---------------------------------------------------------------------------------------------------- */

/* NAME.inp: texts parted by a line; NAME.out: a line of ids for each. */
static void inp_and_out(void **state)
{
    static const struct { const char *name, *tokenizer; } table[] = {
        { "qwen2", "qwen2" }, { "deepseek-r1-qwen", "qwen2" }, { "qwen2", "qwen3" }, { "llama-bpe", "llama3.1" }, { "gpt-2", "gpt2" },
    };
    (void)state;
    int n_bad = 0, n_text = 0;
    const char *data = fqt_data();
    for (size_t k = 0; k < sizeof table / sizeof table[0]; k++) {
        static const char mark[] = "\n__ggml_vocab_test__\n";
        char name[256];
        size_t n_in, n_out;
        snprintf(name, sizeof name, "tokenizers/%s", table[k].tokenizer);
        fq_tokenizer *t = open_at(data, name);
        snprintf(name, sizeof name, "tokenizers/golden/ggml-vocab-%s.gguf.inp", table[k].name);
        char *in = slurp(data, name, &n_in), *p = in;
        snprintf(name, sizeof name, "tokenizers/golden/ggml-vocab-%s.gguf.out", table[k].name);
        char *out = slurp(data, name, &n_out), *line = out;
        for (char *end; (end = strstr(p, mark)) != NULL; p = end + sizeof mark - 1) {
            uint32_t want[1024];
            char *ids = strsep(&line, "\n");
            assert_non_null(ids);
            n_bad += !gives(t, p, (size_t)(end - p), want, parse_ids(ids, want, 1024));
            n_text++;
        }
        free(in);
        free(out);
        fq_tokenizer_close(t);
    }
    print_message("%d texts\n", n_text);
    assert_int_equal(n_text, 5 * 46);
    assert_int_equal(n_bad, 0);
}

static size_t json_ids(const json_t *list, uint32_t *out)
{
    for (size_t i = 0; i < json_array_size(list); i++) out[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return json_array_size(list);
}

static int json_cases(const fq_tokenizer *t, const json_t *cases, int *n_text)
{
    int n_bad = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        uint32_t want[2048];
        const json_t *c = json_array_get(cases, i), *text = json_object_get(c, "text"), *decoded = json_object_get(c, "decoded");
        size_t n = json_ids(json_object_get(c, "ids"), want), n_back;
        char *back;
        n_bad += !gives(t, json_string_value(text), json_string_length(text), want, n);
        ++*n_text;
        if (decoded == NULL) continue;
        assert_int_equal(fq_tokenizer_decode(t, want, n, &(fq_decode_options){ .skip_special = true }, &back, &n_back, NULL), FQ_OK);
        /* the file's text was made lossy where an id is a part of a character */
        if (strstr(json_string_value(decoded), "\xef\xbf\xbd") == NULL) assert_string_equal(back, json_string_value(decoded));
        fq_free(back);
    }
    return n_bad;
}

static void small_tokenizers(void **state)
{
    (void)state;
    const char *data = fqt_data();
    size_t n, n_kind = 0;
    int n_text = 0, n_bad = 0;
    char *text = slurp(data, "tokenizers/golden/hf_tokenizer_cases.json", &n);
    json_t *root = json_loadb(text, n, 0, NULL);
    const char *key;
    json_t *v;
    assert_non_null(root);
    json_object_foreach(root, key, v) {
        char name[256], path[4096];
        snprintf(name, sizeof name, "tokenizers/golden/%s", json_string_value(json_object_get(v, "tokenizer")));
        snprintf(path, sizeof path, "%s/%s", data, name);
        if (!fqi_path_exists(path)) continue;
        fq_tokenizer *t = open_at(data, name);
        n_bad += json_cases(t, json_object_get(v, "cases"), &n_text);
        fq_tokenizer_close(t);
        n_kind++;
    }
    json_decref(root);
    free(text);
    print_message("%zu tokenizers, %d texts\n", n_kind, n_text);
    assert_true(n_kind >= 7 && n_text >= 100);
    assert_int_equal(n_bad, 0);
}

static void snippets(void **state)
{
    (void)state;
    const char *data = fqt_data();
    size_t n;
    int n_text = 0;
    char *text = slurp(data, "tokenizers/golden/qwen2_snippets.json", &n);
    json_t *root = json_loadb(text, n, 0, NULL);
    fq_tokenizer *t = open_at(data, "tokenizers/qwen2");
    assert_non_null(root);
    assert_int_equal(json_cases(t, json_object_get(root, "cases"), &n_text), 0);
    assert_int_equal(n_text, 4);
    fq_tokenizer_close(t);
    json_decref(root);
    free(text);
}

/* ---- whole texts -------------------------------------------------------------------------------------------------------- */

static size_t round_trip(const fq_tokenizer *t, const char *text, size_t n)
{
    uint32_t *ids;
    size_t n_ids;
    fq_err e;
    if (fq_tokenizer_encode(t, text, n, NULL, &ids, &n_ids, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_true(gives(t, text, n, ids, n_ids));
    fq_free(ids);
    return n_ids;
}

static void wikitext(void **state)
{
    (void)state;
    const char *data = fqt_data();
    size_t n;
    char *text = slurp(data, "text/wikitext-2/wiki.test.raw", &n);
    fq_tokenizer *t = open_at(data, "tokenizers/qwen2");
    assert_int_equal(round_trip(t, text, n), 299078);   /* the count that is published for Qwen2 on this file */
    fq_tokenizer_close(t);
    free(text);
}

static void many_scripts(void **state)
{
    static const char *const tokenizer[] = { "tokenizers/qwen2", "tokenizers/qwen3", "tokenizers/llama3.1", "tokenizers/gpt2", "own/tiny-qwen2",
                                             "own/tiny-qwen3-moe" };
    static const char *const file[] = { "text/udhr/arb.txt", "text/udhr/cmn_hans.txt", "text/udhr/cmn_hant.txt", "text/udhr/ell_polytonic.txt",
                                        "text/udhr/eng.txt", "text/udhr/heb.txt", "text/udhr/hin.txt", "text/udhr/jpn.txt", "text/udhr/kor.txt",
                                        "text/udhr/rus.txt", "text/udhr/tha.txt", "text/emoji-test.txt", "text/unicode/NormalizationTest.txt" };
    (void)state;
    const char *data = fqt_data();
    for (size_t k = 0; k < sizeof tokenizer / sizeof tokenizer[0]; k++) {
        fq_tokenizer *t = open_at(data, tokenizer[k]);
        for (size_t i = 0; i < sizeof file / sizeof file[0]; i++) {
            size_t n;
            char *text = slurp(data, file[i], &n);
            assert_true(round_trip(t, text, n) > 0);
            free(text);
        }
        fq_tokenizer_close(t);
    }
}

/* The example that comes with the source: always there. */
static void example(void **state)
{
    (void)state;
    fq_tokenizer *t = open_at(fqt_source(), "examples/tiny-qwen2");
    assert_int_equal(fq_tokenizer_n_vocab(t), 2048);
    static const char text[] = "It's 1999:  cafe\xcc\x81 \xe6\x97\xa5\xe6\x9c\xac\n\n<|im_end|>\tx ";
    assert_true(round_trip(t, text, sizeof text - 1) > 10);
    fq_tokenizer_close(t);
}

/* ---- one object, many threads -------------------------------------------------------------------------------------------- */

typedef struct job { const fq_tokenizer *t; const char *text; size_t n, n_ids; uint32_t *ids; } job;

static void *work(void *at)
{
    job *j = at;
    if (fq_tokenizer_encode(j->t, j->text, j->n, NULL, &j->ids, &j->n_ids, NULL) != FQ_OK) j->ids = NULL;
    return NULL;
}

static void threads(void **state)
{
    (void)state;
    size_t n;
    char *text = slurp(fqt_source(), "include/fitq.h", &n);
    fq_tokenizer *t = open_at(fqt_source(), "examples/tiny-qwen2");
    job j[4];
    pthread_t id[4];
    for (int i = 0; i < 4; i++) {
        j[i] = (job){ .t = t, .text = text, .n = n };
        assert_int_equal(pthread_create(&id[i], NULL, work, &j[i]), 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(id[i], NULL);
    for (int i = 0; i < 4; i++) {
        assert_non_null(j[i].ids);
        assert_int_equal(j[i].n_ids, j[0].n_ids);
        assert_memory_equal(j[i].ids, j[0].ids, j[0].n_ids * sizeof *j[0].ids);
    }
    for (int i = 0; i < 4; i++) fq_free(j[i].ids);
    fq_tokenizer_close(t);
    free(text);
}

/* ---- texts and patterns that are made to take long -------------------------------------------------------------------- */

/* The example's tokenizer with another pattern. */
static fq_tokenizer *with_pattern(const char *pattern)
{
    size_t n;
    fq_tokenizer *t = NULL;
    fq_err e;
    char *text = slurp(fqt_source(), "examples/tiny-qwen2/tokenizer.json", &n);
    json_t *file = json_loadb(text, n, 0, NULL);
    free(text);
    assert_non_null(file);
    json_t *split = json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, {s:s, s:b, s:b}]}", "type", "Sequence", "pretokenizers", "type", "Split", "pattern",
                              "Regex", pattern, "behavior", "Isolated", "invert", 0, "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0);
    assert_non_null(split);
    assert_int_equal(json_object_set_new(file, "pre_tokenizer", split), 0);
    text = json_dumps(file, 0);
    json_decref(file);
    assert_non_null(text);
    if (fqi_tokenizer_parse(text, strlen(text), "made", &t, &e) != FQ_OK) fail_msg("%s", e.text);
    return t;
}

/* Seconds to encode n bytes of `byte` with `last` behind them; *s is what came of it. */
static double time_run(const char *pattern, char byte, size_t n, char last, fq_status *s)
{
    fq_tokenizer *t = with_pattern(pattern);
    char *text = malloc(n + 1);
    uint32_t *ids = NULL;
    size_t n_ids;
    assert_non_null(text);
    memset(text, byte, n);
    text[n] = last;
    double start = fqi_now_seconds();
    *s = fq_tokenizer_encode(t, text, n + 1, NULL, &ids, &n_ids, NULL);
    double took = fqi_now_seconds() - start;
    if (*s == FQ_OK) fq_free(ids);
    free(text);
    fq_tokenizer_close(t);
    return took;
}

static void made_to_take_long(void **state)
{
    static const char qwen[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    static const struct { const char *pattern; char byte, last; fq_status want; } table[] = {
        { qwen, 'a', '.', FQ_OK }, { qwen, ' ', 'x', FQ_OK }, { qwen, '\n', 'x', FQ_OK }, { qwen, '!', 'x', FQ_OK },
        { "\\s+$", ' ', 'x', FQ_OK },               /* quadratic as it stands */
        { "(?:a|aa)+$", 'a', 'b', FQ_E_INPUT },     /* exponential: stopped */
    };
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        fq_status s;
        double took = time_run(table[i].pattern, table[i].byte, 2000000, table[i].last, &s);
        if (s != table[i].want || took > 60) fail_msg("case %zu: status %d after %.1f s", i, (int)s, took);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(inp_and_out), cmocka_unit_test(small_tokenizers), cmocka_unit_test(snippets), cmocka_unit_test(wikitext),
        cmocka_unit_test(many_scripts), cmocka_unit_test(example), cmocka_unit_test(threads), cmocka_unit_test(made_to_take_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
