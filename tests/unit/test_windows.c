/* test_windows.c - texts and lists of ids cut into windows; what is refused, and how it is said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fs.h"
#include "job/windows.h"
#include "make_ckpt.h"
#include "support.h"

#define TINY_VOCAB 2048

static char tiny[4096];

static int setup(void **state)
{
    snprintf(tiny, sizeof tiny, "%s/examples/tiny-qwen2", fqt_source());
    return fqt_dir_setup(state);
}

/* "word word word ..." of n bytes. */
static char *words(size_t n)
{
    char *s = malloc(n + 1);
    assert_non_null(s);
    for (size_t i = 0; i < n; i++) s[i] = i % 5 == 4 ? ' ' : (char)('a' + (i * i / 7) % 26);
    s[n] = '\0';
    return s;
}

static uint32_t *tokenize(const char *folder, const char *text, size_t n, bool special, size_t *n_ids)
{
    fq_tokenizer *t = NULL;
    fq_err e = { 0 };
    uint32_t *ids = NULL;
    const fq_encode_options o = { .add_special = special };
    if (fq_tokenizer_open(folder, &t, &e) != FQ_OK || fq_tokenizer_encode(t, text, n, &o, &ids, n_ids, &e) != FQ_OK) fail_msg("%s", e.text);
    fq_tokenizer_close(t);
    return ids;
}

static fqi_windows make(const fq_text *t, const char *model, int64_t vocab)
{
    fqi_windows w = { 0 };
    fq_err e = { 0 };
    if (fqi_windows_make(t, model, vocab, false, &w, &e) != FQ_OK) fail_msg("%s", e.text);
    return w;
}

static void test_cutting(void **state)
{
    (void)state;
    char *text = words(3000), *path = fqt_join(fqt_dir, "text");
    size_t n;
    uint32_t *ids = tokenize(tiny, text, 3000, false, &n);
    fqt_write_text(fqt_dir, "text", text);
    static const struct { int64_t context, chunks; fq_score score; size_t n_context, first, per; } row[] = {
        { 0, 0, FQ_SCORE_SECOND_HALF, 512, 256, 255 }, { 16, 0, FQ_SCORE_SECOND_HALF, 16, 8, 7 },  { 16, 3, FQ_SCORE_ALL, 16, 0, 15 },
        { 17, 0, FQ_SCORE_SECOND_HALF, 17, 8, 8 },     { 2, 0, FQ_SCORE_ALL, 2, 0, 1 },            { 4, 5, FQ_SCORE_SECOND_HALF, 4, 2, 1 },
        { 16, 1 << 30, FQ_SCORE_ALL, 16, 0, 15 },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        const fq_text t = { .text = path, .context = row[i].context, .chunks = row[i].chunks, .score = row[i].score };
        fqi_windows w = make(&t, tiny, TINY_VOCAB);
        size_t n_window = n / row[i].n_context;
        if (row[i].chunks && (size_t)row[i].chunks < n_window) n_window = (size_t)row[i].chunks;
        assert_int_equal(w.n_window, n_window);
        assert_int_equal(w.n_context, row[i].n_context);
        assert_int_equal(w.first_scored, row[i].first);
        assert_int_equal(w.n_scored, n_window * row[i].per);
        assert_int_equal(w.n_token, n);
        assert_false(w.bos || w.random);
        assert_memory_equal(w.ids, ids, n_window * w.n_context * sizeof *ids);
        fqi_windows_free(&w);
    }
    free(text);
    free(path);
    free(ids);
}

static void test_exactly_one_window(void **state)
{
    (void)state;
    char *path = fqt_join(fqt_dir, "four");
    fqt_write_text(fqt_dir, "four", " 1, 2\t[3]\r\n4");
    const fq_text t = { .ids = path, .context = 4 };
    fqi_windows w = make(&t, tiny, 5);
    assert_int_equal(w.n_window, 1);
    assert_int_equal(w.ids[0], 1);
    assert_int_equal(w.ids[3], 4);
    fqi_windows_free(&w);
    free(path);
}

