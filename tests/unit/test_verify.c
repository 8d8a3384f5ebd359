/* test_verify.c - the structural proof, on folders made by hand.
 *
 * A is a small Qwen2; B is what padding makes of it (interleaved MLP, every KV head twice, written as Llama with zero o_proj.bias),
 * put together here element by element from index lists, without the library's maps. Then B is damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "fitq.h"
#include "make_ckpt.h"
#include "seal.h"

#define N_FF 6
#define N_FF_PAD 8
#define N_KV 8      /* 2 heads of 4 */
#define N_KV_PAD 16
#define N_HIDDEN 16
#define N_VOCAB 4001

static const int64_t ff_map[N_FF_PAD] = { 0, -1, 1, -1, 2, 3, 4, 5 };
static const int64_t kv_map[N_KV_PAD] = { 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7 };
#define FF_RUNS "0:1 -:1 1:1 -:1 2:4"
#define KV_RUNS "0:4 0:8 4:4"

typedef struct pair {
    char *root, *a, *b;
    fqt_table ta, tb;
    uint16_t **data; size_t n_data;   /* owned tensor contents */
} pair;

static uint16_t *owned(pair *p, size_t n)
{
    p->data = realloc(p->data, (p->n_data + 1) * sizeof *p->data);
    return p->data[p->n_data++] = calloc(n + 1, sizeof(uint16_t));
}

static size_t n_element(const fqt_tensor *t)
{
    size_t n = 1;
    for (int d = 0; d < t->rank; d++) n *= (size_t)t->shape[d];
    return n;
}

static bool has(const char *name, const char *part) { return strstr(name, part) != NULL; }

/* Index lists of a tensor's dimensions; NULL: unchanged. */
static void maps_of(const char *name, const int64_t **rows, const int64_t **cols)
{
    *rows = has(name, "gate_proj") || has(name, "up_proj") ? ff_map : has(name, "k_proj") || has(name, "v_proj") ? kv_map : NULL;
    *cols = has(name, "down_proj") ? ff_map : NULL;
}

static const uint16_t *mapped(pair *p, const fqt_tensor *from, const fqt_tensor *to)
{
    const int64_t *rows, *cols;
    const uint16_t *src = from->data;
    uint16_t *out = owned(p, n_element(to));
    maps_of(from->name, &rows, &cols);
    size_t n_col = to->rank == 2 ? (size_t)to->shape[1] : 1, n_col_old = from->rank == 2 ? (size_t)from->shape[1] : 1;
    for (size_t r = 0; r < (size_t)to->shape[0]; r++)
        for (size_t c = 0; c < n_col; c++) {
            int64_t i = rows ? rows[r] : (int64_t)r, j = cols ? cols[c] : (int64_t)c;
            if (i >= 0 && j >= 0) out[r * n_col + c] = src[(size_t)i * n_col_old + (size_t)j];
        }
    return out;
}

static void fill(pair *p, fqt_table *t)
{
    for (size_t i = 0; i < t->n; i++) {
        uint16_t *v = owned(p, n_element(&t->t[i]));
        for (size_t k = 0; k < n_element(&t->t[i]); k++) v[k] = (uint16_t)(0x3c00 + (k * 2654435761u + i * 97) % 1000);
        t->t[i].data = v;
    }
}

static const fqt_model model_a = { .family = "qwen2", .hidden = N_HIDDEN, .ff = N_FF, .layers = 2, .heads = 4, .kv = 2, .head_dim = 4,
                                   .vocab = N_VOCAB, .wrapper = "module." };
static const fqt_model model_b = { .family = "llama", .attention_bias = true, .hidden = N_HIDDEN, .ff = N_FF_PAD, .layers = 2, .heads = 4,
                                   .kv = 4, .head_dim = 4, .vocab = N_VOCAB };

static pair pair_new(void)
{
    pair p = { .root = fqt_tempdir(), .ta = fqt_model_tensors(&model_a), .tb = fqt_model_tensors(&model_b) };
    p.a = fqt_join(p.root, "a");
    p.b = fqt_join(p.root, "b");
    if (mkdir(p.a, 0755) != 0 || mkdir(p.b, 0755) != 0) abort();
    fill(&p, &p.ta);
    for (size_t i = 0; i < p.tb.n; i++) {
        fqt_tensor *t = &p.tb.t[i];
        char name[256];
        snprintf(name, sizeof name, "module.%s", t->name);
        t->data = has(name, "o_proj.bias") ? owned(&p, n_element(t)) : mapped(&p, fqt_table_find(&p.ta, name), t);
    }
    return p;
}

static void pair_free(pair *p)
{
    for (size_t i = 0; i < p->n_data; i++) free(p->data[i]);
    free(p->data);
    fqt_table_free(&p->ta);
    fqt_table_free(&p->tb);
    fqt_remove(p->root);
    free(p->root);
    free(p->a);
    free(p->b);
}

