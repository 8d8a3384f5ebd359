/* Tests of the catalogue: sound checkpoints of every family have no findings, and each kind of unsoundness has its own. The folders are
 * made at run time by make_ckpt.h, which does not share code with the library. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint/catalogue.h"
#include "make_ckpt.h"
#include "support.h"

static fq_ckpt *open_ok(const char *path)
{
    fq_ckpt *c = NULL;
    fq_err e = { 0 };
    if (fq_ckpt_open(path, NULL, &c, &e) != FQ_OK) fail_msg("%s: %s", path, e.text);
    return c;
}

static const fq_finding *find_rule(const fq_ckpt *c, fq_severity severity, const char *rule)
{
    for (size_t i = 0; i < fq_ckpt_n_finding(c); i++) {
        const fq_finding *f = fq_ckpt_get_finding(c, i);
        if (f->severity == severity && !strcmp(f->rule, rule)) return f;
    }
    return NULL;
}

static size_t count_severity(const fq_ckpt *c, fq_severity severity)
{
    size_t n = 0;
    for (size_t i = 0; i < fq_ckpt_n_finding(c); i++) n += fq_ckpt_get_finding(c, i)->severity == severity;
    return n;
}

static void print_findings(const fq_ckpt *c)
{
    for (size_t i = 0; i < fq_ckpt_n_finding(c); i++) print_error("%d %s\n", fq_ckpt_get_finding(c, i)->severity, fq_ckpt_get_finding(c, i)->text);
}

/* There is this finding, its text holds `part`, and fq_ckpt_check agrees with its severity. */
static void expect_finding(const char *path, fq_severity severity, const char *rule, const char *part)
{
    fq_ckpt *c = open_ok(path);
    const fq_finding *f = find_rule(c, severity, rule);
    if (!f || !strstr(f->text, part)) {
        print_findings(c);
        fail_msg("no finding %d %s with \"%s\"", severity, rule, part);
    }
    fq_err e = { 0 };
    fq_status s = fq_ckpt_check(c, &e);
    if (severity == FQ_ERROR) {
        assert_int_equal(s, FQ_E_INPUT);
        assert_string_equal(e.rule, fq_ckpt_get_finding(c, 0)->rule);
        assert_memory_equal(e.text, fq_ckpt_get_finding(c, 0)->text, strlen(fq_ckpt_get_finding(c, 0)->text));
    } else {
        if (count_severity(c, FQ_ERROR) != 0) print_findings(c);
        assert_int_equal(s, FQ_OK);
    }
    fq_ckpt_close(c);
}

/* ---- sound ones ---- */

static const char *const families[] = { "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "llama", "mistral", "mixtral", "qwen2_vl", "qwen2_5_vl", "qwen3_vl" };

static uint64_t table_params(const fqt_table *t)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < t->n; i++) {
        uint64_t n = 1;
        for (int d = 0; d < t->t[i].rank; d++) n *= (uint64_t)t->t[i].shape[d];
        sum += n;
    }
    return sum;
}

static void check_sound(const fqt_model *m)
{
    char *path = fqt_join(fqt_dir, m->family);
    fqt_make_model(path, m);
    fq_ckpt *c = open_ok(path);
    const fq_ckpt_info *i = fq_ckpt_get_info(c);
    fqt_table t = fqt_model_tensors(m);
    if (count_severity(c, FQ_ERROR) + count_severity(c, FQ_WARNING) != 0) {
        print_findings(c);
        fail_msg("%s (shards %d, tied %d) is sound", m->family, m->n_shard, m->tied);
    }
    assert_true(i->has_model);
    assert_string_equal(i->model.family, m->family);
    assert_string_equal(i->container, "safetensors");
    assert_string_equal(i->wrapper, "");
    assert_string_equal(i->prefix, strcmp(m->family, "qwen3_vl") ? "model." : "model.language_model.");
    assert_int_equal(i->tied, m->tied);
    assert_false(i->fitted);
    assert_int_equal(i->n_tensor, t.n);
    assert_int_equal(i->n_shard, m->n_shard > 1 ? m->n_shard : 1);
    assert_int_equal(i->n_param, table_params(&t));
    fq_dtype d = m->dtype ? FQ_DTYPE_F32 : FQ_DTYPE_BF16;
    assert_int_equal(i->tensor_bytes, i->n_param * fq_dtype_bits(d) / 8);
    assert_int_equal(i->dtype_bytes[d], i->tensor_bytes);
    assert_true(i->file_bytes > i->tensor_bytes);
    for (size_t k = 0; k < t.n; k++) {
        size_t at = fqi_ckpt_find(c, t.t[k].name);
        assert_true(at < i->n_tensor);
        fq_tensor_info info;
        fq_ckpt_get_tensor(c, at, &info);
        assert_string_equal(info.name, t.t[k].name);
        assert_int_equal(info.rank, t.t[k].rank);
        assert_memory_equal(info.shape, t.t[k].shape, (size_t)info.rank * sizeof *info.shape);
        assert_string_not_equal(info.role, "");
        assert_int_equal(!strcmp(info.role, "passed through"), strstr(info.name, "visual.") != NULL);
    }
    assert_true(fqi_ckpt_find(c, "") == SIZE_MAX && fqi_ckpt_find(c, "zzz") == SIZE_MAX);
    fqt_table_free(&t);
    fq_ckpt_close(c);
    fqt_remove(path);
    free(path);
}

