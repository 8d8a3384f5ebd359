/* test_rope.c - frequencies of every kind against numbers computed elsewhere, tables, and rotation against complex numbers. */
#include <complex.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/rope.h"
#include "support.h"

#define MAX_HALF 128

static uint64_t rng;

static double uniform(void)
{
    return (double)(fqt_random(&rng) >> 11) * 0x1p-53;
}

/* ---- frequencies ----------------------------------------------------------------------------------------------- */

typedef struct golden {
    const char *name;
    fqi_rope rope;
    int64_t n_position;
    double scale;
    struct { int64_t pair; double frequency; } at[10];
} golden;

/* Printed by tests/tools/rope_golden.py, which states the formulas in its own way, with 50 digits. */
static const golden goldens[] = {
    { "Qwen2.5-7B", { .kind = FQI_ROPE_DEFAULT, .dim = 128, .theta = 1000000 }, 1, 1.00000000000000000e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 8.0584218776148182e-1 }, { 16, 3.1622776601683793e-2 }, { 21, 1.0746078283213175e-2 },
        { 25, 4.5315836376008179e-3 }, { 32, 1.0000000000000000e-3 }, { 38, 2.7384196342643613e-4 }, { 42, 1.1547819846894582e-4 },
        { 62, 1.5399265260594920e-6 }, { 63, 1.2409377607517196e-6 } } },
    { "Llama-2-7B", { .kind = FQI_ROPE_DEFAULT, .dim = 128, .theta = 10000 }, 1, 1.00000000000000000e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 8.6596432336006535e-1 }, { 16, 1.0000000000000000e-1 }, { 21, 4.8696752516586311e-2 },
        { 25, 2.7384196342643613e-2 }, { 32, 1.0000000000000000e-2 }, { 38, 4.2169650342858225e-3 }, { 42, 2.3713737056616553e-3 },
        { 62, 1.3335214321633240e-4 }, { 63, 1.1547819846894582e-4 } } },
    { "a quarter of 256 dimensions", { .kind = FQI_ROPE_DEFAULT, .dim = 64, .theta = 10000000 }, 1, 1.00000000000000000e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 6.0429639023813282e-1 }, { 8, 1.7782794100389228e-2 }, { 10, 6.4938163157621132e-3 },
        { 12, 2.3713737056616553e-3 }, { 16, 3.1622776601683793e-4 }, { 19, 6.9783058485986634e-5 }, { 21, 2.5482967479793465e-5 },
        { 30, 2.7384196342643613e-7 }, { 31, 1.6548170999431814e-7 } } },
    { "linear, factor 2", { .kind = FQI_ROPE_LINEAR, .dim = 128, .theta = 10000, .factor = 2 }, 1, 1.00000000000000000e+0,
      { { 0, 5.0000000000000000e-1 }, { 1, 4.3298216168003268e-1 }, { 16, 5.0000000000000000e-2 }, { 21, 2.4348376258293156e-2 },
        { 25, 1.3692098171321806e-2 }, { 32, 5.0000000000000000e-3 }, { 38, 2.1084825171429112e-3 }, { 42, 1.1856868528308276e-3 },
        { 62, 6.6676071608166201e-5 }, { 63, 5.7739099234472909e-5 } } },
    { "linear, factor 2.5", { .kind = FQI_ROPE_LINEAR, .dim = 64, .theta = 500000, .factor = 2.5 }, 1, 1.00000000000000000e+0,
      { { 0, 4.0000000000000000e-1 }, { 1, 2.6544049507843538e-1 }, { 8, 1.5042412372345574e-2 }, { 10, 6.6241760323977782e-3 },
        { 12, 2.9170658948868436e-3 }, { 16, 5.6568542494923802e-4 }, { 19, 1.6530901999420659e-4 }, { 21, 7.2796571525850189e-5 },
        { 30, 1.8166681922431479e-6 }, { 31, 1.2055432608556685e-6 } } },
    { "dynamic, short", { .kind = FQI_ROPE_DYNAMIC, .dim = 128, .theta = 10000, .factor = 2, .max_position = 2048 }, 100, 1.00000000000000000e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 8.6596432336006535e-1 }, { 16, 1.0000000000000000e-1 }, { 21, 4.8696752516586311e-2 },
        { 25, 2.7384196342643613e-2 }, { 32, 1.0000000000000000e-2 }, { 38, 4.2169650342858225e-3 }, { 42, 2.3713737056616553e-3 },
        { 62, 1.3335214321633240e-4 }, { 63, 1.1547819846894582e-4 } } },
    { "dynamic, at its end", { .kind = FQI_ROPE_DYNAMIC, .dim = 128, .theta = 10000, .factor = 2, .max_position = 2048 }, 2048, 1.00000000000000000e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 8.6596432336006535e-1 }, { 16, 1.0000000000000000e-1 }, { 21, 4.8696752516586311e-2 },
        { 25, 2.7384196342643613e-2 }, { 32, 1.0000000000000000e-2 }, { 38, 4.2169650342858225e-3 }, { 42, 2.3713737056616553e-3 },
        { 62, 1.3335214321633240e-4 }, { 63, 1.1547819846894582e-4 } } },
    { "dynamic, one more", { .kind = FQI_ROPE_DYNAMIC, .dim = 128, .theta = 10000, .factor = 2, .max_position = 2048 }, 2049, 1.00000000000000000e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 8.6595090670798157e-1 }, { 16, 9.9975213587308983e-2 }, { 21, 4.8680911021481323e-2 },
        { 25, 2.7373591519631772e-2 }, { 32, 9.9950433318280506e-3 }, { 38, 4.2144830256988812e-3 }, { 42, 2.3698310978813818e-3 },
        { 62, 1.3322410764656297e-4 }, { 63, 1.1536553681190294e-4 } } },
    { "dynamic, twice", { .kind = FQI_ROPE_DYNAMIC, .dim = 128, .theta = 10000, .factor = 2, .max_position = 2048 }, 4096, 1.00000000000000000e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 8.5099429134121623e-1 }, { 16, 7.5653033702431507e-2 }, { 21, 3.3764442381637763e-2 },
        { 25, 1.7707863629465180e-2 }, { 32, 5.7233815083812375e-3 }, { 38, 2.1737649232249319e-3 }, { 42, 1.1400375693429363e-3 },
        { 62, 4.5232656922192939e-5 }, { 63, 3.8492732822981939e-5 } } },
    { "dynamic, eight times", { .kind = FQI_ROPE_DYNAMIC, .dim = 64, .theta = 10000, .factor = 4, .max_position = 2048 }, 16384, 1.00000000000000000e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 6.7270688256191817e-1 }, { 8, 4.1937927858095115e-2 }, { 10, 1.8978361304744408e-2 },
        { 12, 8.5883641898605651e-3 }, { 16, 1.7587897930307903e-3 }, { 19, 5.3541625208549562e-4 }, { 21, 2.4229435261783558e-4 },
        { 30, 6.8355919721947847e-6 }, { 31, 4.5983497660804277e-6 } } },
    { "Llama-3.1-8B", { .kind = FQI_ROPE_LLAMA3, .dim = 128, .theta = 500000, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4, .original_max = 8192 }, 1, 1.00000000000000000e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 8.1461723385654470e-1 }, { 16, 3.7606030930863936e-2 }, { 21, 1.3490419890226748e-2 },
        { 25, 5.9407303756749669e-3 }, { 32, 5.2484616099295467e-4 }, { 38, 5.1659068748189561e-5 }, { 42, 2.2748928601828184e-5 },
        { 62, 3.7673226901739639e-7 }, { 63, 3.0689259889145111e-7 } } },
    { "Llama-3.2-1B", { .kind = FQI_ROPE_LLAMA3, .dim = 64, .theta = 500000, .factor = 32, .low_freq_factor = 1, .high_freq_factor = 4, .original_max = 8192 }, 1, 1.00000000000000000e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 6.6360123769608844e-1 }, { 8, 3.7606030930863936e-2 }, { 10, 1.6560440080994446e-2 },
        { 12, 7.2926647372171090e-3 }, { 16, 4.2955679655936820e-4 }, { 19, 1.2914767187047390e-5 }, { 21, 5.6872321504570460e-6 },
        { 30, 1.4192720251899593e-7 }, { 31, 9.4183067254349098e-8 } } },
    { "Qwen2.5 to 131072", { .kind = FQI_ROPE_YARN, .dim = 128, .theta = 1000000, .factor = 4, .original_max = 32768, .max_position = 32768, .beta_fast = 32, .beta_slow = 1, .truncate = true }, 1, 1.13862943611198906e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 8.0584218776148182e-1 }, { 16, 3.1622776601683793e-2 }, { 21, 1.0746078283213175e-2 },
        { 25, 4.1317380225183928e-3 }, { 32, 6.0294117647058824e-4 }, { 38, 9.2623017041294573e-5 }, { 42, 2.8869549617236454e-5 },
        { 62, 3.8498163151487300e-7 }, { 63, 3.1023444018792989e-7 } } },
    { "Qwen3 to 131072, explicit", { .kind = FQI_ROPE_YARN, .dim = 128, .theta = 1000000, .factor = 4, .original_max = 32768, .attention_factor = 1, .beta_fast = 32, .beta_slow = 1, .truncate = true }, 1, 1.00000000000000000e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 8.0584218776148182e-1 }, { 16, 3.1622776601683793e-2 }, { 21, 1.0746078283213175e-2 },
        { 25, 4.1317380225183928e-3 }, { 32, 6.0294117647058824e-4 }, { 38, 9.2623017041294573e-5 }, { 42, 2.8869549617236454e-5 },
        { 62, 3.8498163151487300e-7 }, { 63, 3.1023444018792989e-7 } } },
    { "yarn, not cut", { .kind = FQI_ROPE_YARN, .dim = 64, .theta = 150000, .factor = 32, .original_max = 4096, .beta_fast = 32, .beta_slow = 1, .truncate = false }, 1, 1.34657359027997265e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 6.8904430588816327e-1 }, { 8, 5.0813274815461474e-2 }, { 10, 1.9335001126540358e-2 },
        { 12, 6.7949594897322178e-3 }, { 16, 4.5648391922324017e-4 }, { 19, 2.6396469031472780e-5 }, { 21, 1.2532569824095001e-5 },
        { 30, 4.3879782508643958e-7 }, { 31, 3.0235114281192144e-7 } } },
    { "DeepSeek-V2-Lite", { .kind = FQI_ROPE_YARN, .dim = 64, .theta = 10000, .factor = 40, .original_max = 4096, .mscale = 0.707, .mscale_all_dim = 0.707, .beta_fast = 32, .beta_slow = 1, .truncate = true }, 1, 1.00000000000000000e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 7.4989420933245583e-1 }, { 8, 1.0000000000000000e-1 }, { 10, 5.6234132519034908e-2 },
        { 12, 2.6879360111431224e-2 }, { 16, 5.5000000000000000e-3 }, { 19, 1.3705136361428923e-3 }, { 21, 4.1499039849078967e-4 },
        { 30, 4.4456985250973070e-6 }, { 31, 3.3338035804083101e-6 } } },
    { "mscale 1 over 0.5", { .kind = FQI_ROPE_YARN, .dim = 64, .theta = 10000, .factor = 40, .original_max = 4096, .mscale = 1, .mscale_all_dim = 0.5, .beta_fast = 32, .beta_slow = 1, .truncate = true }, 1, 1.15572199019626089e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 7.4989420933245583e-1 }, { 8, 1.0000000000000000e-1 }, { 10, 5.6234132519034908e-2 },
        { 12, 2.6879360111431224e-2 }, { 16, 5.5000000000000000e-3 }, { 19, 1.3705136361428923e-3 }, { 21, 4.1499039849078967e-4 },
        { 30, 4.4456985250973070e-6 }, { 31, 3.3338035804083101e-6 } } },
    { "mscale alone", { .kind = FQI_ROPE_YARN, .dim = 64, .theta = 10000, .factor = 40, .original_max = 4096, .mscale = 0.707, .beta_fast = 32, .beta_slow = 1, .truncate = true }, 1, 1.36888794541139363e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 7.4989420933245583e-1 }, { 8, 1.0000000000000000e-1 }, { 10, 5.6234132519034908e-2 },
        { 12, 2.6879360111431224e-2 }, { 16, 5.5000000000000000e-3 }, { 19, 1.3705136361428923e-3 }, { 21, 4.1499039849078967e-4 },
        { 30, 4.4456985250973070e-6 }, { 31, 3.3338035804083101e-6 } } },
    { "Kimi-K2: a step", { .kind = FQI_ROPE_YARN, .dim = 64, .theta = 50000, .factor = 32, .original_max = 4096, .beta_fast = 1, .beta_slow = 1, .truncate = true }, 1, 1.34657359027997265e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 7.1311108491193202e-1 }, { 8, 6.6874030497642202e-2 }, { 10, 3.4007278155466101e-2 },
        { 12, 1.7293633402042617e-2 }, { 16, 4.4721359549995794e-3 }, { 19, 1.6217599081159522e-3 }, { 21, 2.5772168156248463e-5 },
        { 30, 1.2290389389574927e-6 }, { 31, 8.7644129115898741e-7 } } },
    { "yarn, factor 1", { .kind = FQI_ROPE_YARN, .dim = 64, .theta = 10000, .factor = 1, .original_max = 2048, .beta_fast = 32, .beta_slow = 1, .truncate = true }, 1, 1.00000000000000000e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 7.4989420933245583e-1 }, { 8, 1.0000000000000000e-1 }, { 10, 5.6234132519034908e-2 },
        { 12, 3.1622776601683793e-2 }, { 16, 1.0000000000000000e-2 }, { 19, 4.2169650342858225e-3 }, { 21, 2.3713737056616553e-3 },
        { 30, 1.7782794100389228e-4 }, { 31, 1.3335214321633240e-4 } } },
    { "yarn of a short original", { .kind = FQI_ROPE_YARN, .dim = 32, .theta = 10000, .factor = 8, .original_max = 64, .beta_fast = 32, .beta_slow = 1, .truncate = true }, 1, 1.20794415416798359e+0,
      { { 0, 1.0000000000000000e+0 }, { 1, 4.6393159328203799e-1 }, { 4, 3.0000000000000000e-2 }, { 5, 7.0292665648793635e-3 },
        { 6, 3.9528470752104742e-3 }, { 8, 1.2500000000000000e-3 }, { 9, 7.0292665648793635e-4 }, { 10, 3.9528470752104742e-4 },
        { 14, 3.9528470752104742e-5 }, { 15, 2.2228492625486535e-5 } } },
};

