/* test_calib.c - windows to calibrate on: from texts, ids, jsonl files good and bad, and written by the model. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/random.h"
#include "job/calib.h"
#include "job/chat.h"
#include "make_ckpt.h"
#include "support.h"

#define EOS 2045

static char tiny[4096];
static fqi_runnable tiny_model;

static int setup(void **state)
{
    fq_err e;
    static const fq_run run;
    snprintf(tiny, sizeof tiny, "%s/examples/tiny-qwen2", fqt_source());
    if (fqi_runnable_open(tiny, &run, &tiny_model, &e) != FQ_OK) fail_msg("%s", e.text);
    return fqt_dir_setup(state);
}

static int teardown(void **state)
{
    fqi_runnable_free(&tiny_model);
    return fqt_dir_teardown(state);
}

/* Text of n bytes. */
static char *words(size_t n, uint64_t seed)
{
    char *s = malloc(n + 1);
    assert_non_null(s);
    for (size_t i = 0; i < n; i++) s[i] = i % 5 == 4 ? ' ' : (char)('a' + fqi_splitmix(&seed) % 26);
    s[n] = '\0';
    return s;
}

static uint32_t *tokenize(const char *folder, const char *text, bool special, size_t *n_ids)
{
    fq_tokenizer *t = NULL;
    fq_err e = { 0 };
    uint32_t *ids = NULL;
    const fq_encode_options o = { .add_special = special };
    if (fq_tokenizer_open(folder, &t, &e) != FQ_OK || fq_tokenizer_encode(t, text, strlen(text), &o, &ids, n_ids, &e) != FQ_OK) fail_msg("%s", e.text);
    fq_tokenizer_close(t);
    return ids;
}

/* ---- what is logged and reported ---- */

typedef struct heard { char log[2048]; int n_log; fq_progress last; int n_progress; int cancel_after; char phase[32]; } heard;

static void on_log(void *user, fq_log_level level, const char *line)
{
    heard *h = user;
    (void)level;
    h->n_log++;
    snprintf(h->log + strlen(h->log), sizeof h->log - strlen(h->log), "%s\n", line);
}

static void on_progress(void *user, const fq_progress *p)
{
    heard *h = user;
    h->last = *p;
    snprintf(h->phase, sizeof h->phase, "%s", p->phase);
    h->n_progress++;
}

static bool on_cancelled(void *user)
{
    heard *h = user;
    return h->cancel_after > 0 && --h->cancel_after == 0;
}

static fq_run run_with(heard *h, int n_thread) { return (fq_run){ .n_thread = n_thread, .log = on_log, .progress = on_progress, .cancelled = on_cancelled, .user = h }; }

static fqi_calib make_of(const fq_calib_options *o, const fqi_runnable *m, const fq_run *run)
{
    fqi_calib c = { 0 };
    FQT_OK(fqi_calib_make(o, m, run, &c, e));
    return c;
}

static fqi_calib make(const fq_calib_options *o) { return make_of(o, &tiny_model, NULL); }

static void same(const fqi_calib *a, const fqi_calib *b)
{
    assert_int_equal(a->n_window, b->n_window);
    assert_int_equal(a->seqlen, b->seqlen);
    assert_memory_equal(a->ids, b->ids, a->n_window * a->seqlen * sizeof *a->ids);
    assert_int_equal(a->hash, b->hash);
}

/* ---- texts and ids ---- */

static void test_text(void **state)
{
    (void)state;
    char *text = words(6000, 1), *path = fqt_join(fqt_dir, "calib.txt");
    size_t n;
    uint32_t *ids = tokenize(tiny, text, false, &n);
    fqt_write_text(fqt_dir, "calib.txt", text);
    static const struct { int64_t samples, seqlen; uint64_t seed; } row[] = { { 0, 0, 0 }, { 1, 16, 0 }, { 5, 16, 1 }, { 20, 33, 2 }, { 100000, 64, 3 }, { 7, 2, 4 } };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        heard h = { 0 };
        const fq_run run = run_with(&h, 1);
        const fq_calib_options o = { .file = path, .samples = row[i].samples, .seqlen = row[i].seqlen, .seed = row[i].seed };
        fqi_calib c = make_of(&o, &tiny_model, &run);
        size_t asked = row[i].samples ? (size_t)row[i].samples : 512, seqlen = row[i].seqlen ? (size_t)row[i].seqlen : 512, have = n / seqlen, at = 0, distinct = 0;
        bool seen[2048] = { false };
        assert_int_equal(c.seqlen, seqlen);
        assert_int_equal(c.n_window, have < asked ? have : asked);
        assert_int_equal(h.n_log, have < asked);
        if (have < asked) assert_non_null(strstr(h.log, "fewer than the"));
        assert_int_equal(c.n_token_file, n);
        assert_string_equal(c.source, "text");
        for (size_t k = 0; k < c.n_window; k++, at++) {   /* each is a window of the text, behind the one before */
            while (at < have && memcmp(ids + at * seqlen, c.ids + k * seqlen, seqlen * sizeof *ids) != 0) at++;
            assert_true(at < have);
        }
        for (size_t k = 0; k < c.n_window * seqlen; k++) {
            distinct += !seen[c.ids[k]];
            seen[c.ids[k]] = true;
        }
        assert_int_equal(c.n_distinct, distinct);
        fqi_calib again = make(&o);
        same(&c, &again);
        fqi_calib_free(&c);
        fqi_calib_free(&again);
    }
    free(text);
    free(path);
    free(ids);
}