static void every_family_is_sound(void **state)
{
    (void)state;
    for (size_t f = 0; f < sizeof families / sizeof *families; f++) {
        for (int tied = 0; tied < 2; tied++) {
            for (int shards = 1; shards <= 5; shards += 2)
                check_sound(&(fqt_model){ .family = families[f], .tied = tied, .n_shard = shards, .dtype = shards == 3 ? "F32" : NULL, .seed = 7 });
        }
    }
    check_sound(&(fqt_model){ .family = "qwen3_moe", .fused = true, .n_shard = 2 });
    check_sound(&(fqt_model){ .family = "qwen2_moe", .sparse_step = 2 });
    check_sound(&(fqt_model){ .family = "qwen3", .attention_bias = true });
    check_sound(&(fqt_model){ .family = "llama", .attention_bias = true, .mlp_bias = true });
}

static void path_spellings(void **state)
{
    (void)state;
    fqt_make_model(fqt_dir, &(fqt_model){ .family = "llama", .n_shard = 2 });
    char *slash = fqt_join(fqt_dir, ""), *index = fqt_join(fqt_dir, "model.safetensors.index.json"), *one = fqt_join(fqt_dir, "model-00002-of-00002.safetensors");
    const struct { const char *path; size_t n_shard; } row[] = { { fqt_dir, 2 }, { slash, 2 }, { index, 2 }, { one, 1 } };
    for (size_t i = 0; i < 4; i++) {
        fq_ckpt *c = open_ok(row[i].path);
        assert_int_equal(fq_ckpt_check(c, NULL), FQ_OK);
        assert_int_equal(fq_ckpt_get_info(c)->n_shard, row[i].n_shard);
        assert_string_equal(fq_ckpt_get_info(c)->path, row[i].path);
        fq_ckpt_close(c);
    }
    expect_finding(one, FQ_NOTE, "one-of-several", "one file of several");
    char old[4096];
    assert_non_null(getcwd(old, sizeof old));
    assert_int_equal(chdir(fqt_dir), 0);
    const char *const relative[] = { ".", "model.safetensors.index.json", "./model-00001-of-00002.safetensors" };
    for (size_t i = 0; i < 3; i++) {
        fq_ckpt *c = open_ok(relative[i]);
        assert_int_equal(fq_ckpt_check(c, NULL), FQ_OK);
        fq_ckpt_close(c);
    }
    assert_int_equal(chdir(old), 0);
    free(slash);
    free(index);
    free(one);
}

