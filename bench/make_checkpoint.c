/* make_checkpoint.c - writes checkpoints that are as large as real ones, for measuring.
 *
 *     make_checkpoint OUT --size 8GB                   Qwen2-72B shapes, as many layers as reach the size
 *     make_checkpoint OUT --layers 2 --family qwen3_moe  Qwen3-235B-A22B shapes
 *     make_checkpoint OUT --layers 24 --family qwen2_0.5b   Qwen2-0.5B shapes, tied head
 *     make_checkpoint OUT --size 8GB --family qwen2_gptq    Qwen2-72B in GPTQ: 4 bits, groups of 128, width 29568
 *     make_checkpoint OUT --size 8GB --family qwen3_moe_fp8   Qwen3-235B-A22B-FP8: blocks of 128 x 128
 *     make_checkpoint FILE --header-bomb names         one legal 100 MB header with 1.77 million empty tensors
 *     make_checkpoint FILE --header-bomb dims          one legal 100 MB header with one shape of 49.9 million zeros
 *
 * Names, shapes and order are those of the public checkpoints; the values are pseudo-random (bf16 between 2^-15 and 2^-7 in
 * magnitude, any code, scales that are powers of two, groups in their natural order), a function of (tensor, position) only, so two runs write the same bytes. Data goes past the page cache where
 * the file system can: the first touch of a page costs more than writing it, and the caches stay as they were for the
 * measurement that follows. Not a test fixture: real models come with the examples. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK ((size_t)8 << 20)
#define ALIGN 4096u

static _Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "make_checkpoint: ");
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

static void *need(void *p)
{
    if (!p) die("out of memory");
    return p;
}

/* ---- the model ------------------------------------------------------------------------------------------------ */

/* What a tensor holds: dtype, bytes of an element, and how eight bytes of it are made of random ones: (random & mask) | bits. */
typedef enum kind { BF16, CODES, ZEROS, SCALES, ORDER, E4M3, SCALES_F32 } kind;
static const struct { const char *dtype; unsigned bytes; uint64_t mask, bits; } kinds[] = {
    [BF16] = { "BF16", 2, 0x83FF83FF83FF83FFu, 0x3800380038003800u },         /* any sign and mantissa, exponent 2^-15 .. 2^-8 */
    [CODES] = { "I32", 4, ~UINT64_C(0), 0 },
    [ZEROS] = { "I32", 4, 0, 0x7777777777777777u },                           /* symmetric, stored minus 1 */
    [SCALES] = { "F16", 2, 0x0C000C000C000C00u, 0x1000100010001000u },        /* 2^-11, 2^-10, 2^-9, 2^-8 */
    [ORDER] = { "I32", 4, 0, 0 },
    [E4M3] = { "F8_E4M3", 1, 0xBFBFBFBFBFBFBFBFu, 0 },                        /* below 2: no NaN */
    [SCALES_F32] = { "F32", 4, 0x0180000001800000u, 0x3A0000003A000000u },
};
#define GROUP 128

typedef struct tensor { char name[96]; kind kind; int64_t rows, cols; /* cols 0 = a vector */ } tensor;
typedef struct table { tensor *t; size_t n, cap; } table;

/* Lengths: Qwen/Qwen2-72B, Qwen/Qwen3-235B-A22B and Qwen/Qwen2-0.5B config.json. Those of codes have a small vocabulary and the last shape is nobody's, so
 * that nearly all of the file is layers. */
