/* The zip directory: archives built field by field (PKWARE APPNOTE.TXT 4.3), each with one thing changed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "format/torch_zip.h"
#include "torch_mem.h"

/* ---- a writer -------------------------------------------------------------------------------------------------- */

typedef enum desc { DESC_NONE, DESC_SHORT, DESC_LONG, DESC_SHORT_BARE, DESC_LONG_BARE } desc;

/* What the archive of two entries, t/a (5 bytes) and t/b (3 bytes), says otherwise than it should. The second entry is the
 * one that is changed, so that something lies before it. */
typedef struct twist {
    const char *name;
    const char *rule;            /* NULL: accepted */
    desc desc;                   /* DESC_NONE: sizes in the local header */
    int flags;                   /* more flags, in both headers */
    int local_flags;             /* more, in the local header only */
    int method, local_method;    /* both; local only */
    uint32_t crc_xor, local_crc_xor, desc_crc_xor;
    int size_add, local_size_add, stored_add, local_stored_add, desc_size_add;
    const char *local_name, *central_name;
    bool same_names, same_place, inside;   /* of the two entries: equal names; one local header; the second in the first */
    bool zip64;                  /* end records of zip64 */
    int n_add, n64_add, dir_size_add, dir_off_add, dir_off64_add, dir_size64_add, loc_off_add, rec_len_add, here_add;
    int sig64_xor, disks;
    bool full_end;               /* the small end record says "see zip64" */
    bool full_central;           /* sizes and position of the entry in a zip64 extra field */
    bool full_local;             /* likewise the sizes in the local header */
    int extra_cut;               /* bytes of the zip64 fields left out, with their length */
    int extra_len_add;           /* their length field lies */
    bool extra_twice;
    int entry_disk, end_disk;
    uint64_t far;                /* position of the second entry, 0 = the right one */
    const char *comment, *before, *after, *gap, *tail_gap;
} twist;

static fqi_str out;

static void le(uint64_t v, int n)
{
    for (int i = 0; i < n; i++) fqi_str_add(&out, (const char[]){ (char)(v >> (8 * i)) }, 1);
}
#define U16(v) le((uint64_t)(v), 2)
#define U32(v) le((uint64_t)(v), 4)
#define U64(v) le((uint64_t)(v), 8)

static void zip64_extra(const twist *t, const uint64_t *v, int n)
{
    int bytes = 8 * n - t->extra_cut;
    U16(1);
    U16(bytes + t->extra_len_add);
    for (int i = 0; i < bytes; i++) le(v[i / 8] >> (8 * (i % 8)), 1);
}

static void descriptor(const twist *t, uint32_t crc, uint64_t size)
{
    bool wide = t->desc == DESC_LONG || t->desc == DESC_LONG_BARE;
    if (t->desc == DESC_SHORT || t->desc == DESC_LONG) U32(0x08074b50);
    U32(crc ^ t->desc_crc_xor);
    le(size + (uint64_t)t->desc_size_add, wide ? 8 : 4);
    le(size + (uint64_t)t->desc_size_add, wide ? 8 : 4);
}

/* Fields of t apply to entry 1 only. */
static void local(const twist *t, int k, const char *name, const char *data, uint32_t crc)
{
    const twist first = { .desc = t->desc };
    uint64_t size = strlen(data);
    if (k == 0) t = &first;
    bool streamed = t->desc != DESC_NONE;
    int extra = t->full_local ? 20 - t->extra_cut : 0;
    if (k == 1 && t->gap) fqi_str_puts(&out, t->gap);
    U32(0x04034b50); U16(20);
    U16((streamed ? 8 : 0) | t->flags | t->local_flags);
    U16(t->method | t->local_method);
    U32(0);
    U32(streamed ? 0 : crc ^ t->local_crc_xor);
    U32(t->full_local ? 0xffffffffu : streamed ? 0 : size + (uint64_t)t->local_stored_add);
    U32(t->full_local ? 0xffffffffu : streamed ? 0 : size + (uint64_t)t->local_size_add);
    const char *n = t->local_name ? t->local_name : name;
    U16(strlen(n)); U16(extra);
    fqi_str_puts(&out, n);
    if (t->full_local) zip64_extra(t, (const uint64_t[]){ size + (uint64_t)t->local_size_add, size }, 2);
    fqi_str_puts(&out, data);
    if (streamed) descriptor(t, crc, size);
}