static void frequencies_are_those_of_the_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof goldens / sizeof goldens[0]; i++) {
        const golden *g = &goldens[i];
        double inv[MAX_HALF], scale;
        fqi_rope_frequencies(&g->rope, g->n_position, inv, &scale);
        if (fabs(scale - g->scale) > 1e-14) fail_msg("%s: scale %.17g, expected %.17g", g->name, scale, g->scale);
        for (size_t k = 0; k < sizeof g->at / sizeof g->at[0]; k++) {
            double found = inv[g->at[k].pair], want = g->at[k].frequency;
            if (want == 0) continue;   /* an entry that is not used */
            if (!(fabs(found - want) <= 1e-13 * want))
                fail_msg("%s: pair %lld: %.17g, expected %.17g", g->name, (long long)g->at[k].pair, found, want);
        }
    }
}

/* Only dynamic looks at the length, and only beyond what the model was trained for. */
static void length_matters_to_dynamic_alone(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof goldens / sizeof goldens[0]; i++) {
        fqi_rope r = goldens[i].rope;
        double a[MAX_HALF], b[MAX_HALF], c[MAX_HALF], scale;
        if (r.max_position == 0) r.max_position = 4096;
        fqi_rope_frequencies(&r, 1, a, &scale);
        fqi_rope_frequencies(&r, r.max_position, b, &scale);
        fqi_rope_frequencies(&r, 2 * r.max_position, c, &scale);
        assert_memory_equal(a, b, (size_t)(r.dim / 2) * sizeof *a);
        if (r.kind == FQI_ROPE_DYNAMIC) assert_true(c[r.dim / 2 - 1] < a[r.dim / 2 - 1]);
        else assert_memory_equal(a, c, (size_t)(r.dim / 2) * sizeof *a);
    }
}