static void paths_that_cannot_be_opened(void **state)
{
    (void)state;
    fq_ckpt *c = NULL;
    fq_err e;
    char *missing = fqt_join(fqt_dir, "nothing"), *pipe_ = fqt_join(fqt_dir, "x.safetensors"), *text = fqt_join(fqt_dir, "a.txt");
    assert_int_equal(mkfifo(pipe_, 0600), 0);
    fqt_write_text(fqt_dir, "a.txt", "x");
    assert_int_equal(fq_ckpt_open(missing, NULL, &c, &e), FQ_E_IO);
    assert_int_equal(fq_ckpt_open(pipe_, NULL, &c, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "file-kind");
    assert_int_equal(fq_ckpt_open("/dev/null", NULL, &c, &e), FQ_E_INPUT);
    assert_int_equal(fq_ckpt_open(text, NULL, &c, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "file-type");
    assert_int_equal(fq_ckpt_open("", NULL, &c, &e), FQ_E_USAGE);
    assert_int_equal(fq_ckpt_open(missing, NULL, &c, NULL), FQ_E_IO);
    assert_null(c);
    fq_ckpt_close(NULL);
    free(missing);
    free(pipe_);
    free(text);
}

/* ---- names ---- */

static void wrappers_are_said(void **state)
{
    (void)state;
    static const struct { const char *wrapper, *body, *part; } row[] = {
        { "module.", NULL, "--prefix strip" },
        { "module._orig_mod.", NULL, "\"module._orig_mod.model.\"" },
        { "base_model.model.", NULL, "a trainer left \"base_model.model.\"" },
        { NULL, "", "--prefix model." },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char name[16];
        snprintf(name, sizeof name, "w%zu", i);
        char *path = fqt_join(fqt_dir, name);
        fqt_make_model(path, &(fqt_model){ .family = "qwen2", .wrapper = row[i].wrapper, .body_prefix = row[i].body });
        expect_finding(path, FQ_WARNING, "prefix", row[i].part);
        fq_ckpt *c = open_ok(path);
        assert_string_equal(fq_ckpt_get_info(c)->wrapper, row[i].wrapper ? row[i].wrapper : "");
        assert_non_null(c->bound);
        fq_ckpt_close(c);
        free(path);
    }
}

static void fitted_is_said(void **state)
{
    (void)state;
    fqt_make_model(fqt_dir, &(fqt_model){ .family = "qwen2" });
    fqt_write_text(fqt_dir, "fitq.json", "{}");
    expect_finding(fqt_dir, FQ_NOTE, "fitted", "fitq unpad");
    fq_ckpt *c = open_ok(fqt_dir);
    assert_true(fq_ckpt_get_info(c)->fitted);
    fq_ckpt_close(c);
    char *file = fqt_join(fqt_dir, "model.safetensors");   /* the same weights under their own name */
    expect_finding(file, FQ_NOTE, "fitted", "fitq unpad");
    c = open_ok(file);
    assert_true(fq_ckpt_get_info(c)->fitted);
    fq_ckpt_close(c);
    free(file);
}

static bool is_partial(const char *name)
{
    char *path = fqt_join(fqt_dir, name);
    fq_ckpt *c = open_ok(path);
    bool partial = c->partial;
    fq_ckpt_close(c);
    free(path);
    return partial;
}

/* One file may be the model or a part of it: its number says so, or an index beside it. */
static void a_part_is_told_from_the_whole(void **state)
{
    (void)state;
    static const fqt_tensor two[] = { { .name = "model.layers.0.input_layernorm.weight", .dtype = "BF16", .rank = 1, .shape = { 8 } },
                                      { .name = "model.norm.weight", .dtype = "BF16", .rank = 1, .shape = { 8 } } };
    fqt_write_safetensors(fqt_dir, "first.safetensors", &two[0], 1, 1);
    fqt_write_safetensors(fqt_dir, "second.safetensors", &two[1], 1, 1);
    fqt_write_safetensors(fqt_dir, "whole.safetensors", two, 2, 1);
    fqt_write_safetensors(fqt_dir, "model-00001-of-00001.safetensors", two, 2, 1);
    fqt_write_safetensors(fqt_dir, "model-00002-of-00003.safetensors", two, 2, 1);
    assert_false(is_partial("first.safetensors"));   /* nothing says that there is a second one */
    fqt_write_text(fqt_dir, "model.safetensors.index.json", "not an index");
    assert_false(is_partial("first.safetensors"));
    fqt_write_text(fqt_dir, "model.safetensors.index.json",
                   "{\"weight_map\": {\"model.layers.0.input_layernorm.weight\": \"first.safetensors\", \"model.norm.weight\": \"second.safetensors\"}}");
    assert_true(is_partial("first.safetensors"));
    assert_true(is_partial("second.safetensors"));
    assert_false(is_partial("whole.safetensors"));
    assert_false(is_partial("model-00001-of-00001.safetensors"));
    assert_true(is_partial("model-00002-of-00003.safetensors"));
    assert_false(is_partial(""));
    assert_false(is_partial("model.safetensors.index.json"));
    fqt_write_text(fqt_dir, "model.safetensors.index.json", "{\"weight_map\": {\"model.norm.weight\": \"second.safetensors\"}}");
    assert_false(is_partial("second.safetensors"));
}

/* ---- each kind of unsoundness ---- */

/* A model whose table was changed by `damage`, with a config that was not. */
static void with_damage(const fqt_model *m, void (*damage)(fqt_table *), fq_severity severity, const char *rule, const char *part)
{
    static int n;
    char name[32];
    snprintf(name, sizeof name, "d%d", n++);
    char *path = fqt_join(fqt_dir, name);
    assert_int_equal(mkdir(path, 0777), 0);
    fqt_table t = fqt_model_tensors(m);
    damage(&t);
    fqt_write_config(path, m);
    fqt_write_shards(path, t.t, t.n, m->n_shard, m->seed);
    expect_finding(path, severity, rule, part);
    fqt_table_free(&t);
    free(path);
}

#define UP "model.layers.1.mlp.up_proj"

static void wrong_width(fqt_table *t) { fqt_table_find(t, UP ".weight")->shape[0] = 51; }
static void wrong_hidden(fqt_table *t) { fqt_table_find(t, UP ".weight")->shape[1]++; }
static void wrong_rank(fqt_table *t)
{
    fqt_tensor *x = fqt_table_find(t, UP ".weight");
    x->rank = 3;
    x->shape[2] = 1;
}
static void wrong_vocab(fqt_table *t) { fqt_table_find(t, "model.embed_tokens.weight")->shape[0] = 68; }
static void wrong_heads(fqt_table *t) { fqt_table_find(t, "model.layers.0.self_attn.k_proj.bias")->shape[0] = 24; }
static void lose_one(fqt_table *t) { fqt_table_remove(t, UP ".weight"); }
static void lose_layer(fqt_table *t)
{
    for (size_t i = t->n; i-- > 0;) {
        if (strstr(t->t[i].name, "layers.2.")) fqt_table_remove(t, t->t[i].name);
    }
}
static void add_expert(fqt_table *t) { fqt_table_add(t, "model.layers.1.mlp.experts.77.up_proj.weight", "BF16", 2, (int64_t[]){ 12, 48 }); }
static void add_dense(fqt_table *t) { fqt_table_add(t, UP ".weight", "BF16", 2, (int64_t[]){ 52, 48 }); }
static void add_router(fqt_table *t) { fqt_table_add(t, "model.layers.0.mlp.gate.weight", "BF16", 2, (int64_t[]){ 5, 48 }); }
/* The same experts twice, in the shapes that config.json says. */
static void add_one_by_one(fqt_table *t)
{
    static char name[64][64];
    const fqt_tensor *both = fqt_table_find(t, "model.layers.1.mlp.experts.gate_up_proj");
    const int64_t n_expert = both->shape[0], width = both->shape[1] / 2, hidden = both->shape[2];
    assert_true(n_expert <= 16);
    for (int64_t k = 0; k < n_expert; k++) {
        static const char *const part[] = { "gate", "up", "down" };
        for (int64_t p = 0; p < 3; p++) {
            char *s = name[3 * k + p];
            snprintf(s, sizeof name[0], "model.layers.1.mlp.experts.%d.%s_proj.weight", (int)k, part[p]);
            fqt_table_add(t, s, "BF16", 2, p < 2 ? (int64_t[]){ width, hidden } : (int64_t[]){ hidden, width });
        }
    }
}
static void add_q_bias(fqt_table *t)
{
    const int64_t n = fqt_table_find(t, "model.layers.1.self_attn.q_proj.weight")->shape[0];
    fqt_table_add(t, "model.layers.1.self_attn.q_proj.bias", "BF16", 1, &n);
}
static void add_mlp_bias(fqt_table *t)
{
    const int64_t n = fqt_table_find(t, "model.layers.1.mlp.down_proj.weight")->shape[0];
    fqt_table_add(t, "model.layers.1.mlp.down_proj.bias", "BF16", 1, &n);
}
static void lose_head(fqt_table *t) { fqt_table_remove(t, "lm_head.weight"); }
static void lose_expert(fqt_table *t) { fqt_table_remove(t, "model.layers.2.mlp.experts.4.down_proj.weight"); }
static void lose_layers_all(fqt_table *t)
{
    for (size_t i = t->n; i-- > 0;) {
        if (strstr(t->t[i].name, "layers.")) fqt_table_remove(t, t->t[i].name);
    }
}
static void add_head(fqt_table *t) { fqt_table_add(t, "lm_head.weight", "BF16", 2, (int64_t[]){ 67, 48 }); }
static void add_unknown(fqt_table *t) { fqt_table_add(t, "model.layers.0.mlp.extra\033[2J.weight", "BF16", 1, (int64_t[]){ 4 }); }
static void add_layer(fqt_table *t) { fqt_table_add(t, "model.layers.9.input_layernorm.weight", "BF16", 1, (int64_t[]){ 48 }); }
static void add_zero_size(fqt_table *t) { fqt_table_add(t, "model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 1, (int64_t[]){ 0 }); }
static void mix_prefix(fqt_table *t) { fqt_table_find(t, UP ".weight")->name = "module.layers.1.mlp.up_proj.weight"; }
static void mix_dtype(fqt_table *t) { fqt_table_find(t, "model.norm.weight")->dtype = "F32"; }
static void other_dtype(fqt_table *t)
{
    for (size_t i = 0; i < t->n; i++) t->t[i].dtype = "F16";
}

static void unsound_models(void **state)
{
    (void)state;
    const fqt_model q = { .family = "qwen2" }, sharded = { .family = "qwen2", .n_shard = 3 }, tied = { .family = "qwen2", .tied = true },
                    moe = { .family = "qwen3_moe" }, fused = { .family = "qwen3_moe", .fused = true }, half = { .family = "qwen2_moe", .sparse_step = 2 },
                    llama = { .family = "llama" };
    with_damage(&q, wrong_width, FQ_ERROR, "tensor-shape", "tensor model.layers.1.mlp.up_proj.weight: tensor-shape: found 51 in dimension 0, expected 52 (intermediate_size)");
    with_damage(&sharded, wrong_width, FQ_ERROR, "tensor-shape", "-of-00003.safetensors: tensor model.layers.1.mlp.up_proj.weight");
    with_damage(&q, wrong_hidden, FQ_ERROR, "tensor-shape", "found 49 in dimension 1, expected 48 (hidden_size)");
    with_damage(&q, wrong_rank, FQ_ERROR, "tensor-rank", "found 3 dimensions, expected 2");
    with_damage(&q, wrong_vocab, FQ_ERROR, "tensor-shape", "found 68 in dimension 0, expected 67 (vocab_size)");
    with_damage(&q, wrong_heads, FQ_ERROR, "tensor-shape", "found 24 in dimension 0, expected 16");
    with_damage(&q, lose_one, FQ_ERROR, "tensor-missing", "found no model.layers.1.mlp.up_proj.weight");
    with_damage(&q, lose_layer, FQ_ERROR, "tensor-missing", "found no model.layers.2.");
    with_damage(&moe, lose_expert, FQ_ERROR, "tensor-missing", "found no model.layers.2.mlp.experts.4.down_proj.weight");
    with_damage(&q, lose_layers_all, FQ_ERROR, "prefix", "found no tensor that is a layer");
    with_damage(&q, mix_prefix, FQ_ERROR, "prefix", "another prefix");
    with_damage(&q, lose_head, FQ_ERROR, "tied-embeddings", "tie_word_embeddings is false");
    with_damage(&tied, add_head, FQ_WARNING, "tied-embeddings", "tie_word_embeddings is true");
    with_damage(&q, add_unknown, FQ_ERROR, "unknown-tensor", "extra\\x1b[2J.weight");
    with_damage(&q, add_layer, FQ_ERROR, "tensor-without-place", "found layer 9, expected one below num_hidden_layers 3");
    with_damage(&moe, add_expert, FQ_ERROR, "tensor-without-place", "found expert 77, expected one below the number of experts 5");
    with_damage(&moe, add_dense, FQ_ERROR, "tensor-without-place", "found a part of a dense MLP in layer 1");
    with_damage(&half, add_router, FQ_ERROR, "tensor-without-place", "found a part of a mixture of experts in layer 0");
    with_damage(&fused, add_one_by_one, FQ_ERROR, "experts-in-two-forms", "found model.layers.1.mlp.experts.gate_up_proj and experts of that layer one by one");
    with_damage(&llama, add_q_bias, FQ_WARNING, "unannounced-bias", "model.layers.1.self_attn.q_proj.bias: unannounced-bias: found a bias");
    with_damage(&llama, add_mlp_bias, FQ_WARNING, "unannounced-bias", "model.layers.1.mlp.down_proj.bias");
    with_damage(&q, add_zero_size, FQ_NOTE, "zero-size", "rotary_emb.inv_freq");
    with_damage(&q, mix_dtype, FQ_NOTE, "dtype-mix", "found 38 tensors in BF16 and 1 in F32");
    with_damage(&q, other_dtype, FQ_NOTE, "torch-dtype", "found bfloat16, expected what most tensors are: F16");
}

static void everything_is_said_at_once(void **state)
{
    (void)state;
    const fqt_model m = { .family = "qwen3_moe", .experts = 40, .layers = 2 };
    fqt_table t = fqt_model_tensors(&m);
    for (size_t i = t.n; i-- > 0;) {
        if (strstr(t.t[i].name, "layers.0.mlp.experts.")) fqt_table_remove(&t, t.t[i].name);
    }
    fqt_table_find(&t, "model.norm.weight")->shape[0] = 1;
    fqt_table_add(&t, "stray", "I64", 0, NULL);
    fqt_write_config(fqt_dir, &m);
    fqt_write_shards(fqt_dir, t.t, t.n, 1, 1);
    fqt_table_free(&t);
    fq_ckpt *c = open_ok(fqt_dir);
    assert_non_null(find_rule(c, FQ_ERROR, "unknown-tensor"));
    assert_non_null(find_rule(c, FQ_ERROR, "tensor-missing"));
    assert_non_null(find_rule(c, FQ_ERROR, "tensor-shape"));
    assert_int_equal(c->n_error, 120 + 1 + 1);
    size_t n_more = 0;
    for (size_t i = 0; i < c->n_finding; i++) n_more += strstr(c->finding[i].text, "tensor-missing: and 100 more") != NULL;
    assert_int_equal(n_more, 1);
    fq_err e;
    assert_int_equal(fq_ckpt_check(c, &e), FQ_E_INPUT);
    assert_non_null(strstr(e.text, "(and 121 more errors: see fitq inspect)"));
    fq_ckpt_close(c);
}

static void config_findings(void **state)
{
    (void)state;
    fqt_make_model(fqt_dir, &(fqt_model){ .family = "qwen2" });
    char *config = fqt_join(fqt_dir, "config.json");
    fqt_write_text(fqt_dir, "config.json", "{\"model_type\": \"qwen2\", \"hidden_size\": 0}");
    fq_ckpt *c = open_ok(fqt_dir);
    assert_int_equal(count_severity(c, FQ_ERROR), 1);
    assert_non_null(strstr(fq_ckpt_get_finding(c, 0)->text, config));
    assert_false(fq_ckpt_get_info(c)->has_model);
    fq_ckpt_close(c);
    fqt_write_text(fqt_dir, "config.json",
                   "{\"model_type\": \"new_arch\", \"hidden_size\": 48, \"intermediate_size\": 52, \"num_hidden_layers\": 3, \"num_attention_heads\": 6,"
                   " \"num_key_value_heads\": 2, \"vocab_size\": 67}");
    expect_finding(fqt_dir, FQ_WARNING, "unknown-family", "expected one of qwen2, qwen3");
    assert_int_equal(unlink(config), 0);
    expect_finding(fqt_dir, FQ_WARNING, "config-missing", "found no config.json");
    free(config);
}

/* ---- quantized ---- */

static void set_quantization(const char *path, const char *json)
{
    size_t n;
    char *text = fqt_read(path, "config.json", &n), *edited = malloc(n + strlen(json) + 64);
    assert_true(text && edited && text[0] == '{');
    sprintf(edited, "{\"quantization_config\": %s,%s", json, text + 1);
    fqt_write_text(path, "config.json", edited);
    free(text);
    free(edited);
}

/* Replaces every MLP weight of a table by the four tensors of 4-bit GPTQ, groups of 4. */
static void to_gptq(fqt_table *t)
{
    static const char *const proj[] = { "gate_proj", "up_proj", "down_proj" };
    for (int layer = 0; layer < 3; layer++) {
        for (size_t p = 0; p < 3; p++) {
            char module[64], name[96];
            snprintf(module, sizeof module, "model.layers.%d.mlp.%s", layer, proj[p]);
            snprintf(name, sizeof name, "%s.weight", module);
            int64_t n = fqt_table_find(t, name)->shape[0], k = fqt_table_find(t, name)->shape[1];
            fqt_table_remove(t, name);
            snprintf(name, sizeof name, "%s.qweight", module);
            fqt_table_add(t, name, "I32", 2, (int64_t[]){ k / 8, n });
            snprintf(name, sizeof name, "%s.qzeros", module);
            fqt_table_add(t, name, "I32", 2, (int64_t[]){ k / 4, n / 8 });
            snprintf(name, sizeof name, "%s.scales", module);
            fqt_table_add(t, name, "F16", 2, (int64_t[]){ k / 4, n });
            snprintf(name, sizeof name, "%s.g_idx", module);
            fqt_table_add(t, name, "I32", 1, (int64_t[]){ k });
        }
    }
}

#define GPTQ_CONFIG "{\"quant_method\": \"gptq\", \"bits\": 4, \"group_size\": 4, \"sym\": true, \"desc_act\": false, \"modules_in_block_to_quantize\": [[\"mlp.gate_proj\", \"mlp.up_proj\", \"mlp.down_proj\"]]}"

static void gptq_is_sound(void **state)
{
    (void)state;
    const fqt_model m = { .family = "qwen2", .ff = 64, .n_shard = 2 };
    fqt_table t = fqt_model_tensors(&m);
    uint64_t n_param = table_params(&t);
    to_gptq(&t);
    fqt_write_config(fqt_dir, &m);
    fqt_write_shards(fqt_dir, t.t, t.n, 2, 1);
    expect_finding(fqt_dir, FQ_ERROR, "quantization-config", "expected quantization_config");
    set_quantization(fqt_dir, GPTQ_CONFIG);
    fq_ckpt *c = open_ok(fqt_dir);
    if (count_severity(c, FQ_ERROR) + count_severity(c, FQ_WARNING) != 0) print_findings(c);
    assert_int_equal(count_severity(c, FQ_ERROR) + count_severity(c, FQ_WARNING), 0);
    assert_int_equal(fq_ckpt_get_info(c)->n_param, n_param);
    fq_tensor_info info;
    size_t at = fqi_ckpt_find(c, "model.layers.1.mlp.up_proj.scales");
    fq_ckpt_get_tensor(c, at, &info);
    assert_string_equal(info.role, "up_proj");
    assert_null(c->bound[at].row);   /* its shape is not the one that the row describes */
    fq_ckpt_close(c);

    fqt_table_find(&t, UP ".qweight")->shape[1]--;
    fqt_write_shards(fqt_dir, t.t, t.n, 2, 1);
    expect_finding(fqt_dir, FQ_WARNING, "packed-shape", "found 63 in dimension 1, expected 64");
    fqt_table_find(&t, UP ".qweight")->shape[1]++;
    fqt_table_remove(&t, UP ".scales");
    fqt_write_shards(fqt_dir, t.t, t.n, 2, 1);
    expect_finding(fqt_dir, FQ_WARNING, "packed-parts", "found no scales");
    fqt_table_add(&t, UP ".weight", "BF16", 2, (int64_t[]){ 64, 48 });
    fqt_write_shards(fqt_dir, t.t, t.n, 2, 1);
    expect_finding(fqt_dir, FQ_ERROR, "packed-and-plain", "up_proj.qweight");
    fqt_table_remove(&t, UP ".weight");
    fqt_table_remove(&t, UP ".qweight");
    fqt_write_shards(fqt_dir, t.t, t.n, 2, 1);
    expect_finding(fqt_dir, FQ_ERROR, "tensor-missing", "found no model.layers.1.mlp.up_proj.weight");
    fqt_table_free(&t);
}

static void fp8_is_sound(void **state)
{
    (void)state;
    const fqt_model m = { .family = "qwen3_moe" };
    fqt_table t = fqt_model_tensors(&m);
    uint64_t n_param = table_params(&t);
    size_t n = t.n;
    for (size_t i = 0; i < n; i++) {
        if (!strstr(t.t[i].name, "_proj.weight")) continue;
        char name[128];
        snprintf(name, sizeof name, "%s_scale_inv", t.t[i].name);
        t.t[i].dtype = "F8_E4M3";
        fqt_table_add(&t, name, "F32", 2, (int64_t[]){ 1, 1 });
    }
    fqt_write_config(fqt_dir, &m);
    set_quantization(fqt_dir, "{\"quant_method\": \"fp8\", \"fmt\": \"e4m3\", \"activation_scheme\": \"dynamic\", \"weight_block_size\": [128, 128]}");
    fqt_write_shards(fqt_dir, t.t, t.n, 1, 1);
    fqt_table_free(&t);
    fq_ckpt *c = open_ok(fqt_dir);
    if (count_severity(c, FQ_ERROR) + count_severity(c, FQ_WARNING) != 0) print_findings(c);
    assert_int_equal(count_severity(c, FQ_ERROR) + count_severity(c, FQ_WARNING), 0);
    assert_int_equal(fq_ckpt_get_info(c)->n_param, n_param);
    fq_ckpt_close(c);
}

/* ---- files ---- */

static void shard_that_changed(void **state)
{
    (void)state;
    fqt_make_model(fqt_dir, &(fqt_model){ .family = "qwen2", .n_shard = 2 });
    fq_ckpt *c = open_ok(fqt_dir);
    fqi_file f = FQI_FILE_NONE;
    fq_err e;
    assert_int_equal(fqi_ckpt_open_shard(c, 1, FQ_IO_BUFFERED, &f, &e), FQ_OK);
    assert_int_equal(f.bytes, c->shard[1].bytes);
    fqi_file_close(&f);
    const struct timespec then[2] = { { .tv_sec = 1 }, { .tv_sec = 1 } };
    assert_int_equal(utimensat(AT_FDCWD, c->shard[1].path, then, 0), 0);
    assert_int_equal(fqi_ckpt_open_shard(c, 1, FQ_IO_BUFFERED, &f, &e), FQ_E_IO);
    assert_string_equal(e.rule, "changed");
    assert_int_equal(truncate(c->shard[0].path, 100), 0);
    assert_int_equal(fqi_ckpt_open_shard(c, 0, FQ_IO_BUFFERED, &f, &e), FQ_E_IO);
    fq_ckpt_close(c);
}

static void total_size_is_compared(void **state)
{
    (void)state;
    static const struct { const char *text, *part; } row[] = {
        { "1", "found 1, expected 89376" }, { "1.0", "found no plain integer" }, { NULL, "(it counts whole files)" } };
    const fqt_model m = { .family = "qwen2", .tied = true, .n_shard = 2 };
    for (size_t i = 0; i < 3; i++) {
        fqt_make_model(fqt_dir, &m);
        fq_ckpt *c = open_ok(fqt_dir);
        assert_int_equal(c->n_finding, 0);
        char number[32], *begin, *end;
        snprintf(number, sizeof number, "%llu", (unsigned long long)c->info.file_bytes);
        fq_ckpt_close(c);
        size_t n;
        char *text = fqt_read(fqt_dir, "model.safetensors.index.json", &n), *edited = malloc(n + 64);
        assert_true(text && edited);
        begin = strstr(text, "89376");
        assert_non_null(begin);
        end = begin + 5;
        sprintf(edited, "%.*s%s%s", (int)(begin - text), text, row[i].text ? row[i].text : number, end);
        fqt_write_text(fqt_dir, "model.safetensors.index.json", edited);
        free(text);
        free(edited);
        expect_finding(fqt_dir, FQ_NOTE, "total-size", row[i].part);
    }
}

static void header_hash_tells_files_apart(void **state)
{
    (void)state;
    fqt_make_model(fqt_dir, &(fqt_model){ .family = "qwen2", .n_shard = 2 });
    fq_ckpt *a = open_ok(fqt_dir), *b = open_ok(fqt_dir);
    assert_true(a->shard[0].header_hash == b->shard[0].header_hash);
    assert_true(a->shard[0].header_hash != a->shard[1].header_hash);
    fq_ckpt_close(a);
    fq_ckpt_close(b);
}

/* models--X/snapshots/R/f -> ../../blobs/H, as the hub's cache has it; a link that leads further is refused. */
static void hub_cache_links(void **state)
{
    (void)state;
    char *blobs = fqt_join(fqt_dir, "blobs"), *snapshots = fqt_join(fqt_dir, "snapshots"), *rev = fqt_join(snapshots, "r1"), *other = fqt_join(fqt_dir, "other");
    assert_int_equal(mkdir(snapshots, 0777) | mkdir(rev, 0777) | mkdir(other, 0777), 0);
    fqt_make_model(blobs, &(fqt_model){ .family = "qwen2", .n_shard = 2 });
    static const char *const name[] = { "config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors" };
    for (size_t i = 0; i < 4; i++) {
        char target[128], *link = fqt_join(rev, name[i]);
        snprintf(target, sizeof target, "../../blobs/%s", name[i]);
        assert_int_equal(symlink(target, link), 0);
        free(link);
    }
    fq_ckpt *c = open_ok(rev);
    assert_int_equal(c->n_finding, 0);
    assert_true(c->has_config);
    fq_ckpt_close(c);
    char *versions = fqt_join(fqt_dir, "versions"), *v1 = fqt_join(versions, "r1");
    assert_int_equal(rename(snapshots, versions), 0);   /* the same links in a folder that is no cache */
    expect_finding(v1, FQ_ERROR, "link-leaves-folder", "index.json");
    assert_int_equal(rename(versions, snapshots), 0);
    free(versions);
    free(v1);
    char *last = fqt_join(rev, name[3]), *moved = fqt_join(other, "x"), *blob = fqt_join(blobs, name[3]);
    assert_int_equal(rename(blob, moved), 0);
    assert_int_equal(unlink(last), 0);
    assert_int_equal(symlink("../../other/x", last), 0);
    expect_finding(rev, FQ_ERROR, "link-leaves-folder", name[3]);
    free(blobs); free(snapshots); free(rev); free(other); free(last); free(moved); free(blob);
}

static void torch_checkpoints(void **state)
{
    (void)state;
    fqt_need_python();
    char *st = fqt_join(fqt_dir, "st"), *one = fqt_join(fqt_dir, "one"), *three = fqt_join(fqt_dir, "three"), *tied = fqt_join(fqt_dir, "tied"), *t = fqt_join(fqt_dir, "t");
    fqt_make_model(st, &(fqt_model){ .family = "qwen2" });
    fqt_make_model(t, &(fqt_model){ .family = "qwen2", .tied = true });
    assert_int_equal(fqt_to_torch(st, one, "1"), 0);
    assert_int_equal(fqt_to_torch(st, three, "3"), 0);
    assert_int_equal(fqt_to_torch(t, tied, "1 tie"), 0);
    fq_ckpt *a = open_ok(st);
    const struct { const char *path; size_t n_shard; } row[] = { { one, 1 }, { three, 3 } };
    for (size_t i = 0; i < 2; i++) {
        fq_ckpt *b = open_ok(row[i].path);
        if (b->n_finding) print_findings(b);
        assert_int_equal(b->n_finding, 0);
        assert_string_equal(b->info.container, "torch zip");
        assert_int_equal(b->info.n_shard, row[i].n_shard);
        assert_int_equal(b->info.n_param, a->info.n_param);
        assert_int_equal(b->n_tensor, a->n_tensor);
        for (size_t k = 0; k < a->n_tensor; k++) assert_string_equal(a->tensor[k].name, b->tensor[k].name);
        fq_ckpt_close(b);
    }
    fq_ckpt_close(a);
    expect_finding(tied, FQ_NOTE, "tied-alias", "lm_head.weight");
    fq_ckpt *b = open_ok(tied);
    assert_true(b->info.tied);
    assert_true(fqi_ckpt_find(b, "lm_head.weight") == SIZE_MAX);
    fq_ckpt_close(b);
    char *both = fqt_join(one, "model.safetensors"), *source = fqt_join(st, "model.safetensors");
    fqt_copy(source, one, "model.safetensors");
    expect_finding(one, FQ_NOTE, "two-containers", "safetensors are read");
    free(both); free(source); free(st); free(one); free(three); free(tied); free(t);
}

/* Many tensors without elements: legal, and the findings stay few. */
static void many_empty_tensors(void **state)
{
    (void)state;
    enum { N = 100000 };
    fqt_tensor *t = calloc(N, sizeof *t);
    char (*name)[12] = calloc(N, sizeof *name);
    assert_true(t && name);
    for (unsigned i = 0; i < N; i++) {
        snprintf(name[i], sizeof name[i], "%x", (i * 7919u) % N);
        t[i] = (fqt_tensor){ .name = name[i], .dtype = "U8", .rank = 1 };
    }
    fqt_write_safetensors(fqt_dir, "model.safetensors", t, N, 0);
    char *path = fqt_join(fqt_dir, "model.safetensors");
    fq_ckpt *c = open_ok(path);
    assert_int_equal(c->n_tensor, N);
    assert_true(c->n_finding < 30);
    for (size_t i = 1; i < N; i++) assert_true(strcmp(c->tensor[i - 1].name, c->tensor[i].name) < 0);
    assert_int_equal(fq_ckpt_check(c, NULL), FQ_OK);
    fq_ckpt_close(c);
    free(path);
    free(t);
    free(name);
}

/* ---- published checkpoints ---- */

static void copy_golden(const char *data, const char *to, const char *from_name, const char *name)
{
    char from[4096];
    snprintf(from, sizeof from, "%s/models/tiny-golden/%s", data, from_name);
    fqt_copy(from, to, name);
}

static void sound_except(const char *path, const char *allowed)
{
    fq_ckpt *c = open_ok(path);
    for (size_t i = 0; i < c->n_finding; i++) {
        if (c->finding[i].severity == FQ_NOTE || !strcmp(c->finding[i].rule, allowed)) continue;
        print_findings(c);
        fail_msg("%s is sound", path);
    }
    assert_int_equal(fq_ckpt_check(c, NULL), FQ_OK);
    fq_ckpt_close(c);
}

static void published_checkpoints(void **state)
{
    (void)state;
    const char *data = fqt_data();
    static const char *const own[] = { "own/tiny-qwen2", "own/tiny-qwen3-moe", "safetensors/hadamards.safetensors", "models/stories260K/derived" };
    for (size_t i = 0; i < 4; i++) {
        char *path = fqt_join(data, own[i]);
        sound_except(path, "");
        free(path);
    }
    /* tiny_qwen3 stores a head beside tied embeddings, as some published models do */
    static const char *const golden[] = { "llama", "mistral", "qwen2", "qwen3", "qwen3_moe" };
    for (size_t i = 0; i < 5; i++) {
        char from[64], *path = fqt_join(fqt_dir, golden[i]);
        assert_int_equal(mkdir(path, 0777), 0);
        snprintf(from, sizeof from, "tiny_%s_config.json", golden[i]);
        copy_golden(data, path, from, "config.json");
        snprintf(from, sizeof from, "tiny_%s.safetensors", golden[i]);
        copy_golden(data, path, from, "model.safetensors");
        sound_except(path, strcmp(golden[i], "qwen3") ? "" : "tied-embeddings");
        free(path);
    }
    char *sharded = fqt_join(fqt_dir, "sharded");
    assert_int_equal(mkdir(sharded, 0777), 0);
    copy_golden(data, sharded, "tiny_llama_config.json", "config.json");
    copy_golden(data, sharded, "tiny_llama-00001-of-00002.safetensors", "tiny_llama-00001-of-00002.safetensors");
    copy_golden(data, sharded, "tiny_llama-00002-of-00002.safetensors", "tiny_llama-00002-of-00002.safetensors");
    copy_golden(data, sharded, "tiny_llama.safetensors.index.json", "model.safetensors.index.json");
    sound_except(sharded, "");
    free(sharded);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, fqt_dir_setup, fqt_dir_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_family_is_sound), TEST(path_spellings), TEST(paths_that_cannot_be_opened), TEST(wrappers_are_said), TEST(fitted_is_said),
        TEST(a_part_is_told_from_the_whole),
        TEST(unsound_models), TEST(everything_is_said_at_once), TEST(config_findings), TEST(gptq_is_sound), TEST(fp8_is_sound),
        TEST(shard_that_changed), TEST(total_size_is_compared), TEST(header_hash_tells_files_apart), TEST(hub_cache_links), TEST(torch_checkpoints), TEST(many_empty_tensors),
        TEST(published_checkpoints),
    };
    return cmocka_run_group_tests_name("catalogue", tests, NULL, NULL);
}