static void central(const twist *t, int k, const char *name, uint64_t size, uint32_t crc, uint64_t at)
{
    const twist first = { .desc = t->desc };
    if (k == 0) t = &first;
    int extra = t->full_central ? (28 - t->extra_cut) * (t->extra_twice ? 2 : 1) : 0;
    U32(0x02014b50); U16(20); U16(20);
    U16((t->desc != DESC_NONE ? 8 : 0) | t->flags);
    U16(t->method);
    U32(0);
    U32(crc ^ t->crc_xor);
    U32(t->full_central ? 0xffffffffu : size + (uint64_t)t->stored_add);
    U32(t->full_central ? 0xffffffffu : size + (uint64_t)t->size_add);
    const char *n = t->central_name ? t->central_name : name;
    U16(strlen(n)); U16(extra); U16(0); U16(t->entry_disk); U16(0); U32(0);
    U32(t->full_central ? 0xffffffffu : at);
    fqi_str_puts(&out, n);
    for (int i = 0; t->full_central && i < (t->extra_twice ? 2 : 1); i++)
        zip64_extra(t, (const uint64_t[]){ size + (uint64_t)t->size_add, size + (uint64_t)t->stored_add, at }, 3);
}

static void ends(const twist *t, uint64_t dir_off, uint64_t dir_size)
{
    if (t->zip64) {
        uint64_t rec = out.len;
        U32(0x06064b50 ^ t->sig64_xor); U64(44 + t->rec_len_add); U16(45); U16(45); U32(0); U32(0);
        U64(2 + t->n64_add); U64(2 + t->n64_add);
        U64(dir_size + (uint64_t)t->dir_size64_add); U64(dir_off + (uint64_t)t->dir_off64_add);
        U32(0x07064b50); U32(0); U64(rec + (uint64_t)t->loc_off_add); U32(1 + t->disks);
    }
    U32(0x06054b50); U16(t->end_disk); U16(0);
    U16(t->full_end ? 0xffff : 2 + t->n_add + t->here_add);
    U16(t->full_end ? 0xffff : 2 + t->n_add);
    U32(t->full_end ? 0xffffffffu : dir_size + (uint64_t)t->dir_size_add);
    U32(t->full_end ? 0xffffffffu : dir_off + (uint64_t)t->dir_off_add);
    U16(t->comment ? strlen(t->comment) : 0);
    fqi_str_puts(&out, t->comment ? t->comment : "");
    fqi_str_puts(&out, t->after ? t->after : "");
}

static mem_file build(const twist *t)
{
    static const char *const data[2] = { "hello", "abc" };
    const char *const name[2] = { "t/a", t->same_names ? "t/a" : "t/b" };
    uint64_t at[2];
    uint32_t crc[2];
    fqi_str_free(&out);
    out = (fqi_str){ 0 };
    fqi_str_puts(&out, t->before ? t->before : "");
    for (int k = 0; k < 2; k++) {
        crc[k] = (uint32_t)crc32_z(0, (const unsigned char *)data[k], strlen(data[k]));
        at[k] = out.len + (k == 1 && t->gap ? strlen(t->gap) : 0);
        local(t, k, name[k], data[k], crc[k]);
    }
    if (t->same_place) at[1] = at[0];
    if (t->inside) at[1] = 10;
    if (t->far) at[1] = t->far;
    fqi_str_puts(&out, t->tail_gap ? t->tail_gap : "");
    uint64_t off = out.len;
    for (int k = 0; k < 2; k++) central(t, k, name[k], strlen(data[k]), crc[k], at[k]);
    ends(t, off, out.len - off);
    assert_false(out.failed);
    mem_file m = { .n = out.len, .bytes = malloc(out.len) };
    assert_non_null(m.bytes);
    memcpy(m.bytes, out.s, out.len);
    return m;
}

/* ---- one change at a time --------------------------------------------------------------------------------------- */