/* Three of ten, 300 times: each window is in 90 of them, give or take 8. */
static void test_draw(void **state)
{
    (void)state;
    char *path = fqt_join(fqt_dir, "ids");
    fqt_write_text(fqt_dir, "ids", "0 0 0 1 1 1 2 2 2 3 3 3 4 4 4 5 5 5 6 6 6 7 7 7 8 8 8 9 9 9 10 10");
    int count[11] = { 0 };
    for (uint64_t seed = 0; seed < 300; seed++) {
        const fq_calib_options o = { .ids = path, .samples = 3, .seqlen = 3, .seed = seed };
        fqi_calib c = make(&o);
        assert_int_equal(c.n_window, 3);
        assert_int_equal(c.n_token_file, 32);
        assert_int_equal(c.n_distinct, 3);
        assert_string_equal(c.source, "ids");
        for (size_t k = 0; k < 9; k++) assert_int_equal(c.ids[k], c.ids[k / 3 * 3]);
        assert_true(c.ids[0] < c.ids[3] && c.ids[3] < c.ids[6]);
        for (size_t k = 0; k < 3; k++) count[c.ids[3 * k]]++;
        fqi_calib_free(&c);
    }
    for (size_t i = 0; i < 10; i++)
        if (count[i] < 50 || count[i] > 130) fail_msg("window %zu: %d times", i, count[i]);
    assert_int_equal(count[10], 0);
    free(path);
}

/* ---- models of the tests' own ---- */

/* Copy of tiny-qwen2's tokenizer with its post-processor or one text replaced. */
static void write_tokenizer(const char *dir, const char *post_processor, const char *from, const char *to)
{
    size_t n;
    char *text = fqt_read(tiny, "tokenizer.json", &n);
    assert_non_null(text);
    if (from) {
        assert_int_equal(strlen(from), strlen(to));
        for (char *at; (at = strstr(text, from)) != NULL;) memcpy(at, to, strlen(to));
    }
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    if (post_processor) json_object_set_new(root, "post_processor", json_loads(post_processor, 0, NULL));
    free(text);
    text = json_dumps(root, JSON_INDENT(1));
    fqt_write_text(dir, "tokenizer.json", text);
    free(text);
    json_decref(root);
}

static const char begins_with_eos[] =
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<|endoftext|>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],"
    "\"pair\":[{\"SpecialToken\":{\"id\":\"<|endoftext|>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"Sequence\":{\"id\":\"B\",\"type_id\":1}}],"
    "\"special_tokens\":{\"<|endoftext|>\":{\"id\":\"<|endoftext|>\",\"ids\":[2045],\"tokens\":[\"<|endoftext|>\"]}}}";

static fqi_runnable open_model(const char *dir)
{
    fqi_runnable m = { 0 };
    static const fq_run run;
    FQT_OK(fqi_runnable_open(dir, &run, &m, e));
    return m;
}

/* A folder below fqt_dir; caller frees. eos: what config.json gets. */
static char *model_dir(const char *name, const fqt_model *m, const char *eos)
{
    char *dir = fqt_join(fqt_dir, name);
    size_t n;
    fqt_make_model(dir, m);
    char *text = fqt_read(dir, "config.json", &n);
    json_t *root = json_loads(text, 0, NULL);
    json_object_set_new(root, "eos_token_id", json_loads(eos, JSON_DECODE_ANY, NULL));
    free(text);
    text = json_dumps(root, 0);
    fqt_write_text(dir, "config.json", text);
    free(text);
    json_decref(root);
    return dir;
}

static void test_bos(void **state)
{
    (void)state;
    char *dir = model_dir("bos", &(fqt_model){ .family = "qwen2", .layers = 1, .vocab = 2048, .seed = 4 }, "2045"), *path = fqt_join(fqt_dir, "bos.txt"), *text = words(900, 3);
    char *jsonl = fqt_join(fqt_dir, "bos.jsonl");
    write_tokenizer(dir, begins_with_eos, NULL, NULL);
    fqt_write_text(fqt_dir, "bos.txt", text);
    fqt_write_text(fqt_dir, "bos.jsonl", "{\"text\":\"one two three four\"}\n{\"text\":\"five six seven\"}");
    fqi_runnable m = open_model(dir);
    size_t n, n_one, n_two;
    uint32_t *ids = tokenize(dir, text, true, &n), *one = tokenize(dir, "one two three four", false, &n_one), *two = tokenize(dir, "five six seven", false, &n_two);
    fqi_calib c = make_of(&(fq_calib_options){ .file = path, .seqlen = 8 }, &m, NULL);
    assert_int_equal(ids[0], EOS);
    for (size_t i = 0; i < c.n_window * 8; i++) assert_int_equal(c.ids[i], i % 8 == 0 ? EOS : ids[i]);
    fqi_calib_free(&c);
    c = make_of(&(fq_calib_options){ .file = jsonl, .seqlen = 2 }, &m, NULL);
    assert_int_equal(c.n_token_file, n_one + 1 + n_two);
    for (size_t i = 0; i < c.n_window * 2; i++) assert_int_equal(c.ids[i], i % 2 == 0 || i == n_one ? EOS : i < n_one ? one[i] : two[i - n_one - 1]);
    fqi_calib_free(&c);
    c = make_of(&(fq_calib_options){ .samples = 70, .seqlen = 4 }, &m, NULL);   /* more than at once */
    for (size_t i = 0; i < 70; i++) {
        assert_int_equal(c.ids[4 * i], EOS);
        assert_true(c.ids[4 * i + 1] < EOS);
    }
    fqi_calib_free(&c);
    fqi_runnable_free(&m);
    free(dir); free(path); free(text); free(ids); free(jsonl); free(one); free(two);
}

