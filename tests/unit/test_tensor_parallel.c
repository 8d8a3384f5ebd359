/* Models divided over ranks against the same models on one: logits, greedy tokens, what each rank reads and holds. Every family, dense and quantized
 * in every form, experts sliced and distributed. Ranks are threads here; the same over mpirun is in tests/cli/test_ranks.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "base/err.h"
#include "job/runnable.h"
#include "make_ckpt.h"
#include "make_quantized.h"
#include "model/weights.h"
#include "support.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define PROMPT 24
#define TOKENS 6

/* Largest difference of a logit, from the largest logit. Measured over the whole sweep: 7.1e-7. */
#define BOUND 4e-6

typedef struct answer { float *logits; size_t n_vocab; uint32_t id[TOKENS]; } answer;

static answer ask(const char *dir, const fq_run *run, const fq_generator_options *o, const uint32_t *prompt)
{
    fq_generator *g = NULL;
    fq_generator_info info;
    answer a = { 0 };
    FQT_OK(fq_generator_open(dir, o, run, &g, e));
    FQT_OK(fq_generator_feed(g, prompt, PROMPT, e));
    fq_generator_get_info(g, &info);
    a.n_vocab = info.n_vocab;
    a.logits = malloc(a.n_vocab * sizeof *a.logits);
    memcpy(a.logits, fq_generator_logits(g), a.n_vocab * sizeof *a.logits);
    for (size_t i = 0; i < TOKENS; i++) FQT_OK(fq_generator_next(g, &a.id[i], e));
    fq_generator_close(g);
    return a;
}

/* How far logits of `dir` on several ranks are from those of `original` on one, and whether the same tokens come. */
static double worst;
static void compare_with(const char *original, const char *dir, int n_rank, bool expert_parallel, const fq_generator_options *o, const char *name)
{
    const fq_run one = { .n_thread = 1 }, many = { .n_thread = 1, .n_rank = n_rank, .expert_parallel = expert_parallel };
    uint32_t prompt[PROMPT];
    uint64_t rng = 77;
    double most = 0, diff = 0;
    for (size_t i = 0; i < PROMPT; i++) prompt[i] = (uint32_t)(fqt_random(&rng) % 60);
    answer a = ask(original, &one, o, prompt), b = ask(dir, &many, o, prompt);
    assert_int_equal(a.n_vocab, b.n_vocab);
    for (size_t i = 0; i < a.n_vocab; i++) {
        most = fmax(most, fabs((double)a.logits[i]));
        diff = fmax(diff, fabs((double)a.logits[i] - (double)b.logits[i]));
    }
    if (diff / most > worst) worst = diff / most;
    if (!(diff <= BOUND * most)) fail_msg("%s on %d ranks: a logit differs by %g of %g", name, n_rank, diff, most);
    if (memcmp(a.id, b.id, sizeof a.id) != 0) fail_msg("%s on %d ranks: other tokens", name, n_rank);
    free(a.logits);
    free(b.logits);
}

static void compare(const char *dir, int n_rank, bool expert_parallel, const fq_generator_options *o, const char *name)
{
    compare_with(dir, dir, n_rank, expert_parallel, o, name);
}

static bool full(void)
{
    const char *s = getenv("FITQ_FULL");
    return s && strcmp(s, "1") == 0;
}

/* ---- dense --------------------------------------------------------------------------------------------------------- */

