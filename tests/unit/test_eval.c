/* test_eval.c - evaluation of whole models: losses of an independent implementation, distance of a model from itself and from its padded
 * self, and that neither the memory budget nor threads change a bit.
 *
 * With FITQ_FULL set all 64 windows of the published losses are run instead of 8. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "eval/stats.h"
#include "job/lockstep.h"
#include "job/runnable.h"
#include "job/windows.h"
#include "make_ckpt.h"
#include "support.h"

static const fq_run two_threads = { .n_thread = 2 };
static char tiny[4096], sample[4096];

static int setup(void **state)
{
    snprintf(tiny, sizeof tiny, "%s/examples/tiny-qwen2", fqt_source());
    if (fqt_dir_setup(state) != 0) return 1;
    /* words that the tokenizer cuts into 1,500 ids or so */
    fqi_str s = { 0 };
    for (unsigned i = 0; i < 700; i++) fqi_str_printf(&s, "%s%s", (const char *[]){ "the ", "of a ", "great ", "house", ", and ", "12 " }[i * i % 6], i % 17 == 16 ? ".\n" : "");
    fqt_write_text(fqt_dir, "sample.txt", s.s);
    fqi_str_free(&s);
    snprintf(sample, sizeof sample, "%s/sample.txt", fqt_dir);
    return 0;
}

static fq_eval_report evaluate(const fq_eval_options *o, const fq_run *run)
{
    fq_eval_report r = { 0 };
    fq_err e = { 0 };
    if (fq_eval(o, run, &r, &e) != FQ_OK) fail_msg("%s", e.text);
    return r;
}

/* ---- losses of an independent implementation ---- */

typedef struct losses { fqi_eval_stats **window; size_t per, vocab; } losses;

static fq_status on_losses(void *user, size_t first, size_t n, const float *const logits[FQI_MAX_STREAM], const uint32_t *target, fq_err *e)
{
    losses *l = user;
    (void)e;
    for (size_t i = 0; i < n; i++)
        fqi_eval_stats_add(l->window[(first + i) / l->per], (first + i) % l->per, logits[0] + i * l->vocab, NULL, l->vocab, target[i]);
    return FQ_OK;
}