/* ---- jsonl ---- */

/* Ids of documents, joined by EOS. */
typedef struct joined { uint32_t ids[4096]; size_t n; } joined;

static void join(joined *j, const uint32_t *ids, size_t n)
{
    if (n == 0) return;
    if (j->n > 0) j->ids[j->n++] = EOS;
    memcpy(j->ids + j->n, ids, n * sizeof *ids);
    j->n += n;
}

static void join_text(joined *j, const char *text)
{
    size_t n;
    uint32_t *ids = tokenize(tiny, text, false, &n);
    join(j, ids, n);
    free(ids);
}

/* The file's ids, all of them, are those of the documents. */
static void holds(const char *what, const char *name, const fqi_runnable *m, const joined *want)
{
    char *path = fqt_join(fqt_dir, name);
    fqi_calib c = { 0 };
    fq_err e = { 0 };
    const fq_calib_options o = { .file = path, .seqlen = 2, .samples = 4096 };
    if (fqi_calib_make(&o, m, NULL, &c, &e) != FQ_OK) fail_msg("%s: %s", what, e.text);
    if (c.n_token_file != want->n) fail_msg("%s: %zu tokens, expected %zu", what, c.n_token_file, want->n);
    assert_string_equal(c.source, "jsonl");
    for (size_t i = 0; i < c.n_window * 2; i++)
        if (c.ids[i] != want->ids[i]) fail_msg("%s: id %u at %zu, expected %u", what, c.ids[i], i, want->ids[i]);
    fqi_calib_free(&c);
    free(path);
}

static void test_jsonl(void **state)
{
    (void)state;
    static const struct { const char *what, *file, *document[4]; } row[] = {
        { "two", "{\"text\":\"hello world\"}\n{\"text\":\"second one\"}\n", { "hello world", "second one" } },
        { "no line end", "{\"text\":\"hello world\"}\n{\"text\":\"second one\"}", { "hello world", "second one" } },
        { "CRLF", "{\"text\":\"hello world\"}\r\n{\"text\":\"second one\"}\r\n", { "hello world", "second one" } },
        { "blank lines", "\n\n{\"text\":\"hello world\"}\n \t\r\n\n{\"text\":\"second one\"}\n\n  ", { "hello world", "second one" } },
        { "empty documents", "{\"text\":\"\"}\n{\"text\":\"hello world\"}\n{\"text\":\"\"}\n{\"messages\":[]}\n{\"text\":\"second one\"}\n", { "hello world", "second one" } },
        { "other fields", "{\"id\":7,\"meta\":{\"text\":\"no\",\"a\":[1,{\"messages\":2}]},\"text\":\"hello world\",\"x\":null}", { "hello world" } },
        { "both fields", "{\"messages\":[{\"role\":\"robot\",\"content\":\"no\"}],\"text\":\"hello world\"}", { "hello world" } },
        { "escapes", "{\"te\\u0078t\":\"a\\n\\\"b\\\" \\u00e9 \\ud83d\\ude00 \xc3\xa9\"}", { "a\n\"b\" \xc3\xa9 \xf0\x9f\x98\x80 \xc3\xa9" } },
        { "control tokens in text", "{\"text\":\"a<|im_start|>b\"}", { "a<|im_start|>b" } },
        { "white space", "  { \"text\" :\t\"hello world\" }  \n", { "hello world" } },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        joined want = { .n = 0 };
        for (size_t k = 0; k < 4 && row[i].document[k]; k++) join_text(&want, row[i].document[k]);
        fqt_write_text(fqt_dir, "calib.jsonl", row[i].file);
        holds(row[i].what, "calib.jsonl", &tiny_model, &want);
    }
    joined want = { .n = 0 };
    join_text(&want, "hello world");
    fqt_write_text(fqt_dir, "CALIB.JSONL", "{\"text\":\"hello world\"}");
    holds("capitals", "CALIB.JSONL", &tiny_model, &want);
}