static void write_provenance(const char *dir, const char *ff_runs, int64_t ff_pad, const char *added)
{
    char text[4096];
    snprintf(text, sizeof text,
             "{\"fitq\":\"0\",\"schema\":1,\"operation\":\"pad\",\"layout\":\"interleave\",\"group_size\":128,\"family\":\"qwen2\","
             "\"fit\":{},\"maps\":{\"intermediate_size\":{\"old\":%d,\"new\":%lld,\"runs\":\"%s\"},"
             "\"kv_channels\":{\"old\":%d,\"new\":%d,\"runs\":\"" KV_RUNS "\"}},"
             "\"naming\":{\"source\":{\"wrapper\":\"module.\",\"body_prefix\":\"model.\",\"head_prefix\":\"\"},"
             "\"target\":{\"wrapper\":\"\",\"body_prefix\":\"model.\",\"head_prefix\":\"\"}},"
             "\"added\":[%s],\"source_shards\":[],\"config_source\":\"{}\",\"config_xxh3\":\"0000000000000000\",\"tensors\":{}}",
             N_FF, (long long)ff_pad, ff_runs, N_KV, N_KV_PAD, added);
    char *sealed = fqt_seal(strdup(text));
    fqt_write_text(dir, "fitq.json", sealed);
    free(sealed);
}

#define ADDED "\"model.layers.0.self_attn.o_proj.bias\",\"model.layers.1.self_attn.o_proj.bias\""

static void write_pair(const pair *p)
{
    fqt_write_config(p->a, &model_a);
    fqt_write_shards(p->a, p->ta.t, p->ta.n, 3, 1);
    fqt_write_config(p->b, &model_b);
    fqt_write_shards(p->b, p->tb.t, p->tb.n, 2, 1);
    write_provenance(p->b, FF_RUNS, N_FF_PAD, ADDED);
}

static fq_status run_pair(const pair *p, const fq_run *run, fq_verify_report *r, fq_err *e)
{
    *r = (fq_verify_report){ 0 };
    *e = (fq_err){ 0 };
    return fq_verify_weights(p->a, p->b, run, r, e);
}

static size_t sum_elements(const fqt_table *t)
{
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) n += n_element(&t->t[i]);
    return n;
}

/* Two layers: gate, up, down of 2 x 16 zeros each; o_proj.bias of 16; k and v copied once more. */
#define N_ZERO (2u * (3 * 2 * N_HIDDEN + N_HIDDEN))
#define N_COPY (2u * 2 * (N_KV * N_HIDDEN + N_KV))

static void assert_good(const pair *p, const fq_run *run)
{
    fq_verify_report r;
    fq_err e;
    if (run_pair(p, run, &r, &e) != FQ_OK) fail_msg("%s", e.text);
    size_t n = sum_elements(&p->tb);
    assert_int_equal(r.n_tensor, p->tb.n);
    assert_int_equal(r.n_tensor_added, 2);
    assert_int_equal(r.n_tensor_mapped, 2 * (3 + 4));
    assert_int_equal(r.n_tensor_equal, p->tb.n - 2 - 14);
    assert_int_equal(r.n_tensor_bad, 0);
    assert_int_equal(r.n_element_zero, N_ZERO);
    assert_int_equal(r.n_element_copy, N_COPY);
    assert_int_equal(r.n_element_same, n - N_ZERO);
    assert_int_equal(r.n_element_same - r.n_element_copy, sum_elements(&p->ta));
    assert_int_equal(r.n_element_missing, 0);
    assert_int_equal(r.n_element_wrong, 0);
    assert_string_equal(r.first_bad, "");
}

typedef struct seen { uint64_t last, total; size_t items; int calls; } seen;
static void on_progress(void *user, const fq_progress *x)
{
    seen *s = user;
    assert_true(x->done_bytes >= s->last);
    assert_string_equal(x->phase, "verify");
    s->last = x->done_bytes;
    s->total = x->total_bytes;
    s->items = x->done_items;
    s->calls++;
}
static bool on_cancelled(void *user) { return ((seen *)user)->calls >= 3; }