typedef enum packing { DENSE, GPTQ, FP8 } packing;
typedef struct family {
    const char *name, *type, *arch;
    int64_t hidden, ff, ff_moe, experts, top_k, heads, kv, head_dim, vocab;
    bool tied;
    packing packing;
} family;
static const family families[] = {
    { "qwen2", "qwen2", "Qwen2ForCausalLM", 8192, 29568, 0, 0, 0, 64, 8, 128, 152064, false, DENSE },
    { "qwen3_moe", "qwen3_moe", "Qwen3MoeForCausalLM", 4096, 12288, 1536, 128, 8, 64, 4, 128, 151936, false, DENSE },
    { "qwen2_0.5b", "qwen2", "Qwen2ForCausalLM", 896, 4864, 0, 0, 0, 14, 2, 64, 151936, true, DENSE },
    { "qwen2_gptq", "qwen2", "Qwen2ForCausalLM", 8192, 29568, 0, 0, 0, 64, 8, 128, 16384, false, GPTQ },
    { "qwen3_moe_fp8", "qwen3_moe", "Qwen3MoeForCausalLM", 4096, 12288, 1536, 128, 8, 64, 4, 128, 16384, false, FP8 },
    { "layers", "qwen2", "Qwen2ForCausalLM", 2048, 5632, 0, 0, 0, 16, 4, 128, 32000, false, DENSE },
};
#define N_FAMILY (sizeof families / sizeof *families)

static tensor *grow(table *tab)
{
    if (tab->n == tab->cap) {
        tab->cap = tab->cap ? 2 * tab->cap : 256;
        tab->t = need(realloc(tab->t, tab->cap * sizeof *tab->t));
    }
    return &tab->t[tab->n++];
}

static void add(table *tab, int64_t rows, int64_t cols, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static void add(table *tab, int64_t rows, int64_t cols, const char *fmt, ...)
{
    tensor *t = grow(tab);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(t->name, sizeof t->name, fmt, ap);
    va_end(ap);
    t->kind = BF16;
    t->rows = rows;
    t->cols = cols;
}

static void add_part(table *tab, kind k, int64_t rows, int64_t cols, const char *module, const char *part)
{
    add(tab, rows, cols, "%s.%s", module, part);
    tab->t[tab->n - 1].kind = k;
}

/* A linear layer of n outputs and k inputs, as the family stores it. */
static void add_linear(table *tab, const family *f, int64_t n, int64_t k, const char *module)
{
    if (f->packing == DENSE) {
        add(tab, n, k, "%s.weight", module);
    } else if (f->packing == GPTQ) {
        add_part(tab, ORDER, k, 0, module, "g_idx");
        add_part(tab, CODES, k / 8, n, module, "qweight");
        add_part(tab, ZEROS, k / GROUP, n / 8, module, "qzeros");
        add_part(tab, SCALES, k / GROUP, n, module, "scales");
    } else {
        add_part(tab, E4M3, n, k, module, "weight");
        add_part(tab, SCALES_F32, (n + GROUP - 1) / GROUP, (k + GROUP - 1) / GROUP, module, "weight_scale_inv");
    }
}

static uint64_t tensor_bytes(const tensor *t)
{
    return kinds[t->kind].bytes * (uint64_t)t->rows * (uint64_t)(t->cols ? t->cols : 1);
}

static void add_mlp(table *tab, const family *f, int layer, int expert)
{
    static const char *const part[] = { "down_proj", "gate_proj", "up_proj" };
    int64_t ff = expert < 0 ? f->ff : f->ff_moe;
    for (int i = 0; i < 3; i++) {
        int64_t rows = i == 0 ? f->hidden : ff, cols = i == 0 ? ff : f->hidden;
        char module[80];
        if (expert < 0) snprintf(module, sizeof module, "model.layers.%d.mlp.%s", layer, part[i]);
        else snprintf(module, sizeof module, "model.layers.%d.mlp.experts.%d.%s", layer, expert, part[i]);
        add_linear(tab, f, rows, cols, module);
    }
}

static void add_layer(table *tab, const family *f, int l)
{
    int64_t q = f->heads * f->head_dim, kv = f->kv * f->head_dim;
    add(tab, f->hidden, 0, "model.layers.%d.input_layernorm.weight", l);
    if (f->experts == 0) add_mlp(tab, f, l, -1);
    for (int x = 0; x < f->experts; x++) add_mlp(tab, f, l, x);
    if (f->experts > 0) add(tab, f->experts, f->hidden, "model.layers.%d.mlp.gate.weight", l);
    add(tab, f->hidden, 0, "model.layers.%d.post_attention_layernorm.weight", l);
    if (f->experts > 0) {
        add(tab, f->head_dim, 0, "model.layers.%d.self_attn.k_norm.weight", l);
        add(tab, f->head_dim, 0, "model.layers.%d.self_attn.q_norm.weight", l);
    } else {
        add(tab, kv, 0, "model.layers.%d.self_attn.k_proj.bias", l);
        add(tab, q, 0, "model.layers.%d.self_attn.q_proj.bias", l);
        add(tab, kv, 0, "model.layers.%d.self_attn.v_proj.bias", l);
    }
    const struct { const char *name; int64_t rows, cols; } attention[] = {
        { "k_proj", kv, f->hidden }, { "o_proj", f->hidden, q }, { "q_proj", q, f->hidden }, { "v_proj", kv, f->hidden },
    };
    for (int i = 0; i < 4; i++) {
        char module[80];
        snprintf(module, sizeof module, "model.layers.%d.self_attn.%s", l, attention[i].name);
        add_linear(tab, f, attention[i].rows, attention[i].cols, module);
    }
}

static uint64_t total_bytes(const table *tab)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < tab->n; i++) sum += tensor_bytes(&tab->t[i]);
    return sum;
}