static void golden(const char *name, fqi_order order, size_t n_window)
{
    const char *data = fqt_data();
    char path[4096], text[4096], json[4096];
    snprintf(path, sizeof path, "%s/own/%s", data, name);
    snprintf(text, sizeof text, "%s/text/fitq/eval.txt", data);
    snprintf(json, sizeof json, "%s/own/golden/%s/golden.json", data, name);
    json_t *root = json_load_file(json, 0, NULL), *nll = json_object_get(root, "nll_per_window");
    assert_int_equal(json_array_size(nll), 64);
    fqi_runnable m = { 0 };
    fqi_windows w = { 0 };
    fq_err e = { 0 };
    const fq_text t = { .text = text, .score = FQ_SCORE_ALL, .chunks = (int64_t)n_window, .bos = FQ_BOS_NEVER };
    fqi_lockstep_plan plan;
    losses l = { .window = calloc(n_window, sizeof *l.window), .per = 511 };
    if (fqi_runnable_open(path, &two_threads, &m, &e) != FQ_OK || fqi_windows_make(&t, path, m.decoder.model.vocab_size, false, &w, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_int_equal(w.n_token, json_integer_value(json_object_get(root, "eval_tokens")));
    assert_int_equal(w.n_window, n_window);
    l.vocab = (size_t)m.decoder.model.vocab_size;
    for (size_t i = 0; i < n_window; i++) assert_int_equal(fqi_eval_stats_create(511, false, &l.window[i], &e), FQ_OK);
    const fqi_lockstep s = { .n_model = 1, .ckpt = { m.ckpt }, .decoder = { &m.decoder }, .n_stream = 1, .stream = { { 0, order } }, .served = FQ_DTYPE_F32, .ids = w.ids,
                             .n_window = w.n_window, .n_context = w.n_context, .first_scored = w.first_scored, .run = &two_threads, .phase = "test" };
    const fqi_lockstep_watch watch = { .user = &l, .logits = on_losses };
    if (fqi_lockstep_plan_make(&s, &plan, &e) != FQ_OK || fqi_lockstep_run(&s, &plan, &watch, &e) != FQ_OK) fail_msg("%s", e.text);
    double worst = 0;
    for (size_t i = 0; i < n_window; i++) {
        fq_eval_report r = { 0 };
        fqi_eval_stats_report(l.window[i], 511, &r);
        double expected = json_real_value(json_array_get(nll, i)), found = r.nll.value * 511, off = fabs(found - expected) / expected;
        if (!(off <= 1e-4)) fail_msg("%s, window %zu: found %.8f, expected %.8f", name, i, found, expected);
        worst = off > worst ? off : worst;
        fqi_eval_stats_free(l.window[i]);
    }
    print_message("%s, %zu windows: worst relative difference %.2e\n", name, n_window, worst);
    free(l.window);
    fqi_windows_free(&w);
    fqi_runnable_free(&m);
    json_decref(root);
}

static void test_golden_losses(void **state)
{
    (void)state;
    size_t n = getenv("FITQ_FULL") ? 64 : 8;
    golden("tiny-qwen2", FQI_ORDER_FAST, n);
    golden("tiny-qwen3-moe", FQI_ORDER_FAST, n);
    golden("tiny-qwen2", FQI_ORDER_FIXED, n < 64 ? 2 : 64);
    golden("tiny-qwen3-moe", FQI_ORDER_FIXED, n < 64 ? 2 : 64);
}

/* ---- a model and itself ---- */

static void assert_same_model(const fq_eval_report *r)
{
    assert_true(r->kld.value == 0 && r->kld.error == 0 && r->kld_max == 0 && r->kld_min == 0);
    assert_true(r->same_top.value == 1 && r->max_logit_diff == 0 && r->ln_ratio.value == 0 && r->ln_ratio.error == 0 && r->rms_delta_p.value == 0);
    assert_true(r->nll.value == r->nll_reference.value && r->ppl.value == r->ppl_reference.value);
    assert_true(r->nll.value > 1 && r->nll.value < 12);
}

typedef struct layers { size_t n, same; double worst; int64_t last; } layers;

static void on_layer(void *user, const fq_layer_diff *d)
{
    layers *l = user;
    assert_int_equal(d->layer, (int64_t)l->n - 1);
    l->n++;
    l->same += d->same_bits;
    l->last = d->layer;
    l->worst = d->relative > l->worst ? d->relative : l->worst;
    assert_true(!d->same_bits || (d->relative == 0 && d->max_abs == 0 && d->cosine == 1));
}

static void test_of_itself(void **state)
{
    (void)state;
    for (int exact = 0; exact < 2; exact++) {
        layers l = { 0 };
        const fq_eval_options o = { .path = tiny, .reference = tiny, .text = { .text = sample, .context = 64, .chunks = 6 }, .exact = exact != 0, .on_layer = on_layer, .user = &l };
        fq_eval_report r = evaluate(&o, &two_threads);
        assert_same_model(&r);
        assert_int_equal(l.n, 5);
        assert_int_equal(l.same, 5);
        assert_int_equal(r.n_vocab, 2048);
        assert_int_equal(r.n_layer, 4);
        assert_int_equal(r.plan.n_window, 6);
        assert_int_equal(r.plan.n_scored, 6 * 31);
    }
}

static char *pad(const char *name, const char *from, const fq_pad_options *o)
{
    char *to = fqt_join(fqt_dir, name);
    fq_pad_options p = *o;
    fq_err e = { 0 };
    p.source = from;
    p.target = to;
    if (fq_pad(&p, &two_threads, NULL, &e) != FQ_OK) fail_msg("%s: %s", name, e.text);
    return to;
}

/* Padded in every layout, and with a longer vocabulary: no bit differs in fixed order, and the padding is not scored. */
static void test_padded(void **state)
{
    (void)state;
    static const struct { const char *name; fq_pad_options o; } row[] = {
        { "tail", { .fit = { .intermediate_size_pad = 1024 }, .layout = FQ_LAYOUT_TAIL } },
        { "spread", { .fit = { .intermediate_size_pad = 1024 }, .layout = FQ_LAYOUT_SPREAD } },
        { "interleave", { .fit = { .intermediate_size_pad = 1024 }, .layout = FQ_LAYOUT_INTERLEAVE } },
        { "heads", { .fit = { .num_attention_heads_pad = 12, .num_key_value_heads_pad = 3 }, .layout = FQ_LAYOUT_TAIL } },
        { "vocab", { .fit = { .vocab_size_pad = 2112 }, .layout = FQ_LAYOUT_TAIL, .vocab = true } },
    };
    const fq_eval_options plain = { .path = tiny, .text = { .text = sample, .context = 32, .chunks = 4 }, .exact = true };
    fq_eval_report alone = evaluate(&plain, &two_threads);
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        char *path = pad(row[i].name, tiny, &row[i].o);
        layers l = { 0 };
        fq_eval_options o = { .path = path, .reference = tiny, .text = plain.text, .exact = true, .on_layer = on_layer, .user = &l };
        fq_eval_report r = evaluate(&o, &two_threads);
        assert_same_model(&r);
        assert_int_equal(l.same, 5);
        assert_int_equal(r.n_vocab, 2048);
        o.reference = NULL;
        r = evaluate(&o, &two_threads);
        assert_true(r.nll.value == alone.nll.value && r.nll.error == alone.nll.error);
        assert_int_equal(r.n_vocab, 2048);
        /* in fast order the last bits may move, and no more than that */
        o.reference = tiny;
        o.exact = false;
        l = (layers){ 0 };
        r = evaluate(&o, &two_threads);
        if (!(r.kld.value < 1e-9 && r.max_logit_diff < 1e-3 && l.worst < 1e-5)) fail_msg("%s: KLD %g, logits %g, layers %g", row[i].name, r.kld.value, r.max_logit_diff, l.worst);
        free(path);
    }
}

/* ---- how the work is cut changes nothing ---- */

typedef struct kept { float *logits; size_t n, stride, vocab; fqi_layer_diff diff[8]; } kept;

static fq_status keep(void *user, size_t first, size_t n, const float *const logits[FQI_MAX_STREAM], const uint32_t *target, fq_err *e)
{
    kept *k = user;
    (void)target;
    (void)e;
    for (size_t s = 0; s < 2; s++) memcpy(k->logits + s * k->stride + first * k->vocab, logits[s], n * k->vocab * sizeof(float));
    k->n += n;
    return FQ_OK;
}

static void keep_layer(void *user, int64_t layer, const fqi_layer_diff diff[FQI_MAX_STREAM])
{
    kept *k = user;
    k->diff[layer + 1] = diff[0];
}

static void test_cuts(void **state)
{
    (void)state;
    static const struct { const char *name; fqi_lockstep_plan p; } row[] = {
        { "all at once", { .n_slot = { 2, 2 }, .head_rows = { 2048, 2048 }, .batch_window = 5, .block_tokens = 40, .acts_in_memory = true, .logit_rows = 1000, .n_thread = 2 } },
        { "one thread", { .n_slot = { 2, 2 }, .head_rows = { 2048, 2048 }, .batch_window = 5, .block_tokens = 40, .acts_in_memory = true, .logit_rows = 1000, .n_thread = 1 } },
        { "on disk", { .n_slot = { 2, 2 }, .head_rows = { 2048, 2048 }, .batch_window = 2, .block_tokens = 40, .logit_rows = 64, .n_thread = 3 } },
        { "small", { .n_slot = { 1, 1 }, .head_rows = { 300, 257 }, .batch_window = 1, .block_tokens = 7, .logit_rows = 13, .n_thread = 2 } },
        { "all layers", { .n_slot = { 4, 1 }, .head_rows = { 2048, 300 }, .batch_window = 1, .block_tokens = 32, .acts_in_memory = true, .logit_rows = 1, .n_thread = 2 } },
    };
    char *other = pad("cuts", tiny, &(fq_pad_options){ .fit = { .intermediate_size_pad = 1024 }, .layout = FQ_LAYOUT_SPREAD });
    fqi_runnable m[2] = { 0 };
    fqi_windows w = { 0 };
    fq_err e = { 0 };
    const fq_text t = { .text = sample, .context = 40, .chunks = 5, .score = FQ_SCORE_ALL };
    if (fqi_runnable_open(tiny, &two_threads, &m[0], &e) != FQ_OK || fqi_runnable_open(other, &two_threads, &m[1], &e) != FQ_OK) fail_msg("%s", e.text);
    if (fqi_windows_make(&t, tiny, 2048, false, &w, &e) != FQ_OK) fail_msg("%s", e.text);
    kept first = { 0 }, now = { 0 };
    now.vocab = 2048;
    now.stride = w.n_scored * now.vocab;
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        /* the same weights in fixed order, and in served bf16 as well: rounding must not depend on the cut either */
        const fqi_lockstep s = { .n_model = 2, .ckpt = { m[0].ckpt, m[1].ckpt }, .decoder = { &m[0].decoder, &m[1].decoder }, .n_stream = 2,
                                 .stream = { { 0, FQI_ORDER_FIXED }, { 1, FQI_ORDER_FIXED } }, .n_pair = 1, .pair = { { 0, 1 } }, .served = FQ_DTYPE_BF16, .ids = w.ids,
                                 .n_window = w.n_window, .n_context = w.n_context, .run = &two_threads, .phase = "test", .scratch_dir = fqt_dir };
        const fqi_lockstep_watch watch = { .user = &now, .layer = keep_layer, .logits = keep };
        now.logits = calloc(2 * now.stride, sizeof(float));
        now.n = 0;
        if (fqi_lockstep_run(&s, &row[i].p, &watch, &e) != FQ_OK) fail_msg("%s: %s", row[i].name, e.text);
        assert_int_equal(now.n, w.n_scored);
        if (memcmp(now.logits, now.logits + now.stride, now.stride * sizeof(float)) != 0) fail_msg("%s: padded and not padded differ", row[i].name);
        if (i == 0) first = now;
        else {
            if (memcmp(now.logits, first.logits, 2 * now.stride * sizeof(float)) != 0) fail_msg("%s: other logits", row[i].name);
            assert_memory_equal(now.diff, first.diff, 5 * sizeof now.diff[0]);
            free(now.logits);
        }
    }
    free(first.logits);
    fqi_windows_free(&w);
    for (size_t i = 0; i < 2; i++) fqi_runnable_free(&m[i]);
    free(other);
}