static void test_good(void **state)
{
    (void)state;
    pair p = pair_new();
    write_pair(&p);
    seen s = { 0 };
    assert_good(&p, NULL);
    assert_good(&p, &(fq_run){ .progress = on_progress, .user = &s });
    assert_int_equal(s.last, s.total);
    assert_int_equal(s.total, 2 * sum_elements(&p.tb));
    assert_int_equal(s.items, p.tb.n);
    /* embeddings of 128 kB: two pieces of the smallest size */
    assert_good(&p, &(fq_run){ .memory_bytes = 1 << 20, .n_thread = 1, .io = FQ_IO_DIRECT });
    fq_verify_report r = { .n_tensor = 77 };
    fq_err e;
    assert_int_equal(fq_verify_weights(p.a, p.b, &(fq_run){ .memory_bytes = 4096 }, &r, &e), FQ_E_NOMEM);
    assert_string_equal(e.rule, "memory-budget");
    s = (seen){ 0 };
    assert_int_equal(fq_verify_weights(p.a, p.b, &(fq_run){ .progress = on_progress, .cancelled = on_cancelled, .user = &s }, &r, &e), FQ_E_CANCELLED);
    assert_int_equal(fq_verify_weights(p.a, NULL, NULL, &r, &e), FQ_E_USAGE);
    char *nowhere = fqt_join(p.root, "nowhere");
    assert_int_equal(fq_verify_weights(p.a, nowhere, NULL, &r, &e), FQ_E_IO);
    free(nowhere);
    assert_int_equal(r.n_tensor, 77); /* untouched on failure */
    pair_free(&p);
}

static void assert_differs(const pair *p, const char *rule, fq_verify_report *r, fq_err *e)
{
    fq_status s = run_pair(p, NULL, r, e);
    if (s != FQ_E_DIFFERS || strcmp(e->rule, rule) != 0) fail_msg("status %d, rule %s, expected %s: %s", s, e->rule, rule, e->text);
    assert_int_equal(e->code, FQ_E_DIFFERS);
    assert_string_equal(r->first_bad, e->text);
    assert_int_equal(r->n_tensor, p->tb.n);
}

static uint16_t *element(pair *p, const char *name, size_t i)
{
    const uint16_t *v = fqt_table_find(&p->tb, name)->data;
    for (size_t k = 0; k < p->n_data; k++)
        if (p->data[k] == v) return &p->data[k][i];
    abort();
}

static void test_one_flipped_bit(void **state)
{
    (void)state;
    fq_verify_report r;
    fq_err e;
    /* every byte of the tensors that have maps, both ends of the others */
    static const struct { const char *name; size_t i; const char *expected; } row[] = {
        { "model.layers.1.mlp.gate_proj.weight", 2 * N_HIDDEN + 5, "(element 21 of module.model.layers.1.mlp.gate_proj.weight)" },
        { "model.layers.0.mlp.down_proj.weight", 3 * N_FF_PAD + 7, "(element 23 of module.model.layers.0.mlp.down_proj.weight)" },
        { "model.layers.0.self_attn.v_proj.bias", 15, "(element 7 of module.model.layers.0.self_attn.v_proj.bias)" },
        { "model.embed_tokens.weight", 0, "(element 0 of module.model.embed_tokens.weight)" },
        { "lm_head.weight", (size_t)N_VOCAB * N_HIDDEN - 1, "(element 64015 of module.lm_head.weight)" },
    };
    for (size_t k = 0; k < sizeof row / sizeof row[0]; k++) {
        pair p = pair_new();
        *element(&p, row[k].name, row[k].i) ^= 0x0100;
        write_pair(&p);
        assert_differs(&p, "element-differs", &r, &e);
        assert_int_equal(r.n_element_wrong, 1);
        assert_int_equal(r.n_tensor_bad, 1);
        assert_int_equal(r.n_element_zero, N_ZERO);
        assert_int_equal(r.n_element_same + 1 + N_ZERO, sum_elements(&p.tb));
        assert_non_null(strstr(e.text, row[k].name));
        assert_non_null(strstr(e.text, row[k].expected));
        assert_non_null(strstr(e.text, ": byte "));
        pair_free(&p);
    }
}

/* The byte that the message names is the byte that was changed. */
static void test_place_in_the_message(void **state)
{
    (void)state;
    pair p = pair_new();
    uint16_t *x = element(&p, "model.layers.1.mlp.up_proj.weight", 0);
    *x = 0xbeef;
    write_pair(&p);
    fq_verify_report r;
    fq_err e;
    assert_differs(&p, "element-differs", &r, &e);
    assert_non_null(strstr(e.text, "found bytes ef be in element 0"));
    const char *at = strstr(e.text, ": byte ");
    assert_non_null(at);
    size_t off = strtoul(at + 7, NULL, 10), n;
    const char *file = strstr(e.text, "model-0000");
    assert_non_null(file);
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strlen("model-00001-of-00002.safetensors"), file);
    char *bytes = fqt_read(p.b, name, &n);
    assert_non_null(bytes);
    assert_true(off + 1 < n);
    assert_memory_equal(bytes + off, "\xef\xbe", 2);
    free(bytes);
    pair_free(&p);
}