static const twist twists[] = {
    { .name = "plain" },
    { .name = "streamed", .desc = DESC_SHORT },
    { .name = "streamed-long", .desc = DESC_LONG },
    { .name = "streamed-bare", .desc = DESC_SHORT_BARE },
    { .name = "streamed-long-bare", .desc = DESC_LONG_BARE },
    { .name = "utf8-name", .flags = 0x800 },
    { .name = "compression-hint", .flags = 0x6 },
    { .name = "zip64", .zip64 = true },
    { .name = "zip64-only", .zip64 = true, .full_end = true },
    { .name = "zip64-central", .full_central = true },
    { .name = "zip64-local", .full_local = true },
    { .name = "zip64-all", .zip64 = true, .full_end = true, .full_central = true, .full_local = true },
    { .name = "gap", .gap = "filler" },
    { .name = "gap-before-directory", .tail_gap = "filler" },
    { .name = "crc-absent", .crc_xor = 0x352441c2, .local_crc_xor = 0x352441c2 },

    { .name = "encrypted", .rule = "zip-encrypted", .flags = 1 },
    { .name = "strong-encryption", .rule = "zip-flags", .flags = 0x40 },
    { .name = "masked-headers", .rule = "zip-flags", .flags = 0x2000 },
    { .name = "patch-data", .rule = "zip-flags", .flags = 0x20 },
    { .name = "deflate", .rule = "zip-compression", .method = 8 },
    { .name = "zstd", .rule = "zip-compression", .method = 93 },
    { .name = "deflate-in-local", .rule = "zip-local-mismatch", .local_method = 8 },
    { .name = "encrypted-in-local", .rule = "zip-local-mismatch", .local_flags = 1 },
    { .name = "streamed-in-local", .rule = "zip-local-mismatch", .local_flags = 8 },
    { .name = "other-local-name", .rule = "zip-local-mismatch", .local_name = "t/c" },
    { .name = "longer-local-name", .rule = "zip-local-mismatch", .local_name = "t/bb" },
    { .name = "local-crc", .rule = "zip-local-mismatch", .local_crc_xor = 1 },
    { .name = "local-size", .rule = "zip-local-mismatch", .local_size_add = 1 },
    { .name = "local-stored", .rule = "zip-local-mismatch", .local_stored_add = -1 },
    { .name = "local-size-zero", .rule = "zip-local-mismatch", .local_size_add = -3, .local_stored_add = -3 },
    { .name = "zip64-local-size", .rule = "zip-local-mismatch", .full_local = true, .local_size_add = 1 },
    { .name = "stored-not-plain", .rule = "zip-size", .stored_add = 1 },
    { .name = "size-too-long", .rule = "zip-overlap", .size_add = 1, .stored_add = 1 },
    { .name = "size-too-short", .rule = "zip-local-mismatch", .size_add = -1, .stored_add = -1 },
    { .name = "streamed-size-too-short", .rule = "zip-descriptor", .desc = DESC_SHORT, .size_add = -1, .stored_add = -1 },
    { .name = "streamed-size-too-long", .rule = "zip-descriptor", .desc = DESC_SHORT, .size_add = 1, .stored_add = 1 },
    { .name = "descriptor-crc", .rule = "zip-descriptor", .desc = DESC_SHORT, .desc_crc_xor = 1 },
    { .name = "descriptor-size", .rule = "zip-descriptor", .desc = DESC_LONG, .desc_size_add = 1 },
    { .name = "descriptor-absent", .rule = "zip-descriptor", .flags = 8 },
    { .name = "zip64-local-cut", .rule = "zip64-extra", .full_local = true, .extra_cut = 1 },
    { .name = "zip64-central-cut", .rule = "zip64-extra", .full_central = true, .extra_cut = 8 },
    { .name = "zip64-central-none", .rule = "zip64-extra", .full_central = true, .extra_cut = 24 },
    { .name = "zip64-central-overrun", .rule = "zip-extra", .full_central = true, .extra_len_add = 1 },
    { .name = "zip64-central-underrun", .rule = "zip-extra", .full_central = true, .extra_len_add = -1 },
    { .name = "zip64-central-twice", .rule = "zip-extra", .full_central = true, .extra_twice = true },
    { .name = "duplicate", .rule = "zip-duplicate", .same_names = true },
    { .name = "same-place", .rule = "zip-overlap", .same_place = true },
    { .name = "inside-the-other", .rule = "zip-overlap", .inside = true },
    { .name = "past-the-end", .rule = "zip-overlap", .far = 0x7fffffff },
    { .name = "past-2^63", .rule = "zip-overlap", .full_central = true, .far = UINT64_MAX - 40 },
    { .name = "in-the-directory", .rule = "zip-overlap", .far = 90 },
    { .name = "empty-name", .rule = "zip-name", .central_name = "", .local_name = "" },
    { .name = "entry-disk", .rule = "zip-disks", .entry_disk = 1 },

    { .name = "prefix", .rule = "zip-prefix", .before = "#!/bin/sh" },
    { .name = "prefix-put-before", .rule = "zip-directory", .before = "#!/bin/sh", .dir_off_add = -9 },
    { .name = "bytes-after", .rule = "zip-end", .after = "x" },
    { .name = "comment", .rule = "zip-end", .comment = "hello" },
    { .name = "end-disk", .rule = "zip-disks", .end_disk = 1 },
    { .name = "entries-here", .rule = "zip-disks", .here_add = 1 },
    { .name = "one-entry-less", .rule = "zip-entry-count", .n_add = -1 },
    { .name = "one-entry-more", .rule = "zip-entry-count", .n_add = 1 },
    { .name = "no-entry", .rule = "zip-entry-count", .n_add = -2 },
    { .name = "many-entries", .rule = "zip-entry-count", .n_add = 30000 },
    { .name = "directory-off", .rule = "zip-directory", .dir_off_add = 1 },
    { .name = "directory-longer", .rule = "zip-directory", .dir_size_add = 1 },
    { .name = "directory-shifted", .rule = "zip-directory", .dir_off_add = 1, .dir_size_add = -1 },
    { .name = "directory-far", .rule = "zip-directory", .dir_off_add = 1 << 30 },
    { .name = "zip64-missing", .rule = "zip64-record", .full_end = true },
    { .name = "zip64-other-count", .rule = "zip64-mismatch", .zip64 = true, .n64_add = 1 },
    { .name = "zip64-other-off", .rule = "zip64-mismatch", .zip64 = true, .dir_off64_add = 1 },
    { .name = "zip64-other-size", .rule = "zip64-mismatch", .zip64 = true, .dir_size64_add = -1 },
    { .name = "zip64-count-lies", .rule = "zip-entry-count", .zip64 = true, .full_end = true, .n64_add = 1 << 30 },
    { .name = "zip64-off-lies", .rule = "zip-directory", .zip64 = true, .full_end = true, .dir_off64_add = 1 },
    { .name = "zip64-size-wraps", .rule = "zip-directory", .zip64 = true, .full_end = true, .dir_size64_add = -100000 },
    { .name = "zip64-record-length", .rule = "zip64-record", .zip64 = true, .rec_len_add = 1 },
    { .name = "zip64-record-signature", .rule = "zip64-record", .zip64 = true, .sig64_xor = 1 },
    { .name = "zip64-record-before", .rule = "zip64-record", .zip64 = true, .loc_off_add = -1 },
    { .name = "zip64-record-behind", .rule = "zip64-record", .zip64 = true, .loc_off_add = 1 },
    { .name = "zip64-record-far", .rule = "zip64-record", .zip64 = true, .loc_off_add = -100000 },
    { .name = "zip64-disks", .rule = "zip-disks", .zip64 = true, .disks = 1 },
};