/* Versions of transformers around 4.50 took max_position_embeddings / original instead of the factor that is written. */
static void yarn_takes_the_written_factor(void **state)
{
    (void)state;
    fqi_rope r = { .kind = FQI_ROPE_YARN, .dim = 128, .theta = 1e6, .factor = 4, .beta_fast = 32, .beta_slow = 1, .truncate = true,
                   .original_max = 32768 };
    double a[64], b[64], scale_a, scale_b;
    r.max_position = 32768;
    fqi_rope_frequencies(&r, 1, a, &scale_a);
    r.max_position = 131072;
    fqi_rope_frequencies(&r, 1, b, &scale_b);
    assert_memory_equal(a, b, sizeof a);
    assert_true(scale_a == scale_b);
    assert_true(fabs(a[63] / (pow(1e6, -126.0 / 128) / 4) - 1) < 1e-13);
}

/* Whatever fqi_decoder_read lets through gives positive finite frequencies that are not above 1. */
static void frequencies_are_finite(void **state)
{
    (void)state;
    rng = 20260301;
    print_message("seed %llu\n", (unsigned long long)rng);
    for (int i = 0; i < 20000; i++) {
        fqi_rope r = { .kind = (fqi_rope_kind)(i % 5), .dim = 4 + 2 * (int64_t)(uniform() * 60), .theta = pow(10, 0.001 + 14.9 * uniform()),
                       .factor = pow(10, 6 * uniform()), .low_freq_factor = pow(10, 12 * uniform() - 6), .truncate = uniform() < 0.5 };
        r.high_freq_factor = fmin(r.low_freq_factor * (1 + pow(10, -15 * uniform())) + 1e-9, 1e6 + 1);
        r.beta_slow = pow(10, 12 * uniform() - 6);
        r.beta_fast = uniform() < 0.2 ? r.beta_slow : fmin(1e6, r.beta_slow * pow(10, 6 * uniform()));
        r.original_max = (int64_t)pow(2, 40 * uniform());
        r.max_position = (int64_t)pow(2, 40 * uniform());
        double inv[MAX_HALF], scale;
        fqi_rope_frequencies(&r, (int64_t)pow(2, 40 * uniform()), inv, &scale);
        assert_true(isfinite(scale) && scale > 0);
        for (int64_t j = 0; j < r.dim / 2; j++)
            if (!(isfinite(inv[j]) && inv[j] >= 0 && inv[j] <= 1 + 1e-12)) fail_msg("case %d: pair %lld: %g", i, (long long)j, inv[j]);
    }
}

