/* test_golden.c - logits and greedy ids against those that independent implementations computed.
 *
 * models/tiny-golden: five families and one of them in two shards, within 1e-5. The traps in these files: a head that is stored and
 * tied, a rotary buffer among the weights, a head_dim that is not hidden_size / heads, a window smaller than the sequence.
 * own/golden: two trained models, bf16, 96 positions, within 2e-4. models/stories260K: the published greedy text, as ids.
 *
 * Everything in both orders of summation, token by token (decoding) and in pieces (prefill). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "fitq.h"
#include "make_ckpt.h"
#include "support.h"

static json_t *load(const char *dir, const char *name)
{
    char *path = fqt_join(dir, name);
    json_error_t error;
    json_t *j = json_load_file(path, 0, &error);
    if (!j) fail_msg("%s: %s", path, error.text);
    free(path);
    return j;
}

static uint32_t *ids_of(const json_t *list, size_t *n)
{
    *n = json_array_size(list);
    uint32_t *ids = calloc(*n + 1, sizeof *ids);
    assert_non_null(ids);
    for (size_t i = 0; i < *n; i++) ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return ids;
}

/* ---- running ------------------------------------------------------------------------------------------------------------ */

static const fq_run one_thread = { .n_thread = 1 };   /* results do not depend on it, and other tests run beside this one */

static fq_generator *open_model(const char *dir, bool exact, size_t context)
{
    fq_generator_options o = { .context = (int64_t)context, .exact = exact };
    fq_generator *g = NULL;
    fq_err e;
    if (fq_generator_open(dir, &o, &one_thread, &g, &e) != FQ_OK) fail_msg("%s", e.text);
    return g;
}

/* want: n rows of n_vocab. Feeds `piece` ids at a time and compares after each; returns the largest difference. */
static double difference(const char *dir, bool exact, const uint32_t *ids, size_t n, size_t piece, const double *want, size_t n_vocab)
{
    fq_generator *g = open_model(dir, exact, n);
    fq_generator_info info;
    fq_generator_get_info(g, &info);
    assert_int_equal(info.n_vocab, n_vocab);
    double worst = 0;
    for (size_t at = 0; at < n;) {
        size_t k = piece < n - at ? piece : n - at;
        fq_err e;
        if (fq_generator_feed(g, ids + at, k, &e) != FQ_OK) fail_msg("%s", e.text);
        at += k;
        const float *got = fq_generator_logits(g);
        for (size_t v = 0; v < n_vocab; v++) {
            double d = fabs((double)got[v] - want[(at - 1) * n_vocab + v]);
            worst = d > worst || isnan(d) ? d : worst;
        }
    }
    fq_generator_close(g);
    return worst;
}

static void compare(const char *name, const char *dir, const uint32_t *ids, size_t n, const double *want, size_t n_vocab, double limit)
{
    static const size_t piece[] = { 1, 5, SIZE_MAX };
    for (int exact = 0; exact < 2; exact++)
        for (size_t p = 0; p < sizeof piece / sizeof *piece; p++) {
            double d = difference(dir, exact, ids, n, piece[p] < n ? piece[p] : n, want, n_vocab);
            if (!(d <= limit)) fail_msg("%s, exact %d, %zu ids at a time: %.2e, at most %.0e", name, exact, piece[p], d, limit);
        }
}

static void greedy(const char *name, const char *dir, const uint32_t *ids, size_t n, const uint32_t *want, size_t n_want)
{
    for (int exact = 0; exact < 2; exact++) {
        fq_generator *g = open_model(dir, exact, n + n_want);
        fq_err e;
        if (fq_generator_feed(g, ids, n, &e) != FQ_OK) fail_msg("%s", e.text);
        for (size_t i = 0; i < n_want; i++) {
            uint32_t id;
            if (fq_generator_next(g, &id, &e) != FQ_OK) fail_msg("%s: %zu: %s", name, i, e.text);
            if (id != want[i]) fail_msg("%s, exact %d: id %zu is %u, not %u", name, exact, i, id, want[i]);
        }
        fq_generator_close(g);
    }
}

/* ---- five families -------------------------------------------------------------------------------------------------------- */

static double *rows_of(const json_t *logits, size_t n, size_t *n_vocab)
{
    *n_vocab = json_array_size(json_array_get(logits, 0));
    double *out = calloc(n * *n_vocab, sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < n; i++)
        for (size_t v = 0; v < *n_vocab; v++) out[i * *n_vocab + v] = json_number_value(json_array_get(json_array_get(logits, i), v));
    return out;
}