static void test_nonzero_padding(void **state)
{
    (void)state;
    fq_verify_report r;
    fq_err e;
    pair p = pair_new();
    *element(&p, "model.layers.0.mlp.up_proj.weight", N_HIDDEN + 3) = 0x8000;  /* -0.0 */
    *element(&p, "model.layers.1.self_attn.o_proj.bias", 15) = 0x0001;         /* the smallest denormal, in an added tensor */
    write_pair(&p);
    assert_differs(&p, "element-differs", &r, &e);
    assert_int_equal(r.n_element_wrong, 2);
    assert_int_equal(r.n_tensor_bad, 2);
    assert_int_equal(r.n_element_zero, N_ZERO - 2);
    assert_int_equal(r.n_element_same + N_ZERO, sum_elements(&p.tb));
    assert_non_null(strstr(e.text, "(a zero of the padding)"));
    pair_free(&p);
}

static void test_tensors_missing_and_extra(void **state)
{
    (void)state;
    fq_verify_report r;
    fq_err e;
    pair p = pair_new();
    fqt_table_remove(&p.tb, "model.layers.1.mlp.up_proj.weight");
    write_pair(&p);
    assert_differs(&p, "tensor-missing", &r, &e);
    assert_non_null(strstr(e.text, "tensor model.layers.1.mlp.up_proj.weight"));
    assert_int_equal(r.n_element_missing, N_FF * N_HIDDEN);
    assert_int_equal(r.n_element_wrong, 0);
    assert_int_equal(r.n_tensor_bad, 1);
    pair_free(&p);

    p = pair_new();
    fqt_table_remove(&p.tb, "model.layers.1.self_attn.o_proj.bias");
    write_pair(&p);
    assert_differs(&p, "tensor-missing", &r, &e);
    assert_int_equal(r.n_element_missing, 0);
    pair_free(&p);

    p = pair_new();
    write_pair(&p);
    write_provenance(p.b, FF_RUNS, N_FF_PAD, "\"model.layers.0.self_attn.o_proj.bias\""); /* the other is not accounted for */
    assert_differs(&p, "tensor-extra", &r, &e);
    assert_int_equal(r.n_element_wrong, N_HIDDEN);
    pair_free(&p);
}

static void test_form(void **state)
{
    (void)state;
    fq_verify_report r;
    fq_err e;
    pair p = pair_new();
    fqt_table_find(&p.tb, "model.norm.weight")->dtype = "F16";
    write_pair(&p);
    assert_differs(&p, "tensor-dtype", &r, &e);
    assert_int_equal(r.n_element_missing, N_HIDDEN);
    pair_free(&p);

    p = pair_new();
    fqt_tensor *t = fqt_table_find(&p.tb, "model.layers.0.mlp.gate_proj.weight");
    t->shape[0] = N_FF_PAD - 1;
    write_pair(&p);
    assert_differs(&p, "tensor-shape", &r, &e);
    assert_non_null(strstr(e.text, "found shape [7, 16], expected [8, 16]"));
    pair_free(&p);
}

static void test_bad_provenance(void **state)
{
    (void)state;
    pair p = pair_new();
    write_pair(&p);
    fq_verify_report r;
    fq_err e;
    write_provenance(p.b, "0:1 -:1 1:1 -:1 2:4 ", N_FF_PAD, ADDED);
    assert_int_equal(run_pair(&p, NULL, &r, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "map-text");
    write_provenance(p.b, "0:1 -:1 1:1 -:1 2:3 -:1", N_FF_PAD, ADDED); /* channel 5 would be gone */
    assert_int_equal(run_pair(&p, NULL, &r, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "fitq-json");
    fqt_write_text(p.b, "fitq.json", "{");
    assert_int_equal(run_pair(&p, NULL, &r, &e), FQ_E_INPUT);
    pair_free(&p);
}

/* Without fitq.json: the same tensors, in other shards. */
static void test_identity(void **state)
{
    (void)state;
    fq_verify_report r;
    fq_err e;
    pair p = pair_new();
    fqt_write_config(p.a, &model_a);
    fqt_write_config(p.b, &model_a);
    fqt_write_shards(p.a, p.ta.t, p.ta.n, 1, 1);
    fqt_write_shards(p.b, p.ta.t, p.ta.n, 4, 1);
    if (run_pair(&p, NULL, &r, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_int_equal(r.n_tensor_equal, p.ta.n);
    assert_int_equal(r.n_element_same, sum_elements(&p.ta));
    assert_int_equal(r.n_element_zero + r.n_element_copy + r.n_element_missing + r.n_element_wrong, 0);
    assert_int_equal(r.n_tensor_mapped + r.n_tensor_added + r.n_tensor_bad, 0);
    pair_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),           cmocka_unit_test(test_one_flipped_bit), cmocka_unit_test(test_place_in_the_message),
        cmocka_unit_test(test_nonzero_padding), cmocka_unit_test(test_tensors_missing_and_extra), cmocka_unit_test(test_form),
        cmocka_unit_test(test_bad_provenance), cmocka_unit_test(test_identity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
