/* make_ckpt.c - files, folders and safetensors for tests (see make_ckpt.h); models are in make_model.c. */
#include "make_ckpt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static _Noreturn void die(const char *what, const char *name)
{
    fprintf(stderr, "make_ckpt: %s %s: %s\n", what, name, strerror(errno));
    abort();
}

static void *need(void *p)
{
    if (!p) die("allocate", "memory");
    return p;
}

/* ---- folders and files ---------------------------------------------------------------------------------------- */

char *fqt_tempdir(void)
{
    const char *base = getenv("TMPDIR");
    char path[4096];
    snprintf(path, sizeof path, "%s/fitq-test-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(path)) die("make folder", path);
    return need(strdup(path));
}

char *fqt_join(const char *dir, const char *name)
{
    size_t n = strlen(dir) + strlen(name) + 2;
    char *p = need(malloc(n));
    snprintf(p, n, "%s/%s", dir, name);
    return p;
}

void fqt_remove(const char *dir)
{
    DIR *d = opendir(dir);
    if (!d) {
        if (errno == ENOENT) return;
        die("open folder", dir);
    }
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *path = fqt_join(dir, e->d_name);
        struct stat st;
        if (lstat(path, &st) != 0) die("stat", path);
        if (S_ISDIR(st.st_mode)) fqt_remove(path);
        else if (unlink(path) != 0) die("remove", path);
        free(path);
    }
    closedir(d);
    if (rmdir(dir) != 0) die("remove folder", dir);
}

static FILE *create(const char *dir, const char *name)
{
    char *path = fqt_join(dir, name);
    FILE *f = fopen(path, "wb");
    if (!f) die("create", path);
    free(path);
    return f;
}

static void put(FILE *f, const void *bytes, size_t n)
{
    if (n != 0 && fwrite(bytes, 1, n, f) != n) die("write", "file");
}

void fqt_write(const char *dir, const char *name, const void *bytes, size_t n)
{
    FILE *f = create(dir, name);
    put(f, bytes, n);
    if (fclose(f) != 0) die("close", name);
}

void fqt_write_text(const char *dir, const char *name, const char *text) { fqt_write(dir, name, text, strlen(text)); }

static char *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    struct stat st;
    if (fstat(fileno(f), &st) != 0 || !S_ISREG(st.st_mode)) {
        fclose(f);
        return NULL;
    }
    size_t size = (size_t)st.st_size;
    char *text = need(malloc(size + 1));
    if (fread(text, 1, size, f) != size) die("read", path);
    text[size] = '\0';
    fclose(f);
    *n = size;
    return text;
}

char *fqt_read(const char *dir, const char *name, size_t *n)
{
    char *path = fqt_join(dir, name);
    char *text = slurp(path, n);
    free(path);
    return text;
}

void fqt_copy(const char *from, const char *dir, const char *name)
{
    size_t n;
    char *bytes = slurp(from, &n);
    if (!bytes) die("read", from);
    fqt_write(dir, name, bytes, n);
    free(bytes);
}

/* Every entry of a is in b with the same bytes; the caller asks both ways round, bytes need comparing once. */
static bool tree_holds(const char *a, const char *b, bool bytes, char why[512])
{
    DIR *d = opendir(a);
    if (!d) die("open folder", a);
    bool same = true;
    for (struct dirent *e = readdir(d); e && same; e = readdir(d)) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char *pa = fqt_join(a, e->d_name), *pb = fqt_join(b, e->d_name);
        struct stat sa, sb;
        if (stat(pa, &sa) != 0) die("stat", pa);
        if (stat(pb, &sb) != 0 || (sa.st_mode & S_IFMT) != (sb.st_mode & S_IFMT)) {
            snprintf(why, 512, "%.400s: only in one of the folders", e->d_name);
            same = false;
        } else if (S_ISDIR(sa.st_mode)) {
            same = tree_holds(pa, pb, bytes, why);
        } else if (bytes) {
            size_t na = 0, nb = 0;
            char *ta = slurp(pa, &na), *tb = slurp(pb, &nb);
            if (!ta || !tb || na != nb || memcmp(ta, tb, na) != 0) {
                snprintf(why, 512, "%.400s: different bytes", e->d_name);
                same = false;
            }
            free(ta);
            free(tb);
        }
        free(pa);
        free(pb);
    }
    closedir(d);
    return same;
}

bool fqt_same_tree(const char *a, const char *b, char why[512])
{
    why[0] = '\0';
    return tree_holds(a, b, true, why) && tree_holds(b, a, false, why);
}

/* ---- random values ---------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)   /* splitmix64 finalizer: 64 bits that look independent for x, x+1, ... */
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t hash_name(const char *s)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *s; s++) h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return h;
}

static const struct kind { const char *name; unsigned bytes; } kinds[] = {
    { "BF16", 2 }, { "F32", 4 }, { "F16", 2 }, { "I32", 4 }, { "I64", 8 }, { "F64", 8 },
    { "F8_E4M3", 1 }, { "U8", 1 }, { "I8", 1 }, { "BOOL", 1 },
};

static unsigned elem_bytes(const char *dtype)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (!strcmp(kinds[i].name, dtype)) return kinds[i].bytes;
    }
    errno = EINVAL;
    die("unknown dtype", dtype);
}