/* ---- table ----------------------------------------------------------------------------------------------------- */

static const fqi_rope scaled = { .kind = FQI_ROPE_YARN, .dim = 24, .theta = 10000, .factor = 4, .beta_fast = 32, .beta_slow = 1, .truncate = true,
                                 .original_max = 128, .max_position = 512 };

static void table_is_rounded_once(void **state)
{
    (void)state;
    static const struct { fq_dtype served; double step; } table[] = {
        { FQ_DTYPE_F32, 0x1p-24 }, { FQ_DTYPE_F16, 0x1p-11 }, { FQ_DTYPE_BF16, 0x1p-8 } };
    double inv[12], scale;
    fqi_rope_frequencies(&scaled, 700, inv, &scale);
    assert_true(scale > 1.1);
    for (size_t i = 0; i < 3; i++) {
        fqi_rope_table t;
        assert_int_equal(fqi_rope_table_create(&scaled, 700, table[i].served, &t, NULL), FQ_OK);
        assert_int_equal(t.half, 12);
        assert_int_equal(t.n_position, 700);
        double worst = 0;
        for (size_t p = 0; p < 700; p++)
            for (size_t j = 0; j < 12; j++) {
                double c = cos((double)p * inv[j]) * scale, s = sin((double)p * inv[j]) * scale;
                worst = fmax(worst, fabs((double)t.cos[p * 12 + j] - c));
                worst = fmax(worst, fabs((double)t.sin[p * 12 + j] - s));
                if (p == 0) assert_true(t.sin[j] == 0);
            }
        /* numbers below 2: half a step of the type, and it is that type that was asked for */
        assert_true(worst <= table[i].step && worst > table[i].step / 16);
        fqi_rope_table_free(&t);
        assert_null(t.cos);
    }
    fqi_rope_table_free(NULL);
}