/* Layers until `want` bytes are reached, or exactly `layers` of them. Returns the number. */
static int build(table *tab, const family *f, int layers, uint64_t want)
{
    add(tab, f->vocab, f->hidden, "model.embed_tokens.weight");
    uint64_t rest = (f->tied ? 0 : tensor_bytes(&tab->t[0])) + 2 * (uint64_t)f->hidden;
    int l = 0;
    for (; layers ? l < layers : l == 0 || total_bytes(tab) + rest < want; l++) add_layer(tab, f, l);
    add(tab, f->hidden, 0, "model.norm.weight");
    if (!f->tied) add(tab, f->vocab, f->hidden, "lm_head.weight");
    return l;
}

/* ---- a file written in large aligned blocks ---------------------------------------------------------------------- */

typedef struct sink { int fd; bool direct; char path[4096]; unsigned char *block; size_t fill; uint64_t written; } sink;

static void sink_open(sink *s, const char *dir, const char *name, uint64_t bytes, bool direct)
{
    snprintf(s->path, sizeof s->path, "%s%s%s", dir, *dir ? "/" : "", name);
    s->fill = 0;
    s->written = 0;
    s->direct = direct;
    s->fd = direct ? open(s->path, O_WRONLY | O_CREAT | O_TRUNC | O_DIRECT, 0666) : -1;
    if (s->fd < 0) {
        s->direct = false;
        s->fd = open(s->path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    }
    if (s->fd < 0) die("%s: %s", s->path, strerror(errno));
    int err = posix_fallocate(s->fd, 0, (off_t)bytes);
    if (err == ENOSPC) die("%s: no space for %" PRIu64 " bytes", s->path, bytes);
}

static void sink_flush(sink *s)
{
    size_t n = s->direct ? (s->fill + ALIGN - 1) / ALIGN * ALIGN : s->fill;
    memset(s->block + s->fill, 0, n - s->fill);
    for (size_t done = 0; done < n;) {
        ssize_t k = write(s->fd, s->block + done, n - done);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) die("%s: write: %s", s->path, strerror(errno));
        done += (size_t)k;
    }
    s->written += s->fill;
    s->fill = 0;
}

/* Room for up to `want` bytes in the block; *got of them are taken. */
static unsigned char *sink_room(sink *s, uint64_t want, size_t *got)
{
    if (s->fill == BLOCK) sink_flush(s);
    size_t n = BLOCK - s->fill;
    *got = want < n ? (size_t)want : n;
    unsigned char *p = s->block + s->fill;
    s->fill += *got;
    return p;
}