static void test_bos(void **state)
{
    (void)state;
    static const struct { fq_bos rule; bool bos; } row[] = { { FQ_BOS_AUTO, false }, { FQ_BOS_ALWAYS, true }, { FQ_BOS_NEVER, false } };
    char *text = words(400), *path = fqt_join(fqt_dir, "text");
    size_t n;
    uint32_t *ids = tokenize(tiny, text, 400, false, &n);
    fqt_write_text(fqt_dir, "text", text);
    for (size_t i = 0; i < 3; i++) {
        const fq_text t = { .text = path, .context = 8, .bos = row[i].rule };
        fqi_windows w = make(&t, tiny, TINY_VOCAB);
        assert_int_equal(w.bos, row[i].bos);
        for (size_t k = 0; k < w.n_window * 8; k++) assert_int_equal(w.ids[k], k % 8 == 0 && row[i].bos ? 2045 : ids[k]);
        fqi_windows_free(&w);
    }
    free(text);
    free(path);
    free(ids);
}

/* A tokenizer that begins a text with a token: it leads the text, and stands over token 0 of every window. */
static void test_bos_of_llama(void **state)
{
    (void)state;
    const char *data = fqt_data();
    char llama[4096];
    snprintf(llama, sizeof llama, "%s/tokenizers/llama3.1", data);
    char *text = words(400), *path = fqt_join(fqt_dir, "text");
    size_t n;
    uint32_t *ids = tokenize(llama, text, 400, true, &n);
    fqt_write_text(fqt_dir, "text", text);
    assert_int_equal(ids[0], 128000);
    const fq_text t = { .text = path, .context = 8 }, never = { .text = path, .context = 8, .bos = FQ_BOS_NEVER };
    fqi_windows w = make(&t, llama, 128256), plain = make(&never, llama, 128256);
    assert_true(w.bos && !plain.bos);
    for (size_t k = 0; k < w.n_window * 8; k++) assert_int_equal(w.ids[k], k % 8 == 0 ? 128000 : ids[k]);
    for (size_t k = 0; k < plain.n_window * 8; k++) assert_int_equal(plain.ids[k], ids[k + 1]);
    fqi_windows_free(&w);
    fqi_windows_free(&plain);
    free(text);
    free(path);
    free(ids);
}

/* NUL is a character. */
static void test_nul(void **state)
{
    (void)state;
    char text[64], *path = fqt_join(fqt_dir, "nul");
    size_t n;
    for (size_t i = 0; i < sizeof text; i++) text[i] = i % 2 ? 'a' : '\0';
    uint32_t *ids = tokenize(tiny, text, sizeof text, false, &n);
    fqt_write(fqt_dir, "nul", text, sizeof text);
    const fq_text t = { .text = path, .context = 4 };
    fqi_windows w = make(&t, tiny, TINY_VOCAB);
    assert_true(n > 32);
    assert_int_equal(w.n_token, n);
    assert_memory_equal(w.ids, ids, w.n_window * 4 * sizeof *ids);
    fqi_windows_free(&w);
    free(path);
    free(ids);
}

static void test_random(void **state)
{
    (void)state;
    fqi_windows a = { 0 }, b = { 0 };
    fq_err e = { 0 };
    const fq_text t = { .context = 64, .chunks = 3, .score = FQ_SCORE_ALL };
    assert_int_equal(fqi_windows_make(&t, fqt_dir, 1000, true, &a, &e), FQ_OK);
    assert_int_equal(fqi_windows_make(&t, fqt_dir, 1000, true, &b, &e), FQ_OK);
    assert_true(a.random);
    assert_int_equal(a.n_window, 3);
    assert_memory_equal(a.ids, b.ids, 192 * sizeof *a.ids);
    size_t different = 0;
    for (size_t i = 0; i < 192; i++) {
        assert_true(a.ids[i] < 1000);
        different += i > 0 && a.ids[i] != a.ids[i - 1];
    }
    assert_true(different > 180);
    fqi_windows_free(&a);
    fqi_windows_free(&b);
}

/* ---- refused ---- */

typedef struct refusal { const char *what; fq_text t; fq_status status; const char *rule, *text; } refusal;

static void refused(const refusal *r, const char *model, int64_t vocab)
{
    fqi_windows w = { 0 };
    fq_err e = { 0 };
    fq_status s = fqi_windows_make(&r->t, model, vocab, false, &w, &e);
    if (s != r->status || (r->rule && strcmp(e.rule, r->rule) != 0) || !strstr(e.text, r->text))
        fail_msg("%s: found %d, rule \"%s\", \"%s\"; expected %d, \"%s\", \"%s\"", r->what, (int)s, e.rule, e.text, (int)r->status, r->rule ? r->rule : "", r->text);
    assert_null(w.ids);
    assert_int_equal(fqi_windows_make(&r->t, model, vocab, false, &w, NULL), r->status);
}