static uint64_t least_of(const fq_eval_options *o)
{
    fq_run run = two_threads;
    fq_err e = { 0 };
    unsigned long long mib = 0;
    run.memory_bytes = 1;
    assert_int_equal(fq_eval(o, &run, NULL, &e), FQ_E_NOMEM);
    const char *at = strstr(e.text, "expected at least ");
    if (!at || sscanf(at, "expected at least %llu MiB", &mib) != 1) fail_msg("%s", e.text);
    return (uint64_t)mib << 20;
}

/* The least budget gives the numbers of no budget at all. */
static void test_budget(void **state)
{
    (void)state;
    const fq_eval_options o = { .path = tiny, .text = { .text = sample, .context = 64 }, .exact = true, .scratch = fqt_dir };
    fq_run run = two_threads;
    fq_eval_report free_run = evaluate(&o, &two_threads);
    run.memory_bytes = least_of(&o);
    fq_eval_report small = evaluate(&o, &run);
    assert_true(small.plan.memory_bytes <= run.memory_bytes && small.plan.memory_bytes <= free_run.plan.memory_bytes);
    assert_true(small.nll.value == free_run.nll.value && small.nll.error == free_run.nll.error);
}

/* ---- what is refused, and stopping ---- */

static void refused(const fq_eval_options *o, fq_status status, const char *rule, const char *text)
{
    fq_err e = { 0 };
    fq_eval_report r = { 0 };
    fq_status s = fq_eval(o, &two_threads, &r, &e);
    if (s != status || (rule && strcmp(e.rule, rule) != 0) || !strstr(e.text, text)) fail_msg("found %d, \"%s\", \"%s\"; expected %d, \"%s\", \"%s\"", (int)s, e.rule, e.text, (int)status, rule, text);
    assert_true(r.nll.value == 0);
}