static void sink_put(sink *s, const void *bytes, size_t n)
{
    const unsigned char *from = bytes;
    while (n > 0) {
        size_t k;
        unsigned char *to = sink_room(s, n, &k);
        memcpy(to, from, k);
        from += k;
        n -= k;
    }
}

static void sink_close(sink *s)
{
    if (s->fill > 0) sink_flush(s);
    if (ftruncate(s->fd, (off_t)s->written) != 0 || fsync(s->fd) != 0 || close(s->fd) != 0)
        die("%s: %s", s->path, strerror(errno));
}

static uint64_t mix(uint64_t x)
{
    x *= 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93u;
    return x ^ (x >> 29);
}

/* Eight bytes at a time; a word may be cut by a block. */
static void fill_random(unsigned char *to, size_t n, uint64_t pos, uint64_t seed, kind what)
{
    for (size_t i = 0; i < n;) {
        uint64_t index = (pos + i) / 8, word = (mix(seed + index) & kinds[what].mask) | kinds[what].bits;
        if (what == ORDER) word = (2 * index / GROUP) | (2 * index + 1) / GROUP << 32;
        size_t at = (pos + i) % 8, k = 8 - at < n - i ? 8 - at : n - i;
        memcpy(to + i, (unsigned char *)&word + at, k);
        i += k;
    }
}

/* ---- safetensors ------------------------------------------------------------------------------------------------- */

static char *make_header(const tensor *t, size_t n, uint64_t *bytes)
{
    size_t cap = 128 + n * 256;
    char *h = need(malloc(cap + 8));
    size_t len = 8 + (size_t)sprintf(h + 8, "{\"__metadata__\":{\"format\":\"pt\"}");
    uint64_t off = 0;
    for (size_t i = 0; i < n; i++) {
        char cols[32] = "";
        if (t[i].cols) snprintf(cols, sizeof cols, ",%" PRId64, t[i].cols);
        uint64_t end = off + tensor_bytes(&t[i]);
        len += (size_t)sprintf(h + len, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%" PRId64 "%s],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
                               t[i].name, kinds[t[i].kind].dtype, t[i].rows, cols, off, end);
        off = end;
    }
    h[len++] = '}';
    while (len % 8) h[len++] = ' ';
    uint64_t text = len - 8;
    for (int i = 0; i < 8; i++) h[i] = (char)(unsigned char)(text >> (8 * i));
    *bytes = len;
    return h;
}

static void write_shard(sink *s, const char *dir, const char *name, const tensor *t, size_t n, uint64_t seed, bool direct)
{
    uint64_t header_bytes, data = 0;
    char *header = make_header(t, n, &header_bytes);
    for (size_t i = 0; i < n; i++) data += tensor_bytes(&t[i]);
    sink_open(s, dir, name, header_bytes + data, direct);
    sink_put(s, header, header_bytes);
    free(header);
    for (size_t i = 0; i < n; i++) {
        uint64_t bytes = tensor_bytes(&t[i]), pos = 0, own = mix(seed + i + 1);
        while (pos < bytes) {
            size_t k;
            unsigned char *to = sink_room(s, bytes - pos, &k);
            fill_random(to, k, pos, own, t[i].kind);
            pos += k;
        }
    }
    sink_close(s);
}

