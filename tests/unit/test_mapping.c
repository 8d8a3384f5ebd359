/* Tests of the choice of maps: what a fit must not ask for is refused with the axis, the real and the padded length. What the maps
 * then do to weights is test_map.c's and test_pad.c's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "job/mapping.h"

static const fq_model dense = { .family = "llama", .hidden_size = 48, .vocab_size = 67, .num_hidden_layers = 3, .n_dense_layer = 3, .intermediate_size = 52,
                                .num_attention_heads = 6, .num_key_value_heads = 2, .head_dim = 8 };
static const fq_model wide = { .family = "llama", .hidden_size = 48, .vocab_size = 67, .num_hidden_layers = 3, .n_dense_layer = 3, .intermediate_size = 1 << 27,
                               .num_attention_heads = 6, .num_key_value_heads = 2, .head_dim = 8 };
static const fq_model mixture = { .family = "mixtral", .hidden_size = 48, .vocab_size = 67, .num_hidden_layers = 3, .n_moe_layer = 3, .moe_intermediate_size = 52,
                                  .num_experts = 8, .num_experts_per_tok = 2, .num_attention_heads = 6, .num_key_value_heads = 2, .head_dim = 8 };
static const fq_model experts = { .family = "qwen3_moe", .moe_intermediate_size = 52 }, stranger = { .family = "" };

static void what_is_refused_names_the_axis(void **state)
{
    (void)state;
    static const struct { const fq_model *m; fq_fit fit; fqi_layout layout; const char *text; } t[] = {
        { &dense, { .intermediate_size_pad = 5 }, { .kind = FQ_LAYOUT_TAIL, .group = 1, .ranks = 1 },
          "map-length: intermediate_size: found padded length 5, expected at least the real length 52" },
        { &mixture, { .moe_intermediate_size_pad = 5 }, { .kind = FQ_LAYOUT_SPREAD, .group = 1, .ranks = 1 },
          "map-length: moe_intermediate_size: found padded length 5, expected at least the real length 52" },
        { &dense, { .vocab_size_pad = 66 }, { .kind = FQ_LAYOUT_TAIL, .group = 1, .ranks = 1 }, "map-length: vocab_size: found padded length 66, expected at least the real length 67" },
        { &dense, { .vocab_size_pad = INT64_MAX }, { .kind = FQ_LAYOUT_TAIL, .group = 1, .ranks = 1 }, "map-length: vocab_size 67 -> 9223372036854775807: found 2 times an axis of" },
        { &dense, { .intermediate_size_pad = 105 }, { .kind = FQ_LAYOUT_INTERLEAVE, .group = 1, .ranks = 1 },
          "interleave-length: intermediate_size 52 -> 105: found 53 zeros to interleave, expected at most one behind each of the 52 real channels" },
        { &wide, { .intermediate_size_pad = (1 << 27) + 2097152 }, { .kind = FQ_LAYOUT_INTERLEAVE, .group = 1, .ranks = 1 },
          "map-length: intermediate_size 134217728 -> 136314880: found a map with 2097152 gaps, expected at most 2097151" },
        { &wide, { .intermediate_size_pad = (1 << 27) + 2097151 }, { .kind = FQ_LAYOUT_INTERLEAVE, .group = 1, .ranks = 1 },   /* fits once, not as gate|up */
          "map-length: intermediate_size 134217728 -> 136314879: found 2 times 4194303 runs, expected at most 4194304" },
        { &dense, { .intermediate_size_pad = 64 }, { .kind = (fq_layout)7, .group = 1, .ranks = 1 }, "layout: intermediate_size 52 -> 64: found layout 7," },
        { &dense, { .moe_intermediate_size_pad = 64 }, { .kind = FQ_LAYOUT_TAIL, .group = 1, .ranks = 1 }, "fit: found a length 64 for moe_intermediate_size, expected none" },
        { &dense, { .num_attention_heads_pad = 4 }, { .kind = FQ_LAYOUT_TAIL, .group = 1, .ranks = 1 }, "heads: found padded query heads 4, expected at least the real 6" },
        { &dense, { .num_attention_heads_pad = 1 << 22, .num_key_value_heads_pad = 1 << 22 }, { .kind = FQ_LAYOUT_SPREAD, .group = 1, .ranks = 1 },
          "heads: found padded KV heads 4194304, expected at most 1048576" },
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        fqi_maps maps = { 0 };
        fq_err e = { 0 };
        assert_int_equal(fqi_maps_create(t[i].m, &t[i].fit, &t[i].layout, &maps, &e), FQ_E_USAGE);
        if (strncmp(e.text, t[i].text, strlen(t[i].text)) != 0) fail_msg("%s\nexpected %s", e.text, t[i].text);
        assert_int_equal(maps.map[FQI_AX_FF].n_run, 0);   /* nothing is handed over */
    }
}