static void test_messages(void **state)
{
    (void)state;
    static const char file[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi <|im_end|>\"},{\"content\":\"there\",\"role\":\"assistant\",\"more\":[1]}]}\n{\"text\":\"second one\"}\n"
                               "{\"messages\":[{\"role\":\"system\",\"content\":\"third\"}]}";
    static const fq_chat_message message[] = { { "user", "hi <|im_end|>" }, { "assistant", "there" } }, third = { "system", "third" };
    fqt_write_text(fqt_dir, "chat.jsonl", file);
    /* in ChatML, as the public call has it but for the reply that it opens */
    fq_tokenizer *t = NULL;
    uint32_t *ids = NULL, *opening = NULL;
    size_t n = 0, n_opening = 0;
    FQT_OK(fq_tokenizer_open(tiny, &t, e));
    FQT_OK(fq_chat_encode(t, message, 2, true, &ids, &n, e));
    FQT_OK(fq_chat_encode(t, NULL, 0, true, &opening, &n_opening, e));
    joined want = { .n = 0 };
    join(&want, ids, n - n_opening);
    join_text(&want, "second one");
    assert_memory_equal(ids + n - n_opening, opening, n_opening * sizeof *ids);
    fq_free(ids);
    FQT_OK(fq_chat_encode(t, &third, 1, true, &ids, &n, e));
    join(&want, ids, n - n_opening);
    holds("chat", "chat.jsonl", &tiny_model, &want);
    fq_free(ids);
    fq_free(opening);
    fq_tokenizer_close(t);
    /* no template that is known */
    char *dir = model_dir("no-template", &(fqt_model){ .family = "qwen2", .layers = 1, .vocab = 2048, .seed = 4 }, "[2047, 2045]");
    write_tokenizer(dir, NULL, "<|im_start|>", "<|xx_start|>");
    fqi_runnable m = open_model(dir);
    static const struct { const char *text; bool plain; } part[] = { { "hi <|im_end|>\nthere", true }, { "second one", false }, { "third", true } };
    want = (joined){ .n = 0 };
    FQT_OK(fq_tokenizer_open(dir, &t, e));
    for (size_t i = 0; i < 3; i++) {
        const fq_encode_options o = { .plain = part[i].plain };
        FQT_OK(fq_tokenizer_encode(t, part[i].text, strlen(part[i].text), &o, &ids, &n, e));
        join(&want, ids, n);
        if (i > 0) want.ids[want.n - n - 1] = 2047;   /* the first of its ends: no turn of a template is known to end with it */
        fq_free(ids);
    }
    holds("no template", "chat.jsonl", &m, &want);
    fq_tokenizer_close(t);
    fqi_runnable_free(&m);
    free(dir);
}

/* Of several ends the one that ends a turn is not what joins documents; without any nothing does, and that is said. */
static void test_joint(void **state)
{
    (void)state;
    static const struct { const char *eos; int joint; } row[] = { { "[2047, 2045]", 2045 }, { "[2046, 2045]", 2046 }, { "2047", 2047 }, { "null", -1 } };
    char *path = fqt_join(fqt_dir, "joint.jsonl");
    fqt_write_text(fqt_dir, "joint.jsonl", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n");
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        char *dir = model_dir("joint", &(fqt_model){ .family = "qwen2", .layers = 1, .vocab = 2048, .seed = 4 }, row[i].eos);
        write_tokenizer(dir, NULL, NULL, NULL);
        fqi_runnable m = open_model(dir);
        heard h = { 0 };
        const fq_run run = run_with(&h, 1);
        fqi_calib c = make_of(&(fq_calib_options){ .file = path, .seqlen = 2, .samples = 1 }, &m, &run);
        assert_int_equal(c.n_token_file, row[i].joint < 0 ? 2 : 3);
        if (row[i].joint >= 0) assert_int_equal(c.ids[1], row[i].joint);
        assert_int_equal(h.n_log, row[i].joint < 0);
        assert_string_equal(h.phase, "calibration text");
        assert_true(h.last.done_bytes == h.last.total_bytes && h.last.total_bytes == 26);
        fqi_calib_free(&c);
        fqi_runnable_free(&m);
        fqt_remove(dir);
        free(dir);
    }
    free(path);
}

/* Lines across the blocks in which a file is read, and lines longer than those: line ends at, before and behind the seams. */
static void test_seams(void **state)
{
    (void)state;
    enum { BLOCK = 1 << 20 };
    char *file = malloc(4 * BLOCK);
    assert_non_null(file);
    for (int off = -2; off <= 2; off++) {
        joined want = { .n = 0 };
        size_t n = (size_t)sprintf(file, "{\"text\":\"hello world\",\"x\":\""), at = (size_t)(BLOCK + off);
        while (n < at - 2) file[n++] = 'x';
        n += (size_t)sprintf(file + n, "\"}\n{\"text\":\"second one\",\"x\":\"");
        while (n < 3 * BLOCK + 5) file[n++] = 'y';
        n += (size_t)sprintf(file + n, "\"}\n{\"text\":\"third\"}\n");
        join_text(&want, "hello world");
        join_text(&want, "second one");
        join_text(&want, "third");
        fqt_write(fqt_dir, "seams.jsonl", file, n);
        holds("seams", "seams.jsonl", &tiny_model, &want);
    }
    free(file);
}

/* ---- refused ---- */

typedef struct refusal { const char *what; fq_calib_options o; fq_status status; const char *rule, *text; } refusal;

static void refused(const refusal *r, const fqi_runnable *m, const fq_run *run)
{
    fqi_calib c = { 0 };
    fq_err e = { 0 };
    fq_status s = fqi_calib_make(&r->o, m, run, &c, &e);
    if (s != r->status || (r->rule && strcmp(e.rule, r->rule) != 0) || !strstr(e.text, r->text))
        fail_msg("%s: found %d, rule \"%s\", \"%s\"; expected %d, \"%s\", \"%s\"", r->what, (int)s, e.rule, e.text, (int)r->status, r->rule ? r->rule : "", r->text);
    assert_null(c.ids);
    assert_int_equal(fqi_calib_make(&r->o, m, run, &c, NULL), r->status);
}

static void test_refused(void **state)
{
    (void)state;
    char *ids = fqt_join(fqt_dir, "ids"), *large = fqt_join(fqt_dir, "large"), *fifo = fqt_join(fqt_dir, "fifo.jsonl"), *json = fqt_join(fqt_dir, "a.json"), *bad = fqt_join(fqt_dir, "bad.txt");
    char *huge = fqt_join(fqt_dir, "huge.jsonl"), *missing = fqt_join(fqt_dir, "missing.jsonl"), *line = fqt_join(fqt_dir, "line.jsonl"), *short_text = fqt_join(fqt_dir, "short.txt");
    fqt_write_text(fqt_dir, "ids", "1 2 3 4");
    fqt_write_text(fqt_dir, "large", "1 2 2048 4");
    fqt_write_text(fqt_dir, "a.json", "[]");
    fqt_write_text(fqt_dir, "bad.txt", "abc\xc3(");
    fqt_write_text(fqt_dir, "short.txt", "abc");
    fqt_write_text(fqt_dir, "huge.jsonl", "");
    fqt_write_text(fqt_dir, "line.jsonl", "{\"text\":\"a\"}\n\n");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(truncate(huge, INT64_C(1) << 40), 0);
    assert_int_equal(truncate(line, (64 << 20) + 100), 0);
    const refusal row[] = {
        { "both", { .file = bad, .ids = ids }, FQ_E_USAGE, "calibration", "found a text and a list of ids, expected one of them" },
        { "samples", { .ids = ids, .samples = -1 }, FQ_E_USAGE, "samples", "found -1 windows of 512 tokens" },
        { "many samples", { .ids = ids, .samples = INT64_MAX }, FQ_E_USAGE, "samples", "expected 1 to 524288" },
        { "short windows", { .ids = ids, .seqlen = 1 }, FQ_E_USAGE, "seqlen", "found windows of 1 tokens, expected 2 to" },
        { "negative windows", { .ids = ids, .seqlen = -8 }, FQ_E_USAGE, "seqlen", "found windows of -8" },
        { "long windows", { .ids = ids, .seqlen = INT64_MAX }, FQ_E_USAGE, "seqlen", "found windows of 9223372036854775807" },
        { "too few", { .ids = ids }, FQ_E_INPUT, "text-length", "/ids: text-length: found 4 tokens, expected at least 512: one window" },
        { "too short", { .file = short_text, .seqlen = 8 }, FQ_E_INPUT, "text-length", "/short.txt: text-length" },
        { "large id", { .ids = large, .seqlen = 2 }, FQ_E_INPUT, "token-id", "found id 2048 at place 2" },
        { "UTF-8", { .file = bad, .seqlen = 2 }, FQ_E_INPUT, "utf-8", "/bad.txt: byte 3: utf-8" },
        { ".json", { .file = json, .seqlen = 2 }, FQ_E_INPUT, "calibration", "/a.json: calibration: found a .json file, expected .jsonl" },
        { "FIFO", { .file = fifo }, FQ_E_INPUT, "file-kind", "found a FIFO" },
        { "1 TB", { .file = huge }, FQ_E_INPUT, "file-size", "/huge.jsonl: file-size: found 1099511627776 bytes, expected at most 1073741824" },
        { "missing", { .file = missing }, FQ_E_IO, NULL, "/missing.jsonl: open: No such file" },
        { "huge line", { .file = line }, FQ_E_INPUT, "line-length", "/line.jsonl: line 3: line-length: found more than 67108864 bytes" },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) refused(&row[i], &tiny_model, NULL);
    free(ids); free(large); free(fifo); free(json); free(bad); free(huge); free(missing); free(line); free(short_text);
}

static void test_bad_lines(void **state)
{
    (void)state;
    char deep[400];
    memset(deep, '[', 200);
    memset(deep + 200, ']', 199);
    deep[399] = '\0';
    char nested[512];
    snprintf(nested, sizeof nested, "{\"x\":%s,\"text\":\"a\"}", deep);
    const struct { const char *what, *line, *rule, *text; } row[] = {
        { "no object", "\"text\"", "jsonl", "a line: found \"text\", expected an object" },
        { "array", "[{\"text\":\"a\"}]", "jsonl", "expected an object" },
        { "neither", "{\"txt\":\"a\"}", "jsonl", "line 2: jsonl: found neither \"text\" nor \"messages\"" },
        { "empty object", "{}", "jsonl", "found neither" },
        { "nested fields", "{\"data\":{\"text\":\"a\"}}", "jsonl", "found neither" },
        { "number", "{\"text\":5}", "jsonl", "line 2: byte 8: jsonl: text: found 5, expected a string" },
        { "null", "{\"text\":null}", "jsonl", "text: found null, expected a string" },
        { "twice", "{\"text\":\"a\",\"text\":\"b\"}", "jsonl", "text: found it twice" },
        { "messages twice", "{\"messages\":[],\"messages\":[]}", "jsonl", "messages: found it twice" },
        { "messages", "{\"messages\":\"a\"}", "jsonl", "messages: found \"a\", expected an array" },
        { "message", "{\"messages\":[\"a\"]}", "jsonl", "messages: found \"a\", expected objects" },
        { "no role", "{\"messages\":[{\"content\":\"a\"}]}", "jsonl", "role: found none in a message" },
        { "no content", "{\"messages\":[{\"role\":\"user\"}]}", "jsonl", "content: found none in a message" },
        { "parts", "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", "jsonl", "content: found an array, expected a string" },
        { "two roles", "{\"messages\":[{\"role\":\"user\",\"role\":\"user\",\"content\":\"a\"}]}", "jsonl", "role: found it twice" },
        { "role", "{\"messages\":[{\"role\":\"tool\",\"content\":\"a\"}]}", "chat-role", "line 2: chat-role: found a message of \"tool\", expected system, user or assistant" },
        { "cut", "{\"text\":\"a\"", NULL, "line 2: byte 11: " },
        { "cut string", "{\"text\":\"a", "json-string", "expected a closing quote" },
        { "trailing comma", "{\"text\":\"a\",}", NULL, "line 2: byte 12: " },
        { "two objects", "{\"text\":\"a\"}{\"text\":\"b\"}", NULL, "line 2: byte 12: " },
        { "UTF-8", "{\"text\":\"a\xff\"}", "json-utf8", "line 2: byte 10: json-utf8: found byte 0xff" },
        { "UTF-8 in another field", "{\"text\":\"a\",\"x\":\"\xc3\"}", "json-utf8", "line 2: " },
        { "surrogate", "{\"text\":\"\\ud800\"}", "json-string", "found a lone surrogate" },
        { "NUL", "{\"text\":\"\\u0000\"}", "json-string", "found a NUL" },
        { "deep", nested, "json-depth", "found deeper nesting, expected at most 64 levels" },
        { "byte order mark", "\xef\xbb\xbf{\"text\":\"a\"}", NULL, "line 2: byte 0: " },
        { "CR only", "{\"text\":\"a\"}\r{\"text\":\"b\"}", NULL, "line 2: byte 13: " },
    };
    char *path = fqt_join(fqt_dir, "bad.jsonl"), file[1024];
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        snprintf(file, sizeof file, "{\"text\":\"good\"}\r\n%s\n{\"text\":\"never read\"}\n", row[i].line);
        fqt_write_text(fqt_dir, "bad.jsonl", file);
        refused(&(refusal){ row[i].what, { .file = path, .seqlen = 2 }, FQ_E_INPUT, row[i].rule, row[i].text }, &tiny_model, NULL);
    }
    free(path);
}

