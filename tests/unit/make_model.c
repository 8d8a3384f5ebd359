/* make_model.c - random models of the families that fitq knows (see make_ckpt.h).
 *
 * Tensor names and shapes follow the transformers modelling files of each family; they are written down here a second time on
 * purpose, so that an error in the library's tables does not repeat itself in its tests. */
#include "make_ckpt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static _Noreturn void die(const char *what, const char *name)
{
    fprintf(stderr, "make_model: %s %s\n", what, name);
    abort();
}

/* What a family has; everything else is the same decoder. */
typedef struct family {
    const char *name, *architecture, *body_prefix;
    bool qkv_bias, qk_norm, moe, shared, mixtral, head_dim_key;
    const char *visual;   /* prefix of a vision tower, NULL = none */
} family;

static const family families[] = {
    { .name = "qwen2", .architecture = "Qwen2ForCausalLM", .body_prefix = "model.", .qkv_bias = true },
    { .name = "qwen3", .architecture = "Qwen3ForCausalLM", .body_prefix = "model.", .qk_norm = true, .head_dim_key = true },
    { .name = "qwen2_moe", .architecture = "Qwen2MoeForCausalLM", .body_prefix = "model.", .qkv_bias = true, .moe = true,
      .shared = true },
    { .name = "qwen3_moe", .architecture = "Qwen3MoeForCausalLM", .body_prefix = "model.", .qk_norm = true, .moe = true,
      .head_dim_key = true },
    { .name = "llama", .architecture = "LlamaForCausalLM", .body_prefix = "model.", .head_dim_key = true },
    { .name = "mistral", .architecture = "MistralForCausalLM", .body_prefix = "model.", .head_dim_key = true },
    { .name = "mixtral", .architecture = "MixtralForCausalLM", .body_prefix = "model.", .moe = true, .mixtral = true },
    { .name = "qwen2_vl", .architecture = "Qwen2VLForConditionalGeneration", .body_prefix = "model.", .qkv_bias = true,
      .visual = "visual." },
    { .name = "qwen2_5_vl", .architecture = "Qwen2_5_VLForConditionalGeneration", .body_prefix = "model.",
      .qkv_bias = true, .visual = "visual." },
    { .name = "qwen3_vl", .architecture = "Qwen3VLForConditionalGeneration", .body_prefix = "model.language_model.",
      .qk_norm = true, .head_dim_key = true, .visual = "model.visual." },
};

static const family *find_family(const char *name)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (!strcmp(families[i].name, name)) return &families[i];
    }
    die("unknown family", name);
}

/* Defaults that divide nothing: 6 heads in 2 groups, head_dim that is not hidden / heads where the family allows it. */
static fqt_model complete(const fqt_model *in)
{
    fqt_model m = *in;
    const family *f = find_family(m.family);
    int64_t head_dim = m.head_dim;
    if (!m.heads) m.heads = 6;
    if (!m.kv) m.kv = 2;
    if (!m.head_dim) m.head_dim = f->head_dim_key ? 10 : 8;
    if (!m.hidden) m.hidden = f->head_dim_key ? 36 : m.heads * m.head_dim;
    if (!m.ff) m.ff = 52;
    if (!m.layers) m.layers = 3;
    if (!m.vocab) m.vocab = 67;
    if (!m.sparse_step) m.sparse_step = 1;
    if (!m.dtype) m.dtype = "BF16";
    if (!m.body_prefix) m.body_prefix = f->body_prefix;
    if (!m.wrapper) m.wrapper = "";
    if (f->moe) {
        if (!m.experts) m.experts = 5;
        if (!m.top_k) m.top_k = 2;
        if (!m.moe_ff) m.moe_ff = f->mixtral ? m.ff : 20;
        if (f->mixtral) m.ff = m.moe_ff;
        if (f->shared && !m.shared_ff) m.shared_ff = 28;
    }
    if (!f->head_dim_key && head_dim == 0) m.head_dim = m.hidden / m.heads;
    return m;
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static char *own(fqt_table *t, const char *s)
{
    char **owned = realloc(t->owned, (t->n_owned + 1) * sizeof *owned);
    char *copy = strdup(s);
    if (!owned || !copy) die("allocate", "name");
    t->owned = owned;
    t->owned[t->n_owned++] = copy;
    return copy;
}

fqt_tensor *fqt_table_add(fqt_table *t, const char *name, const char *dtype, int rank, const int64_t *shape)
{
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 64;
        t->t = realloc(t->t, t->cap * sizeof *t->t);
        if (!t->t) die("allocate", "tensor table");
    }
    fqt_tensor *x = &t->t[t->n++];
    *x = (fqt_tensor){ .name = own(t, name), .dtype = dtype, .rank = rank };
    for (int d = 0; d < rank; d++) x->shape[d] = shape[d];
    return x;
}