static void table_without_memory(void **state)
{
    (void)state;
    static const int64_t n[] = { INT64_MAX, INT64_C(1) << 60 };
    for (size_t i = 0; i < 2; i++) {
        fqi_rope_table t = { .n_position = 77 };
        fq_err e;
        assert_int_equal(fqi_rope_table_create(&scaled, n[i], FQ_DTYPE_F32, &t, &e), FQ_E_NOMEM);
        assert_string_equal(e.text, "out-of-memory: table of cosines and sines");
        assert_int_equal(t.n_position, 77);
    }
}

/* ---- rotation -------------------------------------------------------------------------------------------------- */

/* Dimension d and d + dim/2 are one complex number, which is multiplied by scale * e^(i position inv). */
static void rotation_is_a_complex_product(void **state)
{
    (void)state;
    static const struct { int64_t dim; size_t head_dim, n_head; } shape[] = { { 64, 64, 3 }, { 24, 24, 1 }, { 16, 64, 5 }, { 2, 3, 7 }, { 2, 2, 1 } };
    rng = 424242;
    print_message("seed %llu\n", (unsigned long long)rng);
    for (size_t i = 0; i < sizeof shape / sizeof shape[0]; i++) {
        fqi_rope r = scaled;
        r.dim = shape[i].dim;
        const size_t half = (size_t)r.dim / 2, hd = shape[i].head_dim, n = hd * shape[i].n_head;
        double inv[MAX_HALF], scale;
        float x[320], was[320];
        fqi_rope_table t;
        fqi_rope_frequencies(&r, 300, inv, &scale);
        assert_int_equal(fqi_rope_table_create(&r, 300, FQ_DTYPE_F32, &t, NULL), FQ_OK);
        for (int64_t p = 0; p < 300; p += 13) {
            for (size_t k = 0; k < n; k++) was[k] = x[k] = (float)(4 * uniform() - 2);
            fqi_rope_apply(&t, p, x, shape[i].n_head, hd);
            for (size_t k = 0; k < n; k++) {
                size_t h = k / hd * hd, d = k % hd;
                if (d >= 2 * half) {
                    assert_true(x[k] == was[k]);   /* not rotated */
                    continue;
                }
                double complex z = (double)was[h + d % half] + I * (double)was[h + d % half + half];
                z *= scale * cexp(I * (double)p * inv[d % half]);
                assert_true(fabs((double)x[k] - (d < half ? creal(z) : cimag(z))) < 1e-6);
            }
        }
        fqi_rope_table_free(&t);
    }
}

