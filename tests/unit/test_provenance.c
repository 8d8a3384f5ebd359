/* test_provenance.c - fitq.json is written, read back equal, and refused when it is damaged; names go from one prefix to another. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "checkpoint/catalogue.h"
#include "job/provenance.h"
#include "make_ckpt.h"
#include "seal.h"

static char *write_sample(const char *dir)
{
    fq_err e;
    fqi_maps maps = { 0 };
    fq_model m = { .family = "qwen2", .intermediate_size = 7, .num_attention_heads = 2, .num_key_value_heads = 1, .head_dim = 4, .hidden_size = 8, .vocab_size = 9 };
    fq_fit fit = { .intermediate_size_pad = 10, .num_attention_heads_pad = 3, .num_key_value_heads_pad = 1 };
    fqi_layout layout = { .kind = FQ_LAYOUT_SPREAD, .group = 2, .ranks = 1 };
    if (fqi_maps_create(&m, &fit, &layout, &maps, &e) != FQ_OK) fail_msg("%s", e.text);
    fqi_naming from = { .wrapper = "module.", .body_prefix = "model." }, to = { .body_prefix = "model." };
    static const char *const added[] = { "b.zero", "a.zero" };
    fqi_prov_tensor t[] = { { "z", { 1, 2 }, 0, FQ_DTYPE_BF16 }, { "a", { UINT64_MAX, 3 }, 0, FQ_DTYPE_F32 } };
    fqi_shard shard = { .name = "model.safetensors", .bytes = 77, .header_hash = 5 };
    fqi_prov_write w = {
        .layout = "spread", .group_size = 2, .model = &m, .fit = &fit, .maps = &maps, .from = &from, .to = &to,
        .added = added, .n_added = 2, .shard = &shard, .n_shard = 1,
        .config_source = "{\"a\": 1e-06}\n", .config_target = "{}", .tensor = t, .n_tensor = 2,
    };
    char *text;
    size_t n;
    if (fqi_prov_print(&w, &text, &n, &e) != FQ_OK) fail_msg("%s", e.text);
    fqt_write(dir, FQI_PROV_FILE, text, n);
    fqi_maps_free(&maps);
    return text;
}

static void test_round_trip(void **state)
{
    (void)state;
    char *dir = fqt_tempdir(), *text = write_sample(dir);
    fqi_prov p;
    fq_err e;
    if (fqi_prov_load(dir, &p, &e) != FQ_OK) fail_msg("%s", e.text);
    assert_string_equal(p.layout, "spread");
    assert_int_equal(p.group_size, 2);
    assert_string_equal(p.from.wrapper, "module.");
    assert_string_equal(p.to.wrapper, "");
    assert_string_equal(p.config_source, "{\"a\": 1e-06}\n");
    assert_int_equal(p.maps.map[FQI_AX_FF].n_new, 10);
    assert_int_equal(p.maps.stacked[FQI_AX_FF].n_new, 20);
    assert_int_equal(p.maps.map[FQI_AX_Q].n_new, 12);
    assert_true(fqi_prov_is_added(&p, "a.zero") && fqi_prov_is_added(&p, "b.zero") && !fqi_prov_is_added(&p, "a"));
    assert_int_equal(fqi_prov_find(&p, "a")->source_hash.hi, UINT64_MAX);
    assert_int_equal(fqi_prov_find(&p, "z")->source_hash.lo, 2);
    assert_null(fqi_prov_find(&p, "b"));
    fqi_prov_free(&p);
    fqt_remove(dir);
    free(text);
    free(dir);
}

/* Any value changed without the checksum is refused, too. */
static void test_seal(void **state)
{
    (void)state;
    char *dir = fqt_tempdir(), *text = write_sample(dir), *at = strstr(text, "1e-06");
    fqi_prov p;
    fq_err e;
    at[4] = '7';
    fqt_write(dir, FQI_PROV_FILE, text, strlen(text));
    assert_int_equal(fqi_prov_load(dir, &p, &e), FQ_E_INPUT);
    assert_non_null(strstr(e.text, "record_xxh3"));
    text = fqt_seal(text);
    fqt_write(dir, FQI_PROV_FILE, text, strlen(text));
    assert_int_equal(fqi_prov_load(dir, &p, &e), FQ_OK);
    fqi_prov_free(&p);
    fqt_remove(dir);
    free(text);
    free(dir);
}