fqt_tensor *fqt_table_find(fqt_table *t, const char *name)
{
    for (size_t i = 0; i < t->n; i++) {
        if (!strcmp(t->t[i].name, name)) return &t->t[i];
    }
    die("no tensor", name);
}

void fqt_table_remove(fqt_table *t, const char *name)
{
    size_t i = (size_t)(fqt_table_find(t, name) - t->t);
    memmove(&t->t[i], &t->t[i + 1], (t->n - i - 1) * sizeof *t->t);
    t->n--;
}

void fqt_table_free(fqt_table *t)
{
    for (size_t i = 0; i < t->n_owned; i++) free(t->owned[i]);
    free(t->owned);
    free(t->t);
    *t = (fqt_table){ 0 };
}

/* ---- the tensors ------------------------------------------------------------------------------------------------- */

typedef struct builder {
    fqt_table table;
    fqt_model m;
    const family *f;
    int64_t layer;
} builder;

/* prefix + canonical; the canonical name decides the random bytes. Shape ends at the first 0. */
static void add(builder *b, const char *prefix, const char *canonical, int64_t d0, int64_t d1, int64_t d2)
{
    char name[512];
    snprintf(name, sizeof name, "%s%s%s", b->m.wrapper, prefix, canonical);
    int64_t shape[3] = { d0, d1, d2 };
    int rank = d1 == 0 ? 1 : d2 == 0 ? 2 : 3;
    fqt_tensor *t = fqt_table_add(&b->table, name, b->m.dtype, rank, shape);
    size_t i = (size_t)(t - b->table.t);
    const char *key = own(&b->table, canonical);
    b->table.t[i].key = key;
}

static void add_layer(builder *b, const char *suffix, int64_t d0, int64_t d1, int64_t d2)
{
    char canonical[256];
    snprintf(canonical, sizeof canonical, "layers.%" PRId64 ".%s", b->layer, suffix);
    add(b, b->m.body_prefix, canonical, d0, d1, d2);
}

static void add_attention(builder *b)
{
    const fqt_model *m = &b->m;
    int64_t q = m->heads * m->head_dim, kv = m->kv * m->head_dim;
    bool bias = b->f->qkv_bias || m->attention_bias;
    add_layer(b, "self_attn.q_proj.weight", q, m->hidden, 0);
    if (bias) add_layer(b, "self_attn.q_proj.bias", q, 0, 0);
    add_layer(b, "self_attn.k_proj.weight", kv, m->hidden, 0);
    if (bias) add_layer(b, "self_attn.k_proj.bias", kv, 0, 0);
    add_layer(b, "self_attn.v_proj.weight", kv, m->hidden, 0);
    if (bias) add_layer(b, "self_attn.v_proj.bias", kv, 0, 0);
    add_layer(b, "self_attn.o_proj.weight", m->hidden, q, 0);
    if (m->attention_bias) add_layer(b, "self_attn.o_proj.bias", m->hidden, 0, 0);
    if (b->f->qk_norm) {
        add_layer(b, "self_attn.q_norm.weight", m->head_dim, 0, 0);
        add_layer(b, "self_attn.k_norm.weight", m->head_dim, 0, 0);
    }
}