static void check_entry(const fqi_bytes *b, const fqi_zip *z, const char *name, const char *data)
{
    char buf[16] = "";
    const fqi_zip_entry *t = fqi_zip_find(z, name, strlen(name));
    assert_non_null(t);
    assert_int_equal(t->bytes, strlen(data));
    assert_int_equal(fqi_zip_read(b, t, buf, NULL), FQ_OK);
    assert_string_equal(buf, data);
    assert_int_equal(fqi_zip_check_crc(b, t, NULL), FQ_OK);
}

static void one_change(void **state)
{
    (void)state;
    int failed = 0;
    for (size_t i = 0; i < sizeof twists / sizeof twists[0]; i++) {
        const twist *t = &twists[i];
        mem_file m = build(t);
        fqi_bytes b = mem_bytes(&m);
        fqi_zip z = { 0 };
        fq_err e = { 0 };
        fq_status s = fqi_zip_open(&b, &z, &e);
        if (t->rule ? s != FQ_E_INPUT || strcmp(e.rule, t->rule) != 0 : s != FQ_OK) {
            print_error("%s: got %s, expected %s\n", t->name, s == FQ_OK ? "ok" : e.text, t->rule ? t->rule : "ok");
            failed++;
        }
        if (s == FQ_OK && !t->rule) {
            assert_int_equal(z.n_entry, 2);
            assert_memory_equal(z.entry[z.first].name, "t/a", 3);
            check_entry(&b, &z, "t/a", "hello");
            check_entry(&b, &z, "t/b", "abc");
            assert_null(fqi_zip_find(&z, "t/", 2));
            assert_null(fqi_zip_find(&z, "t/b", 100000));
        }
        fqi_zip_free(&z);
        free(m.bytes);
    }
    print_message("%zu archives\n", sizeof twists / sizeof twists[0]);
    assert_int_equal(failed, 0);
}

