/* test_generate.c - continuations against published ones, the cache against the whole prompt, and what is refused.
 *
 * Golden ids are of independent implementations: own/golden (PyTorch), models/stories260K (the text that llama2.c prints). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "fitq.h"
#include "make_ckpt.h"
#include "support.h"

static fq_generator *open_run(const char *path, const fq_generator_options *o, const fq_run *run)
{
    fq_generator *g = NULL;
    fq_err e;
    if (fq_generator_open(path, o, run, &g, &e) != FQ_OK) fail_msg("%s", e.text);
    return g;
}

static fq_generator *open_at(const char *dir, const char *name, const fq_generator_options *o)
{
    char *path = fqt_join(dir, name);
    fq_generator *g = open_run(path, o, NULL);
    free(path);
    return g;
}

static void feed(fq_generator *g, const uint32_t *ids, size_t n)
{
    fq_err e;
    if (fq_generator_feed(g, ids, n, &e) != FQ_OK) fail_msg("%s", e.text);
}

static uint32_t next(fq_generator *g)
{
    uint32_t id = UINT32_MAX;
    fq_err e;
    if (fq_generator_next(g, &id, &e) != FQ_OK) fail_msg("%s", e.text);
    return id;
}

static int64_t n_token(const fq_generator *g)
{
    fq_generator_info info;
    fq_generator_get_info(g, &info);
    return info.n_token;
}

/* ---- published continuations ---- */