/* One replacement in a good file; the reader must refuse each. */
static void test_damage(void **state)
{
    (void)state;
    static const struct { const char *from, *to; } damage[] = {
        { "\"schema\": 1", "\"schema\": 2" },
        { "\"schema\": 1", "\"schema\": \"1\"" },
        { "\"operation\": \"pad\"", "\"operation\": \"cut\"" },
        { "\"layout\": \"spread\"", "\"layout\": 3" },
        { "\"layout\": \"spread\"", "\"layout\": \"a name that is far too long\"" },
        { "\"old\": 7", "\"old\": 8" },
        { "\"old\": 7", "\"old\": -7" },
        { "\"new\": 10", "\"new\": 9223372036854775807" },
        { "\"runs\": \"", "\"runs\": \"x" },
        { "\"intermediate_size\": {", "\"other_size\": {" },
        { "\"wrapper\": \"module.\"", "\"wrapper\": 1" },
        { "\"added\": [", "\"added\": [7, " },
        { "\"ffffffff", "\"fffffffg" },
        { "\"ffffffff", "\"fffffff" },
        { "\"name\": \"model.safetensors\"", "\"name\": \"../model.safetensors\"" },
        { "\"source_shards\": [", "\"other_shards\": [" },
        { "\"config_xxh3\": \"", "\"config_xxh3\": \"0" },
        { "\"config_source\": ", "\"config_sauce\": " },
        { "\"tensors\": {", "\"tensor\": {" },
        { "\"BF16\"", "\"BF17\"" },
        { "\"fitq\"", "\"schema\"" },   /* duplicate key */
    };
    char *dir = fqt_tempdir(), *text = write_sample(dir);
    for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        char *at = strstr(text, damage[i].from);
        if (!at) fail_msg("no %s in the sample", damage[i].from);
        size_t before = (size_t)(at - text), n_to = strlen(damage[i].to), n_from = strlen(damage[i].from);
        char *bad = malloc(strlen(text) + n_to + 1);
        memcpy(bad, text, before);
        memcpy(bad + before, damage[i].to, n_to);
        memcpy(bad + before + n_to, at + n_from, strlen(at + n_from) + 1);
        bad = fqt_seal(bad);
        fqt_write(dir, FQI_PROV_FILE, bad, strlen(bad));
        fqi_prov p;
        fq_err e;
        if (fqi_prov_load(dir, &p, &e) != FQ_E_INPUT) fail_msg("accepted with %s", damage[i].to);
        free(bad);
    }
    fqt_remove(dir);
    fqi_prov p;
    fq_err e;
    assert_int_equal(fqi_prov_load(dir, &p, &e), FQ_E_INPUT);   /* missing */
    assert_string_equal(e.rule, "fitq-json");
    free(text);
    free(dir);
}

static void test_rename(void **state)
{
    (void)state;
    static const fqi_row layer = { .scope = FQI_LAYER }, head = { .scope = FQI_HEAD };
    static const struct { fqi_naming from, to; const fqi_row *row; const char *name, *want; } t[] = {
        { { .body_prefix = "model." }, { .body_prefix = "model." }, &layer, "model.layers.0.x", "model.layers.0.x" },
        { { .wrapper = "module.", .body_prefix = "model." }, { .body_prefix = "model." }, &layer, "module.model.layers.0.x", "model.layers.0.x" },
        { { .wrapper = "module.", .body_prefix = "model." }, { .body_prefix = "model." }, &head, "module.lm_head.weight", "lm_head.weight" },
        { { .wrapper = "module.", .body_prefix = "model." }, { .body_prefix = "model." }, NULL, "module.visual.patch", "visual.patch" },
        { { .body_prefix = "" }, { .body_prefix = "model." }, &layer, "layers.0.x", "model.layers.0.x" },
        { { .body_prefix = "" }, { .body_prefix = "model." }, NULL, "visual.patch", "visual.patch" },
        { { .body_prefix = "" }, { .body_prefix = "model." }, NULL, "layers.0.rotary_emb.inv_freq", "model.layers.0.rotary_emb.inv_freq" },
        { { .body_prefix = "model.model.", .head_prefix = "model." }, { .body_prefix = "model." }, &head, "model.lm_head.weight", "lm_head.weight" },
        { { .body_prefix = "model." }, { .body_prefix = "model.language_model." }, NULL, "visual.blocks.0.w", "model.visual.blocks.0.w" },
        { { .body_prefix = "model.language_model." }, { .body_prefix = "model." }, NULL, "model.visual.merger.w", "visual.merger.w" },
        { { .body_prefix = "model." }, { .body_prefix = "model." }, NULL, "visual.blocks.0.w", "visual.blocks.0.w" },
        { { .body_prefix = "model." }, { .body_prefix = "model.language_model." }, &layer, "model.norm.weight", "model.language_model.norm.weight" },
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        char out[256], back[256];
        fqi_bound b = { .row = t[i].row };
        assert_true(fqi_rename(&t[i].from, &t[i].to, &b, t[i].name, out, sizeof out));
        assert_string_equal(out, t[i].want);
        if (t[i].from.wrapper[0]) continue;
        assert_true(fqi_rename(&t[i].to, &t[i].from, &b, out, back, sizeof back));
        assert_string_equal(back, t[i].name);
    }
    char small[8];
    fqi_bound b = { .row = &layer };
    assert_false(fqi_rename(&t[0].from, &t[0].to, &b, "model.layers.0.x", small, sizeof small));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_round_trip), cmocka_unit_test(test_seal), cmocka_unit_test(test_damage), cmocka_unit_test(test_rename) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
