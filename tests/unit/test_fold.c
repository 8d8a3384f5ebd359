/* test_fold.c - the order of MLP channels: what fitq.order may say, and that it leads there and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "job/fold.h"
#include "make_quantized.h"
#include "support.h"

#define GROUP 8
#define N 32            /* channels of the fitted model */
#define NAME "layers.0.mlp.down_proj.channels"

static const fqt_model model = { .family = "llama", .hidden = 16, .ff = N, .layers = 1, .heads = 2, .kv = 1, .head_dim = 8, .vocab = 32, .seed = 5 };

static fq_ckpt *open_model(void)
{
    const fqt_quant q = { .format = FQT_GPTQ_V1, .bits = 4, .group = GROUP, .order = FQT_ORDER_PLAIN };
    fq_ckpt *c;
    fq_err e;
    char *dir = fqt_join(fqt_dir, "model");
    fqt_make_quantized(dir, NULL, &model, &q);
    if (fq_ckpt_open(dir, NULL, &c, &e) != FQ_OK) fail_msg("%s", e.text);
    free(dir);
    return c;
}

/* Writes the file; its hash. */
static uint64_t write_file(const fq_ckpt *c, const void *bytes, size_t n)
{
    fqt_write(c->info.path, "fitq.order", bytes, n);
    return XXH3_64bits(bytes, n);
}

static uint64_t write_channels(const fq_ckpt *c, const char *header, const int32_t *channel, size_t n)
{
    unsigned char all[4096] = { 0 };
    const uint64_t length = strlen(header);
    assert_true(8 + length + 4 * n <= sizeof all);
    memcpy(all, &length, sizeof length);
    memcpy(all + 8, header, length);
    memcpy(all + 8 + length, channel, 4 * n);
    return write_file(c, all, 8 + length + 4 * n);
}

#define HEADER(name, type, n, bytes) "{\"" name "\":{\"dtype\":\"" type "\",\"shape\":[" n "],\"data_offsets\":[0," bytes "]}}"
static const char good_header[] = HEADER(NAME, "I32", "32", "128");

/* What opening says of it, and then asking for the channels. */
static fq_status ask(const fq_ckpt *c, uint64_t hash, const fqi_map *map, int32_t **channel, int64_t *n, fq_err *e)
{
    fqi_fold f = { 0 };
    *channel = NULL;
    fq_status s = fqi_fold_open(c, hash, &f, e);
    if (s == FQ_OK) s = fqi_fold_channels(&f, &f.mlp[0], map, NULL, channel, n, e);
    fqi_fold_free(&f);
    return s;
}

static void expect_refusal(const char *what, const fq_ckpt *c, uint64_t hash, const fqi_map *map)
{
    int32_t *channel;
    int64_t n;
    fq_err e;
    if (ask(c, hash, map, &channel, &n, &e) != FQ_E_INPUT) fail_msg("%s: accepted", what);
    assert_null(channel);
}

static void headers(void **state)
{
    (void)state;
    fq_ckpt *c = open_model();
    int32_t channel[2 * N];
    for (int i = 0; i < 2 * N; i++) channel[i] = i % N;
    static const struct { const char *what, *header; size_t n; } bad[] = {
        { "another MLP", HEADER("layers.1.mlp.down_proj.channels", "I32", "32", "128"), N },
        { "another module", HEADER("layers.0.mlp.up_proj.channels", "I32", "32", "128"), N },
        { "other channels", HEADER(NAME, "I32", "16", "64"), 16 },
        { "another type", HEADER(NAME, "F32", "32", "128"), N },
        { "a matrix", HEADER(NAME, "I32", "1,32", "128"), N },
        { "more bytes than shape", HEADER(NAME, "I32", "32", "256"), 2 * N },
        { "more than there is", HEADER(NAME, "I32", "32", "128"), N - 1 },
        { "no JSON", "{\"a\":", N },
        { "two", "{\"" NAME "\":{\"dtype\":\"I32\",\"shape\":[32],\"data_offsets\":[0,128]},\"x\":{\"dtype\":\"I32\",\"shape\":[32],\"data_offsets\":[128,256]}}", 2 * N },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) expect_refusal(bad[i].what, c, write_channels(c, bad[i].header, channel, bad[i].n), NULL);
    expect_refusal("nothing", c, write_file(c, "", 0), NULL);
    expect_refusal("seven bytes", c, write_file(c, "1234567", 7), NULL);
    expect_refusal("a header of 2^64", c, write_file(c, "\377\377\377\377\377\377\377\377{}", 10), NULL);
    expect_refusal("another hash", c, write_channels(c, good_header, channel, N) + 1, NULL);
    fq_ckpt_close(c);
}

static void channels(void **state)
{
    (void)state;
    fq_ckpt *c = open_model();
    static const struct { const char *what; int at; int32_t value; } bad[] = {
        { "a channel twice", 3, 4 }, { "a channel too far", 31, 32 }, { "far below 0", 0, -2 }, { "an empty place", 7, -1 }, { "the largest", 9, INT32_MAX }, { "the least", 9, INT32_MIN },
    };
    int32_t channel[N], *back;
    int64_t n;
    fq_err e;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        for (int k = 0; k < N; k++) channel[k] = k;
        channel[bad[i].at] = bad[i].value;
        expect_refusal(bad[i].what, c, write_channels(c, good_header, channel, N), NULL);
    }
    /* 24 channels in groups of 8, dealt with zeros behind each 6: slots of two orders */
    fqi_map map;
    assert_int_equal(fqi_map_spread(&map, 24, N, 4, &e), FQ_OK);
    static const int32_t order[24] = { 5, 7, 1, 0, 23, 22, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21 };
    int32_t slot[N];
    for (int s = 0; s < N; s++) slot[s] = s % 8 < 6 ? order[s / 8 * 6 + s % 8] : -1;
    const uint64_t hash = write_channels(c, good_header, slot, N);
    assert_int_equal(ask(c, hash, &map, &back, &n, &e), FQ_OK);
    assert_int_equal(n, 24);
    for (int s = 0; s < N; s++)
        if (slot[s] >= 0) assert_int_equal(back[slot[s]], s);
    free(back);
    uint32_t *g;
    fqi_fold f = { 0 };
    assert_int_equal(fqi_fold_open(c, hash, &f, &e), FQ_OK);
    assert_int_equal(fqi_fold_order(&f, &f.mlp[0], &map, GROUP, &g, &n, &e), FQ_OK);
    for (uint32_t p = 0; p < 24; p++) assert_int_equal(g[order[p]], p / GROUP);
    free(g);
    fqi_fold_free(&f);
    expect_refusal("empty places without a map", c, hash, NULL);
    slot[6] = slot[5];
    slot[5] = -1;
    expect_refusal("empty places elsewhere", c, write_channels(c, good_header, slot, N), &map);
    fqi_map_free(&map);
    assert_int_equal(fqi_map_tail(&map, 8, 16, &e), FQ_OK);
    expect_refusal("a map of other lengths", c, hash, &map);
    fqi_map_free(&map);
    fq_ckpt_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(headers, fqt_dir_setup, fqt_dir_teardown),
        cmocka_unit_test_setup_teardown(channels, fqt_dir_setup, fqt_dir_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
