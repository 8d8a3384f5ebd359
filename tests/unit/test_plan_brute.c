/* test_plan_brute.c - the planner against rules written a second time, on random small models.
 *
 * runs_by_hand() is the engines' rules in plain words of C, for seven pairs of engine and format, without the planner's tables.
 * Against it: the verdict on the model as it is; every option that pads; that no single axis could have been shorter; and that a model
 * called impossible does not run even with every axis padded to a length that anything divides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "plan_models.h"
#include "support.h"

static unsigned long long rng;
static int64_t below(int64_t n)
{
    rng = rng * 6364136223846793005ull + 1442695040888963407ull;
    return (int64_t)((rng >> 33) % (unsigned long long)n);
}

typedef enum kind { VLLM_BF16, VLLM_GPTQ, SGLANG_AWQ, VLLM_FP8, HF_BF16, TGI_BF16, OLD_NVFP4, N_KIND } kind;
static const struct { const char *engine, *format; } kinds[N_KIND] = {
    { "vllm", "bf16" }, { "vllm", "gptq-marlin" }, { "sglang", "awq-marlin" }, { "vllm", "fp8-block" }, { "transformers", "bf16" },
    { "tgi", "bf16" }, { "vllm-2025", "nvfp4" },
};

static bool groups(int64_t k, int64_t g) { return g == -1 || k % g == 0; }

/* One projection [n, k] on one GPU. */
static bool linear_runs(kind w, int64_t n, int64_t k, int64_t g)
{
    if (w == VLLM_GPTQ) return groups(k, g) && n % 8 == 0 && k % 8 == 0;
    if (w == OLD_NVFP4) return k % 16 == 0 && k % 32 == 0 && n % 32 == 0;
    if (w == SGLANG_AWQ) return groups(k, g) && n % 64 == 0 && k % 128 == 0 && n % 8 == 0;
    return true;
}

static bool fp8_runs(const fq_model *m, int64_t tp, int64_t q, int64_t kv)
{
    if (q % 128 || kv % 128) return false;                        /* parts of the fused q, k, v */
    if (tp > 1 && q % 128) return false;                          /* o_proj's rows */
    if (m->intermediate_size && m->intermediate_size / tp % 128) return false;
    if (m->moe_intermediate_size && m->moe_intermediate_size / tp % 128) return false;
    return true;
}

/* The engine computes head_dim by itself for this family, and gets another one. */
static bool misread(kind w, const fq_model *m)
{
    bool qwen2 = strcmp(m->family, "qwen2") == 0, llama = strcmp(m->family, "llama") == 0;
    int64_t H = m->hidden_size, h = m->num_attention_heads;
    if (w == HF_BF16) return false;
    if (w == TGI_BF16) return (qwen2 || llama) && (H % h != 0 || H / h != m->head_dim);
    return qwen2 && H / h != m->head_dim;
}

static bool runs_by_hand(kind w, const fq_model *m, int64_t tp, int64_t g)
{
    int64_t h = m->num_attention_heads, kv = m->num_key_value_heads, H = m->hidden_size, hd = m->head_dim;
    int64_t ff = m->intermediate_size, moe = m->moe_intermediate_size, V = m->vocab_size;
    bool copies = w != HF_BF16 && w != TGI_BF16;
    if (misread(w, m)) return false;
    if (h % tp) return false;
    if (kv % tp && !(copies && kv < tp && tp % kv == 0)) return false;
    if (w != HF_BF16 && (ff % tp || moe % tp)) return false;
    if (w == TGI_BF16 && V % tp) return false;
    if (copies && (V + 63) / 64 * 64 % tp) return false;
    int64_t q_rank = h / tp * hd, kv_rank = (kv >= tp ? kv / tp : 1) * hd;
    if (w == VLLM_FP8) return fp8_runs(m, tp, q_rank, kv_rank);
    if (w == VLLM_GPTQ || w == SGLANG_AWQ || w == OLD_NVFP4) {
        if (!linear_runs(w, q_rank, H, g) || !linear_runs(w, kv_rank, H, g) || !linear_runs(w, H, q_rank, g)) return false;
        if (ff && (!linear_runs(w, ff / tp, H, g) || !linear_runs(w, H, ff / tp, g))) return false;
        if (moe && w == OLD_NVFP4) return moe / tp % 16 == 0 && 2 * moe / tp % 128 == 0;
        if (moe && (moe / tp % (g > 64 ? g : 64) || !groups(H, g) || moe / tp % 8 || H % 128)) return false;
    }
    return true;
}