static void test_refused(void **state)
{
    (void)state;
    char *fifo = fqt_join(fqt_dir, "fifo"), *huge = fqt_join(fqt_dir, "huge"), *empty = fqt_join(fqt_dir, "empty"), *bad = fqt_join(fqt_dir, "bad"), *ids = fqt_join(fqt_dir, "ids");
    char *words_ids = fqt_join(fqt_dir, "words"), *large = fqt_join(fqt_dir, "large"), *missing = fqt_join(fqt_dir, "missing"), *three = fqt_join(fqt_dir, "three"), *nul = fqt_join(fqt_dir, "nul-ids");
    fqt_write(fqt_dir, "empty", "", 0);
    fqt_write(fqt_dir, "bad", "abc\xc3(", 5);
    fqt_write_text(fqt_dir, "ids", "1 2 3 9 4 5 6 7");
    fqt_write_text(fqt_dir, "words", "1 2 x3");
    fqt_write_text(fqt_dir, "three", "1 2 3");
    fqt_write_text(fqt_dir, "large", "1 99999999999");
    fqt_write(fqt_dir, "nul-ids", "1 2\0 3", 6);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    fqt_write_text(fqt_dir, "huge", "x");
    assert_int_equal(truncate(huge, INT64_C(1) << 40), 0);
    const refusal row[] = {
        { "both", { .text = ids, .ids = ids }, FQ_E_USAGE, "text", "found a text and a list of ids" },
        { "neither", { .context = 8 }, FQ_E_USAGE, "text", "found neither" },
        { "short window", { .ids = ids, .context = 3 }, FQ_E_USAGE, "context", "found a window of 3 tokens, expected 4" },
        { "short window, all", { .ids = ids, .context = 1, .score = FQ_SCORE_ALL }, FQ_E_USAGE, "context", "found a window of 1 tokens, expected 2" },
        { "negative window", { .ids = ids, .context = -5 }, FQ_E_USAGE, "context", "found a window of -5" },
        { "long window", { .ids = ids, .context = INT64_MAX }, FQ_E_USAGE, "context", "found a window of 9223372036854775807" },
        { "chunks", { .ids = ids, .chunks = -1 }, FQ_E_USAGE, "chunks", "found -1 windows" },
        { "empty text", { .text = empty }, FQ_E_INPUT, "text-length", "found 0 tokens, expected at least 512: one window" },
        { "empty ids", { .ids = empty }, FQ_E_INPUT, "text-length", "found 0 tokens" },
        { "short ids", { .ids = three }, FQ_E_INPUT, "text-length", "found 3 tokens, expected at least 512: one window" },
        { "UTF-8", { .text = bad }, FQ_E_INPUT, "utf-8", "/bad: byte 3: utf-8: found byte 0xc3" },
        { "id", { .ids = ids, .context = 4 }, FQ_E_INPUT, "token-id", "/ids: token-id: found id 9 at place 3, expected an id below 9" },
        { "words", { .ids = words_ids, .context = 4 }, FQ_E_INPUT, "token-ids", "/words: byte 4: token-ids: found \"x3\", expected ids below 2^32" },
        { "large id", { .ids = large, .context = 4 }, FQ_E_INPUT, "token-ids", "/large: byte 2: token-ids" },
        { "NUL among ids", { .ids = nul, .context = 4 }, FQ_E_INPUT, "token-ids", "/nul-ids: byte 2: token-ids" },
        { "FIFO", { .text = fifo }, FQ_E_INPUT, "file-kind", "found a FIFO, expected a regular file" },
        { "FIFO of ids", { .ids = fifo }, FQ_E_INPUT, "file-kind", "found a FIFO" },
        { "folder", { .text = fqt_dir }, FQ_E_INPUT, "file-kind", "found a folder" },
        { "device", { .text = "/dev/zero" }, FQ_E_INPUT, "file-kind", "found a device" },
        { "1 TB", { .text = huge }, FQ_E_INPUT, "file-size", "found 1099511627776 bytes, expected at most 1073741824" },
        { "1 TB of ids", { .ids = huge }, FQ_E_INPUT, "file-size", "found 1099511627776 bytes" },
        { "missing", { .text = missing }, FQ_E_IO, NULL, "/missing: open: No such file" },
        { "BOS beyond the vocabulary", { .ids = three, .context = 2, .score = FQ_SCORE_ALL, .bos = FQ_BOS_ALWAYS }, FQ_E_INPUT, "bos-token",
          "config.json: bos-token: bos_token_id: found 2045, expected an id from 0 to 8" },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) refused(&row[i], tiny, 9);
    const refusal no_tokenizer = { "no tokenizer", { .text = ids }, FQ_E_IO, NULL, "tokenizer.json: open" };
    const refusal no_bos = { "no BOS", { .ids = ids, .context = 4, .bos = FQ_BOS_ALWAYS }, FQ_E_INPUT, "bos-token", "found no beginning-of-text token" };
    refused(&no_tokenizer, fqt_dir, 10);
    refused(&no_bos, fqt_dir, 10);
    /* ids need no tokenizer */
    const fq_text t = { .ids = ids, .context = 4 };
    fqi_windows w = make(&t, fqt_dir, 10);
    assert_int_equal(w.n_window, 2);
    fqi_windows_free(&w);
    free(fifo); free(huge); free(empty); free(bad); free(ids); free(words_ids); free(large); free(missing); free(nul); free(three);
}