static void write_config(const char *dir, const family *f, int layers)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *o = fopen(path, "w");
    if (!o) die("%s: %s", path, strerror(errno));
    fprintf(o, "{\n  \"architectures\": [\n    \"%s\"\n  ],\n", f->arch);
    if (f->experts)
        fprintf(o, "  \"decoder_sparse_step\": 1,\n  \"head_dim\": %" PRId64 ",\n", f->head_dim);
    fprintf(o, "  \"hidden_act\": \"silu\",\n  \"hidden_size\": %" PRId64 ",\n  \"initializer_range\": 0.02,\n"
               "  \"intermediate_size\": %" PRId64 ",\n  \"max_position_embeddings\": 32768,\n", f->hidden, f->ff);
    if (f->experts)
        fprintf(o, "  \"mlp_only_layers\": [],\n");
    fprintf(o, "  \"model_type\": \"%s\",\n", f->type);
    if (f->experts)
        fprintf(o, "  \"moe_intermediate_size\": %" PRId64 ",\n  \"norm_topk_prob\": true,\n", f->ff_moe);
    fprintf(o, "  \"num_attention_heads\": %" PRId64 ",\n", f->heads);
    if (f->experts)
        fprintf(o, "  \"num_experts\": %" PRId64 ",\n  \"num_experts_per_tok\": %" PRId64 ",\n", f->experts, f->top_k);
    if (f->packing == GPTQ)
        fprintf(o, "  \"quantization_config\": {\"bits\": 4, \"group_size\": %d, \"desc_act\": false, \"sym\": true, \"quant_method\": \"gptq\"},\n", GROUP);
    if (f->packing == FP8)
        fprintf(o, "  \"quantization_config\": {\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\", \"quant_method\": \"fp8\", \"weight_block_size\": [%d, %d]},\n", GROUP, GROUP);
    fprintf(o, "  \"num_hidden_layers\": %d,\n  \"num_key_value_heads\": %" PRId64 ",\n  \"rms_norm_eps\": 1e-06,\n"
               "  \"rope_theta\": 1000000.0,\n  \"tie_word_embeddings\": %s,\n  \"torch_dtype\": \"bfloat16\",\n"
               "  \"use_cache\": true,\n  \"use_sliding_window\": false,\n  \"vocab_size\": %" PRId64 "\n}\n",
            layers, f->kv, f->tied ? "true" : "false", f->vocab);
    if (fclose(o) != 0) die("%s: %s", path, strerror(errno));
}

static void write_model(const char *dir, const family *f, int layers, const table *tab, uint64_t shard_bytes, bool direct)
{
    if (mkdir(dir, 0777) != 0) die("%s: %s", dir, strerror(errno));
    size_t *first = need(calloc(tab->n + 1, sizeof *first)), n_shard = 0;
    uint64_t fill = 0;
    for (size_t i = 0; i < tab->n; i++) {
        uint64_t b = tensor_bytes(&tab->t[i]);
        if (i == 0 || fill + b > shard_bytes) {
            first[n_shard++] = i;
            fill = 0;
        }
        fill += b;
    }
    first[n_shard] = tab->n;
    char path[4096];
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    FILE *index = fopen(path, "w");
    if (!index) die("%s: %s", path, strerror(errno));
    fprintf(index, "{\n  \"metadata\": {\n    \"total_size\": %" PRIu64 "\n  },\n  \"weight_map\": {\n", total_bytes(tab));
    sink s = { .block = need(aligned_alloc(ALIGN, BLOCK)) };
    for (size_t k = 0; k < n_shard; k++) {
        char name[64];
        snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", k + 1, n_shard);
        write_shard(&s, dir, name, tab->t + first[k], first[k + 1] - first[k], first[k], direct);
        for (size_t i = first[k]; i < first[k + 1]; i++)
            fprintf(index, "    \"%s\": \"%s\"%s\n", tab->t[i].name, name, i + 1 < tab->n ? "," : "");
        fprintf(stderr, "%s %" PRIu64 " bytes\n", name, s.written);
    }
    fprintf(index, "  }\n}\n");
    if (fclose(index) != 0) die("%s: %s", path, strerror(errno));
    write_config(dir, f, layers);
    free(s.block);
    free(first);
}

/* ---- header bombs ------------------------------------------------------------------------------------------------ */

#define MAX_HEADER 100000000u   /* the format's own limit */