static fq_model random_model(void)
{
    static const int64_t head_dims[] = { 16, 32, 64, 80, 128, 256 };
    int64_t kv = 1 + below(6), h = kv * (1 + below(6));
    fq_model m = MODEL("qwen3", 1, 32 * (1 + below(40)), 2, 1 + below(900), h, kv, head_dims[below(6)], .head_dim_explicit = true);
    if (below(3)) m.intermediate_size = 1 + below(below(2) ? 900 : 5000);
    if (!m.intermediate_size || below(3) == 0) {
        m.moe_intermediate_size = 1 + below(900);
        m.num_experts = 1 + below(16);
    }
    m.n_dense_layer = m.intermediate_size ? 1 : 0;
    m.n_moe_layer = m.moe_intermediate_size ? 2 - m.n_dense_layer : 0;
    if (!m.n_moe_layer) m.n_dense_layer = 2;
    if (!m.moe_intermediate_size && below(2)) { /* a family that some engines misread, half of them as they are */
        strcpy(m.model_type, "qwen2");
        strcpy(m.family, "qwen2");
        m.sliding_window = below(3) == 0;
        if (below(2)) m.hidden_size = m.head_dim * m.num_attention_heads;
    }
    return m;
}

static fq_model as_llama(const fq_model *m)
{
    fq_model r = *m;
    strcpy(r.model_type, "llama");
    strcpy(r.family, "llama");
    return r;
}

static bool can_be_llama(const fq_model *m) { return strcmp(m->family, "qwen2") == 0 && !m->sliding_window; }

static fq_model fitted(const fq_model *m, const fq_fit *f)
{
    fq_model r = *m;
    if (f->intermediate_size_pad) r.intermediate_size = f->intermediate_size_pad;
    if (f->moe_intermediate_size_pad) r.moe_intermediate_size = f->moe_intermediate_size_pad;
    if (f->num_attention_heads_pad) r.num_attention_heads = f->num_attention_heads_pad;
    if (f->num_key_value_heads_pad) r.num_key_value_heads = f->num_key_value_heads_pad;
    if (f->vocab_size_pad) r.vocab_size = f->vocab_size_pad;
    return r;
}

static fq_plan *plan(kind w, const fq_model *m, int tp, int group)
{
    fq_err e = { 0 };
    fq_plan *p = NULL;
    fq_plan_request r = { .tp = &tp, .n_tp = 1, .engine = &kinds[w].engine, .n_engine = 1, .format = &kinds[w].format, .n_format = 1,
                          .group_size = group };
    if (fq_plan_create(m, &r, &p, &e) != FQ_OK) fail_msg("%s", e.text);
    return p;
}

static void check_options(kind w, const fq_model *m, const fq_plan_entry *x, int tp, int group)
{
    for (size_t i = 0; i < x->n_option; i++) {
        const fq_option *o = &x->option[i];
        if (i) assert_true(x->option[i - 1].cost <= o->cost);
        if (o->expert_parallel) continue;
        fq_model f = fitted(m, &o->fit);
        if (o->reexpress_as[0]) {
            assert_true(can_be_llama(m) && misread(w, &f));
            f = as_llama(&f);
        }
        int g = o->group_size ? o->group_size : group;
        if (!runs_by_hand(w, &f, tp, g))
            fail_msg("%s %s tp %d g %d: \"%s\" does not run", kinds[w].engine, kinds[w].format, tp, g, o->what);
        fq_plan *again = plan(w, &f, tp, g);
        assert_int_equal(fq_plan_get_entry(again, 0)->verdict, FQ_RUNS);
        assert_int_equal(fq_plan_get_entry(again, 0)->n_violation, 0);
        fq_plan_free(again);
    }
}

/* With everything else fitted, no length of this axis that is shorter by more than `slack` runs. The vocabulary has slack: engines
 * round it up to 64 themselves, so the planner's round length costs a GPU nothing over the odd one that would do. */
static void check_smallest(kind w, const fq_model *f, int64_t real, size_t offset, int64_t slack, int tp, int group)
{
    fq_model t = *f;
    int64_t *length = (int64_t *)(void *)((char *)&t + offset), pad = *length;
    for (*length = real; *length < pad - slack; ++*length)
        if (runs_by_hand(w, &t, tp, group))
            fail_msg("%s %s tp %d: %d runs, the plan says %d", kinds[w].engine, kinds[w].format, tp, (int)*length, (int)pad);
}