/* Blocks that have a scale are not mixed: split for equal shares where that fits, else dealt whole. */
static void blocks_stay_whole(void **state)
{
    (void)state;
    static const struct { int64_t n, n_pad; fqi_layout layout; const char *runs; } t[] = {
        { 12, 16, { .kind = FQ_LAYOUT_SPREAD, .group = 1, .ranks = 2, .unit = 4, .grain = 2 }, "0:6 -:2 6:2 -:2 8:4" },
        { 12, 16, { .kind = FQ_LAYOUT_SPREAD, .group = 1, .ranks = 4, .unit = 4, .grain = 2 }, "-:4 0:12" },   /* a share is parts of two blocks, and a slice is one */
        { 28, 32, { .kind = FQ_LAYOUT_SPREAD, .group = 1, .ranks = 2, .unit = 4, .grain = 2 }, "0:14 -:2 14:2 -:2 16:12" },
        { 12, 16, { .kind = FQ_LAYOUT_SPREAD, .group = 1, .ranks = 3, .unit = 4, .grain = 2 }, "0:12 -:4" },
        { 12, 20, { .kind = FQ_LAYOUT_INTERLEAVE, .group = 1, .ranks = 1, .unit = 4, .grain = 2 }, "0:4 -:4 4:4 -:4 8:4" },
        { 12, 16, { .kind = FQ_LAYOUT_TAIL, .group = 1, .ranks = 2, .unit = 4, .grain = 2 }, "0:12 -:4" },
        { 10, 16, { .kind = FQ_LAYOUT_SPREAD, .group = 1, .ranks = 2, .unit = 4, .grain = 4 }, "0:10 -:6" },
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        fq_model m = dense;
        fq_fit fit = { .intermediate_size_pad = t[i].n_pad };
        fqi_maps maps = { 0 };
        fqi_map blocks = { 0 };
        char *text = NULL;
        m.intermediate_size = t[i].n;
        assert_int_equal(fqi_maps_create(&m, &fit, &t[i].layout, &maps, NULL), FQ_OK);
        assert_int_equal(fqi_map_print(&maps.map[FQI_AX_FF], &text, NULL), FQ_OK);
        if (strcmp(text, t[i].runs) != 0) fail_msg("%zu: %s, expected %s", i, text, t[i].runs);
        assert_int_equal(fqi_map_blocks(&maps.map[FQI_AX_FF], 4, 4, &blocks, NULL), FQ_OK);
        free(text);
        fqi_map_free(&blocks);
        fqi_maps_free(&maps);
    }
}

/* The widest interleaving and the most heads that are let through, so that the bounds above are the right ones. */
static void what_is_just_allowed(void **state)
{
    (void)state;
    fqi_maps maps = { 0 };
    fq_err e;
    const fqi_layout interleave = { .kind = FQ_LAYOUT_INTERLEAVE, .group = 1, .ranks = 1 }, spread = { .kind = FQ_LAYOUT_SPREAD, .group = 1, .ranks = 1 };
    fq_fit fit = { .intermediate_size_pad = (1 << 27) + 1048575 };
    if (fqi_maps_create(&wide, &fit, &interleave, &maps, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_int_equal(maps.stacked[FQI_AX_FF].n_run, 2 * (2 * 1048575 + 1) - 1);   /* where the copies meet, two runs are one */
    fqi_maps_free(&maps);
    fit = (fq_fit){ .num_attention_heads_pad = 1 << 22, .num_key_value_heads_pad = 1 << 20 };
    if (fqi_maps_create(&dense, &fit, &spread, &maps, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_int_equal(maps.map[FQI_AX_Q].n_new, (int64_t)8 << 22);
    fqi_maps_free(&maps);
}

static void an_experts_width_under_its_own_key(void **state)
{
    (void)state;
    static const struct { const fq_model *m; int64_t ff, moe, want_ff, want_moe; } t[] = {
        { &mixture, 64, 0, 0, 64 },
        { &mixture, 64, 64, 0, 64 },
        { &mixture, 64, 96, 64, 96 },   /* two wishes: kept, and refused below */
        { &mixture, 0, 96, 0, 96 },
        { &mixture, 0, 0, 0, 0 },
        { &dense, 64, 0, 64, 0 },
        { &experts, 64, 0, 64, 0 },
        { &stranger, 64, 0, 64, 0 },
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        fq_fit fit = { .intermediate_size_pad = t[i].ff, .moe_intermediate_size_pad = t[i].moe };
        fqi_fit_normalize(t[i].m, &fit);
        assert_int_equal(fit.intermediate_size_pad, t[i].want_ff);
        assert_int_equal(fit.moe_intermediate_size_pad, t[i].want_moe);
    }
    fqi_maps maps = { 0 };
    fq_err e = { 0 };
    const fqi_layout tail = { .kind = FQ_LAYOUT_TAIL, .group = 1, .ranks = 1 };
    fq_fit fit = { .intermediate_size_pad = 64, .moe_intermediate_size_pad = 96 };
    fqi_fit_normalize(&mixture, &fit);
    assert_int_equal(fqi_maps_create(&mixture, &fit, &tail, &maps, &e), FQ_E_USAGE);
    assert_non_null(strstr(e.text, "found a length 64 for intermediate_size"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_stay_whole), cmocka_unit_test(what_is_refused_names_the_axis), cmocka_unit_test(what_is_just_allowed), cmocka_unit_test(an_experts_width_under_its_own_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