/* ---- damage everywhere ------------------------------------------------------------------------------------------ */

/* Whatever is accepted must lie inside the file, in order, without overlap. */
static void check_sound(const mem_file *m, const fqi_zip *z)
{
    for (size_t i = 0; i < z->n_entry; i++) {
        const fqi_zip_entry *t = &z->entry[i];
        assert_true(t->off <= m->n && t->bytes <= m->n - t->off);
        for (size_t k = 0; k < z->n_entry; k++)
            assert_true(k == i || z->entry[k].local_off >= t->off + t->bytes || z->entry[k].off + z->entry[k].bytes <= t->local_off);
    }
}

static const twist damaged[] = {
    { .name = "plain" },
    { .name = "streamed", .desc = DESC_SHORT, .zip64 = true },
    { .name = "zip64", .desc = DESC_LONG, .zip64 = true, .full_end = true, .full_central = true },
    { .name = "zip64-local", .full_local = true },
};

static void every_bit(void **state)
{
    (void)state;
    size_t n_ok = 0, n = 0;
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        mem_file m = build(&damaged[i]);
        for (size_t bit = 0; bit < 8 * m.n; bit++, n++) {
            fqi_bytes b = mem_bytes(&m);
            fqi_zip z = { 0 };
            m.bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
            fq_status s = fqi_zip_open(&b, &z, NULL);
            assert_true(s == FQ_OK || s == FQ_E_INPUT);
            if (s == FQ_OK) { check_sound(&m, &z); n_ok++; }
            fqi_zip_free(&z);
            m.bytes[bit / 8] ^= (unsigned char)(1u << (bit % 8));
        }
        free(m.bytes);
    }
    print_message("%zu of %zu single-bit changes leave a sound directory\n", n_ok, n);
    assert_true(n_ok > 0 && n_ok < n / 2);   /* data, times and versions may change */
}

static void every_length(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        mem_file m = build(&damaged[i]);
        for (size_t n = 0; n < m.n; n++) {
            mem_file cut = { .bytes = m.bytes, .n = n };
            fqi_bytes b = mem_bytes(&cut);
            fqi_zip z = { 0 };
            assert_int_equal(fqi_zip_open(&b, &z, NULL), FQ_E_INPUT);
        }
        free(m.bytes);
    }
}

/* The Nth read fails: the error goes through, nothing leaks (ASan). */
static void every_read(void **state)
{
    (void)state;
    mem_file m = build(&damaged[2]);
    size_t n = 1;
    for (;; n++) {
        mem_file f = { .bytes = m.bytes, .n = m.n, .fail_at = n };
        fqi_bytes b = mem_bytes(&f);
        fqi_zip z = { 0 };
        fq_status s = fqi_zip_open(&b, &z, NULL);
        fqi_zip_free(&z);
        if (s == FQ_OK) break;
        assert_int_equal(s, FQ_E_IO);
    }
    assert_int_equal(n, 11);   /* end, locator, record, directory; header, name and descriptor of two entries: ten reads */
    free(m.bytes);
}

static void damaged_data(void **state)
{
    (void)state;
    mem_file m = build(&twists[0]);
    fqi_bytes b = mem_bytes(&m);
    fqi_zip z = { 0 };
    fq_err e = { 0 };
    char buf[8];
    assert_int_equal(fqi_zip_open(&b, &z, NULL), FQ_OK);
    const fqi_zip_entry *t = fqi_zip_find(&z, "t/a", 3);
    assert_non_null(t);
    m.bytes[t->off + 4] ^= 1;
    assert_int_equal(fqi_zip_read(&b, t, buf, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "zip-crc");
    assert_non_null(strstr(e.text, "t/a"));
    assert_int_equal(fqi_zip_check_crc(&b, t, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "zip-crc");
    fqi_zip_free(&z);
    free(m.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_change), cmocka_unit_test(every_bit), cmocka_unit_test(every_length),
        cmocka_unit_test(every_read), cmocka_unit_test(damaged_data),
    };
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    fqi_str_free(&out);
    return r;
}