static void add_mlp(builder *b, const char *prefix, int64_t width, const char *gate, const char *up, const char *down)
{
    const struct { const char *name; bool out; } part[] = { { gate, false }, { up, false }, { down, true } };
    for (size_t i = 0; i < 3; i++) {
        char suffix[128];
        snprintf(suffix, sizeof suffix, "%s%s.weight", prefix, part[i].name);
        add_layer(b, suffix, part[i].out ? b->m.hidden : width, part[i].out ? width : b->m.hidden, 0);
        if (!b->m.mlp_bias) continue;
        snprintf(suffix, sizeof suffix, "%s%s.bias", prefix, part[i].name);
        add_layer(b, suffix, part[i].out ? b->m.hidden : width, 0, 0);
    }
}

static void add_experts(builder *b)
{
    const fqt_model *m = &b->m;
    const char *infix = b->f->mixtral ? "block_sparse_moe." : "mlp.";
    char name[128];
    snprintf(name, sizeof name, "%sgate.weight", infix);
    add_layer(b, name, m->experts, m->hidden, 0);
    if (m->fused) {
        add_layer(b, "mlp.experts.gate_up_proj", m->experts, 2 * m->moe_ff, m->hidden);
        add_layer(b, "mlp.experts.down_proj", m->experts, m->hidden, m->moe_ff);
    }
    for (int64_t e = 0; e < m->experts && !m->fused; e++) {
        snprintf(name, sizeof name, "%sexperts.%" PRId64 ".", infix, e);
        if (b->f->mixtral) add_mlp(b, name, m->moe_ff, "w1", "w3", "w2");
        else add_mlp(b, name, m->moe_ff, "gate_proj", "up_proj", "down_proj");
    }
    if (b->f->shared) {
        add_mlp(b, "mlp.shared_expert.", m->shared_ff, "gate_proj", "up_proj", "down_proj");
        add_layer(b, "mlp.shared_expert_gate.weight", 1, m->hidden, 0);
    }
}

/* A few tensors stand for a vision tower: fitq copies it, whatever it holds. */
static void add_visual(builder *b, const char *prefix)
{
    add(b, prefix, "blocks.0.attn.qkv.weight", 24, 8, 0);
    add(b, prefix, "blocks.0.mlp.down_proj.weight", 8, 12, 0);
    add(b, prefix, "merger.mlp.0.bias", 32, 0, 0);
}

fqt_table fqt_model_tensors(const fqt_model *in)
{
    builder b = { .m = complete(in), .f = find_family(in->family) };
    const fqt_model *m = &b.m;
    add(&b, m->body_prefix, "embed_tokens.weight", m->vocab, m->hidden, 0);
    for (b.layer = 0; b.layer < m->layers; b.layer++) {
        add_layer(&b, "input_layernorm.weight", m->hidden, 0, 0);
        add_attention(&b);
        add_layer(&b, "post_attention_layernorm.weight", m->hidden, 0, 0);
        if (b.f->moe && (b.layer + 1) % m->sparse_step == 0) add_experts(&b);
        else add_mlp(&b, "mlp.", m->ff, "gate_proj", "up_proj", "down_proj");
    }
    add(&b, m->body_prefix, "norm.weight", m->hidden, 0, 0);
    if (!m->tied) add(&b, "", "lm_head.weight", m->vocab, m->hidden, 0);
    if (b.f->visual) {
        bool new_style = !strcmp(m->body_prefix, "model.language_model.");
        add_visual(&b, new_style ? "model.visual." : b.f->visual);
    }
    return b.table;
}

/* ---- config.json ------------------------------------------------------------------------------------------------- */

typedef struct out { char *s; size_t n, cap; } out;

static __attribute__((format(printf, 2, 3))) void say(out *o, const char *fmt, ...)
{
    va_list ap;
    if (o->cap - o->n < 512) {
        o->cap = 2 * o->cap + 4096;
        o->s = realloc(o->s, o->cap);
        if (!o->s) die("allocate", "config");
    }
    va_start(ap, fmt);
    int n = vsnprintf(o->s + o->n, o->cap - o->n, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= o->cap - o->n) die("format", fmt);
    o->n += (size_t)n;
}

