/* test_pad.c - pad, verify and unpad of whole checkpoints.
 *
 * Random models of every family, every layout and every axis: verify must prove the padded copy, unpad must give back the bytes,
 * and what is not allowed must be refused without leaving anything behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "fitq.h"
#include "make_ckpt.h"
#include "support.h"

static uint64_t rng;
static int64_t rnd(int64_t n)
{
    return (int64_t)(fqt_random(&rng) % (uint64_t)n);
}

/* Every tensor of a is in b with the same dtype, shape and bytes; read through the library's catalogue and plain stdio. */
static void assert_same_tensors(const char *a, const char *b)
{
    fq_err e;
    fq_verify_report r;
    char *fitq = fqt_join(b, "fitq.json");
    FILE *f = fopen(fitq, "rb");
    assert_null(f);   /* so that verify compares with identity maps */
    free(fitq);
    if (fq_verify_weights(a, b, NULL, &r, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_int_equal(r.n_tensor_bad + r.n_element_wrong + r.n_element_missing + r.n_element_zero, 0);
    assert_int_equal(r.n_tensor_equal, r.n_tensor);
}

static void assert_same_config(const char *a, const char *b)
{
    size_t n, m;
    char *x = fqt_read(a, "config.json", &n), *y = fqt_read(b, "config.json", &m);
    assert_non_null(x);
    assert_non_null(y);
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    free(x);
    free(y);
}

typedef struct dirs { char *root, *src, *out, *back; } dirs;

static dirs make_dirs(void)
{
    dirs d = { .root = fqt_tempdir() };
    d.src = fqt_join(d.root, "src");
    d.out = fqt_join(d.root, "out");
    d.back = fqt_join(d.root, "back");
    return d;
}

static void free_dirs(dirs *d)
{
    fqt_remove(d->root);
    free(d->root);
    free(d->src);
    free(d->out);
    free(d->back);
}

static const char *const family[] = { "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "llama", "mistral", "mixtral", "qwen2_vl", "qwen2_5_vl", "qwen3_vl" };
#define N_FAMILY (sizeof family / sizeof family[0])

static bool has_dense(const char *f) { return strstr(f, "moe") == NULL && strcmp(f, "mixtral") != 0; }

static fqt_model random_model(void)
{
    fqt_model m = { .family = family[rnd(N_FAMILY)] };
    m.kv = 1 + rnd(4);
    m.heads = m.kv * (1 + rnd(4));
    m.head_dim = 4 + 2 * rnd(4);
    m.hidden = m.heads * m.head_dim;
    m.ff = 20 + rnd(60);
    m.moe_ff = 10 + rnd(30);
    m.shared_ff = 10 + rnd(30);
    m.vocab = 33 + rnd(40);
    m.layers = 1 + rnd(3);
    m.experts = 3 + rnd(3);
    m.top_k = 2;
    m.tied = rnd(2);
    m.fused = !has_dense(m.family) && strcmp(m.family, "mixtral") != 0 && rnd(2);
    m.attention_bias = rnd(2) && (strcmp(m.family, "llama") == 0 || strcmp(m.family, "qwen3") == 0);
    m.dtype = rnd(3) ? "BF16" : rnd(2) ? "F32" : "F16";
    m.n_shard = 1 + (int)rnd(3);
    m.wrapper = rnd(4) ? NULL : "module.";
    m.seed = (uint64_t)rnd(1 << 30);
    return m;
}

/* A random legal fit of the axes that the family has; may change nothing. */
static fq_fit random_fit(const fq_model *m, fq_layout layout)
{
    fq_fit f = { 0 };
    int64_t most = layout == FQ_LAYOUT_INTERLEAVE ? 1 : 3;
    if (m->intermediate_size && rnd(4)) f.intermediate_size_pad = m->intermediate_size + rnd(m->intermediate_size * most);
    if (m->moe_intermediate_size && rnd(4)) f.moe_intermediate_size_pad = m->moe_intermediate_size + rnd(m->moe_intermediate_size * most);
    if (m->shared_expert_intermediate_size && rnd(4)) f.shared_expert_intermediate_size_pad = m->shared_expert_intermediate_size + rnd(m->shared_expert_intermediate_size * most);
    if (rnd(3) == 0) f.vocab_size_pad = m->vocab_size + rnd(20);
    if (rnd(2)) {
        int64_t group = m->num_attention_heads / m->num_key_value_heads, rep = 1 + rnd(3);
        int64_t kv = m->num_key_value_heads * rep + rnd(4), per = (group + rep - 1) / rep + rnd(3);
        f.kv_replication = rep;
        f.num_key_value_heads_pad = kv;
        f.num_attention_heads_pad = kv * per;
    }
    return f;
}

static bool changes(const fq_model *m, const fq_fit *f)
{
    return (f->intermediate_size_pad && f->intermediate_size_pad != m->intermediate_size) ||
           (f->moe_intermediate_size_pad && f->moe_intermediate_size_pad != m->moe_intermediate_size) ||
           (f->shared_expert_intermediate_size_pad && f->shared_expert_intermediate_size_pad != m->shared_expert_intermediate_size) ||
           (f->vocab_size_pad && f->vocab_size_pad != m->vocab_size) || f->kv_replication > 1 ||
           (f->num_attention_heads_pad && f->num_attention_heads_pad != m->num_attention_heads) ||
           (f->num_key_value_heads_pad && f->num_key_value_heads_pad != m->num_key_value_heads);
}

static void round_trip(uint64_t seed)
{
    fq_err e;
    rng = seed;
    fqt_model t = random_model();
    dirs d = make_dirs();
    fqt_make_model(d.src, &t);
    fqt_write_text(d.src, "tokenizer.json", "{\"not\": \"read\"}\n");
    fq_model m;
    if (fq_model_read(d.src, &m, &e) != FQ_OK) fail_msg("seed %llu %s: %s", (unsigned long long)seed, t.family, e.text);
    fq_layout layout = (fq_layout)rnd(3);
    fq_pad_options o = {
        .source = d.src, .target = d.out, .layout = layout, .fit = random_fit(&m, layout), .group_size = 1 << rnd(6),
        .shard_bytes = rnd(2) ? 0 : 2000 + (uint64_t)rnd(20000), .prefix = rnd(3) ? NULL : "strip",
    };
    fq_run run = { .memory_bytes = rnd(2) ? 0 : 48u << 20, .n_thread = 1 + (int)rnd(3), .io = rnd(2) ? FQ_IO_DIRECT : FQ_IO_BUFFERED };
    fq_pad_report report;
    fq_status s = fq_pad(&o, &run, &report, &e);
    if (!changes(&m, &o.fit) && (!o.prefix || !t.wrapper)) {
        assert_int_equal(s, FQ_E_USAGE);
        assert_string_equal(e.rule, "nothing-to-pad");
        free_dirs(&d);
        return;
    }
    if (s != FQ_OK) fail_msg("seed %llu %s: %s", (unsigned long long)seed, t.family, e.text);
    fq_verify_report v;
    if (fq_verify_weights(d.src, d.out, NULL, &v, &e) != FQ_OK) fail_msg("seed %llu %s: %s", (unsigned long long)seed, t.family, e.text);
    assert_int_equal(v.n_element_wrong + v.n_element_missing + v.n_tensor_bad, 0);
    if (changes(&m, &o.fit)) assert_true(v.n_tensor_mapped > 0);
    fq_model after;
    if (fq_model_read(d.out, &after, &e) != FQ_OK) fail_msg("seed %llu %s: %s", (unsigned long long)seed, t.family, e.text);
    assert_int_equal(after.intermediate_size, report.model_pad.intermediate_size);
    assert_int_equal(after.num_attention_heads, report.model_pad.num_attention_heads);
    assert_int_equal(after.head_dim, m.head_dim);
    fq_unpad_options u = { .source = d.out, .target = d.back };
    if (fq_unpad(&u, &run, NULL, &e) != FQ_OK) fail_msg("seed %llu %s: %s", (unsigned long long)seed, t.family, e.text);
    assert_same_tensors(d.src, d.back);
    assert_same_config(d.src, d.back);
    size_t n;
    char *copied = fqt_read(d.back, "tokenizer.json", &n);
    assert_string_equal(copied, "{\"not\": \"read\"}\n");
    free(copied);
    free_dirs(&d);
}

static void test_round_trip(void **state)
{
    (void)state;
    const char *given = getenv("FITQ_TEST_SEED");
    uint64_t first = given ? strtoull(given, NULL, 10) : 1000;
    const char *rounds = getenv("FITQ_TEST_ROUNDS");
    uint64_t n = rounds ? strtoull(rounds, NULL, 10) : 60;
    print_message("seeds %llu .. %llu\n", (unsigned long long)first, (unsigned long long)(first + n - 1));
    for (uint64_t i = 0; i < n; i++) round_trip((first + i) * 0x9e3779b97f4a7c15u | 1);
}

/* ---- refusals ---- */

static void assert_refused(const fq_pad_options *o, fq_status code, const char *rule)
{
    fq_err e = { 0 };
    fq_status s = fq_pad(o, NULL, NULL, &e);
    if (s != code || strcmp(e.rule, rule) != 0) fail_msg("found %d %s (%s), expected %d %s", s, e.rule, s ? e.text : "", code, rule);
}

static void test_refusals(void **state)
{
    (void)state;
    dirs d = make_dirs();
    fqt_model t = { .family = "qwen2", .ff = 48 };
    fqt_make_model(d.src, &t);
    char *inside = fqt_join(d.src, "inside");
    fq_pad_options o = { .source = d.src, .target = d.out, .fit = { .intermediate_size_pad = 64 } };

    o.target = d.src;
    assert_refused(&o, FQ_E_IO, "target-is-source");
    o.target = inside;
    assert_refused(&o, FQ_E_IO, "target-is-source");
    o.target = d.out;
    o.fit.intermediate_size_pad = 40;
    assert_int_equal(fq_pad(&o, NULL, NULL, NULL), FQ_E_USAGE);   /* shorter than it is */
    o.fit.intermediate_size_pad = 0;
    assert_refused(&o, FQ_E_USAGE, "nothing-to-pad");
    o.fit.moe_intermediate_size_pad = 64;
    assert_refused(&o, FQ_E_USAGE, "fit");
    o.fit = (fq_fit){ .intermediate_size_pad = 64 };
    fqt_write_text(d.root, "out", "a file");
    assert_refused(&o, FQ_E_IO, "target-exists");
    remove(d.out);

    assert_int_equal(fq_pad(&o, NULL, NULL, NULL), FQ_OK);
    assert_refused(&o, FQ_E_IO, "target-exists");
    fq_pad_options again = { .source = d.out, .target = d.back, .fit = { .intermediate_size_pad = 128 } };
    assert_refused(&again, FQ_E_INPUT, "already-fitted");
    o.overwrite = true;
    assert_int_equal(fq_pad(&o, NULL, NULL, NULL), FQ_OK);

    /* one file of several, and a fitted one by its file name */
    char *sharded = fqt_join(d.root, "sharded"), *one = fqt_join(sharded, "model-00001-of-00003.safetensors"), *fitted = fqt_join(d.out, "model.safetensors");
    fqt_model three = { .family = "llama", .ff = 48, .n_shard = 3 };
    fqt_make_model(sharded, &three);
    fq_pad_options part = { .source = one, .target = d.back, .fit = { .intermediate_size_pad = 64 } };
    assert_refused(&part, FQ_E_INPUT, "partial-checkpoint");
    part.source = fitted;
    assert_refused(&part, FQ_E_INPUT, "already-fitted");
    free(sharded);
    free(one);
    free(fitted);

    /* nothing is left beside the result */
    char *partial = fqt_join(d.root, "out.fitq-partial"), *lock = fqt_join(d.root, "out.fitq-lock");
    assert_null(fopen(partial, "rb"));
    assert_null(fopen(lock, "rb"));
    free(partial);
    free(lock);
    free(inside);
    free_dirs(&d);
}

/* ---- interruption ---- */

typedef struct stopper { int left; } stopper;
static bool stop_after(void *user) { return ((stopper *)user)->left-- <= 0; }

/* Stopped at every piece in turn and continued: the same bytes as without a stop. */
static void test_cancel_and_resume(void **state)
{
    (void)state;
    dirs d = make_dirs();
    char *plain = fqt_join(d.root, "plain"), why[512];
    fqt_model t = { .family = "qwen3_moe", .layers = 2, .moe_ff = 24 };
    fqt_make_model(d.src, &t);
    fq_err e;
    fq_pad_options o = { .source = d.src, .target = plain, .fit = { .moe_intermediate_size_pad = 40 }, .shard_bytes = 30000 };
    assert_int_equal(fq_pad(&o, NULL, NULL, &e), FQ_OK);
    o.target = d.out;
    int stops = 0;
    for (;; stops++) {
        stopper s = { .left = stops };
        fq_run run = { .cancelled = stop_after, .user = &s };
        o.resume = false;
        fq_status st = fq_pad(&o, &run, NULL, &e);
        if (st == FQ_OK) break;
        assert_int_equal(st, FQ_E_CANCELLED);
        FILE *f = fopen(d.out, "rb");
        assert_null(f);
        o.resume = true;
        fq_pad_report r;
        if (fq_pad(&o, NULL, &r, &e) != FQ_OK) fail_msg("%s", e.text);
        if (!fqt_same_tree(plain, d.out, why)) fail_msg("after %d pieces: %s differs", stops, why);
        fqt_remove(d.out);
    }
    assert_true(stops > 20);
    if (!fqt_same_tree(plain, d.out, why)) fail_msg("%s differs", why);
    free(plain);
    free_dirs(&d);
}

static void test_resume_of_another_request(void **state)
{
    (void)state;
    dirs d = make_dirs();
    fqt_model t = { .family = "llama", .layers = 2, .ff = 24 };
    fqt_make_model(d.src, &t);
    fq_err e;
    stopper s = { .left = 5 };
    fq_run run = { .cancelled = stop_after, .user = &s };
    fq_pad_options o = { .source = d.src, .target = d.out, .fit = { .intermediate_size_pad = 40 } };
    assert_int_equal(fq_pad(&o, &run, NULL, &e), FQ_E_CANCELLED);
    o.resume = true;
    o.fit.intermediate_size_pad = 41;
    assert_int_equal(fq_pad(&o, NULL, NULL, &e), FQ_E_RESUME);
    assert_string_equal(e.rule, "resume-differs");
    o.fit.intermediate_size_pad = 40;
    assert_int_equal(fq_pad(&o, NULL, NULL, &e), FQ_OK);
    free_dirs(&d);
}

/* What was flipped in the unfinished output, and what a resumed run makes of it. Weights and records that do not check are written
 * again; without its keys the journal does not say whose it is. */
static void test_resume_of_damage(void **state)
{
    (void)state;
    static const struct { const char *file; bool at_end; fq_status want; } damage[] = {
        { "model.safetensors", true, FQ_OK }, { "fitq.journal", true, FQ_OK }, { "fitq.journal", false, FQ_E_RESUME },
    };
    dirs d = make_dirs();
    char *plain = fqt_join(d.root, "plain"), *partial = fqt_join(d.root, "out.fitq-partial"), why[512];
    fqt_model t = { .family = "llama", .layers = 2, .ff = 24 };
    fqt_make_model(d.src, &t);
    fq_err e;
    fq_pad_options o = { .source = d.src, .target = plain, .fit = { .intermediate_size_pad = 40 } };
    assert_int_equal(fq_pad(&o, NULL, NULL, &e), FQ_OK);
    o.target = d.out;
    for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        stopper s = { .left = 9 };
        fq_run run = { .cancelled = stop_after, .user = &s };
        o.resume = false;
        assert_int_equal(fq_pad(&o, &run, NULL, &e), FQ_E_CANCELLED);
        size_t n;
        char *bytes = fqt_read(partial, damage[i].file, &n);
        assert_non_null(bytes);
        bytes[damage[i].at_end ? n - 5 : 20] ^= 1;
        fqt_write(partial, damage[i].file, bytes, n);
        free(bytes);
        o.resume = true;
        assert_int_equal(fq_pad(&o, NULL, NULL, &e), damage[i].want);
        if (damage[i].want != FQ_OK) continue;
        if (!fqt_same_tree(plain, d.out, why)) fail_msg("%s differs", why);
        fqt_remove(d.out);
    }
    free(plain);
    free(partial);
    free_dirs(&d);
}

/* The same bytes for any number of threads, buffer size and way of reading. */
static void test_deterministic(void **state)
{
    (void)state;
    dirs d = make_dirs();
    char *first = fqt_join(d.root, "first"), why[512];
    fqt_model t = { .family = "qwen2", .layers = 3, .ff = 77, .n_shard = 2 };
    fqt_make_model(d.src, &t);
    fq_err e;
    fq_pad_options o = { .source = d.src, .target = first, .fit = { .intermediate_size_pad = 128 }, .group_size = 16 };
    assert_int_equal(fq_pad(&o, NULL, NULL, &e), FQ_OK);
    o.target = d.out;
    for (int i = 0; i < 6; i++) {
        fq_run run = { .n_thread = 1 + i, .io = i % 2 ? FQ_IO_DIRECT : FQ_IO_BUFFERED, .memory_bytes = i < 3 ? 0 : 64u << 20 };
        assert_int_equal(fq_pad(&o, &run, NULL, &e), FQ_OK);
        if (!fqt_same_tree(first, d.out, why)) fail_msg("%d: %s differs", i, why);
        fqt_remove(d.out);
    }
    fq_run tiny = { .memory_bytes = 1000 };
    assert_int_equal(fq_pad(&o, &tiny, NULL, &e), FQ_E_NOMEM);
    assert_string_equal(e.rule, "memory-budget");
    free(first);
    free_dirs(&d);
}

/* qwen2 written as Llama: a bias of zeros on o_proj, head_dim said, the inverse exact. */
static void test_as_llama(void **state)
{
    (void)state;
    dirs d = make_dirs();
    fqt_model t = { .family = "qwen2", .layers = 2, .heads = 6, .kv = 2, .head_dim = 8, .hidden = 48 };
    fqt_make_model(d.src, &t);
    fq_err e;
    fq_pad_options o = { .source = d.src, .target = d.out, .reexpress_as = "llama", .fit = { .num_attention_heads_pad = 8, .num_key_value_heads_pad = 2 } };
    fq_pad_report r;
    if (fq_pad(&o, NULL, &r, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_int_equal(r.n_tensor_added, 2);
    fq_model m;
    assert_int_equal(fq_model_read(d.out, &m, &e), FQ_OK);
    assert_string_equal(m.architecture, "LlamaForCausalLM");
    assert_string_equal(m.family, "llama");
    assert_true(m.head_dim_explicit && m.o_bias && m.q_bias);
    assert_int_equal(m.head_dim, 8);
    fq_verify_report v;
    if (fq_verify_weights(d.src, d.out, NULL, &v, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_int_equal(v.n_tensor_added, 2);
    fq_unpad_options u = { .source = d.out, .target = d.back };
    if (fq_unpad(&u, NULL, NULL, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_same_tensors(d.src, d.back);
    assert_same_config(d.src, d.back);
    free_dirs(&d);
}

/* Prefixes of the user's choice: names that readers know, nothing else. */
static void test_prefix(void **state)
{
    (void)state;
    static const struct { const char *wrapper, *body, *prefix; fq_status want; const char *name; } t[] = {
        { "module.", NULL, "strip", FQ_OK, "model.layers.0.mlp.up_proj.weight" },
        { NULL, "", "add", FQ_OK, "model.layers.0.mlp.up_proj.weight" },
        { NULL, NULL, "language_model.model.", FQ_OK, "language_model.model.layers.0.mlp.up_proj.weight" },
        { NULL, NULL, "strip", FQ_E_USAGE, "nothing-to-pad" },
        { NULL, NULL, "keep", FQ_E_USAGE, "nothing-to-pad" },
        { NULL, NULL, "foo.bar.", FQ_E_USAGE, "prefix" },
        { NULL, NULL, "model", FQ_E_USAGE, "prefix" },
        { NULL, NULL, "a\nb.", FQ_E_USAGE, "prefix" },
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        dirs d = make_dirs();
        fqt_model m = { .family = "llama", .wrapper = t[i].wrapper, .body_prefix = t[i].body };
        fqt_make_model(d.src, &m);
        fq_err e = { 0 };
        fq_pad_options o = { .source = d.src, .target = d.out, .prefix = t[i].prefix };
        fq_status s = fq_pad(&o, NULL, NULL, &e);
        if (s != t[i].want || (s != FQ_OK && strcmp(e.rule, t[i].name) != 0)) fail_msg("%zu: %s", i, e.text);
        if (s == FQ_OK) {
            fq_ckpt *c;
            bool found = false;
            assert_int_equal(fq_ckpt_open(d.out, NULL, &c, &e), FQ_OK);
            for (size_t k = 0; k < fq_ckpt_get_info(c)->n_tensor; k++) {
                fq_tensor_info info;
                fq_ckpt_get_tensor(c, k, &info);
                found = found || strcmp(info.name, t[i].name) == 0;
            }
            fq_ckpt_close(c);
            assert_true(found);
            assert_int_equal(fq_verify_weights(d.src, d.out, NULL, NULL, &e), FQ_OK);
        }
        free_dirs(&d);
    }
}

/* Heads padded for an engine that ignores head_dim: refused, unless they are written as Llama's. */
static void test_head_dim_ignored(void **state)
{
    (void)state;
    static const int three[] = { 3 };
    static const char *const vllm[] = { "vllm" }, *const transformers[] = { "transformers" }, *const bf16[] = { "bf16" };
    dirs d = make_dirs();
    fqt_model m = { .family = "qwen2", .heads = 4, .kv = 2, .head_dim = 8, .hidden = 32, .ff = 48, .vocab = 192 };
    fqt_make_model(d.src, &m);
    fq_pad_options o = { .source = d.src, .target = d.out, .tp = three, .n_tp = 1, .engine = vllm, .n_engine = 1, .format = bf16, .n_format = 1 };
    assert_refused(&o, FQ_E_USAGE, "head-dim-ignored");
    o.reexpress_as = "llama";
    assert_refused(&o, FQ_OK, "");
    fqt_remove(d.out);
    o.reexpress_as = NULL;
    o.engine = transformers;
    assert_refused(&o, FQ_OK, "");
    free_dirs(&d);
}

/* Mixtral's config.json says intermediate_size for the width of an expert; so may the user. */
static void test_mixtral_width(void **state)
{
    (void)state;
    dirs d = make_dirs();
    fqt_model m = { .family = "mixtral", .moe_ff = 24 };
    fqt_make_model(d.src, &m);
    fq_pad_options o = { .source = d.src, .target = d.out, .fit = { .intermediate_size_pad = 32 } };
    fq_pad_report r;
    fq_err e = { 0 };
    if (fq_pad(&o, NULL, &r, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_int_equal(r.model_pad.moe_intermediate_size, 32);
    free_dirs(&d);
}

/* A weight changed after padding: unpad refuses and commits nothing. */
static void test_unpad_of_damage(void **state)
{
    (void)state;
    dirs d = make_dirs();
    fqt_model t = { .family = "qwen2", .ff = 48 };
    fqt_make_model(d.src, &t);
    fq_err e;
    fq_pad_options o = { .source = d.src, .target = d.out, .fit = { .intermediate_size_pad = 64 } };
    assert_int_equal(fq_pad(&o, NULL, NULL, &e), FQ_OK);
    size_t n;
    char *bytes = fqt_read(d.out, "model.safetensors", &n);
    bytes[n - 1] ^= 1;
    fqt_write(d.out, "model.safetensors", bytes, n);
    free(bytes);
    fq_unpad_options u = { .source = d.out, .target = d.back };
    assert_int_equal(fq_unpad(&u, NULL, NULL, &e), FQ_E_DIFFERS);
    assert_string_equal(e.rule, "tensor-hash");
    assert_null(fopen(d.back, "rb"));
    free_dirs(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_cancel_and_resume),
        cmocka_unit_test(test_resume_of_another_request),
        cmocka_unit_test(test_resume_of_damage),
        cmocka_unit_test(test_deterministic),
        cmocka_unit_test(test_as_llama),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_mixtral_width),
        cmocka_unit_test(test_head_dim_ignored),
        cmocka_unit_test(test_unpad_of_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