/* Any one byte of a file changed, cut or doubled: ids, or a refusal with its line. */
static void test_damage(void **state)
{
    (void)state;
    static const char good[] = "{\"text\":\"hello \\u00e9\",\"n\":[1.5e3,{\"a\":null}]}\r\n{\"messages\":[{\"role\":\"user\",\"content\":\"a b\"}],\"t\":true}\n";
    uint64_t seed = fqt_seed(77);
    char *path = fqt_join(fqt_dir, "damage.jsonl");
    for (int round = 0; round < 150; round++) {
        char file[sizeof good + 1];
        size_t n = sizeof good - 1, at = (size_t)(fqt_random(&seed) % n);
        memcpy(file, good, n);
        switch (fqt_random(&seed) % 3) {
        case 0: file[at] = (char)fqt_random(&seed); break;
        case 1: n = at; break;
        default: memmove(file + at + 1, file + at, n - at); n++;
        }
        fqt_write(fqt_dir, "damage.jsonl", file, n);
        fqi_calib c = { 0 };
        fq_err e = { 0 };
        const fq_calib_options o = { .file = path, .seqlen = 2 };
        fq_status s = fqi_calib_make(&o, &tiny_model, NULL, &c, &e);
        if (s != FQ_OK && (s != FQ_E_INPUT || (!strstr(e.text, "jsonl: line ") && strcmp(e.rule, "text-length") != 0))) fail_msg("round %d: %d, %s", round, (int)s, e.text);
        fqi_calib_free(&c);
    }
    free(path);
}