static void check_impossible(kind w, const fq_model *m, int tp, int group)
{
    fq_model f = *m;
    int64_t round = (int64_t)tp * 128 * 128;
    if (f.intermediate_size) f.intermediate_size = round;
    if (f.moe_intermediate_size) f.moe_intermediate_size = round;
    f.vocab_size = round;
    f.num_key_value_heads *= round;
    f.num_attention_heads *= round;
    fq_model l = can_be_llama(m) ? as_llama(&f) : f, k = f;
    k.num_attention_heads = m->num_attention_heads; /* what misreads padded heads may read these */
    k.num_key_value_heads = m->num_key_value_heads;
    for (int g = group;; g /= 2) {
        assert_false(runs_by_hand(w, &f, tp, g) || runs_by_hand(w, &l, tp, g) || runs_by_hand(w, &k, tp, g));
        if (g < 64) break;
    }
}

static void random_models(void **state)
{
    (void)state;
    rng = fqt_seed((uint64_t)time(NULL));
    static const int group_sizes[] = { -1, 32, 64, 128 };
    int seen[4] = { 0, 0, 0, 0 };
    for (int round = 0; round < 1500; round++) {
        fq_model m = random_model();
        kind w = (kind)below(N_KIND);
        int tp = 1 + (int)below(16), group = group_sizes[below(4)];
        fq_plan *p = plan(w, &m, tp, group);
        const fq_plan_entry *x = fq_plan_get_entry(p, 0);
        seen[x->verdict]++;
        if ((x->verdict == FQ_RUNS) != runs_by_hand(w, &m, tp, group))
            fail_msg("round %d, %s %s tp %d g %d: verdict %d, by hand %d; %s", round, kinds[w].engine, kinds[w].format, tp, group,
                     (int)x->verdict, runs_by_hand(w, &m, tp, group), x->n_violation ? x->violation[0].text : "nothing broken");
        check_options(w, &m, x, tp, group);
        if (x->verdict == FQ_IMPOSSIBLE) {
            check_impossible(w, &m, tp, group);
            assert_int_equal(fq_plan_joint_fit(p, &(fq_fit){ 0 }, NULL), FQ_E_INPUT);
        }
        fq_fit fit = { 0 };
        if (fq_plan_joint_fit(p, &fit, NULL) == FQ_OK) {
            fq_model f = fitted(&m, &fit);
            if (misread(w, &f) && can_be_llama(&m)) f = as_llama(&f);
            assert_true(runs_by_hand(w, &f, tp, group));
            check_smallest(w, &f, m.intermediate_size, offsetof(fq_model, intermediate_size), 0, tp, group);
            check_smallest(w, &f, m.moe_intermediate_size, offsetof(fq_model, moe_intermediate_size), 0, tp, group);
            check_smallest(w, &f, m.vocab_size, offsetof(fq_model, vocab_size), w == TGI_BF16 || w == HF_BF16 ? 0 : 63, tp, group);
        }
        fq_plan_free(p);
    }
    print_message("runs %d, needs a fit %d, impossible %d\n", seen[FQ_RUNS], seen[FQ_NEEDS_FIT], seen[FQ_IMPOSSIBLE]);
    assert_true(seen[FQ_RUNS] > 20 && seen[FQ_NEEDS_FIT] > 200 && seen[FQ_IMPOSSIBLE] > 20);
}

/* One fit for several counts, engines and formats runs in each of them. */
static void joint_fits(void **state)
{
    (void)state;
    print_message("seed %llu\n", rng);
    static const char *const engines[] = { "vllm", "sglang" }, *const formats[] = { "bf16", "gptq-marlin" };
    for (int round = 0; round < 300; round++) {
        fq_model m = random_model();
        m.hidden_size = 128 * (1 + below(8));
        m.head_dim = below(2) ? 64 : 128;
        m.sliding_window = false; /* there is a way out, then */
        int tp[3] = { 1 + (int)below(9), 1 + (int)below(9), 1 + (int)below(16) };
        fq_plan_request r = { .tp = tp, .n_tp = 3, .engine = engines, .n_engine = 2, .format = formats, .n_format = 2 };
        fq_plan *p = NULL;
        assert_int_equal(fq_plan_create(&m, &r, &p, NULL), FQ_OK);
        fq_fit fit;
        assert_int_equal(fq_plan_joint_fit(p, &fit, NULL), FQ_OK);
        fq_plan_free(p);
        fq_model f = fitted(&m, &fit);
        if (can_be_llama(&m)) f = as_llama(&f);
        assert_int_equal(fq_plan_create(&f, &r, &p, NULL), FQ_OK);
        for (size_t i = 0; i < fq_plan_n_entry(p); i++) assert_int_equal(fq_plan_get_entry(p, i)->verdict, FQ_RUNS);
        fq_plan_free(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(random_models), cmocka_unit_test(joint_fits) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