/* A folder without a tokenizer, where only config.json can name an id; and what must not be passed over on the way to it. */
static void test_odd_bos(void **state)
{
    (void)state;
    static const struct { const char *tokenizer, *config; int64_t bos; const char *says; } row[] = {
        { "{\"bos_token\": \"<s>\"}", "{\"bos_token_id\": 8}", 8, NULL },
        { "{\"bos_token\": null}", "{\"bos_token_id\": 0}", 0, NULL },
        { "{\"bos_token\": {\"content\": \"<s>\"}}", "{\"bos_token_id\": 7}", 7, NULL },
        { "{\"bos_token\": 1}", "{\"bos_token_id\": 7}", -1, "tokenizer_config.json: bos-token: bos_token: found neither a string" },
        { "{\"bos_token\": {\"content\": 1}}", "{\"bos_token_id\": 7}", -1, "tokenizer_config.json: bos-token: bos_token: found neither a string" },
        { "[1]", "{\"bos_token_id\": 7}", -1, "tokenizer_config.json: json-type: found a file that is no JSON object" },
        { "{}", "{\"bos_token_id\": 9}", -1, "config.json: bos-token: bos_token_id: found 9, expected an id from 0 to 8" },
        { "{}", "{\"bos_token_id\": -1}", -1, "bos_token_id: found -1" },
        { "{}", "{\"bos_token_id\": 4294967296}", -1, "bos_token_id: found 4294967296" },
        { "{}", "{\"bos_token_id\": [7]}", -1, "bos_token_id: found no integer" },
        { "{}", "{\"bos_token_id\": null}", -1, "found no beginning-of-text token" },
        { "{}", "{}", -1, "found no beginning-of-text token" },
    };
    char *ids = fqt_join(fqt_dir, "ids");
    fqt_write_text(fqt_dir, "ids", "1 2 3 4 5 6");
    const fq_text t = { .ids = ids, .context = 2, .score = FQ_SCORE_ALL, .bos = FQ_BOS_ALWAYS };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        fqt_write_text(fqt_dir, "tokenizer_config.json", row[i].tokenizer);
        fqt_write_text(fqt_dir, "config.json", row[i].config);
        fqi_windows w = { 0 };
        fq_err e = { 0 };
        fq_status s = fqi_windows_make(&t, fqt_dir, 9, false, &w, &e);
        if (row[i].says && (s != FQ_E_INPUT || !strstr(e.text, row[i].says))) fail_msg("%zu: found %d, \"%s\", expected \"%s\"", i, (int)s, e.text, row[i].says);
        if (!row[i].says && (s != FQ_OK || !w.bos || w.ids[0] != (uint32_t)row[i].bos || w.ids[1] != 2)) fail_msg("%zu: found %d, \"%s\"", i, (int)s, e.text);
        fqi_windows_free(&w);
    }
    free(ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cutting), cmocka_unit_test(test_exactly_one_window), cmocka_unit_test(test_bos), cmocka_unit_test(test_bos_of_llama),
        cmocka_unit_test(test_nul), cmocka_unit_test(test_random), cmocka_unit_test(test_refused), cmocka_unit_test(test_odd_bos),
    };
    return cmocka_run_group_tests(tests, setup, fqt_dir_teardown);
}