/* ---- written by the model ---- */

static void test_self(void **state)
{
    (void)state;
    const fq_calib_options o = { .samples = 70, .seqlen = 24, .seed = 5 }, other = { .samples = 70, .seqlen = 24, .seed = 6 };
    fqi_calib first = { 0 };
    for (int n_thread = 1; n_thread <= 5; n_thread += 2) {
        heard h = { 0 };
        const fq_run run = run_with(&h, n_thread);
        fqi_calib c = make_of(&o, &tiny_model, &run);
        assert_int_equal(c.n_window, 70);
        assert_int_equal(c.n_token_file, 0);
        assert_string_equal(c.source, "written by the model");
        assert_string_equal(h.phase, "writing");
        assert_true(h.last.done_items == 70 * 24 && h.last.total_items == 70 * 24 && h.last.done_bytes == h.last.total_bytes);
        assert_int_equal(h.n_log, 0);
        for (size_t i = 0; i < 70; i++) assert_true(c.ids[24 * i] < EOS);   /* an ordinary one */
        for (size_t i = 0; i < 70 * 24; i++) {
            assert_true(c.ids[i] < 2048);
            if (c.ids[i] == EOS && (i + 1) % 24) assert_true(c.ids[i + 1] < EOS);
        }
        assert_true(c.n_distinct > 200);
        if (first.ids) same(&first, &c);
        if (n_thread == 1) first = c;
        else fqi_calib_free(&c);
    }
    assert_memory_not_equal(first.ids, first.ids + 64 * 24, 24 * sizeof *first.ids);   /* of another batch */
    fqi_calib c = make(&other);
    size_t equal = 0;
    for (size_t i = 0; i < 70 * 24; i++) equal += c.ids[i] == first.ids[i];
    assert_true(equal < 70 * 24 / 4);
    assert_true(c.hash != first.hash);
    fqi_calib_free(&c);
    fqi_calib_free(&first);
}