/* One element, little-endian: magnitudes about 2^-9 .. 2^-3, never zero, never NaN. */
static uint64_t element(const char *dtype, uint64_t r)
{
    uint64_t sign = r >> 63, e = r >> 32 & 7;
    if (!strcmp(dtype, "BF16")) return sign << 15 | (118 + e % 7) << 7 | (r & 0x7f);
    if (!strcmp(dtype, "F32")) return sign << 31 | (118 + e % 7) << 23 | (r & 0x7fffff);
    if (!strcmp(dtype, "F16")) return sign << 15 | (6 + e % 7) << 10 | (r & 0x3ff);
    if (!strcmp(dtype, "F64")) return sign << 63 | (1014 + e % 7) << 52 | (r & 0xfffffffu);
    if (!strcmp(dtype, "F8_E4M3")) return sign << 7 | (1 + e) << 3 | (r & 7);
    if (!strcmp(dtype, "BOOL")) return 1;
    return r | 1;
}

static uint64_t n_element(const fqt_tensor *t)
{
    uint64_t n = 1;
    for (int d = 0; d < t->rank; d++) n *= (uint64_t)t->shape[d];
    return n;
}

static void put_random(FILE *f, const fqt_tensor *t, uint64_t seed)
{
    unsigned char buf[8192];
    unsigned size = elem_bytes(t->dtype);
    uint64_t base = mix(seed) ^ hash_name(t->key ? t->key : t->name), n = n_element(t);
    size_t fill = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t v = element(t->dtype, mix(base + i));
        for (unsigned b = 0; b < size; b++) buf[fill++] = (unsigned char)(v >> (8 * b));
        if (fill == sizeof buf) {
            put(f, buf, fill);
            fill = 0;
        }
    }
    put(f, buf, fill);
}

/* ---- safetensors ------------------------------------------------------------------------------------------------ */

static void put_json_string(FILE *f, const char *s)
{
    fputc('"', f);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') fprintf(f, "\\%c", c);
        else if (c < 0x20) fprintf(f, "\\u%04x", c);
        else fputc(c, f);
    }
    fputc('"', f);
}

static void put_header(FILE *f, const fqt_tensor *t, size_t n)
{
    uint64_t off = 0;
    fputs("{\"__metadata__\":{\"format\":\"pt\"}", f);
    for (size_t i = 0; i < n; i++) {
        fputc(',', f);
        put_json_string(f, t[i].name);
        fprintf(f, ":{\"dtype\":\"%s\",\"shape\":[", t[i].dtype);
        for (int d = 0; d < t[i].rank; d++) fprintf(f, "%s%" PRId64, d ? "," : "", t[i].shape[d]);
        uint64_t bytes = n_element(&t[i]) * elem_bytes(t[i].dtype);
        fprintf(f, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", off, off + bytes);
        off += bytes;
    }
    fputc('}', f);
}

void fqt_write_safetensors(const char *dir, const char *file, const fqt_tensor *t, size_t n, uint64_t seed)
{
    char *head = NULL;
    size_t n_head = 0;
    FILE *m = open_memstream(&head, &n_head);
    if (!m) die("open", "memory stream");
    put_header(m, t, n);
    if (fclose(m) != 0) die("close", "memory stream");
    size_t n_padded = (n_head + 7) / 8 * 8;
    FILE *f = create(dir, file);
    for (unsigned b = 0; b < 8; b++) fputc((int)((uint64_t)n_padded >> (8 * b) & 0xff), f);
    put(f, head, n_head);
    for (size_t i = n_head; i < n_padded; i++) fputc(' ', f);
    free(head);
    for (size_t i = 0; i < n; i++) {
        if (t[i].data) put(f, t[i].data, (size_t)n_element(&t[i]) * elem_bytes(t[i].dtype));
        else put_random(f, &t[i], seed);
    }
    if (fclose(f) != 0) die("close", file);
}

void fqt_write_shards(const char *dir, const fqt_tensor *t, size_t n, int n_shard, uint64_t seed)
{
    if (n_shard <= 1) {
        fqt_write_safetensors(dir, "model.safetensors", t, n, seed);
        return;
    }
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++) total += n_element(&t[i]) * elem_bytes(t[i].dtype);
    FILE *f = create(dir, "model.safetensors.index.json");
    fprintf(f, "{\n  \"metadata\": {\n    \"total_size\": %" PRIu64 "\n  },\n  \"weight_map\": {", total);
    const char *comma = "";
    for (int s = 0; s < n_shard; s++) {
        size_t begin = n * (size_t)s / (size_t)n_shard, end = n * (size_t)(s + 1) / (size_t)n_shard;
        char file[64];
        snprintf(file, sizeof file, "model-%05d-of-%05d.safetensors", s + 1, n_shard);
        fqt_write_safetensors(dir, file, t + begin, end - begin, seed);
        for (size_t i = begin; i < end; i++) {
            fprintf(f, "%s\n    ", comma);
            put_json_string(f, t[i].name);
            fprintf(f, ": \"%s\"", file);
            comma = ",";
        }
    }
    fputs("\n  }\n}\n", f);
    if (fclose(f) != 0) die("close", "index");
}