static const char *const family[] = { "qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "llama", "mistral", "mixtral", "qwen2_vl", "qwen2_5_vl", "qwen3_vl" };

/* kv: 0 = one KV head for all; 1 = one for each rank; 2 = two for each. */
static fqt_model model_for(const char *name, int n, int kv, uint64_t seed)
{
    const bool llama = strcmp(name, "llama") == 0, qwen3 = strcmp(name, "qwen3") == 0;
    return (fqt_model){ .family = name, .hidden = 24, .ff = 6 * n, .moe_ff = 4 * n, .shared_ff = 2 * n, .layers = 2, .heads = 2 * n, .kv = kv == 0 ? 1 : kv * n, .head_dim = 8,
                        .vocab = 101, .experts = 9, .top_k = 3, .tied = seed % 3 == 0, .attention_bias = (llama || qwen3) && seed % 2 == 0, .mlp_bias = llama && seed % 4 == 0, .dtype = seed % 2 ? "BF16" : "F32",
                        .fused = strstr(name, "moe") && seed % 2, .seed = seed + 1 };
}

static void test_families(void **state)
{
    (void)state;
    for (size_t f = 0; f < COUNT(family); f++)
        for (int n = 2; n <= 8; n++) {
            const int kv = (int)(f + (size_t)n) % 3;
            if (!full() && (f + (size_t)n) % 5 != 0) continue;
            const uint64_t seed = f * 10 + (uint64_t)n;
            const fqt_model m = model_for(family[f], n, kv, seed);
            const fq_generator_options exact = { .context = 64, .exact = true }, fast = { .context = 64 };
            const bool sparse = strstr(family[f], "moe") || strcmp(family[f], "mixtral") == 0;
            char *dir = fqt_tempdir();
            fqt_make_model(dir, &m);
            compare(dir, n, false, &exact, family[f]);
            compare(dir, n, sparse, &fast, family[f]);
            fqt_remove(dir);
            free(dir);
        }
    printf("dense: largest difference %.2g of the largest logit\n", worst);
}

/* ---- fitted -------------------------------------------------------------------------------------------------------- */

/* The ways to fit a model that some engine takes: the fitted one, or the model itself if it fits. NULL: there is none for it. */
static const char *fit(const char *from, const char *to, int n)
{
    static const char *const engine[] = { "vllm", "sglang" }, *const as[] = { NULL, "llama" }, *const format[] = { "bf16" };
    for (size_t i = 0; i < COUNT(engine); i++)
        for (size_t k = 0; k < COUNT(as); k++) {
            const fq_pad_options o = { .source = from, .target = to, .tp = &n, .n_tp = 1, .engine = &engine[i], .n_engine = 1, .format = format, .n_format = 1, .vocab = true, .reexpress_as = as[k],
                                       .overwrite = true };
            fq_pad_report r;
            fq_err e = { 0 };
            if (fq_pad(&o, NULL, &r, &e) == FQ_OK) return to;
            if (strcmp(e.rule, "nothing-to-pad") == 0) return from;
        }
    return NULL;
}

/* Lengths that divide nothing, made to divide: the original on one rank, the fitted model on as many as it was fitted for. */
static void test_fitted(void **state)
{
    int n_fitted = 0, n_tried = 0;
    (void)state;
    worst = 0;
    for (size_t f = 0; f < COUNT(family); f++)
        for (int n = 2; n <= 8; n++) {
            if (!full() && (int)f % 7 != n - 2) continue;
            const fqt_model m = { .family = family[f], .seed = f * 100 + (uint64_t)n };
            const fq_generator_options exact = { .context = 64, .exact = true };
            char *dir = fqt_tempdir(), *out = fqt_tempdir();
            fqt_make_model(dir, &m);
            const char *fitted = fit(dir, out, n);
            n_tried++;
            n_fitted += fitted != NULL;
            if (fitted) compare_with(dir, fitted, n, false, &exact, family[f]);
            fqt_remove(dir);
            fqt_remove(out);
            free(dir);
            free(out);
        }
    printf("fitted: %d of %d, largest difference %.2g of the largest logit\n", n_fitted, n_tried, worst);
    assert_true(n_fitted * 2 > n_tried);
}

/* ---- quantized ----------------------------------------------------------------------------------------------------- */

static void compare_quantized(const char *family_name, int form, int n)
{
    const bool codes = !fqt_is_fp8((fqt_format)form), any = form < FQT_N_FORMAT;
    const int bits[] = { 4, 8, 3, 2 };
    const fqt_quant q = { .format = (fqt_format)form, .bits = !codes ? 8 : form == FQT_AWQ ? 4 : bits[n % 4], .group = 32, .block_rows = 32, .asym = any && n % 2,
                          .order = any ? (fqt_order)(n % FQT_N_ORDER) : FQT_ORDER_PLAIN };
    fqt_model m = model_for(family_name, n, n % 3, (uint64_t)(form * 10 + n));
    char name[96];
    m.hidden = 64;
    m.head_dim = 16;
    m.ff = 64 * n;
    m.moe_ff = m.shared_ff = 32 * n;
    m.vocab = 128;
    m.fused = false;
    const fq_generator_options o = { .context = 64, .exact = n % 2 == 0 };
    char *dir = fqt_tempdir();
    fqt_make_quantized(dir, NULL, &m, &q);
    snprintf(name, sizeof name, "%s, form %d, %d bits, order %d", family_name, form, q.bits, (int)q.order);
    compare(dir, n, n % 4 == 0 && m.experts > 0 && strstr(family_name, "moe"), &o, name);
    fqt_remove(dir);
    free(dir);
}

/* Every form on every number of ranks; and every family too, the forms in turn. */
static void test_quantized(void **state)
{
    (void)state;
    worst = 0;
    for (int form = 0; form < FQT_N_ANY; form++)
        for (int n = 2; n <= 8; n++)
            if (full() || (form + n) % 6 == 0) compare_quantized(n % 2 ? "qwen2" : "qwen3_moe", form, n);
    for (int f = 0; f < (int)COUNT(family); f++)
        for (int n = 2; n <= 8; n++)
            if (full() || f % 7 == n - 2) compare_quantized(family[f], (f + 3 * n) % FQT_N_ANY, n);
    printf("quantized: largest difference %.2g of the largest logit\n", worst);
}

/* ---- what a rank reads and holds ----------------------------------------------------------------------------------- */

static uint64_t read_all(fqi_weights *w, const fqi_decoder *d)
{
    const fqi_layer_weights *layer;
    fqi_matrix head;
    for (int64_t i = 0; i < d->model.num_hidden_layers; i++) FQT_OK(fqi_weights_layer(w, i, &layer, e));
    const uint64_t layers = fqi_weights_bytes_read(w);
    FQT_OK(fqi_weights_head(w, 0, 1, &head, e));
    return layers;
}

static void test_reads_its_slice(void **state)
{
    const struct { const char *family; bool expert_parallel, quantized; } row[] = { { "llama", false, false }, { "qwen2_moe", false, false }, { "qwen3_moe", true, false }, { "qwen2", false, true } };
    (void)state;
    for (size_t i = 0; i < COUNT(row); i++)
        for (int n = 2; n <= 8; n *= 2) {
            const fqt_quant q = { .format = FQT_GPTQ_V1, .bits = 4, .group = 32, .order = FQT_ORDER_PLAIN };
            fqt_model m = { .family = row[i].family, .hidden = 128, .ff = 512, .moe_ff = 64, .shared_ff = 64, .layers = 2, .heads = 16, .kv = 8, .head_dim = 16, .vocab = 1024, .experts = 8,
                            .top_k = 2, .seed = 3 };
            const fq_run run = { 0 };
            fqi_runnable r = { 0 };
            uint64_t whole = 0, sum = 0;
            fqi_weights_size size_whole;
            char *dir = fqt_tempdir();
            if (row[i].quantized) fqt_make_quantized(dir, NULL, &m, &q);
            else fqt_make_model(dir, &m);
            FQT_OK(fqi_runnable_open(dir, &run, &r, e));
            FQT_OK(fqi_weights_measure(r.ckpt, &r.decoder, NULL, FQ_DTYPE_F32, &size_whole, e));
            for (int rank = -1; rank < n; rank++) {
                fqi_slice slice;
                fqi_weights *w;
                fqi_weights_size size;
                FQT_OK(fqi_slice_make(&r.decoder, rank < 0 ? 0 : rank, rank < 0 ? 1 : n, row[i].expert_parallel, dir, &slice, e));
                FQT_OK(fqi_weights_create(r.ckpt, &r.decoder, &(fqi_weights_options){ .n_slot = 2, .served = FQ_DTYPE_F32, .run = &run, .slice = rank < 0 ? NULL : &slice }, &w, e));
                FQT_OK(fqi_weights_measure(r.ckpt, &r.decoder, rank < 0 ? NULL : &slice, FQ_DTYPE_F32, &size, e));
                const uint64_t bytes = read_all(w, &r.decoder);
                if (rank < 0) whole = bytes;
                else sum += bytes;
                /* norms, router, scales of codes that lie in a word with others' */
                const double share = (double)bytes / (double)whole, held = (double)size.slot_bytes / (double)size_whole.slot_bytes;
                if (rank >= 0 && (share > 1.0 / n + 0.06 || held > 1.0 / n + 0.06)) fail_msg("%s: rank %d of %d read %.3f, holds %.3f of all", row[i].family, rank, n, share, held);
                fqi_weights_free(w);
            }
            assert_true(sum >= whole);
            fqi_runnable_free(&r);
            fqt_remove(dir);
            free(dir);
        }
}

/* ---- the cut ------------------------------------------------------------------------------------------------------- */

static void test_cut(void **state)
{
    /* heads, KV heads, ranks, rank -> heads and KV heads; vocabulary -> rows. vllm: heads r h/N, KV head r / (N / kv), rows of the vocabulary rounded up to 64 */
    static const struct { int64_t h, kv, vocab; int n, rank; int64_t q0, nq, kv0, nkv, v0, nv; } row[] = {
        { 64, 8, 152064, 8, 3, 24, 8, 3, 1, 57024, 19008 }, { 64, 8, 152064, 2, 1, 32, 32, 4, 4, 76032, 76032 }, { 32, 2, 151936, 8, 5, 20, 4, 1, 1, 94960, 18992 },
        { 32, 2, 151936, 8, 3, 12, 4, 0, 1, 56976, 18992 }, { 12, 1, 32000, 4, 2, 6, 3, 0, 1, 16000, 8000 }, { 6, 6, 101, 2, 1, 3, 3, 3, 3, 64, 37 }, { 6, 3, 101, 3, 0, 0, 2, 0, 1, 0, 34 },
        { 6, 3, 101, 3, 2, 4, 2, 2, 1, 68, 33 },
    };
    (void)state;
    for (size_t i = 0; i < COUNT(row); i++) {
        fqi_decoder d = { .model = { .num_attention_heads = row[i].h, .num_key_value_heads = row[i].kv, .head_dim = 2, .vocab_size = row[i].vocab, .hidden_size = 4, .intermediate_size = 840,
                                     .n_dense_layer = 1, .num_hidden_layers = 1 } };
        fqi_slice s;
        FQT_OK(fqi_slice_make(&d, row[i].rank, row[i].n, false, "x", &s, e));
        assert_int_equal(s.axis[FQI_AX_Q].first, 2 * row[i].q0);
        assert_int_equal(s.axis[FQI_AX_Q].n, 2 * row[i].nq);
        assert_int_equal(s.axis[FQI_AX_KV].first, 2 * row[i].kv0);
        assert_int_equal(s.axis[FQI_AX_KV].n, 2 * row[i].nkv);
        assert_int_equal(s.axis[FQI_AX_VOCAB].first, row[i].v0);
        assert_int_equal(s.axis[FQI_AX_VOCAB].n, row[i].nv);
        assert_int_equal(s.axis[FQI_AX_FF].first, 840 / row[i].n * row[i].rank);
        assert_int_equal(s.local.model.num_key_value_heads, row[i].nkv);
    }
    const fqi_cut fused = { .rank = 3, .dim = { { 1, 2 }, { 3, 2 }, { 0, 4 } }, .parts = { 1, 2, 1 }, .whole = { 4, 12, 4 } };   /* experts 1 and 2, rows 3, 4 and 9, 10 */
    assert_int_equal(fqi_cut_origin(&fused, 0), 1 * 48 + 3 * 4);
    assert_int_equal(fqi_cut_origin(&fused, 2 * 4 + 1), 1 * 48 + 9 * 4 + 1);
    assert_int_equal(fqi_cut_origin(&fused, 16 + 3 * 4 + 3), 2 * 48 + 10 * 4 + 3);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------ */

static void test_refused(void **state)
{
    const struct { fqt_model m; int n; bool expert_parallel; const char *text; } row[] = {
        { { .family = "llama", .heads = 6, .kv = 2, .head_dim = 8, .ff = 40, .hidden = 24, .layers = 1, .vocab = 64, .seed = 1 }, 4, false, "num_attention_heads 6" },
        { { .family = "llama", .heads = 6, .kv = 2, .head_dim = 8, .ff = 42, .hidden = 24, .layers = 1, .vocab = 64, .seed = 1 }, 3, false, "num_key_value_heads 2" },
        { { .family = "qwen2", .heads = 4, .kv = 2, .head_dim = 8, .ff = 41, .hidden = 32, .layers = 1, .vocab = 64, .seed = 1 }, 2, false, "intermediate_size 41" },
        { { .family = "qwen3_moe", .heads = 4, .kv = 2, .head_dim = 8, .moe_ff = 9, .experts = 4, .top_k = 1, .hidden = 32, .layers = 1, .vocab = 64, .seed = 1 }, 2, false, "moe_intermediate_size 9" },
        { { .family = "qwen3_moe", .heads = 4, .kv = 2, .head_dim = 8, .moe_ff = 9, .experts = 3, .top_k = 1, .hidden = 32, .layers = 1, .vocab = 64, .seed = 1 }, 4, true, "num_experts 3" },
    };
    (void)state;
    for (size_t i = 0; i < COUNT(row); i++) {
        const fq_run run = { .n_rank = row[i].n, .expert_parallel = row[i].expert_parallel };
        const fq_generator_options o = { .context = 16 };
        fq_generator *g = NULL;
        fq_err e = { 0 };
        char *dir = fqt_tempdir();
        fqt_make_model(dir, &row[i].m);
        assert_int_equal(fq_generator_open(dir, &o, &run, &g, &e), FQ_E_INPUT);
        if (!strstr(e.text, row[i].text) || !strstr(e.text, "`fitq plan`")) fail_msg("%s, expected %s", e.text, row[i].text);
        fqt_remove(dir);
        free(dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families), cmocka_unit_test(test_fitted), cmocka_unit_test(test_quantized), cmocka_unit_test(test_reads_its_slice), cmocka_unit_test(test_cut), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