static void test_refused(void **state)
{
    (void)state;
    char *small = fqt_join(fqt_dir, "small"), *ids = fqt_join(fqt_dir, "ids");
    fqt_make_model(small, &(fqt_model){ .family = "qwen2", .vocab = 40, .seed = 3 });
    fqt_write_text(fqt_dir, "ids", "1 2 3 4 5 6 7 39 8 9 10 11 12 13 14 2047");
    refused(&(fq_eval_options){ .text = { .ids = ids } }, FQ_E_USAGE, "path", "found no checkpoint");
    refused(&(fq_eval_options){ .path = tiny }, FQ_E_USAGE, "text", "found neither");
    refused(&(fq_eval_options){ .path = tiny, .served = (fq_served)9, .text = { .ids = ids } }, FQ_E_USAGE, "served-dtype", "found 9");
    refused(&(fq_eval_options){ .path = small, .text = { .ids = ids, .context = 4 } }, FQ_E_INPUT, "token-id", "found id 2047 at place 15, expected an id below 40");
    refused(&(fq_eval_options){ .path = tiny, .reference = small, .text = { .ids = ids, .context = 4 } }, FQ_E_INPUT, "vocab-size",
            "found a vocabulary of 2048 and no map in fitq.json, expected the 40 of");
    refused(&(fq_eval_options){ .path = "/nonexistent", .text = { .ids = ids, .context = 4 } }, FQ_E_IO, NULL, "/nonexistent");
    free(small);
    free(ids);
}

