/* test_weights.c - every weight that is handed out is what the checkpoint holds, in every form a checkpoint has; and what is refused is
 * refused by name. What must be there is written down here from the names of the transformers modelling files. */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <math.h>
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

#include "make_ckpt.h"
#include "model/weights.h"
#include "support.h"

static uint64_t rng = 88172645463325252u;

static uint64_t rnd(void) { return fqt_random(&rng); }

/* ---- a model whose bytes are known ---- */

typedef struct known { fqt_table t; unsigned char **data; char *path; } known;

static size_t size_of(const char *dtype) { return !strcmp(dtype, "F32") || !strcmp(dtype, "I32") ? 4 : !strcmp(dtype, "F64") ? 8 : dtype[0] == 'F' && dtype[1] == '8' ? 1 : dtype[0] == 'I' || dtype[0] == 'U' ? 1 : 2; }

static size_t elements(const fqt_tensor *t)
{
    size_t n = 1;
    for (int d = 0; d < t->rank; d++) n *= (size_t)t->shape[d];
    return n;
}

/* Random finite numbers of the type, subnormal ones too. */
static void fill(unsigned char *p, const fqt_tensor *t)
{
    const size_t n = elements(t), size = size_of(t->dtype);
    for (size_t i = 0; i < n; i++) {
        uint32_t r = (uint32_t)(rnd() >> 16), top = r >> 31;
        uint32_t e = (uint32_t)(rnd() >> 20);
        uint32_t v = !strcmp(t->dtype, "F32") ? top << 31 | (100 + e % 40) << 23 | (r & 0x7fffff) : !strcmp(t->dtype, "F16") ? top << 15 | (e % 29) << 10 | (r & 0x3ff)
                   : !strcmp(t->dtype, "BF16") ? top << 15 | (100 + e % 40) << 7 | (r & 0x7f) : r | 1;
        memcpy(p + i * size, &v, size < 4 ? size : 4);
    }
}

static void write_known(known *k, const fqt_model *m)
{
    (void)mkdir(k->path, 0777);
    fqt_write_config(k->path, m);
    fqt_write_shards(k->path, k->t.t, k->t.n, m->n_shard, 1);
}

static known make(const char *name, const fqt_model *m)
{
    known k = { .t = fqt_model_tensors(m), .path = fqt_join(fqt_dir, name) };
    k.data = calloc(k.t.n + 8, sizeof *k.data);
    for (size_t i = 0; i < k.t.n; i++) {
        k.data[i] = calloc(elements(&k.t.t[i]) + 8, 8);
        fill(k.data[i], &k.t.t[i]);
        k.t.t[i].data = k.data[i];
    }
    write_known(&k, m);
    return k;
}

static void drop(known *k)
{
    fqt_remove(k->path);
    for (size_t i = 0; k->data[i]; i++) free(k->data[i]);
    free(k->data);
    free(k->path);
    fqt_table_free(&k->t);
}

