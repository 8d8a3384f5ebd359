/* quant_order.c - fitq.order: in which order MLP channels were stored, for whoever needs the way back (adapters, comparisons).
 *
 * A safetensors file (the name keeps loaders away from it): for every MLP an I32 tensor "<down_proj>.channels" of [intermediate_size_pad], the
 * source channel of each slot or -1. Written a layer at a time, durable before the journal records the layer. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/fs.h"
#include "job/quantize_private.h"

static bool is_down(const fqi_module *m) { return m->input == FQI_TAP_DOWN || m->input == FQI_TAP_EXPERT_DOWN || m->input == FQI_TAP_SHARED_DOWN; }

static void put_header(const fqi_quantize *q, fqi_str *s)
{
    uint64_t at = 0;
    fqi_str text = { 0 };
    for (size_t i = 0; i < q->modules.n; i++) {
        const fqi_module *m = &q->modules.at[i];
        if (!is_down(m)) continue;
        fqi_str_printf(&text, "%s\"%s.channels\":{\"dtype\":\"I32\",\"shape\":[%" PRId64 "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at ? "," : "{", m->name, m->cols_pad, at, at + 4 * (uint64_t)m->cols_pad);
        at += 4 * (uint64_t)m->cols_pad;
    }
    fqi_str_puts(&text, at ? "}" : "{}");
    while (text.len % 8 != 0 && !text.failed) fqi_str_puts(&text, " ");
    uint64_t n = text.len;
    unsigned char le[8];
    for (int i = 0; i < 8; i++) le[i] = (unsigned char)(n >> (8 * i));
    fqi_str_add(s, (const char *)le, sizeof le);
    if (!text.failed) fqi_str_add(s, text.s, text.len);
    s->failed = s->failed || text.failed;
    fqi_str_free(&text);
}

/* Where the channels of module `module` begin, behind a header of `header` bytes. */
static uint64_t place_of(const fqi_quantize *q, size_t module, uint64_t header)
{
    for (size_t i = 0; i < module; i++) header += is_down(&q->modules.at[i]) ? 4 * (uint64_t)q->modules.at[i].cols_pad : 0;
    return header;
}

static void put_channels(const fqi_module *m, const fqi_map *map, fqi_str *s)
{
    int32_t one = 0;
    if (!map || map->n_run == 0)
        for (; one < m->cols_pad; one++) fqi_str_add(s, (const char *)&one, sizeof one);
    for (size_t r = 0; map && r < map->n_run; r++)
        for (int64_t i = 0; i < map->run[r].count; i++) {
            one = map->run[r].src < 0 ? -1 : (int32_t)(map->run[r].src + i);
            fqi_str_add(s, (const char *)&one, sizeof one);
        }
}

fq_status fqi_quant_order_write(const fqi_quantize *q, const char *dir, const fqi_layer_codes *c, int64_t layer, fq_err *e)
{
    if (!q->settings.fold) return FQ_OK;
    const size_t first = q->modules.first_of_layer[layer];
    fqi_str s = { 0 };
    put_header(q, &s);
    const uint64_t begin = place_of(q, first, s.len);
    if (layer > 0) s.len = 0;
    for (size_t i = 0; i < c->n; i++) {
        const fqi_module *m = &q->modules.at[first + i];
        if (is_down(m)) put_channels(m, c->mlp_of[i] != SIZE_MAX && c->mlp[c->mlp_of[i]].n_run > 0 ? &c->mlp[c->mlp_of[i]] : m->col_map, &s);
    }
    char *path = fqi_path_join(dir, FQI_ORDER_FILE);
    fqi_writer w = { 0 };
    fq_status st = s.failed || !path ? fqi_fail_nomem(e, FQI_ORDER_FILE) : FQ_OK;
    if (st == FQ_OK && layer == 0) st = fqi_remove_tree(path, e);
    if (st == FQ_OK) st = fqi_writer_open(&w, path, 0, layer == 0 ? 0 : begin, FQ_IO_BUFFERED, e);
    const bool open = st == FQ_OK;
    if (st == FQ_OK) st = fqi_writer_put(&w, s.s, s.len, e);
    if (st == FQ_OK) st = fqi_writer_close(&w, e);
    else if (open) fqi_writer_abandon(&w);
    fqi_str_free(&s);
    free(path);
    return st;
}

/* The whole header, then the layer's channels. */
static fq_status hash_file(const char *path, const fqi_str *header, uint64_t begin, uint64_t end, uint64_t *hash, fq_err *e)
{
    const size_t n = header->len + (size_t)(end - begin);
    fqi_file f = FQI_FILE_NONE;
    char *bytes = malloc(n + 1);
    fq_status s = bytes ? fqi_file_open(&f, path, FQ_IO_BUFFERED, e) : fqi_fail_nomem(e, FQI_ORDER_FILE);
    const bool whole = s == FQ_OK && f.bytes >= end;
    if (whole) s = fqi_file_read(&f, bytes, header->len, 0, e);
    if (whole && s == FQ_OK) s = fqi_file_read(&f, bytes + header->len, n - header->len, begin, e);
    if (whole && s == FQ_OK && memcmp(bytes, header->s, header->len) == 0) *hash = XXH3_64bits(bytes, n);
    fqi_file_close(&f);
    free(bytes);
    return s;
}

fq_status fqi_quant_order_hash(const fqi_quantize *q, const char *dir, int64_t layer, uint64_t *hash, fq_err *e)
{
    const int64_t n_layer = q->decoder.model.num_hidden_layers;
    *hash = 0;
    if (!q->settings.fold) return FQ_OK;
    fqi_str header = { 0 };
    put_header(q, &header);
    char *path = fqi_path_join(dir, FQI_ORDER_FILE);
    fq_status s = header.failed || !path ? fqi_fail_nomem(e, FQI_ORDER_FILE) : FQ_OK;
    const size_t first = layer >= 0 && layer < n_layer ? q->modules.first_of_layer[layer] : q->modules.first_of_layer[n_layer];
    const size_t end = layer >= 0 && layer < n_layer ? q->modules.first_of_layer[layer + 1] : q->modules.n;
    if (s == FQ_OK && fqi_path_exists(path)) s = hash_file(path, &header, place_of(q, first, header.len), place_of(q, end, header.len), hash, e);
    fqi_str_free(&header);
    free(path);
    return s;
}