static void write_bomb(const char *path, bool names, bool direct)
{
    char *h = need(malloc(MAX_HEADER + 8));
    size_t len = 8, n = 0;
    if (names) {
        static const char digit[] = "0123456789abcdefghijklmnopqrstuvwxyz";
        for (h[len++] = '{'; len + 80 < MAX_HEADER + 8; n++) {
            char name[8];
            int k = 0;
            for (size_t v = n; k == 0 || v > 0; v /= 36) name[k++] = digit[v % 36];
            len += (size_t)sprintf(h + len, "%s\"%.*s\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", n ? "," : "", k, name);
        }
        h[len++] = '}';
    } else {
        len += (size_t)sprintf(h + len, "{\"t\":{\"dtype\":\"U8\",\"shape\":[0");
        for (; len + 64 < MAX_HEADER + 8; n++) len += (size_t)sprintf(h + len, ",0");
        len += (size_t)sprintf(h + len, "],\"data_offsets\":[0,0]}}");
    }
    memset(h + len, ' ', MAX_HEADER + 8 - len);
    uint64_t text = MAX_HEADER;
    for (int i = 0; i < 8; i++) h[i] = (char)(unsigned char)(text >> (8 * i));
    sink s = { .block = need(aligned_alloc(ALIGN, BLOCK)) };
    sink_open(&s, "", path, MAX_HEADER + 8, direct);
    sink_put(&s, h, MAX_HEADER + 8);
    sink_close(&s);
    fprintf(stderr, "%s: %zu %s\n", path, n, names ? "tensors" : "dimensions");
    free(s.block);
    free(h);
}

/* ---- command line ------------------------------------------------------------------------------------------------ */

static uint64_t parse_bytes(const char *s)
{
    static const struct { const char *unit; uint64_t k; } unit[] = {
        { "", 1 }, { "MB", 1000000 }, { "GB", 1000000000 }, { "MiB", 1u << 20 }, { "GiB", 1u << 30 },
    };
    char *end;
    uint64_t v = strtoull(s, &end, 10);
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++)
        if (end != s && strcmp(end, unit[i].unit) == 0) return v * unit[i].k;
    die("bad size %s (8GB, 512MiB, ...)", s);
}

int main(int argc, char **argv)
{
    static const struct option opt[] = { { "size", 1, 0, 's' }, { "layers", 1, 0, 'l' }, { "family", 1, 0, 'f' },
        { "shard-size", 1, 0, 'h' }, { "header-bomb", 1, 0, 'b' }, { "buffered", 0, 0, 'u' }, { 0 } };
    uint64_t size = 0, shard = 4000000000u;
    int layers = 0, c;
    const char *bomb = NULL;
    const family *f = &families[0];
    bool direct = true;
    while ((c = getopt_long(argc, argv, "", opt, NULL)) != -1) switch (c) {
        case 's': size = parse_bytes(optarg); break;
        case 'h': shard = parse_bytes(optarg); break;
        case 'l': layers = atoi(optarg); break;
        case 'b': bomb = optarg; break;
        case 'u': direct = false; break;
        case 'f':
            for (f = families; f < families + N_FAMILY && strcmp(f->name, optarg) != 0; f++) {}
            if (f == families + N_FAMILY) die("unknown family %s (qwen2, qwen3_moe, qwen2_0.5b, qwen2_gptq, qwen3_moe_fp8, layers)", optarg);
            break;
        default: return 2;
        }
    if (optind != argc - 1 || (!bomb && !size && layers < 1)) {
        fprintf(stderr, "usage: make_checkpoint OUT (--size 8GB | --layers N) [--family qwen2|qwen3_moe|qwen2_0.5b|qwen2_gptq|qwen3_moe_fp8|layers] [--shard-size 4GB] [--buffered]\n"
                        "       make_checkpoint FILE --header-bomb names|dims\n");
        return 2;
    }
    if (bomb) {
        write_bomb(argv[optind], strcmp(bomb, "names") == 0, direct);
        return 0;
    }
    table tab = { 0 };
    layers = build(&tab, f, layers, size);
    write_model(argv[optind], f, layers, &tab, shard, direct);
    fprintf(stderr, "%s: %s, %d layers, %zu tensors, %" PRIu64 " bytes\n", argv[optind], f->name, layers, tab.n, total_bytes(&tab));
    free(tab.t);
    return 0;
}