/* By the end of its name: canonical name behind any prefix. NULL if there is none. */
static const fqt_tensor *stored(const known *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static const fqt_tensor *stored(const known *k, const char *fmt, ...)
{
    char name[256];
    va_list ap;
    va_start(ap, fmt);
    size_t n = (size_t)vsnprintf(name, sizeof name, fmt, ap);
    va_end(ap);
    for (size_t i = 0; i < k->t.n; i++) {
        const char *s = k->t.t[i].name;
        size_t len = strlen(s);
        if (len >= n && strcmp(s + len - n, name) == 0 && (len == n || s[len - n - 1] == '.') && !strstr(s, "visual")) return &k->t.t[i];
    }
    return NULL;
}

/* ---- an opened one ---- */

typedef struct opened { fq_ckpt *c; fqi_decoder d; fqi_weights *w; } opened;
static const fq_run plain = { .n_thread = 1 };

static void open_ckpt(const char *path, opened *o)
{
    fq_err e = { 0 };
    char *file = fqt_join(path, "config.json");
    if (fq_ckpt_open(path, &plain, &o->c, &e) != FQ_OK) fail_msg("%s", e.text);
    if (fqi_decoder_read(&o->c->config, file, &o->d, &e) != FQ_OK) fail_msg("%s", e.text);
    free(file);
    o->w = NULL;
}

static void create(opened *o, size_t n_slot, fq_dtype served, int64_t head_rows, const fq_run *run)
{
    fq_err e = { 0 };
    if (fqi_weights_create(o->c, &o->d, &(fqi_weights_options){ .n_slot = n_slot, .served = served, .head_rows = head_rows, .run = run }, &o->w, &e) != FQ_OK)
        fail_msg("%s", e.text);
}

static void close_all(opened *o)
{
    fqi_weights_free(o->w);
    fqi_decoder_free(&o->d);
    fq_ckpt_close(o->c);
}

static fq_dtype dtype_of(const fqt_tensor *t) { return !strcmp(t->dtype, "F32") ? FQ_DTYPE_F32 : !strcmp(t->dtype, "F16") ? FQ_DTYPE_F16 : FQ_DTYPE_BF16; }

/* ---- conversions, the slow way ---- */

static double value_of(const unsigned char *p, fq_dtype d)
{
    if (d == FQ_DTYPE_F32) {
        float f;
        memcpy(&f, p, sizeof f);
        return (double)f;
    }
    unsigned h = (unsigned)(p[0] | p[1] << 8);
    int mant = d == FQ_DTYPE_F16 ? 10 : 7, bias = d == FQ_DTYPE_F16 ? 15 : 127;
    int e = (int)(h >> mant & (d == FQ_DTYPE_F16 ? 31u : 255u)), m = (int)(h & ((1u << mant) - 1));
    double v = e ? ldexp(1 + ldexp(m, -mant), e - bias) : ldexp(m, 1 - bias - mant);
    return h >> 15 ? -v : v;
}

/* Nearest number of the type, ties to even. */
static double round_value(double v, fq_dtype d)
{
    if (d == FQ_DTYPE_F32 || v == 0) return (double)(float)v;
    int mant = d == FQ_DTYPE_F16 ? 10 : 7, min = d == FQ_DTYPE_F16 ? -14 : -126, e;
    (void)frexp(v, &e);
    e = e - 1 < min ? min : e - 1;
    return ldexp(nearbyint(ldexp(v, mant - e)), e - mant);
}

static void same_values(const char *what, const unsigned char *found, fq_dtype held, const unsigned char *src, fq_dtype from, fq_dtype served, size_t n)
{
    if (held == from && (served == FQ_DTYPE_F32 || served == from)) {
        if (memcmp(found, src, n * (fq_dtype_bits(from) / 8)) != 0) fail_msg("%s: other bytes", what);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        double want = round_value(value_of(src + i * (fq_dtype_bits(from) / 8), from), served), got = value_of(found + i * (fq_dtype_bits(held) / 8), held);
        if (want != got) fail_msg("%s, element %zu: found %.9g, expected %.9g", what, i, got, want);
    }
}

static void same_matrix(const fqi_matrix *m, const fqt_tensor *t, size_t skip_rows, size_t rows, fq_dtype served, const char *what)
{
    if (!t) {
        if (m->data) fail_msg("%s: found one, expected none", what);
        return;
    }
    const fq_dtype from = dtype_of(t);
    const size_t cols = (size_t)t->shape[t->rank - 1];
    if (!m->data) fail_msg("%s: found none", what);
    assert_int_equal(m->rows, rows);
    assert_int_equal(m->cols, cols);
    assert_int_equal(m->dtype, served == FQ_DTYPE_F32 ? from : served);
    if (t->rank == 2 && rows == (size_t)t->shape[0]) assert_int_equal((uintptr_t)m->data % 64, 0);
    same_values(what, m->data, m->dtype, (const unsigned char *)t->data + skip_rows * cols * (fq_dtype_bits(from) / 8), from, served, rows * cols);
}

static void same_vector(const float *v, const fqt_tensor *t, fq_dtype served, const char *what)
{
    if (!t) {
        if (v) fail_msg("%s: found one, expected none", what);
        return;
    }
    if (!v) fail_msg("%s: found none", what);
    same_values(what, (const unsigned char *)v, FQ_DTYPE_F32, t->data, dtype_of(t), served, elements(t));
}

/* ---- a layer ---- */

static void same_mlp(const known *k, const fqi_mlp_weights *m, int64_t l, const char *infix, const char *const name[3], fq_dtype served)
{
    const fqi_matrix *part[] = { &m->gate, &m->up, &m->down };
    const float *bias[] = { m->gate_bias, m->up_bias, m->down_bias };
    for (int i = 0; i < 3; i++) {
        char what[128];
        (void)snprintf(what, sizeof what, "layers.%" PRId64 ".%s%s", l, infix, name[i]);
        const fqt_tensor *t = stored(k, "%s.weight", what);
        same_matrix(part[i], t, 0, t ? (size_t)t->shape[0] : 0, served, what);
        same_vector(bias[i], stored(k, "%s.bias", what), served, what);
    }
}

static const char *const usual[] = { "gate_proj", "up_proj", "down_proj" }, *const of_mixtral[] = { "w1", "w3", "w2" };

static void same_experts(const known *k, const fqi_layer_weights *w, int64_t l, int64_t n_expert, fq_dtype served)
{
    const fqt_tensor *up = stored(k, "layers.%" PRId64 ".mlp.experts.gate_up_proj", l), *down = stored(k, "layers.%" PRId64 ".mlp.experts.down_proj", l);
    for (int64_t i = 0; i < n_expert; i++) {
        char infix[64];
        const fqi_mlp_weights *x = &w->expert[i];
        const bool mixtral = stored(k, "layers.%" PRId64 ".block_sparse_moe.gate.weight", l) != NULL;
        (void)snprintf(infix, sizeof infix, "%s.experts.%" PRId64 ".", mixtral ? "block_sparse_moe" : "mlp", i);
        if (!up) {
            same_mlp(k, x, l, infix, mixtral ? of_mixtral : usual, served);
            assert_non_null(x->gate.data);
            continue;
        }
        const size_t width = (size_t)up->shape[1] / 2, hidden = (size_t)down->shape[1];
        same_matrix(&x->gate, up, (size_t)i * 2 * width, width, served, "fused gate");
        same_matrix(&x->up, up, (size_t)i * 2 * width + width, width, served, "fused up");
        same_matrix(&x->down, down, (size_t)i * hidden, hidden, served, "fused down");
    }
}

static void same_layer(const known *k, const fqi_layer_weights *w, int64_t l, int64_t n_expert, fq_dtype served)
{
    const struct { const char *name; const fqi_matrix *m; const float *bias; } linear[] = {
        { "q_proj", &w->q, w->q_bias }, { "k_proj", &w->k, w->k_bias }, { "v_proj", &w->v, w->v_bias }, { "o_proj", &w->o, w->o_bias } };
    const struct { const char *name; const float *v; } norm[] = { { "input_layernorm", w->input_norm }, { "post_attention_layernorm", w->post_attention_norm },
        { "self_attn.q_norm", w->q_norm }, { "self_attn.k_norm", w->k_norm } };
    for (size_t i = 0; i < 4; i++) {
        const fqt_tensor *t = stored(k, "layers.%" PRId64 ".self_attn.%s.weight", l, linear[i].name);
        assert_non_null(t);
        same_matrix(linear[i].m, t, 0, (size_t)t->shape[0], served, linear[i].name);
        same_vector(linear[i].bias, stored(k, "layers.%" PRId64 ".self_attn.%s.bias", l, linear[i].name), served, linear[i].name);
        same_vector(norm[i].v, stored(k, "layers.%" PRId64 ".%s.weight", l, norm[i].name), served, norm[i].name);
    }
    assert_non_null(w->input_norm);
    const fqt_tensor *router = stored(k, "layers.%" PRId64 ".mlp.gate.weight", l), *one = stored(k, "layers.%" PRId64 ".mlp.shared_expert_gate.weight", l);
    if (!router) router = stored(k, "layers.%" PRId64 ".block_sparse_moe.gate.weight", l);
    assert_int_equal(w->sparse, router != NULL);
    same_matrix(&w->router, router, 0, router ? (size_t)router->shape[0] : 0, served, "router");
    same_matrix(&w->shared_gate, one, 0, 1, served, "shared_expert_gate");
    same_mlp(k, &w->mlp, l, "mlp.", usual, served);
    same_mlp(k, &w->shared, l, "mlp.shared_expert.", usual, served);
    assert_int_equal(w->has_shared, w->shared.gate.data != NULL);
    if (w->sparse) same_experts(k, w, l, n_expert, served);
    else assert_non_null(w->mlp.gate.data);
}

static const fqi_layer_weights *layer(opened *o, int64_t l)
{
    const fqi_layer_weights *w;
    fq_err e = { 0 };
    if (fqi_weights_layer(o->w, l, &w, &e) != FQ_OK) fail_msg("layer %" PRId64 ": %s", l, e.text);
    return w;
}

/* Embedding, final norm and head, whole and in panels. */
static void same_body(const known *k, opened *o, fq_dtype served, int64_t head_rows)
{
    const fqt_tensor *embed = stored(k, "embed_tokens.weight"), *head = o->d.model.tie_word_embeddings ? embed : stored(k, "lm_head.weight");
    const size_t vocab = (size_t)embed->shape[0], cols = (size_t)embed->shape[1];
    const uint32_t ids[] = { 3, 0, (uint32_t)vocab - 1, 3 };
    float *rows = calloc(4 * cols, sizeof *rows);
    fq_err e = { 0 };
    if (fqi_weights_embed(o->w, ids, 4, rows, &e) != FQ_OK) fail_msg("%s", e.text);
    for (size_t i = 0; i < 4; i++)
        same_values("embedding", (const unsigned char *)(rows + i * cols), FQ_DTYPE_F32, (const unsigned char *)embed->data + ids[i] * cols * (fq_dtype_bits(dtype_of(embed)) / 8),
                    dtype_of(embed), served, cols);
    free(rows);
    const float *norm = fqi_weights_final_norm(o->w, &e);
    for (const fqt_tensor *t = k->t.t; t < k->t.t + k->t.n; t++)   /* "norm.weight" ends other names too */
        if (elements(t) == cols && t->rank == 1 && !strstr(t->name, "layers.") && !strstr(t->name, "visual")) same_vector(norm, t, served, "norm");
    assert_ptr_equal(norm, fqi_weights_final_norm(o->w, &e));
    if (head_rows == 0) head_rows = (int64_t)vocab;
    for (int64_t row = 0, n; row < (int64_t)vocab; row += n) {
        fqi_matrix m;
        n = (int64_t)vocab - row < head_rows ? (int64_t)vocab - row : head_rows;
        if (fqi_weights_head(o->w, row, n, &m, &e) != FQ_OK) fail_msg("%s", e.text);
        same_values("head", m.data, m.dtype, (const unsigned char *)head->data + (size_t)row * cols * (fq_dtype_bits(dtype_of(head)) / 8), dtype_of(head), served, (size_t)n * cols);
        assert_int_equal(m.rows, n);
        if (n < 3) continue;
        uint64_t before = fqi_weights_bytes_read(o->w);   /* held already */
        if (fqi_weights_head(o->w, row + 1, n - 2, &m, &e) != FQ_OK) fail_msg("%s", e.text);
        same_values("head", m.data, m.dtype, (const unsigned char *)head->data + (size_t)(row + 1) * cols * (fq_dtype_bits(dtype_of(head)) / 8), dtype_of(head), served,
                    (size_t)(n - 2) * cols);
        assert_true(fqi_weights_bytes_read(o->w) == before);
    }
}

static void check_all(const known *k, size_t n_slot, fq_dtype served, int64_t head_rows)
{
    opened o;
    open_ckpt(k->path, &o);
    const int64_t n = o.d.model.num_hidden_layers, x = o.d.model.num_experts;
    create(&o, n_slot, served, head_rows, &plain);
    for (int round = 0; round < 2; round++) {
        for (int64_t l = 0; l < n; l++) same_layer(k, layer(&o, l), l, x, served);
        same_body(k, &o, served, head_rows);
    }
    for (int i = 0; i < 6; i++) {
        int64_t l = (int64_t)(rnd() % (uint64_t)n);
        same_layer(k, layer(&o, l), l, x, served);
    }
    if (n_slot >= (size_t)n) {   /* all of them stay */
        uint64_t before = fqi_weights_bytes_read(o.w);
        const fqi_layer_weights *first = layer(&o, 0);
        for (int64_t l = 1; l < n; l++) same_layer(k, layer(&o, l), l, x, served);
        same_layer(k, first, 0, x, served);
        assert_true(fqi_weights_bytes_read(o.w) == before);
    }
    close_all(&o);
}

static void test_families(void **state)
{
    (void)state;
    static const fqt_model model[] = {
        { .family = "qwen2" }, { .family = "qwen2", .tied = true, .dtype = "F16" }, { .family = "qwen3", .attention_bias = true, .dtype = "F32" },
        { .family = "qwen2_moe", .sparse_step = 2, .layers = 5 }, { .family = "qwen2_moe", .n_shard = 4 }, { .family = "qwen3_moe", .fused = true },
        { .family = "qwen3_moe", .experts = 12, .n_shard = 7, .dtype = "F32" }, { .family = "llama", .attention_bias = true, .mlp_bias = true },
        { .family = "llama", .layers = 1 }, { .family = "mistral", .head_dim = 14, .wrapper = "module." }, { .family = "mixtral" },
        { .family = "mixtral", .n_shard = 12, .dtype = "F16" }, { .family = "qwen2_vl" }, { .family = "qwen2_5_vl", .n_shard = 2 }, { .family = "qwen3_vl", .tied = true },
        { .family = "qwen2", .body_prefix = "", .wrapper = "_orig_mod." }, { .family = "qwen3", .body_prefix = "model.language_model." },
    };
    for (size_t i = 0; i < sizeof model / sizeof *model; i++) {
        known k = make("m", &model[i]);
        for (size_t slots = 1; slots <= 8; slots = slots < 3 ? slots + 1 : 8 + (slots == 8)) check_all(&k, slots, FQ_DTYPE_F32, slots == 2 ? 7 : 0);
        drop(&k);
    }
}

static void test_served(void **state)
{
    (void)state;
    static const char *const type[] = { "F32", "F16", "BF16" };
    static const fq_dtype served[] = { FQ_DTYPE_BF16, FQ_DTYPE_F16 };
    for (size_t i = 0; i < 3; i++) {
        known k = make("s", &(fqt_model){ .family = i == 1 ? "qwen2_moe" : "qwen3_moe", .fused = i == 2, .dtype = type[i] });
        for (size_t s = 0; s < 2; s++) check_all(&k, 2, served[s], 5);
        drop(&k);
    }
}

/* The head of a tied model is the embedding, even where another head is stored; stray tensors do not matter. */
static void test_tied_beside_head(void **state)
{
    (void)state;
    const fqt_model m = { .family = "qwen2", .tied = true };
    known k = make("t", &m);
    fqt_tensor *embed = fqt_table_find(&k.t, "model.embed_tokens.weight");
    int64_t shape[2] = { embed->shape[0], embed->shape[1] };
    fqt_table_add(&k.t, "lm_head.weight", "BF16", 2, shape);
    fqt_table_add(&k.t, "model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 1, (int64_t[]){ 4 });
    fqt_table_add(&k.t, "model.layers.1.self_attn.o_proj.bias", "BF16", 1, shape + 1);   /* not announced: engines leave it out */
    write_known(&k, &m);
    k.t.n--;
    check_all(&k, 2, FQ_DTYPE_F32, 0);
    drop(&k);
}

static void test_torch(void **state)
{
    (void)state;
    static const struct { fqt_model m; const char *args; } row[] = {
        { { .family = "qwen2" }, "1" }, { { .family = "qwen3_moe" }, "3" }, { { .family = "qwen2", .tied = true }, "1 tie" } };
    fqt_need_python();
    for (size_t i = 0; i < 3; i++) {
        known k = make("st", &row[i].m);
        char *to = fqt_join(fqt_dir, "bin");
        assert_int_equal(fqt_to_torch(k.path, to, row[i].args), 0);
        fqt_remove(k.path);
        free(k.path);
        k.path = to;
        check_all(&k, 2, FQ_DTYPE_F32, 9);
        drop(&k);
    }
}

/* A tensor that lies transposed in the file, and one with its bytes the other way round. */
static void test_strides(void **state)
{
    (void)state;
    known k = make("x", &(fqt_model){ .family = "qwen2", .tied = true });
    const fqt_tensor *q = stored(&k, "layers.1.self_attn.q_proj.weight"), *embed = stored(&k, "embed_tokens.weight"), *norm = stored(&k, "layers.2.input_layernorm.weight");
    const fqt_tensor *turned[] = { q, embed };
    opened o;
    open_ckpt(k.path, &o);
    int64_t stride[2][2];
    for (size_t i = 0; i < 2; i++) {
        size_t rows = (size_t)turned[i]->shape[0], cols = (size_t)turned[i]->shape[1], at = fqi_ckpt_find(o.c, turned[i]->name);
        unsigned char *to = calloc(rows * cols, 2);
        stride[i][0] = 1;
        stride[i][1] = (int64_t)rows;
        o.c->tensor[at].stride = stride[i];
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < cols; c++) memcpy(to + 2 * (r * cols + c), (const unsigned char *)turned[i]->data + 2 * (c * rows + r), 2);
        memcpy(k.data[turned[i] - k.t.t], to, 2 * rows * cols);   /* what must come out */
        free(to);
    }
    unsigned char *v = k.data[norm - k.t.t];
    o.c->tensor[fqi_ckpt_find(o.c, norm->name)].byteswap = true;
    for (size_t i = 0; i < elements(norm); i++) {   /* finite either way round */
        v[2 * i + 1] = v[2 * i] = (unsigned char)(0x30 + i % 9);
        v[2 * i] = (unsigned char)(v[2 * i] + 1);
    }
    fq_ckpt *c = o.c;
    int fd = open(c->shard[0].path, O_WRONLY);
    for (size_t i = 0; i < elements(norm); i++)
        assert_int_equal(pwrite(fd, (unsigned char[]){ v[2 * i + 1], v[2 * i] }, 2, (off_t)(c->tensor[fqi_ckpt_find(c, norm->name)].off + 2 * i)), 2);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    (void)close(fd);
    c->shard[0].mtime_ns = st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    create(&o, 2, FQ_DTYPE_F32, 11, &plain);
    for (int64_t l = 0; l < 3; l++) same_layer(&k, layer(&o, l), l, 0, FQ_DTYPE_F32);
    same_body(&k, &o, FQ_DTYPE_F32, 11);
    close_all(&o);
    drop(&k);
}

static size_t open_files(void)
{
    DIR *d = opendir("/proc/self/fd");
    size_t n = 0;
    if (!d) return 0;
    while (readdir(d)) n++;
    (void)closedir(d);
    return n;
}

static void test_few_open_files(void **state)
{
    (void)state;
    known k = make("f", &(fqt_model){ .family = "qwen3_moe", .layers = 6, .experts = 9, .n_shard = 40 });
    opened o;
    open_ckpt(k.path, &o);
    size_t before = open_files();
    create(&o, 6, FQ_DTYPE_F32, 0, &plain);
    for (int64_t l = 0; l < 6; l++) {
        layer(&o, l);
        assert_true(open_files() <= before + 5);   /* a shard for each reader at most */
    }
    close_all(&o);
    drop(&k);
}

/* ---- what is refused ---- */

static void refused(const char *path, fq_status code, const char *rule, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static void refused(const char *path, fq_status code, const char *rule, const char *fmt, ...)
{
    opened o;
    fq_err e = { 0 };
    fqi_weights_size size;
    char want[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(want, sizeof want, fmt, ap);
    va_end(ap);
    open_ckpt(path, &o);
    fq_status s = fqi_weights_create(o.c, &o.d, &(fqi_weights_options){ .n_slot = 1, .served = FQ_DTYPE_F32, .run = &plain }, &o.w, &e);
    if (s != code || strcmp(e.rule, rule) != 0 || !strstr(e.text, want)) fail_msg("found %d \"%s\", expected %d \"%s\"", s, e.text, code, want);
    assert_int_equal(fqi_weights_measure(o.c, &o.d, NULL, FQ_DTYPE_F32, &size, &e), code);
    o.w = NULL;
    close_all(&o);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const type[] = { "F64", "F8_E4M3", "I8", "U8" };
    const fqt_model m = { .family = "qwen2_moe", .sparse_step = 2, .layers = 2 };
    static const char *const name[] = { "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "model.layers.0.mlp.up_proj.weight",
                                        "model.layers.1.mlp.experts.4.down_proj.weight", "model.layers.1.self_attn.k_proj.bias", "model.layers.1.mlp.gate.weight" };
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        known k = make("r", &m);
        fqt_tensor *t = fqt_table_find(&k.t, name[i]);
        t->dtype = type[i % 4];
        t->data = NULL;
        write_known(&k, &m);
        refused(k.path, FQ_E_INPUT, "weight-dtype", "model.safetensors: tensor %s: weight-dtype: found %s, expected F32, F16 or BF16", name[i], type[i % 4]);
        t->dtype = "BF16";
        t->shape[0] += 1;
        write_known(&k, &m);
        refused(k.path, FQ_E_INPUT, "weight-shape", "tensor %s: weight-shape: found %" PRId64 " in dimension 0, expected ", name[i], t->shape[0]);
        t->rank = 3;
        t->shape[1] = t->shape[2] = 1;
        write_known(&k, &m);
        refused(k.path, FQ_E_INPUT, "weight-shape", "tensor %s: weight-shape: found 3 dimensions, expected ", name[i]);
        fqt_table_remove(&k.t, name[i]);
        write_known(&k, &m);
        refused(k.path, FQ_E_INPUT, "weight-missing", "found no %s, expected one", name[i] + (i == 1 ? 0 : 6));
        drop(&k);
    }
}

static void test_quantized(void **state)
{
    (void)state;
    const fqt_model m = { .family = "qwen2" };
    known k = make("q", &m);
    fqt_table_remove(&k.t, "model.layers.1.mlp.up_proj.weight");
    fqt_table_add(&k.t, "model.layers.1.mlp.up_proj.qweight", "I32", 2, (int64_t[]){ 6, 52 });
    fqt_table_add(&k.t, "model.layers.1.mlp.up_proj.scales", "F16", 2, (int64_t[]){ 3, 52 });
    write_known(&k, &m);
    refused(k.path, FQ_E_INPUT, "quantization-config", "tensor model.layers.1.mlp.up_proj.qweight: quantization-config: found packed weights, expected quantization_config in config.json");
    drop(&k);
    k = make("q", &m);
    fqt_table_find(&k.t, "model.layers.0.self_attn.o_proj.weight")->dtype = "F8_E4M3";
    fqt_table_add(&k.t, "model.layers.0.self_attn.o_proj.weight_scale_inv", "F32", 2, (int64_t[]){ 1, 1 });
    write_known(&k, &m);
    refused(k.path, FQ_E_INPUT, "quantization-config", "tensor model.layers.0.self_attn.o_proj.weight: quantization-config: found a weight that has a scale, expected quantization_config in config.json");
    drop(&k);
    k = make("q", &m);   /* a dense model with scales of the KV cache */
    fqt_table_add(&k.t, "model.layers.0.self_attn.k_scale", "F32", 1, (int64_t[]){ 1 });
    write_known(&k, &m);
    k.t.n--;
    check_all(&k, 1, FQ_DTYPE_F32, 0);
    drop(&k);
}

static void test_missing_shard(void **state)
{
    (void)state;
    known k = make("p", &(fqt_model){ .family = "qwen2", .n_shard = 3 });
    opened o;
    open_ckpt(k.path, &o);
    create(&o, 1, FQ_DTYPE_F32, 0, &plain);
    layer(&o, 0);
    char *gone = fqt_join(k.path, "model-00003-of-00003.safetensors");
    assert_int_equal(unlink(gone), 0);
    fq_err e = { 0 };
    const fqi_layer_weights *w;
    assert_int_equal(fqi_weights_layer(o.w, 2, &w, &e), FQ_E_IO);
    assert_non_null(strstr(e.text, "model-00003-of-00003.safetensors"));
    layer(&o, 0);
    close_all(&o);
    refused(k.path, FQ_E_INPUT, "weight-missing", "found no ");
    free(gone);
    drop(&k);
}

static const fqi_tensor *first_of_layer(const opened *o, int64_t l)
{
    const fqi_tensor *first = NULL;
    for (size_t i = 0; i < o->c->n_tensor; i++)
        if (o->c->bound[i].row && o->c->bound[i].layer == l && (!first || o->c->tensor[i].off < first->off)) first = &o->c->tensor[i];
    assert_non_null(first);
    return first;
}

static void test_cut_while_reading(void **state)
{
    (void)state;
    known k = make("c", &(fqt_model){ .family = "qwen2", .layers = 4 });
    opened o;
    fq_err e = { 0 };
    const fqi_layer_weights *w;
    open_ckpt(k.path, &o);
    create(&o, 1, FQ_DTYPE_F32, 0, &plain);
    layer(&o, 0);
    const fqi_tensor *cut = &o.c->tensor[fqi_ckpt_find(o.c, "model.layers.2.mlp.up_proj.weight")];
    char want[1024];
    assert_int_equal(truncate(o.c->shard[0].path, (off_t)(cut->off + cut->bytes / 2)), 0);
    for (int i = 0; i < 30; i++) {   /* whichever thread reads it, the first one in the file is named */
        assert_int_equal(fqi_weights_layer(o.w, 2, &w, &e), FQ_E_IO);
        assert_string_equal(e.rule, "changed-while-reading");
        (void)snprintf(want, sizeof want, "%s: tensor model.layers.2.mlp.up_proj.weight: byte ", o.c->shard[0].path);
        assert_memory_equal(e.text, want, strlen(want));
        assert_int_equal(fqi_weights_layer(o.w, 3, &w, &e), FQ_E_IO);
        (void)snprintf(want, sizeof want, "%s: tensor %s: byte ", o.c->shard[0].path, first_of_layer(&o, 3)->name);
        assert_memory_equal(e.text, want, strlen(want));
        if (i % 10 == 0) same_layer(&k, layer(&o, 0), 0, 0, FQ_DTYPE_F32);
    }
    fqi_weights_free(o.w);
    create(&o, 1, FQ_DTYPE_F32, 0, &plain);
    uint32_t id = 1;
    float row[64];
    assert_int_equal(fqi_weights_embed(o.w, &id, 1, row, &e), FQ_E_IO);   /* opened now: its size is another one */
    assert_string_equal(e.rule, "changed");
    close_all(&o);
    drop(&k);
}

/* ---- numbers ---- */

/* Writes `n` bytes over an element of a tensor. Returns its number in the tensor. */
static uint64_t patch(const char *path, const char *tensor, uint64_t element, const void *bytes, size_t n, unsigned char *old)
{
    opened o;
    open_ckpt(path, &o);
    const fqi_tensor *t = &o.c->tensor[fqi_ckpt_find(o.c, tensor)];
    int fd = open(o.c->shard[t->shard].path, O_RDWR);
    element %= t->bytes / n;
    if (old) assert_int_equal(pread(fd, old, n, (off_t)(t->off + element * n)), n);
    assert_int_equal(pwrite(fd, bytes, n, (off_t)(t->off + element * n)), n);
    (void)close(fd);
    close_all(&o);
    return element;
}

/* Everything is read; the first error is returned. */
static fq_status read_all(const char *path, fq_dtype served, fq_err *e)
{
    opened o;
    open_ckpt(path, &o);
    create(&o, 2, served, 7, &plain);
    const fqi_layer_weights *w;
    fq_status s = FQ_OK;
    for (int64_t l = 0; l < o.d.model.num_hidden_layers && s == FQ_OK; l++) s = fqi_weights_layer(o.w, l, &w, e);
    float *row = calloc((size_t)o.d.model.hidden_size, sizeof *row);
    fqi_matrix m;
    for (uint32_t i = 0; i < (uint32_t)o.d.model.vocab_size && s == FQ_OK; i++) s = fqi_weights_embed(o.w, &i, 1, row, e);
    for (int64_t i = 0; i < o.d.model.vocab_size && s == FQ_OK; i += 7) s = fqi_weights_head(o.w, i, i + 7 > o.d.model.vocab_size ? o.d.model.vocab_size - i : 7, &m, e);
    if (s == FQ_OK && !fqi_weights_final_norm(o.w, e)) s = FQ_E_NUMERIC;
    free(row);
    close_all(&o);
    return s;
}

/* The exact message for every tensor that is used, wherever it lies. */
static void test_nan_everywhere(void **state)
{
    (void)state;
    static const fqt_model model[] = { { .family = "qwen2_moe", .sparse_step = 2, .layers = 2, .experts = 3 }, { .family = "qwen3_moe", .fused = true, .layers = 1 },
                                       { .family = "llama", .attention_bias = true, .mlp_bias = true, .layers = 1, .dtype = "F32" } };
    static const uint32_t bits32[] = { 0x7fc00000, 0x7f800000, 0xff800000 };
    static const char *const word[] = { "NaN", "infinity", "-infinity" };
    for (size_t i = 0; i < 3; i++) {
        known k = make("n", &model[i]);
        for (size_t t = 0; t < k.t.n; t++) {
            const fqt_tensor *x = &k.t.t[t];
            const size_t kind = rnd() % 3, size = size_of(x->dtype);
            uint32_t bits = size == 4 ? bits32[kind] : bits32[kind] >> 16;
            unsigned char old[4];
            fq_err e = { 0 };
            const uint64_t at = patch(k.path, x->name, rnd() >> 8, &bits, size, old), cols = (uint64_t)x->shape[x->rank - 1], rows = x->rank == 3 ? (uint64_t)x->shape[1] : 1;
            char want[1024], place[128];
            if (x->rank == 3) (void)snprintf(place, sizeof place, "expert %" PRIu64 ", row %" PRIu64 ", column %" PRIu64, at / cols / rows, at / cols % rows, at % cols);
            else if (x->rank == 2) (void)snprintf(place, sizeof place, "row %" PRIu64 ", column %" PRIu64, at / cols, at % cols);
            else (void)snprintf(place, sizeof place, "of %" PRIu64, cols);
            (void)snprintf(want, sizeof want, "%s/model.safetensors: tensor %s: non-finite: element %" PRIu64 " (%s): found %s, 1 such value in all, expected finite weights",
                           k.path, x->name, at, place, word[kind]);
            assert_int_equal(read_all(k.path, FQ_DTYPE_F32, &e), FQ_E_NUMERIC);
            assert_string_equal(e.text, want);
            patch(k.path, x->name, at, old, size, NULL);
        }
        fq_err e = { 0 };
        assert_int_equal(read_all(k.path, FQ_DTYPE_F32, &e), FQ_OK);
        drop(&k);
    }
}

/* All of them are counted, over blocks and chunks too. */
static void test_nan_count(void **state)
{
    (void)state;
    known k = make("n", &(fqt_model){ .family = "qwen2", .layers = 1, .hidden = 96, .heads = 6, .ff = 30000 });
    const char *name = "model.layers.0.mlp.up_proj.weight";
    const uint64_t n = 30000u * 96;
    for (uint64_t i = 100; i < n; i += 101010) patch(k.path, name, i, &(uint16_t){ 0x7fff }, 2, NULL);
    fq_err e = { 0 };
    assert_int_equal(read_all(k.path, FQ_DTYPE_F32, &e), FQ_E_NUMERIC);
    char want[128];
    (void)snprintf(want, sizeof want, "element 100 (row 1, column 4): found NaN, %" PRIu64 " such values in all, expected finite weights", (n - 101 + 101010) / 101010);
    assert_non_null(strstr(e.text, want));
    drop(&k);
}

/* Tensors of many reads: every part lies where it belongs, as stored and rounded. */
static void test_parts(void **state)
{
    (void)state;
    static const fqt_model model[] = { { .family = "qwen2", .layers = 2, .hidden = 96, .heads = 6, .ff = 9001, .vocab = 9007, .tied = true },
                                       { .family = "qwen3_moe", .layers = 1, .fused = true, .experts = 3, .moe_ff = 4001, .hidden = 96, .heads = 6, .dtype = "F32" } };
    for (size_t i = 0; i < 2; i++) {
        known k = make("t", &model[i]);
        check_all(&k, 2, FQ_DTYPE_F32, 0);
        if (i == 0) check_all(&k, 1, FQ_DTYPE_F16, 8999);
        drop(&k);
    }
}

/* Many rows at once, the same ones again and again; and of rows that cannot be used the first that was asked for. */
static void test_many_rows(void **state)
{
    (void)state;
    enum { N = 700 };
    const fqt_model m = { .family = "qwen2", .layers = 1, .vocab = 300 };
    known k = make("w", &m);
    const fqt_tensor *embed = stored(&k, "embed_tokens.weight");
    const size_t cols = (size_t)embed->shape[1];
    uint32_t id[N];
    float *row = calloc(N * cols, sizeof *row);
    fq_err e = { 0 };
    opened o;
    open_ckpt(k.path, &o);
    create(&o, 1, FQ_DTYPE_F32, 0, &plain);
    for (size_t n = 0; n <= N; n = n < 40 ? n + 1 : n * 3 - 50) {
        for (size_t i = 0; i < n; i++) id[i] = (uint32_t)(rnd() % 300);
        memset(row, 0xff, N * cols * sizeof *row);
        if (fqi_weights_embed(o.w, id, n, row, &e) != FQ_OK) fail_msg("%s", e.text);
        for (size_t i = 0; i < n; i++)
            same_values("row", (const unsigned char *)(row + i * cols), FQ_DTYPE_F32, (const unsigned char *)embed->data + id[i] * cols * 2, FQ_DTYPE_BF16, FQ_DTYPE_F32, cols);
        if (n < N) assert_true(isnan(row[n * cols]));
    }
    patch(k.path, embed->name, 33 * cols + 1, &(uint16_t){ 0x7fff }, 2, NULL);
    patch(k.path, embed->name, 211 * cols, &(uint16_t){ 0x7fff }, 2, NULL);
    close_all(&o);
    open_ckpt(k.path, &o);
    create(&o, 1, FQ_DTYPE_F32, 0, &plain);
    for (int i = 0; i < 40; i++) {
        size_t at[2] = { rnd() % N, rnd() % N };
        for (size_t j = 0; j < N; j++) id[j] = (uint32_t)(rnd() % 33);
        id[at[0]] = 33;
        id[at[1]] = 211;
        assert_int_equal(fqi_weights_embed(o.w, id, N, row, &e), FQ_E_NUMERIC);
        if (at[0] != at[1]) assert_non_null(strstr(e.text, at[0] < at[1] ? "(row 33, column 1)" : "(row 211, column 0)"));
    }
    close_all(&o);
    free(row);
    drop(&k);
}

/* Of several tensors that cannot be used the one that comes first in the file, with all of its weights counted, whoever reads what. */
static void test_first_of_many(void **state)
{
    (void)state;
    known k = make("v", &(fqt_model){ .family = "qwen2", .layers = 1, .hidden = 96, .heads = 6, .ff = 12000, .dtype = "F32" });
    opened o;
    open_ckpt(k.path, &o);
    const fqi_tensor *t[3];
    static const char *const name[] = { "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.down_proj.weight" };
    size_t first = 0;
    for (size_t i = 0; i < 3; i++) {
        t[i] = &o.c->tensor[fqi_ckpt_find(o.c, name[i])];
        if (t[i]->off < t[first]->off) first = i;
    }
    for (size_t i = 0; i < 3; i++) {   /* beyond F16 before and behind the NaNs of the first */
        patch(k.path, name[i], i == first ? 700000 : 5, &(float){ NAN }, 4, NULL);
        patch(k.path, name[i], i == first ? 1100000 : 6, &(float){ INFINITY }, 4, NULL);
        patch(k.path, name[i], i == first ? 400000 : 7, &(float){ 7e4f }, 4, NULL);
        patch(k.path, name[i], i == first ? 1151999 : 100, &(float){ -8e4f }, 4, NULL);
    }
    close_all(&o);
    open_ckpt(k.path, &o);
    for (int i = 0; i < 24; i++) {
        const fqi_layer_weights *w;
        fq_err e = { 0 };
        char want[128];
        if (i % 12 == 0) create(&o, 1, i < 12 ? FQ_DTYPE_F32 : FQ_DTYPE_F16, 0, &plain);
        assert_int_equal(fqi_weights_layer(o.w, 0, &w, &e), FQ_E_NUMERIC);
        (void)snprintf(want, sizeof want, "tensor %s: ", name[first]);
        assert_non_null(strstr(e.text, want));
        assert_non_null(strstr(e.text, i < 12 ? "non-finite: element 700000 " : "served-range: element 400000 "));
        assert_non_null(strstr(e.text, i < 12 ? "found NaN, 2 such values in all" : "found 70000, 2 such values in all"));
        if (i % 12 == 11) fqi_weights_free(o.w);
    }
    o.w = NULL;
    close_all(&o);
    drop(&k);
}

static void test_served_overflow(void **state)
{
    (void)state;
    known k = make("o", &(fqt_model){ .family = "qwen2", .dtype = "F32" });
    const char *name = "model.layers.1.mlp.down_proj.weight";
    fq_err e = { 0 };
    patch(k.path, name, 60, &(float){ -65520.0f }, 4, NULL);   /* half way to the next: to even, which is infinity */
    patch(k.path, name, 75, &(float){ 1e9f }, 4, NULL);
    patch(k.path, name, 77, &(float){ 65519.0f }, 4, NULL);
    assert_int_equal(read_all(k.path, FQ_DTYPE_F16, &e), FQ_E_NUMERIC);
    assert_string_equal(e.rule, "served-range");
    assert_non_null(strstr(e.text, "tensor model.layers.1.mlp.down_proj.weight: served-range: element 60 (row 1, column 8): found -65520, 2 such values in all, expected what fits into F16"));
    assert_int_equal(read_all(k.path, FQ_DTYPE_BF16, &e), FQ_OK);
    patch(k.path, "model.norm.weight", 3, &(float){ 3.4e38f }, 4, NULL);
    assert_int_equal(read_all(k.path, FQ_DTYPE_BF16, &e), FQ_E_NUMERIC);
    assert_non_null(strstr(e.text, "model.norm.weight: served-range: element 3 (of 48): found 3.39999995e+38, 1 such value in all, expected what fits into BF16"));
    assert_int_equal(read_all(k.path, FQ_DTYPE_F32, &e), FQ_OK);
    drop(&k);
}

/* An error of a layer read ahead belongs to the call for that layer. */
static void test_error_of_reader(void **state)
{
    (void)state;
    known k = make("e", &(fqt_model){ .family = "qwen2", .layers = 6 });
    patch(k.path, "model.layers.3.mlp.up_proj.weight", 5, &(uint16_t){ 0x7fff }, 2, NULL);
    for (size_t slots = 1; slots <= 6; slots++) {
        opened o;
        const fqi_layer_weights *w;
        open_ckpt(k.path, &o);
        create(&o, slots, FQ_DTYPE_F32, 0, &plain);
        for (int i = 0; i < 60; i++) {
            fq_err e = { 0 };
            int64_t l = i < 12 ? i % 6 : (int64_t)(rnd() % 6);
            if (rnd() % 4 == 0) (void)usleep(300);   /* the reader comes as far as it may */
            fq_status s = fqi_weights_layer(o.w, l, &w, &e);
            assert_int_equal(s, l == 3 ? FQ_E_NUMERIC : FQ_OK);
            if (l == 3) assert_non_null(strstr(e.text, "model.layers.3.mlp.up_proj.weight"));
            else same_layer(&k, w, l, 0, FQ_DTYPE_F32);
        }
        close_all(&o);
    }
    drop(&k);
}

static bool say_yes(void *user) { return *(const bool *)user; }

static void test_cancelled(void **state)
{
    (void)state;
    known k = make("a", &(fqt_model){ .family = "qwen2", .layers = 4 });
    for (int i = 0; i < 20; i++) {
        bool stop = true;
        const fq_run run = { .n_thread = 1, .cancelled = say_yes, .user = &stop };
        opened o;
        fq_err e = { 0 };
        fqi_matrix m;
        const fqi_layer_weights *w;
        open_ckpt(k.path, &o);
        create(&o, 1 + (size_t)i % 4, FQ_DTYPE_F32, 0, &run);
        assert_int_equal(fqi_weights_layer(o.w, 3, &w, &e), FQ_E_CANCELLED);
        assert_int_equal(fqi_weights_head(o.w, 0, 4, &m, &e), FQ_E_CANCELLED);
        if (i % 2) {
            stop = false;
            same_layer(&k, layer(&o, 1), 1, 0, FQ_DTYPE_F32);
        }
        close_all(&o);
    }
    drop(&k);
}

static void test_arguments(void **state)
{
    (void)state;
    known k = make("g", &(fqt_model){ .family = "qwen2" });
    opened o;
    fq_err e = { 0 };
    fqi_matrix m;
    const fqi_layer_weights *w;
    float row[64];
    uint32_t ids[] = { 0, 67 };
    open_ckpt(k.path, &o);
    create(&o, 99, FQ_DTYPE_F32, 8, &plain);
    assert_int_equal(fqi_weights_embed(o.w, ids, 2, (float[2 * 64]){ 0 }, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "token-id");
    assert_non_null(strstr(e.text, "found token id 67, expected one below 67"));
    ids[0] = UINT32_MAX;
    assert_int_equal(fqi_weights_embed(o.w, ids, 1, row, &e), FQ_E_INPUT);
    assert_int_equal(fqi_weights_embed(o.w, ids, 0, row, &e), FQ_OK);
    static const struct { int64_t row, n; fq_status s; } head[] = { { 0, 9, FQ_E_USAGE }, { -1, 2, FQ_E_USAGE }, { 60, 8, FQ_E_USAGE }, { 60, -1, FQ_E_USAGE },
        { INT64_MAX, 2, FQ_E_USAGE }, { 59, 8, FQ_OK }, { 67, 0, FQ_OK } };
    for (size_t i = 0; i < sizeof head / sizeof *head; i++) assert_int_equal(fqi_weights_head(o.w, head[i].row, head[i].n, &m, &e), head[i].s);
    assert_int_equal(fqi_weights_layer(o.w, -1, &w, &e), FQ_E_USAGE);
    assert_int_equal(fqi_weights_layer(o.w, 3, &w, &e), FQ_E_USAGE);
    close_all(&o);
    fqi_weights_free(NULL);
    drop(&k);
}

/* What is measured is what is taken: nothing of the size of the weights is allocated beside it. */
static void test_measure(void **state)
{
    (void)state;
#ifdef __GLIBC__
    const size_t used = mallinfo2().uordblks + mallinfo2().hblkhd;
    void *probe = malloc(3000000);
    const bool counted = probe && mallinfo2().uordblks + mallinfo2().hblkhd >= used + 3000000;   /* the allocators of sanitizers do not count */
    free(probe);
    if (!counted) skip();
    static const fqt_model model[] = { { .family = "qwen2", .hidden = 256, .heads = 4, .ff = 3000, .vocab = 5000 },
                                       { .family = "qwen3_moe", .experts = 16, .moe_ff = 700, .hidden = 128 }, { .family = "qwen2" } };
    static const fq_dtype served[] = { FQ_DTYPE_F32, FQ_DTYPE_F16 };
    for (size_t i = 0; i < 6; i++) {
        known k = make("z", &model[i / 2]);
        opened o;
        fqi_weights_size size;
        fq_err e = { 0 };
        open_ckpt(k.path, &o);
        assert_int_equal(fqi_weights_measure(o.c, &o.d, NULL, served[i % 2], &size, &e), FQ_OK);
        struct mallinfo2 a = mallinfo2();
        create(&o, 2, served[i % 2], 100, &plain);
        struct mallinfo2 b = mallinfo2();
        const uint64_t rows = (uint64_t)(o.d.model.vocab_size < 100 ? o.d.model.vocab_size : 100), took = b.uordblks + b.hblkhd - a.uordblks - a.hblkhd;
        const uint64_t weights = 2 * size.slot_bytes + rows * size.head_row_bytes;
        const uint64_t of_pages = UINT64_C(16) << 10;   /* what the allocator adds to large blocks */
        if (took < weights || took > weights + size.fixed_bytes + of_pages) fail_msg("found %" PRIu64 ", measured %" PRIu64 " + %" PRIu64, took, weights, size.fixed_bytes);
        assert_true(size.fixed_bytes < (UINT64_C(6) << 20));
        close_all(&o);
        drop(&k);
    }
#else
    skip();
#endif
}

static int setup(void **state)
{
    rng = fqt_seed(rng);
    return fqt_dir_setup(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families), cmocka_unit_test(test_served), cmocka_unit_test(test_tied_beside_head), cmocka_unit_test(test_torch),
        cmocka_unit_test(test_strides), cmocka_unit_test(test_few_open_files), cmocka_unit_test(test_refused), cmocka_unit_test(test_quantized),
        cmocka_unit_test(test_missing_shard), cmocka_unit_test(test_cut_while_reading), cmocka_unit_test(test_nan_everywhere), cmocka_unit_test(test_nan_count),
        cmocka_unit_test(test_parts), cmocka_unit_test(test_many_rows), cmocka_unit_test(test_first_of_many), cmocka_unit_test(test_served_overflow), cmocka_unit_test(test_error_of_reader), cmocka_unit_test(test_cancelled), cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_measure),
    };
    return cmocka_run_group_tests(tests, setup, fqt_dir_teardown);
}