/* Each product and each sum rounded to float, no fused multiply-add: the bits are those of this expression. */
static void rotation_has_one_order(void **state)
{
    (void)state;
    fqi_rope_table t;
    float x[24], was[24];
    rng = 7;
    assert_int_equal(fqi_rope_table_create(&scaled, 50, FQ_DTYPE_F32, &t, NULL), FQ_OK);
    for (size_t k = 0; k < 24; k++) was[k] = x[k] = (float)uniform();
    fqi_rope_apply(&t, 49, x, 1, 24);
    for (size_t j = 0; j < 12; j++) {
        volatile float c = t.cos[49 * 12 + j], s = t.sin[49 * 12 + j], ac = was[j] * c, bs = was[j + 12] * s, bc = was[j + 12] * c, as = was[j] * s;
        volatile float first = ac - bs, second = bc + as;
        assert_true(x[j] == first && x[j + 12] == second);
    }
    fqi_rope_table_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies_are_those_of_the_reference),
        cmocka_unit_test(length_matters_to_dynamic_alone),
        cmocka_unit_test(yarn_takes_the_written_factor),
        cmocka_unit_test(frequencies_are_finite),
        cmocka_unit_test(table_is_rounded_once),
        cmocka_unit_test(table_without_memory),
        cmocka_unit_test(rotation_is_a_complex_product),
        cmocka_unit_test(rotation_has_one_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