/* A NaN in the last layer is found when that layer is read. */
static void test_nan(void **state)
{
    (void)state;
    const fqt_model m = { .family = "qwen2", .vocab = 60, .layers = 3, .dtype = "F32", .seed = 4 };
    char *path = fqt_join(fqt_dir, "nan"), *ids = fqt_join(fqt_dir, "few");
    fqt_make_model(path, &m);
    fqt_table t = fqt_model_tensors(&m);
    fqt_tensor *bad = fqt_table_find(&t, "model.layers.2.mlp.up_proj.weight");
    size_t n = (size_t)(bad->shape[0] * bad->shape[1]);
    float *values = calloc(n, sizeof *values);
    assert_non_null(values);
    values[5] = NAN;
    bad->data = values;
    fqt_write_shards(path, t.t, t.n, 1, 4);
    fqt_write_text(fqt_dir, "few", "1 2 3 4 5 6 7 8");
    refused(&(fq_eval_options){ .path = path, .text = { .ids = ids, .context = 4 } }, FQ_E_NUMERIC, NULL, "model.layers.2.mlp.up_proj.weight");
    fqt_table_free(&t);
    free(values);
    free(path);
    free(ids);
}

typedef struct watch { pthread_t thread; size_t calls, until; uint64_t done, total; bool wrong; } watch;

static void on_progress(void *user, const fq_progress *p)
{
    watch *w = user;
    w->wrong = w->wrong || !pthread_equal(w->thread, pthread_self()) || p->done_bytes < w->done || p->done_bytes > p->total_bytes || strcmp(p->phase, "eval") != 0 || !p->item;
    w->done = p->done_bytes;
    w->total = p->total_bytes;
    w->calls++;
}

static bool on_cancel(void *user)
{
    watch *w = user;
    return w->until != 0 && w->calls >= w->until;
}

static void test_progress_and_cancel(void **state)
{
    (void)state;
    const fq_eval_options o = { .path = tiny, .text = { .text = sample, .context = 64 } };
    watch w = { .thread = pthread_self() };
    const fq_run run = { .n_thread = 2, .progress = on_progress, .cancelled = on_cancel, .user = &w };
    fq_err e = { 0 };
    evaluate(&o, &run);
    assert_false(w.wrong);
    assert_true(w.calls > 5 && w.total > 0 && w.done + w.total / 100 >= w.total);
    size_t calls = w.calls;
    for (size_t stop = 1; stop <= calls; stop += calls / 6 + 1) {
        w = (watch){ .thread = pthread_self(), .until = stop };
        assert_int_equal(fq_eval(&o, &run, NULL, &e), FQ_E_CANCELLED);
        assert_int_equal(w.calls, stop);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_losses), cmocka_unit_test(test_of_itself), cmocka_unit_test(test_padded), cmocka_unit_test(test_cuts), cmocka_unit_test(test_budget),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_nan), cmocka_unit_test(test_progress_and_cancel),
    };
    return cmocka_run_group_tests(tests, setup, fqt_dir_teardown);
}