/* Every token from id 100 on is a special one: none of these begins a text. */
static void test_self_special(void **state)
{
    (void)state;
    char *dir = model_dir("special", &(fqt_model){ .family = "qwen2", .layers = 1, .vocab = 2048, .seed = 4 }, "7"), *text;
    size_t n;
    write_tokenizer(dir, NULL, NULL, NULL);
    text = fqt_read(dir, "tokenizer.json", &n);
    json_t *root = json_loads(text, 0, NULL), *added = json_object_get(root, "added_tokens"), *id;
    const char *content;
    free(text);
    json_object_foreach(json_object_get(json_object_get(root, "model"), "vocab"), content, id)
        if (json_integer_value(id) >= 100)
            json_array_append_new(added, json_pack("{s:i,s:s,s:b,s:b,s:b,s:b,s:b}", "id", (int)json_integer_value(id), "content", content, "single_word", 0, "lstrip", 0, "rstrip", 0,
                                                   "normalized", 0, "special", 1));
    text = json_dumps(root, 0);
    fqt_write_text(dir, "tokenizer.json", text);
    free(text);
    json_decref(root);
    fqi_runnable m = open_model(dir);
    fqi_calib c = make_of(&(fq_calib_options){ .samples = 100, .seqlen = 3 }, &m, NULL);
    size_t large = 0;
    for (size_t i = 0; i < 300; i++) {
        if (i % 3 == 0) assert_true(c.ids[i] < 100 && c.ids[i] != 7);
        large += c.ids[i] >= 100;
    }
    assert_true(large > 0);   /* the model may want them */
    fqi_calib_free(&c);
    fqi_runnable_free(&m);
    free(dir);
}

/* Of what a distribution is asked for, -ln p of what was drawn less its expectation: sum, and sum of variances. */
typedef struct surprise { double sum, variance, nll; } surprise;

static void add_surprise(surprise *u, const float *logits, size_t n, uint32_t id)
{
    double max = logits[0], total = 0, mean = 0, square = 0;
    for (size_t i = 1; i < n; i++) max = logits[i] > max ? logits[i] : max;
    for (size_t i = 0; i < n; i++) total += exp(logits[i] - max);
    for (size_t i = 0; i < n; i++) {
        double ln = logits[i] - max - log(total), p = exp(ln);
        mean -= p * ln;
        square += p * ln * ln;
    }
    double nll = -(logits[id] - max - log(total));
    u->sum += nll - mean;
    u->variance += square - mean * mean;
    u->nll += nll;
}

/* What the model writes is drawn from what it says behind each token of the same window: temperature 1, and no cache of another sequence. */
static void test_self_is_the_models(void **state)
{
    (void)state;
    enum { SAMPLES = 12, SEQLEN = 32 };
    fqi_calib c = make(&(fq_calib_options){ .samples = SAMPLES, .seqlen = SEQLEN, .seed = 11 });
    surprise own = { 0 }, shuffled = { 0 };
    for (size_t s = 0; s < SAMPLES; s++) {
        fq_generator *g = NULL;
        const fq_generator_options o = { .context = SEQLEN };
        const uint32_t *ids = c.ids + s * SEQLEN, *next = c.ids + (s + 1) % SAMPLES * SEQLEN;
        FQT_OK(fq_generator_open(tiny, &o, NULL, &g, e));
        for (size_t i = 0; i + 1 < SEQLEN; i++) {
            FQT_OK(fq_generator_feed(g, &ids[i], 1, e));
            if (ids[i] == EOS) continue;   /* what follows is not the model's */
            add_surprise(&own, fq_generator_logits(g), 2048, ids[i + 1]);
            add_surprise(&shuffled, fq_generator_logits(g), 2048, next[i + 1]);
        }
        fq_generator_close(g);
    }
    double sigma = sqrt(own.variance);
    if (fabs(own.sum) > 5 * sigma) fail_msg("surprise %.1f, expected 0 give or take %.1f", own.sum, sigma);
    if (shuffled.sum < 10 * sigma) fail_msg("another sequence's text is no surprise (%.1f of %.1f): this test cannot fail", shuffled.sum, sigma);
    fqi_calib_free(&c);
}