/* A folder as it would be published: the files there lie side by side under other names. */
static char *lay_out(const char *from, const char *base, bool sharded)
{
    char *dir = fqt_tempdir(), path[4096];
    snprintf(path, sizeof path, "%s/%s_config.json", from, base);
    fqt_copy(path, dir, "config.json");
    snprintf(path, sizeof path, "%s/%s.safetensors", from, base);
    if (!sharded) {
        fqt_copy(path, dir, "model.safetensors");
        return dir;
    }
    for (int i = 1; i <= 2; i++) {
        char name[256];
        snprintf(name, sizeof name, "%s-%05d-of-00002.safetensors", base, i);
        snprintf(path, sizeof path, "%s/%s", from, name);
        fqt_copy(path, dir, name);
    }
    snprintf(path, sizeof path, "%s/%s.safetensors.index.json", from, base);
    fqt_copy(path, dir, "model.safetensors.index.json");
    return dir;
}

static void check_tiny(const char *base, bool sharded)
{
    char *from = fqt_join(fqt_data(), "models/tiny-golden"), name[256];
    snprintf(name, sizeof name, "%s_logits.json", base);
    json_t *golden = load(from, name), *sequences = json_object_get(golden, "sequences");
    char *dir = lay_out(from, base, sharded);
    assert_int_equal(json_array_size(sequences), 3);
    for (size_t s = 0; s < 3; s++) {
        size_t n, n_vocab;
        uint32_t *ids = ids_of(json_array_get(sequences, s), &n);
        double *want = rows_of(json_array_get(json_object_get(golden, "logits"), s), n, &n_vocab);
        compare(base, dir, ids, n, want, n_vocab, 1e-5);
        free(want);
        free(ids);
    }
    fqt_remove(dir);
    free(dir);
    json_decref(golden);
    free(from);
}

static void test_llama(void **state) { (void)state; check_tiny("tiny_llama", false); }
static void test_llama_in_shards(void **state) { (void)state; check_tiny("tiny_llama", true); }
static void test_mistral(void **state) { (void)state; check_tiny("tiny_mistral", false); }
static void test_qwen2(void **state) { (void)state; check_tiny("tiny_qwen2", false); }
static void test_qwen3(void **state) { (void)state; check_tiny("tiny_qwen3", false); }
static void test_qwen3_moe(void **state) { (void)state; check_tiny("tiny_qwen3_moe", false); }

/* ---- trained models -------------------------------------------------------------------------------------------------------- */

static void check_trained(const char *model)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/own/golden/%s", fqt_data(), model);
    json_t *golden = load(path, "golden.json");
    size_t n, n_bytes, n_prompt, n_greedy;
    uint32_t *ids = ids_of(json_object_get(golden, "prompt_ids"), &n);
    char *raw = fqt_read(path, "logits.f32", &n_bytes);
    assert_non_null(raw);
    size_t n_vocab = n_bytes / n / sizeof(float);
    assert_int_equal(n_bytes, n * n_vocab * sizeof(float));
    double *want = calloc(n * n_vocab, sizeof *want);
    assert_non_null(want);
    for (size_t i = 0; i < n * n_vocab; i++) {
        float x;
        memcpy(&x, raw + i * sizeof x, sizeof x);
        want[i] = (double)x;
    }
    snprintf(path, sizeof path, "%s/own/%s", fqt_data(), model);
    compare(model, path, ids, n, want, n_vocab, 2e-4);
    uint32_t *prompt = ids_of(json_object_get(golden, "greedy_prompt_ids"), &n_prompt);
    uint32_t *next = ids_of(json_object_get(golden, "greedy_ids"), &n_greedy);
    assert_int_equal(n_greedy, 32);
    greedy(model, path, prompt, n_prompt, next, n_greedy);
    free(next);
    free(prompt);
    free(want);
    free(raw);
    free(ids);
    json_decref(golden);
}

static void test_trained_qwen2(void **state) { (void)state; check_trained("tiny-qwen2"); }
static void test_trained_qwen3_moe(void **state) { (void)state; check_trained("tiny-qwen3-moe"); }

static void test_stories(void **state)
{
    (void)state;
    char *dir = fqt_join(fqt_data(), "models/stories260K/derived");
    json_t *golden = load(dir, "greedy_ids.json");
    size_t n;
    uint32_t *ids = ids_of(json_object_get(golden, "ids"), &n);
    assert_true(n >= 200);
    greedy("stories260K", dir, ids, 1, ids + 1, n - 1);
    free(ids);
    json_decref(golden);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),        cmocka_unit_test(test_llama_in_shards), cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_qwen2),        cmocka_unit_test(test_qwen3),           cmocka_unit_test(test_qwen3_moe),
        cmocka_unit_test(test_trained_qwen2), cmocka_unit_test(test_trained_qwen3_moe), cmocka_unit_test(test_stories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