static size_t json_ids(const json_t *root, const char *key, uint32_t *out, size_t cap)
{
    const json_t *list = json_object_get(root, key);
    size_t n = json_array_size(list);
    assert_true(n > 0 && n <= cap);
    for (size_t i = 0; i < n; i++) out[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return n;
}

static json_t *load(const char *dir, const char *name)
{
    char *path = fqt_join(dir, name);
    json_t *root = json_load_file(path, 0, NULL);
    if (!root) fail_msg("%s cannot be read", path);
    free(path);
    return root;
}

static const fq_generator_options greedy_fast, greedy_exact = { .exact = true };

static void continues(const char *dir, const char *name, const fq_generator_options *o, const uint32_t *prompt, size_t n_prompt, const uint32_t *want, size_t n)
{
    fq_generator *g = open_at(dir, name, o);
    assert_null(fq_generator_logits(g));
    feed(g, prompt, n_prompt);
    for (size_t i = 0; i < n; i++) {
        uint32_t id = next(g);
        if (id != want[i]) fail_msg("%s, %s: token %zu is %u, expected %u", name, o->exact ? "exact" : "fast", i, id, want[i]);
    }
    assert_int_equal(n_token(g), n_prompt + n);
    fq_generator_close(g);
}

static void test_golden(void **state)
{
    (void)state;
    static const char *const name[] = { "own/tiny-qwen2", "own/tiny-qwen3-moe" }, *const golden[] = { "own/golden/tiny-qwen2/golden.json", "own/golden/tiny-qwen3-moe/golden.json" };
    const char *data = fqt_data();
    for (size_t i = 0; i < 2; i++) {
        uint32_t prompt[128], want[64];
        json_t *root = load(data, golden[i]);
        size_t n_prompt = json_ids(root, "greedy_prompt_ids", prompt, 128), n = json_ids(root, "greedy_ids", want, 64);
        json_decref(root);
        continues(data, name[i], &greedy_fast, prompt, n_prompt, want, n);
        continues(data, name[i], &greedy_exact, prompt, n_prompt, want, n);
    }
}

/* Text of ids in llama2.c's tokenizer file: int32 longest piece, then for each id float score, int32 length, bytes. A space that a piece
 * begins with is left out behind the beginning-of-text token (run.c: decode). */
static char *llama2c_text(const char *dir, const uint32_t *ids, size_t n)
{
    size_t n_file, pos = 4, n_piece = 0;
    char *file = fqt_read(dir, "tok512.bin", &n_file), *text = calloc(n + 1, 64), *end = text;
    const char *piece[512];
    int32_t length[512];
    assert_non_null(file);
    assert_non_null(text);
    for (; n_piece < 512 && pos + 8 <= n_file; n_piece++) {
        memcpy(&length[n_piece], file + pos + 4, 4);
        assert_in_range(length[n_piece], 0, 63);
        piece[n_piece] = file + pos + 8;
        pos += 8 + (size_t)length[n_piece];
    }
    assert_int_equal(n_piece, 512);
    assert_int_equal(pos, n_file);
    for (size_t i = 1; i < n; i++) {
        unsigned byte;
        const char *s = piece[ids[i]];
        size_t k = (size_t)length[ids[i]], cut = ids[i - 1] == 1 && s[0] == ' ';
        char raw[8] = { 0 };
        if (k == 6) memcpy(raw, s, 6);
        if (k == 6 && sscanf(raw, "<0x%02X>", &byte) == 1) *end++ = (char)byte;
        else {
            memcpy(end, s + cut, k - cut);
            end += k - cut;
        }
    }
    *end = '\0';
    free(file);
    return text;
}

static void test_stories(void **state)
{
    (void)state;
    const char *data = fqt_data();
    char *dir = fqt_join(data, "models/stories260K");
    json_t *root = load(dir, "derived/greedy_ids.json");
    uint32_t want[512];
    size_t n = json_ids(root, "ids", want, 512), n_text;
    json_decref(root);
    continues(dir, "derived", &greedy_fast, want, 1, want + 1, n - 1);
    continues(dir, "derived", &greedy_exact, want, 1, want + 1, n - 1);
    /* the published text is the first 200 tokens or so of the same sequence */
    uint32_t ids[512] = { want[0] };
    fq_generator *g = open_at(dir, "derived", NULL);
    feed(g, ids, 1);
    for (size_t i = 1; i < n; i++) ids[i] = next(g);
    fq_generator_close(g);
    char *text = llama2c_text(dir, ids, n), *expected = fqt_read(dir, "expected_greedy_200.txt", &n_text);
    assert_non_null(expected);
    while (n_text > 0 && expected[n_text - 1] == '\n') expected[--n_text] = '\0';
    size_t n_own = strlen(text);
    while (n_own > 0 && text[n_own - 1] == '\n') text[--n_own] = '\0';
    assert_true(n_text > 300);
    assert_string_equal(text, expected);
    free(text);
    free(expected);
    free(dir);
}

/* ---- the cache ---- */

static uint64_t draw(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *seed >> 33;
}

static char *make(const fqt_model *m)
{
    char *dir = fqt_tempdir();
    fqt_make_model(dir, m);
    return dir;
}

static void drop(char *dir)
{
    fqt_remove(dir);
    free(dir);
}

/* Ids in pieces of random lengths (longest: most) give the logits of all at once. */
static void in_pieces(const char *dir, const fq_generator_options *o, const uint32_t *ids, size_t n, size_t most, uint64_t seed)
{
    fq_generator *whole = open_run(dir, o, NULL), *pieces = open_run(dir, o, NULL);
    fq_generator_info info;
    fq_generator_get_info(whole, &info);
    feed(whole, ids, n);
    for (size_t i = 0, k; i < n; i += k) {
        k = 1 + (size_t)draw(&seed) % most;
        if (k > n - i) k = n - i;
        feed(pieces, ids + i, k);
    }
    const float *a = fq_generator_logits(whole), *b = fq_generator_logits(pieces);
    for (size_t i = 0; i < info.n_vocab; i++) {
        bool same = o->exact ? memcmp(a + i, b + i, sizeof *a) == 0 : fabs((double)a[i] - (double)b[i]) <= 1e-4 * (1 + fabs((double)a[i]));
        if (!same) fail_msg("%s: logit %zu is %.9g in one piece, %.9g in pieces of up to %zu", o->exact ? "exact" : "fast", i, (double)a[i], (double)b[i], most);
    }
    for (int i = 0; i < 20; i++) assert_int_equal(next(whole), next(pieces));
    fq_generator_close(whole);
    fq_generator_close(pieces);
}

static void test_pieces(void **state)
{
    (void)state;
    static const fqt_model model[] = {
        { .family = "qwen2", .layers = 2, .seed = 1 },
        { .family = "qwen3_moe", .layers = 2, .seed = 2, .dtype = "F32" },
        { .family = "llama", .layers = 2, .seed = 3, .dtype = "F16", .tied = true },
    };
    uint64_t seed = 77;
    for (size_t m = 0; m < sizeof model / sizeof model[0]; m++) {
        char *dir = make(&model[m]);
        uint32_t ids[90];
        fq_generator_info info;
        fq_generator *g = open_run(dir, NULL, NULL);
        fq_generator_get_info(g, &info);
        fq_generator_close(g);
        for (size_t i = 0; i < 90; i++) ids[i] = (uint32_t)(draw(&seed) % info.n_vocab);
        in_pieces(dir, &greedy_exact, ids, 90, 1, seed);
        in_pieces(dir, &greedy_exact, ids, 90, 40, seed);
        drop(dir);
    }
}

/* A trained model, whose logits are far enough apart for another order of sums not to change ids; a prompt longer than one block. */
static void test_pieces_trained(void **state)
{
    (void)state;
    char *source = fqt_join(fqt_source(), "examples/tiny-qwen2");
    uint32_t ids[700];
    uint64_t seed = 5;
    for (size_t i = 0; i < 700; i++) ids[i] = (uint32_t)(draw(&seed) % 2000);
    in_pieces(source, &greedy_fast, ids, 60, 1, 1);
    in_pieces(source, &greedy_fast, ids, 700, 200, 2);
    in_pieces(source, &greedy_exact, ids, 700, 600, 3);
    free(source);
}

/* Bits do not depend on the number of threads, in either order. */
static void test_threads(void **state)
{
    (void)state;
    char *source = fqt_join(fqt_source(), "examples/tiny-qwen2");
    for (int exact = 0; exact < 2; exact++) {
        float first[2048];
        for (int n = 1; n <= 3; n++) {
            fq_run run = { .n_thread = n };
            fq_generator_options o = { .exact = exact == 1 };
            fq_generator *g = open_run(source, &o, &run);
            uint32_t ids[40];
            for (uint32_t i = 0; i < 40; i++) ids[i] = 7 * i;
            feed(g, ids, 39);
            feed(g, ids + 39, 1);
            if (n == 1) memcpy(first, fq_generator_logits(g), sizeof first);
            else assert_memory_equal(first, fq_generator_logits(g), sizeof first);
            fq_generator_close(g);
        }
    }
    free(source);
}

/* ---- sampling through the generator ---- */

static void test_seed(void **state)
{
    (void)state;
    char *source = fqt_join(fqt_source(), "examples/tiny-qwen2");
    uint32_t got[3][30];
    for (int r = 0; r < 3; r++) {
        fq_generator_options o = { .temperature = 0.9, .top_p = 0.95, .seed = r == 2 ? 8 : 7 };
        fq_generator *g = open_run(source, &o, NULL);
        feed(g, (uint32_t[]){ 10, 20, 30 }, 3);
        for (int i = 0; i < 30; i++) got[r][i] = next(g);
        fq_generator_close(g);
    }
    assert_memory_equal(got[0], got[1], sizeof got[0]);
    assert_memory_not_equal(got[0], got[2], sizeof got[0]);
    free(source);
}

/* ---- limits ---- */

static void test_context(void **state)
{
    (void)state;
    char *dir = make(&(fqt_model){ .family = "qwen2", .layers = 1, .seed = 4 });
    fq_generator_options o = { .context = 10 };
    fq_generator *g = open_run(dir, &o, NULL);
    uint32_t ids[11] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 }, id = 77;
    fq_err e;
    assert_int_equal(fq_generator_next(g, &id, &e), FQ_E_USAGE);
    feed(g, ids, 0);
    assert_null(fq_generator_logits(g));
    assert_int_equal(fq_generator_feed(g, ids, 11, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "context-full");
    assert_int_equal(n_token(g), 0);
    feed(g, ids, 8);
    float before = fq_generator_logits(g)[3];
    assert_int_equal(fq_generator_feed(g, ids, 3, &e), FQ_E_INPUT);
    assert_int_equal(n_token(g), 8);
    assert_true(fq_generator_logits(g)[3] == before);
    next(g);
    next(g);
    assert_int_equal(n_token(g), 10);
    assert_int_equal(fq_generator_next(g, &id, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "context-full");
    assert_int_equal(id, 77);
    assert_int_equal(n_token(g), 10);
    fq_generator_close(g);
    o.context = -1;
    assert_int_equal(fq_generator_open(dir, &o, NULL, &g, &e), FQ_E_USAGE);
    o.context = INT64_MAX;
    assert_int_not_equal(fq_generator_open(dir, &o, NULL, &g, &e), FQ_OK);
    o = (fq_generator_options){ .temperature = -1 };
    assert_int_equal(fq_generator_open(dir, &o, NULL, &g, &e), FQ_E_USAGE);
    drop(dir);
}

static void test_token_id(void **state)
{
    (void)state;
    char *dir = make(&(fqt_model){ .family = "qwen2", .layers = 1, .vocab = 37, .seed = 4 });
    fq_generator *g = open_run(dir, NULL, NULL);
    fq_err e;
    assert_int_equal(fq_generator_feed(g, (uint32_t[]){ 3, 37 }, 2, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "token-id");
    assert_int_equal(fq_generator_feed(g, (uint32_t[]){ UINT32_MAX }, 1, &e), FQ_E_INPUT);
    assert_int_equal(n_token(g), 0);
    feed(g, (uint32_t[]){ 36 }, 1);
    fq_generator_close(g);
    drop(dir);
}

/* A budget below what is needed is refused with the figure that would do, and that figure does. */
static void test_memory(void **state)
{
    (void)state;
    char *dir = make(&(fqt_model){ .family = "qwen2", .layers = 1, .seed = 4 });
    fq_run run = { .memory_bytes = 1 << 20, .n_thread = 1 };
    fq_generator *g = NULL;
    fq_err e;
    unsigned long long need = 0;
    assert_int_equal(fq_generator_open(dir, NULL, &run, &g, &e), FQ_E_NOMEM);
    assert_string_equal(e.rule, "memory-budget");
    const char *figure = strstr(e.text, "expected at least ");
    assert_non_null(figure);
    assert_int_equal(sscanf(figure, "expected at least %llu MiB", &need), 1);
    run.memory_bytes = (need + 16) << 20;   /* the process has grown by the attempt */
    g = open_run(dir, NULL, &run);
    fq_generator_info info;
    fq_generator_get_info(g, &info);
    assert_true(info.memory_bytes <= run.memory_bytes);
    fq_generator_close(g);
    /* a context that no machine has memory for, without a budget */
    fq_generator_options o = { .context = INT64_C(1) << 39 };
    assert_int_equal(fq_generator_open(dir, &o, NULL, &g, &e), FQ_E_NOMEM);
    assert_string_equal(e.rule, "memory-budget");
    drop(dir);
}

static void count_warning(void *user, fq_log_level level, const char *line)
{
    if (level == FQ_LOG_WARN && strstr(line, "made for")) ++*(int *)user;
}

static void test_long_context(void **state)
{
    (void)state;
    static const struct { const char *scaling; int64_t context; int warnings; } row[] = {
        { "null", 0, 0 }, { "null", 64, 0 }, { "null", 65, 1 }, { "{\"rope_type\":\"linear\",\"factor\":4.0}", 65, 1 },
        { "{\"rope_type\":\"dynamic\",\"factor\":4.0}", 256, 0 }, { "{\"rope_type\":\"dynamic\",\"factor\":4.0}", 257, 1 },
        { "{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":64}", 256, 0 },
        { "{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":64}", 257, 1 },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        char *dir = make(&(fqt_model){ .family = "qwen2", .layers = 1, .seed = 4 });
        size_t n;
        char *text = fqt_read(dir, "config.json", &n);
        json_t *root = json_loads(text, 0, NULL), *scaling = json_loads(row[i].scaling, JSON_DECODE_ANY, NULL);
        assert_non_null(root);
        json_object_set_new(root, "max_position_embeddings", json_integer(64));
        json_object_set_new(root, "rope_scaling", scaling);
        free(text);
        text = json_dumps(root, 0);
        fqt_write_text(dir, "config.json", text);
        json_decref(root);
        free(text);
        int warnings = 0;
        fq_run run = { .log = count_warning, .user = &warnings };
        fq_generator_options o = { .context = row[i].context };
        fq_generator *g = open_run(dir, &o, &run);
        fq_generator_info info;
        fq_generator_get_info(g, &info);
        if (warnings != row[i].warnings) fail_msg("row %zu: %d warnings", i, warnings);
        assert_int_equal(info.context, row[i].context ? row[i].context : 64);
        fq_generator_close(g);
        drop(dir);
    }
}

/* ---- ends ---- */

static void test_ends(void **state)
{
    (void)state;
    /* config: eos_token_id of config.json; file: generation_config.json */
    static const struct { const char *config, *file; fq_status status; const char *part; int ids[3]; } row[] = {
        { "5", NULL, FQ_OK, NULL, { 5, -1 } },
        { "5", "{\"eos_token_id\": 7}", FQ_OK, NULL, { 7, -1 } },
        { "5", "{\"eos_token_id\": [7, 0]}", FQ_OK, NULL, { 7, 0, -1 } },
        { "5", "{\"eos_token_id\": null}", FQ_OK, NULL, { 5, -1 } },
        { "[5, 6]", "{\"temperature\": 0.7}", FQ_OK, NULL, { 5, 6, -1 } },
        { "null", NULL, FQ_OK, NULL, { -1 } },
        { "5", "{\"eos_token_id\": -1}", FQ_E_INPUT, "eos_token_id: found -1", { -1 } },
        { "5", "{\"eos_token_id\": 37}", FQ_E_INPUT, "found 37", { -1 } },
        { "5", "{\"eos_token_id\": 1.0}", FQ_E_INPUT, "no integer", { -1 } },
        { "5", "{\"eos_token_id\": \"</s>\"}", FQ_E_INPUT, "no number", { -1 } },
        { "5", "{\"eos_token_id\": true}", FQ_E_INPUT, "no number", { -1 } },
        { "5", "{\"eos_token_id\": []}", FQ_E_INPUT, "empty list", { -1 } },
        { "5", "{\"eos_token_id\": [7, [8]]}", FQ_E_INPUT, "no number", { -1 } },
        { "5", "{\"eos_token_id\": 7,}", FQ_E_INPUT, "generation_config.json", { -1 } },
        { "5", "{\"eos_token_id\": 7, \"eos_token_id\": 8}", FQ_E_INPUT, "eos_token_id", { -1 } },
        { "5", "[]", FQ_E_INPUT, "object", { -1 } },
        { "5", "", FQ_E_INPUT, "generation_config.json", { -1 } },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        char *dir = make(&(fqt_model){ .family = "qwen2", .layers = 1, .vocab = 37, .seed = 4 }), *text;
        size_t n;
        text = fqt_read(dir, "config.json", &n);
        json_t *root = json_loads(text, 0, NULL);
        json_object_set_new(root, "eos_token_id", json_loads(row[i].config, JSON_DECODE_ANY, NULL));
        free(text);
        text = json_dumps(root, 0);
        fqt_write_text(dir, "config.json", text);
        json_decref(root);
        free(text);
        if (row[i].file) fqt_write_text(dir, "generation_config.json", row[i].file);
        fq_generator *g = NULL;
        fq_err e;
        fq_status s = fq_generator_open(dir, NULL, NULL, &g, &e);
        if (s != row[i].status) fail_msg("row %zu: status %d: %s", i, s, s == FQ_OK ? "" : e.text);
        if (s != FQ_OK && !strstr(e.text, row[i].part)) fail_msg("row %zu: %s", i, e.text);
        for (uint32_t id = 0; s == FQ_OK && id < 40; id++) {
            bool want = false;
            for (size_t k = 0; k < 3 && row[i].ids[k] >= 0; k++) want = want || row[i].ids[k] == (int)id;
            if (fq_generator_is_end(g, id) != want) fail_msg("row %zu: id %u", i, id);
        }
        fq_generator_close(g);
        drop(dir);
    }
}

/* ---- fitted models, bad weights, cancelling ---- */

/* A padded vocabulary: its zeros would win against negative logits; ids and logits are those of the original. */
static void test_padded(void **state)
{
    (void)state;
    char *dir = make(&(fqt_model){ .family = "qwen2", .layers = 2, .vocab = 37, .heads = 6, .kv = 2, .head_dim = 8, .hidden = 48, .ff = 40, .seed = 9 });
    char *parent = fqt_tempdir(), *target = fqt_join(parent, "padded");
    fq_pad_options o = { .source = dir, .target = target, .fit = { .vocab_size_pad = 64, .intermediate_size_pad = 64 }, .layout = FQ_LAYOUT_TAIL, .vocab = true };
    fq_err e;
    if (fq_pad(&o, NULL, NULL, &e) != FQ_OK) fail_msg("%s", e.text);
    fq_generator *a = open_run(dir, &greedy_exact, NULL), *b = open_run(target, &greedy_exact, NULL);
    fq_generator_info info;
    fq_generator_get_info(b, &info);
    assert_int_equal(info.n_vocab, 37);
    feed(a, (uint32_t[]){ 1, 2, 3 }, 3);
    feed(b, (uint32_t[]){ 1, 2, 3 }, 3);
    assert_memory_equal(fq_generator_logits(a), fq_generator_logits(b), 37 * sizeof(float));
    for (int i = 0; i < 30; i++) assert_int_equal(next(a), next(b));
    assert_int_equal(fq_generator_feed(b, (uint32_t[]){ 40 }, 1, &e), FQ_E_INPUT);
    fq_generator_close(a);
    fq_generator_close(b);
    free(target);
    drop(parent);
    drop(dir);
}

/* Weights that overflow on the way: an error with its layer, and no going on with a cache that may hold NaN. */
static void test_overflow(void **state)
{
    (void)state;
    fqt_model m = { .family = "qwen2", .layers = 2, .seed = 4, .dtype = "F32" };
    char *dir = fqt_tempdir();
    fqt_table t = fqt_model_tensors(&m);
    fqt_tensor *down = fqt_table_find(&t, "model.layers.1.mlp.down_proj.weight"), *up = fqt_table_find(&t, "model.layers.1.mlp.up_proj.weight");
    size_t n_down = (size_t)(down->shape[0] * down->shape[1]), n_up = (size_t)(up->shape[0] * up->shape[1]);
    float *a = calloc(n_down, sizeof *a), *b = calloc(n_up, sizeof *b);
    assert_true(a && b);
    for (size_t i = 0; i < n_down; i++) a[i] = 3e37f;
    for (size_t i = 0; i < n_up; i++) b[i] = 1e30f;
    down->data = a;
    up->data = b;
    fqt_write_config(dir, &m);
    fqt_write_shards(dir, t.t, t.n, 1, 4);
    fqt_table_free(&t);
    fq_generator *g = open_run(dir, NULL, NULL);
    fq_err e;
    uint32_t id;
    assert_int_equal(fq_generator_feed(g, (uint32_t[]){ 1, 2 }, 2, &e), FQ_E_NUMERIC);
    assert_int_equal(n_token(g), 0);
    assert_int_equal(fq_generator_feed(g, (uint32_t[]){ 1 }, 1, &e), FQ_E_NUMERIC);
    assert_int_equal(fq_generator_next(g, &id, &e), FQ_E_USAGE);
    fq_generator_close(g);
    free(a);
    free(b);
    drop(dir);
}

static bool stop_at(void *user) { return --*(int *)user < 0; }

/* Stopped anywhere, a call leaves the sequence as it was, and the same call works afterwards. */
static void test_cancelled(void **state)
{
    (void)state;
    char *dir = make(&(fqt_model){ .family = "qwen2", .layers = 3, .seed = 4 });
    uint32_t ids[6] = { 1, 2, 3, 4, 5, 6 };
    fq_generator *whole = open_run(dir, &greedy_exact, NULL);
    feed(whole, ids, 6);
    int left = 1 << 30;
    fq_run run = { .cancelled = stop_at, .user = &left };
    fq_generator *g = open_run(dir, &greedy_exact, &run);
    feed(g, ids, 3);
    for (int i = 0; i < 3; i++) {
        fq_err e;
        left = i;
        assert_int_equal(fq_generator_feed(g, ids + 3, 3, &e), FQ_E_CANCELLED);
        assert_int_equal(n_token(g), 3);
    }
    left = 1 << 30;
    feed(g, ids + 3, 3);
    fq_generator_info info;
    fq_generator_get_info(g, &info);
    assert_memory_equal(fq_generator_logits(g), fq_generator_logits(whole), info.n_vocab * sizeof(float));
    fq_generator_close(g);
    fq_generator_close(whole);
    left = 0;
    fq_err e;
    assert_int_equal(fq_generator_open(dir, NULL, &run, &g, &e), FQ_E_CANCELLED);
    drop(dir);
}

static void test_served(void **state)
{
    (void)state;
    char *source = fqt_join(fqt_source(), "examples/tiny-qwen2");
    for (fq_served served = FQ_SERVED_BF16; served <= FQ_SERVED_FP16; served++) {
        fq_generator_options o = { .served = served };
        fq_generator *g = open_run(source, &o, NULL);
        feed(g, (uint32_t[]){ 568, 471, 462 }, 3);
        const float *logit = fq_generator_logits(g);
        for (size_t i = 0; i < 2048; i++) {   /* every result is a number of that type */
            uint32_t bits;
            memcpy(&bits, &logit[i], sizeof bits);
            assert_int_equal(bits & (served == FQ_SERVED_BF16 ? 0xffffu : 0x1fffu), 0);
        }
        fq_generator_close(g);
    }
    fq_generator *none = NULL;
    fq_err e;
    assert_int_equal(fq_generator_open(source, &(fq_generator_options){ .served = (fq_served)9 }, NULL, &none, &e), FQ_E_USAGE);
    assert_string_equal(e.text, "served-dtype: found 9, expected fp32, bf16 or fp16");
    free(source);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden), cmocka_unit_test(test_stories), cmocka_unit_test(test_pieces), cmocka_unit_test(test_pieces_trained),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_seed), cmocka_unit_test(test_context), cmocka_unit_test(test_token_id), cmocka_unit_test(test_memory),
        cmocka_unit_test(test_long_context), cmocka_unit_test(test_ends), cmocka_unit_test(test_padded), cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_cancelled), cmocka_unit_test(test_served),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