static const char *torch_name(const char *dtype)
{
    return !strcmp(dtype, "F32") ? "float32" : !strcmp(dtype, "F16") ? "float16" : "bfloat16";
}

/* The members that describe the decoder, each on its own line behind `in` spaces. */
static void say_text_fields(out *o, const fqt_model *m, const family *f, const char *in)
{
    say(o, "%s\"hidden_act\": \"silu\",\n%s\"hidden_size\": %" PRId64 ",\n", in, in, m->hidden);
    say(o, "%s\"intermediate_size\": %" PRId64 ",\n%s\"max_position_embeddings\": 2048,\n", in, m->ff, in);
    say(o, "%s\"num_attention_heads\": %" PRId64 ",\n%s\"num_hidden_layers\": %" PRId64 ",\n", in, m->heads, in, m->layers);
    say(o, "%s\"num_key_value_heads\": %" PRId64 ",\n%s\"rms_norm_eps\": 1e-06,\n", in, m->kv, in);
    say(o, "%s\"rope_theta\": 10000.0,\n%s\"torch_dtype\": \"%s\",\n", in, in, torch_name(m->dtype));
    if (f->head_dim_key || m->head_dim * m->heads != m->hidden) say(o, "%s\"head_dim\": %" PRId64 ",\n", in, m->head_dim);
    if (!f->qkv_bias) say(o, "%s\"attention_bias\": %s,\n", in, m->attention_bias ? "true" : "false");
    if (m->mlp_bias) say(o, "%s\"mlp_bias\": true,\n", in);
    if (!strcmp(f->name, "mistral")) say(o, "%s\"sliding_window\": null,\n", in);   /* without the key there is one */
    if (f->mixtral) {
        say(o, "%s\"num_local_experts\": %" PRId64 ",\n%s\"num_experts_per_tok\": %" PRId64 ",\n", in, m->experts, in, m->top_k);
    } else if (f->moe) {
        say(o, "%s\"num_experts\": %" PRId64 ",\n%s\"num_experts_per_tok\": %" PRId64 ",\n", in, m->experts, in, m->top_k);
        say(o, "%s\"moe_intermediate_size\": %" PRId64 ",\n%s\"norm_topk_prob\": true,\n", in, m->moe_ff, in);
        say(o, "%s\"decoder_sparse_step\": %" PRId64 ",\n%s\"mlp_only_layers\": [],\n", in, m->sparse_step, in);
        if (f->shared) say(o, "%s\"shared_expert_intermediate_size\": %" PRId64 ",\n", in, m->shared_ff);
    }
    say(o, "%s\"tie_word_embeddings\": %s,\n", in, m->tied ? "true" : "false");
    say(o, "%s\"vocab_size\": %" PRId64, in, m->vocab);
}

void fqt_write_config(const char *dir, const fqt_model *in)
{
    fqt_model m = complete(in);
    const family *f = find_family(m.family);
    out o = { 0 };
    say(&o, "{\n  \"architectures\": [\n    \"%s\"\n  ],\n  \"model_type\": \"%s\",\n", f->architecture, f->name);
    if (!strcmp(f->name, "qwen3_vl")) {
        say(&o, "  \"text_config\": {\n    \"model_type\": \"qwen3_vl_text\",\n");
        say_text_fields(&o, &m, f, "    ");
        say(&o, "\n  },\n  \"tie_word_embeddings\": %s,\n", m.tied ? "true" : "false");
    } else {
        say_text_fields(&o, &m, f, "  ");
        say(&o, ",\n");
    }
    say(&o, "  \"x_unknown\": { \"kept\": 1.50 }\n}\n");
    fqt_write(dir, "config.json", o.s, o.n);
    free(o.s);
}

void fqt_make_model(const char *dir, const fqt_model *m)
{
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) die("make folder", dir);
    fqt_table t = fqt_model_tensors(m);
    fqt_write_config(dir, m);
    fqt_write_shards(dir, t.t, t.n, m->n_shard, m->seed);
    fqt_table_free(&t);
}