/* A small vocabulary with two ends, no tokenizer: behind an end any ordinary id, each as likely. */
static void test_self_ends(void **state)
{
    (void)state;
    char *dir = model_dir("ends", &(fqt_model){ .family = "qwen3_moe", .layers = 2, .vocab = 9, .seed = 8 }, "[3, 5]");
    fqi_runnable m = open_model(dir);
    fqi_calib c = make_of(&(fq_calib_options){ .samples = 90, .seqlen = 40, .seed = 2 }, &m, NULL);
    int first[9] = { 0 }, behind[9] = { 0 }, n_behind = 0;
    for (size_t i = 0; i < 90 * 40; i++) {
        if (i % 40 == 0) first[c.ids[i]]++;
        if (i % 40 == 0 || (c.ids[i - 1] != 3 && c.ids[i - 1] != 5)) continue;
        behind[c.ids[i]]++;
        n_behind++;
    }
    assert_true(n_behind > 200);
    for (int id = 0; id < 9; id++) {
        bool end = id == 3 || id == 5;
        double share = n_behind / 7.0;
        if (end && first[id] + behind[id] > 0) fail_msg("end %d begins a text", id);
        if (!end && (behind[id] < share - 5 * sqrt(share) || behind[id] > share + 5 * sqrt(share))) fail_msg("id %d: %d of %d", id, behind[id], n_behind);
        if (!end) assert_true(first[id] > 0);
    }
    fqi_calib_free(&c);
    fqi_runnable_free(&m);
    free(dir);
}

/* Rows that padding added are no tokens. */
static void test_self_padded(void **state)
{
    (void)state;
    char *dir = model_dir("unpadded", &(fqt_model){ .family = "qwen2", .layers = 1, .vocab = 37, .heads = 6, .kv = 2, .head_dim = 8, .hidden = 48, .ff = 40, .seed = 9 }, "null");
    char *target = fqt_join(fqt_dir, "padded");
    const fq_pad_options o = { .source = dir, .target = target, .fit = { .vocab_size_pad = 64 }, .layout = FQ_LAYOUT_TAIL, .vocab = true };
    FQT_OK(fq_pad(&o, NULL, NULL, e));
    fqi_runnable m = open_model(target);
    fqi_calib c = make_of(&(fq_calib_options){ .samples = 64, .seqlen = 8 }, &m, NULL);
    for (size_t i = 0; i < 64 * 8; i++) assert_true(c.ids[i] < 37);
    fqi_calib_free(&c);
    fqi_runnable_free(&m);
    free(target);
    free(dir);
}

static void test_self_refused(void **state)
{
    (void)state;
    const fq_run small = { .memory_bytes = 1 << 20, .n_thread = 1 };
    refused(&(refusal){ "budget", { .samples = 4, .seqlen = 8 }, FQ_E_NOMEM, "memory-budget", "; with --calib FILE the model need not write" }, &tiny_model, &small);
    refused(&(refusal){ "long", { .samples = 1, .seqlen = 1 << 24 }, FQ_E_NOMEM, "memory-budget", "KV cache for 16777216 tokens" }, &tiny_model, &small);
    char *dir = model_dir("only-ends", &(fqt_model){ .family = "qwen2", .layers = 1, .vocab = 2, .seed = 4 }, "[0, 1]");
    fqi_runnable m = open_model(dir);
    refused(&(refusal){ "only ends", { .samples = 1, .seqlen = 8 }, FQ_E_INPUT, "token-id", "found a vocabulary of control tokens only" }, &m, NULL);
    fqi_runnable_free(&m);
    free(dir);
    for (int after = 1; after < 40; after += 3) {
        heard h = { .cancel_after = after };
        const fq_run run = run_with(&h, 2);
        fqi_calib c = { 0 };
        fq_err e;
        assert_int_equal(fqi_calib_make(&(fq_calib_options){ .samples = 3, .seqlen = 20 }, &tiny_model, &run, &c, &e), FQ_E_CANCELLED);
        assert_null(c.ids);
    }
}

/* A tokenizer that cannot be read is no obstacle to writing, and is said. */
static void test_self_tokenizer(void **state)
{
    (void)state;
    char *dir = model_dir("strange", &(fqt_model){ .family = "qwen2", .layers = 1, .vocab = 11, .seed = 4 }, "null");
    fqt_write_text(dir, "tokenizer.json", "{\"model\":{\"type\":\"Unigram\"}}");
    fqi_runnable m = open_model(dir);
    heard h = { 0 };
    const fq_run run = run_with(&h, 1);
    fqi_calib c = make_of(&(fq_calib_options){ .samples = 2, .seqlen = 4096 }, &m, &run);
    assert_int_equal(h.n_log, 3);
    assert_non_null(strstr(h.log, "max_position_embeddings"));
    assert_non_null(strstr(h.log, "tokenizer.json"));
    assert_non_null(strstr(h.log, "cannot be read"));
    assert_int_equal(c.n_distinct, 11);
    fqi_calib_free(&c);
    fqi_runnable_free(&m);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text), cmocka_unit_test(test_draw), cmocka_unit_test(test_bos), cmocka_unit_test(test_jsonl), cmocka_unit_test(test_messages),
        cmocka_unit_test(test_joint), cmocka_unit_test(test_seams), cmocka_unit_test(test_refused), cmocka_unit_test(test_bad_lines), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_self), cmocka_unit_test(test_self_special), cmocka_unit_test(test_self_is_the_models), cmocka_unit_test(test_self_ends), cmocka_unit_test(test_self_padded),
        cmocka_unit_test(test_self_refused), cmocka_unit_test(test_self_tokenizer),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
