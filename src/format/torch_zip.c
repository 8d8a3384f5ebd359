/* torch_zip.c - where the entries of a torch checkpoint lie in its file.
 *
 *     local header | name | extra | data [| descriptor]     once per entry
 *     central header | name | extra | comment               once per entry: the central directory
 *     [zip64 end record | zip64 locator] | end record       at the very end of the file
 *
 * Layout: PKWARE APPNOTE.TXT 6.3.10, sections 4.3 and 4.5. torch (caffe2/serialize/inline_container.cc over miniz) always
 * writes both end records, pads the local extra field so that data lies on 64 bytes, and leaves the sizes of the local
 * header zero: they follow the data in a descriptor. So names and sizes come from the central directory, the position of
 * the data from the local header, and the two must not contradict each other: two readers that trust different copies
 * would load different models from one file.
 *
 * Not a zip library. Refused: compression, encryption, several disks, an archive comment (its bytes could hold a second
 * end record), anything before the first entry, duplicate names, entries that overlap. Bytes between entries that no
 * header names are tolerated; nothing ever reads them. */
#include "format/torch_zip.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "base/checked.h"

enum {
    N_END = 22, N_LOCATOR = 20, N_END64 = 56, N_CENTRAL = 46, N_LOCAL = 30,
    FLAG_ENCRYPTED = 0x0001, FLAG_STREAMED = 0x0008,
    /* bits 1 and 2 tune a compression that stored entries do not have, bit 11 says that the name is UTF-8 */
    FLAGS_KNOWN = 0x0002 | 0x0004 | FLAG_STREAMED | 0x0800,
    EXTRA_ZIP64 = 0x0001
};
#define SIG_END 0x06054b50u
#define SIG_LOCATOR 0x07064b50u
#define SIG_END64 0x06064b50u
#define SIG_CENTRAL 0x02014b50u
#define SIG_LOCAL 0x04034b50u
#define SIG_DESCRIPTOR 0x08074b50u
#define FULL16 0xffffu
#define FULL32 0xffffffffu
#define CRC_BLOCK (1u << 20)

#define BAD(off, rule, ...) fqi_fail(e, FQ_E_INPUT, FQI_AT(b->file, NULL, (off)), rule, __VA_ARGS__)

static uint16_t le16(const unsigned char *p) { return (uint16_t)(p[0] | p[1] << 8); }
static uint32_t le32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static uint64_t le64(const unsigned char *p) { return (uint64_t)le32(p) | (uint64_t)le32(p + 4) << 32; }

/* ---- the end of the file --------------------------------------------------------------------------------------- */

typedef struct directory {
    uint64_t off, bytes, n_entry;
} directory;

/* One number that both end records state: the small one may say "see the other". */
static fq_status merge(const fqi_bytes *b, uint64_t off, const char *what, uint64_t small, uint64_t full, uint64_t big,
                       uint64_t *out, fq_err *e)
{
    if (small != full && small != big)
        return BAD(off, "zip64-mismatch", "found %s %llu in the zip64 record, expected %llu as in the end record", what,
                   (unsigned long long)big, (unsigned long long)small);
    *out = big;
    return FQ_OK;
}

/* end: the 22 bytes at end_off. *found: there is a zip64 record, d comes from it and *limit is its position. */
static fq_status read_end64(const fqi_bytes *b, const unsigned char *end, uint64_t end_off, directory *d, uint64_t *limit,
                            bool *found, fq_err *e)
{
    unsigned char loc[N_LOCATOR], rec[N_END64];
    *found = false;
    if (end_off < N_LOCATOR + N_END64) return FQ_OK;
    uint64_t loc_off = end_off - N_LOCATOR;
    FQI_TRY(b->read(b->user, loc, sizeof loc, loc_off, e));
    if (le32(loc) != SIG_LOCATOR) return FQ_OK;
    uint64_t rec_off = le64(loc + 8), rec_end;
    if (le32(loc + 4) != 0 || le32(loc + 16) > 1)
        return BAD(loc_off, "zip-disks", "found an archive on several disks, expected one file");
    if (!fqi_add_u64(rec_off, N_END64, &rec_end) || rec_end > loc_off)
        return BAD(loc_off, "zip64-record", "found a zip64 record at byte %llu, expected it to end at byte %llu",
                   (unsigned long long)rec_off, (unsigned long long)loc_off);
    FQI_TRY(b->read(b->user, rec, sizeof rec, rec_off, e));
    if (le32(rec) != SIG_END64)
        return BAD(rec_off, "zip64-record", "found signature %08x, expected %08x", le32(rec), SIG_END64);
    if (le64(rec + 4) != loc_off - rec_off - 12)   /* its own length field does not count the first 12 bytes */
        return BAD(rec_off, "zip64-record", "found length %llu, expected %llu", (unsigned long long)le64(rec + 4),
                   (unsigned long long)(loc_off - rec_off - 12));
    if (le32(rec + 16) != 0 || le32(rec + 20) != 0 || le64(rec + 24) != le64(rec + 32))
        return BAD(rec_off, "zip-disks", "found an archive on several disks, expected one file");
    FQI_TRY(merge(b, rec_off, "entry count", le16(end + 10), FULL16, le64(rec + 32), &d->n_entry, e));
    FQI_TRY(merge(b, rec_off, "directory size", le32(end + 12), FULL32, le64(rec + 40), &d->bytes, e));
    FQI_TRY(merge(b, rec_off, "directory position", le32(end + 16), FULL32, le64(rec + 48), &d->off, e));
    *limit = rec_off;
    *found = true;
    return FQ_OK;
}

static fq_status check_directory(const fqi_bytes *b, const directory *d, uint64_t limit, fq_err *e)
{
    uint64_t end;
    if (!fqi_add_u64(d->off, d->bytes, &end) || end != limit)
        return BAD(limit, "zip-directory", "found a central directory of %llu bytes at byte %llu, expected it to end here",
                   (unsigned long long)d->bytes, (unsigned long long)d->off);
    if (d->bytes > FQI_ZIP_MAX_DIR)
        return BAD(d->off, "zip-directory-size", "found %llu bytes, expected at most %u", (unsigned long long)d->bytes,
                   FQI_ZIP_MAX_DIR);
    if (d->n_entry > d->bytes / N_CENTRAL)
        return BAD(d->off, "zip-entry-count",
                   "found %llu entries in a directory of %llu bytes, expected at least %d bytes each",
                   (unsigned long long)d->n_entry, (unsigned long long)d->bytes, N_CENTRAL);
    if (d->n_entry == 0)
        return BAD(d->off, "zip-entry-count", "found an empty archive, expected data.pkl");
    return FQ_OK;
}

static fq_status find_directory(const fqi_bytes *b, directory *d, fq_err *e)
{
    unsigned char end[N_END];
    if (b->n < N_END)
        return BAD(FQI_NO_OFFSET, "zip-end", "found %llu bytes, expected a zip end record of 22 bytes",
                   (unsigned long long)b->n);
    uint64_t end_off = b->n - N_END, limit = end_off;
    FQI_TRY(b->read(b->user, end, sizeof end, end_off, e));
    if (le32(end) != SIG_END)
        return BAD(end_off, "zip-end",
                   "found no zip end record in the last 22 bytes, expected one (the file is cut, or bytes follow the archive)");
    if (le16(end + 20) != 0)
        return BAD(end_off, "zip-comment", "found an archive comment of %u bytes, expected none", le16(end + 20));
    if (le16(end + 4) != 0 || le16(end + 6) != 0 || le16(end + 8) != le16(end + 10))
        return BAD(end_off, "zip-disks", "found an archive on several disks, expected one file");
    bool found;
    FQI_TRY(read_end64(b, end, end_off, d, &limit, &found, e));
    if (!found) {
        *d = (directory){ .off = le32(end + 16), .bytes = le32(end + 12), .n_entry = le16(end + 10) };
        if (d->off == FULL32 || d->bytes == FULL32 || d->n_entry == FULL16)
            return BAD(end_off, "zip64-record", "found none, expected one (the end record refers to it)");
    }
    return check_directory(b, d, limit, e);
}

/* ---- extra fields ---------------------------------------------------------------------------------------------- */

/* Finds the one zip64 field. *len = 0 if there is none. */
static fq_status find_zip64(const fqi_bytes *b, uint64_t at, const unsigned char *extra, size_t n, const unsigned char **field,
                            size_t *len, fq_err *e)
{
    *field = NULL;
    *len = 0;
    for (size_t i = 0; i < n;) {
        size_t left = n - i;
        if (left < 4 || le16(extra + i + 2) > left - 4)
            return BAD(at, "zip-extra", "found an extra field that runs over its end");
        size_t k = le16(extra + i + 2);
        if (le16(extra + i) == EXTRA_ZIP64) {
            if (*field) return BAD(at, "zip-extra", "found two zip64 fields, expected one");
            *field = extra + i + 4;
            *len = k;
        }
        i += 4 + k;
    }
    return FQ_OK;
}

/* The zip64 field holds, in this order, only those numbers whose 32-bit place is full. */
static fq_status widen(const fqi_bytes *b, uint64_t at, uint64_t *value[], size_t n_value, const unsigned char *field,
                       size_t len, fq_err *e)
{
    size_t used = 0;
    for (size_t i = 0; i < n_value; i++) {
        if (*value[i] != FULL32) continue;
        if (len - used < 8)
            return BAD(at, "zip64-extra", "found a zip64 field of %zu bytes, expected at least %zu", len, used + 8);
        *value[i] = le64(field + used);
        used += 8;
    }
    return FQ_OK;
}

/* ---- central directory ----------------------------------------------------------------------------------------- */

static fq_status check_kind(const fqi_bytes *b, const fqi_zip_entry *t, unsigned method, fq_err *e)
{
    char name[FQI_NAME_MAX + 1];
    fqi_escape_n(name, t->name, t->n_name);
    if (t->flags & FLAG_ENCRYPTED)
        return BAD(t->dir_off, "zip-encrypted", "found entry %s encrypted, expected plain data", name);
    if (t->flags & ~FLAGS_KNOWN)
        return BAD(t->dir_off, "zip-flags", "found flags 0x%04x on entry %s, expected none of 0x%04x", t->flags, name,
                   (unsigned)(t->flags & ~FLAGS_KNOWN));
    if (method != 0)
        return BAD(t->dir_off, "zip-compression", "found entry %s with method %u%s, expected 0 (stored)", name, method,
                   method == 8 ? " (deflate)" : "");
    if (t->n_name == 0 || memchr(t->name, 0, t->n_name))
        return BAD(t->dir_off, "zip-name", "found a name that is empty or holds a NUL");
    return FQ_OK;
}

/* Central header at p, left bytes before the end of the directory. *used = its length. */
static fq_status read_central(const fqi_bytes *b, const unsigned char *p, uint64_t left, uint64_t at, fqi_zip_entry *t,
                              uint64_t *used, fq_err *e)
{
    if (left < N_CENTRAL || le32(p) != SIG_CENTRAL)
        return BAD(at, "zip-directory", "found no central header, expected one more entry");
    size_t n_name = le16(p + 28), n_extra = le16(p + 30), n_comment = le16(p + 32);
    *used = N_CENTRAL + n_name + n_extra + n_comment;
    if (*used > left)
        return BAD(at, "zip-directory", "found a central header of %llu bytes, expected at most %llu",
                   (unsigned long long)*used, (unsigned long long)left);
    *t = (fqi_zip_entry){ .name = (const char *)p + N_CENTRAL, .n_name = (uint16_t)n_name, .flags = le16(p + 8),
                          .crc = le32(p + 16), .dir_off = at };
    FQI_TRY(check_kind(b, t, le16(p + 10), e));
    if (le16(p + 34) != 0)
        return BAD(at, "zip-disks", "found an entry on disk %u, expected 0", le16(p + 34));
    uint64_t stored = le32(p + 20);
    t->bytes = le32(p + 24);
    t->local_off = le32(p + 42);
    const unsigned char *field;
    size_t len;
    FQI_TRY(find_zip64(b, at, p + N_CENTRAL + n_name, n_extra, &field, &len, e));
    FQI_TRY(widen(b, at, (uint64_t *[]){ &t->bytes, &stored, &t->local_off }, 3, field, len, e));
    if (stored != t->bytes)
        return BAD(at, "zip-size", "found %llu bytes stored and %llu plain, expected the same", (unsigned long long)stored,
                   (unsigned long long)t->bytes);
    return FQ_OK;
}

static int by_name(const void *x, const void *y)
{
    const fqi_zip_entry *a = x, *b = y;
    size_t n = a->n_name < b->n_name ? a->n_name : b->n_name;
    int c = memcmp(a->name, b->name, n);
    if (c != 0) return c;
    return (a->n_name > b->n_name) - (a->n_name < b->n_name);
}

static int by_local(const void *x, const void *y)
{
    const fqi_zip_entry *a = x, *b = y;
    if (a->local_off != b->local_off) return a->local_off < b->local_off ? -1 : 1;
    return by_name(x, y);
}

static fq_status check_duplicates(const fqi_bytes *b, const fqi_zip *z, fq_err *e)
{
    for (size_t i = 1; i < z->n_entry; i++) {
        const fqi_zip_entry *p = &z->entry[i - 1], *q = &z->entry[i];
        if (by_name(p, q) != 0) continue;
        char name[FQI_NAME_MAX + 1];
        return BAD(p->dir_off > q->dir_off ? p->dir_off : q->dir_off, "zip-duplicate",
                   "found entry %s a second time, expected it once (first at byte %llu)",
                   fqi_escape_n(name, p->name, p->n_name),
                   (unsigned long long)(p->dir_off < q->dir_off ? p->dir_off : q->dir_off));
    }
    return FQ_OK;
}

static fq_status read_directory(const fqi_bytes *b, const directory *d, fqi_zip *z, fq_err *e)
{
    z->dir_off = d->off;
    z->dir = fqi_calloc((size_t)d->bytes, 1);
    z->entry = fqi_calloc((size_t)d->n_entry, sizeof *z->entry);
    if (!z->dir || !z->entry) return fqi_fail_nomem(e, "zip directory");
    FQI_TRY(b->read(b->user, z->dir, (size_t)d->bytes, d->off, e));
    uint64_t pos = 0;
    for (; z->n_entry < d->n_entry; z->n_entry++) {
        uint64_t used = 0;
        FQI_TRY(read_central(b, z->dir + pos, d->bytes - pos, d->off + pos, &z->entry[z->n_entry], &used, e));
        pos += used;
    }
    if (pos != d->bytes)
        return BAD(d->off + pos, "zip-entry-count",
                   "found %llu bytes after the last of %zu entries, expected the end of the directory",
                   (unsigned long long)(d->bytes - pos), z->n_entry);
    return FQ_OK;
}

/* ---- local headers --------------------------------------------------------------------------------------------- */

static fq_status mismatch(const fqi_bytes *b, const fqi_zip_entry *t, const char *what, uint64_t found, uint64_t expected,
                          fq_err *e)
{
    char name[FQI_NAME_MAX + 1];
    return BAD(t->local_off, "zip-local-mismatch",
               "found %s %llu in the local header of %s, expected %llu as in the directory", what, (unsigned long long)found,
               fqi_escape_n(name, t->name, t->n_name), (unsigned long long)expected);
}

/* Sizes and CRC of the local header h (extra: its extra field). Streamed entries may leave any of them zero. */
static fq_status check_local_numbers(const fqi_bytes *b, const fqi_zip_entry *t, const unsigned char *h,
                                     const unsigned char *extra, fq_err *e)
{
    bool streamed = (t->flags & FLAG_STREAMED) != 0;
    uint64_t crc = le32(h + 14), stored = le32(h + 18), plain = le32(h + 22);
    if (plain == FULL32 || stored == FULL32) {
        const unsigned char *field;
        size_t len;
        FQI_TRY(find_zip64(b, t->local_off, extra, le16(h + 28), &field, &len, e));
        FQI_TRY(widen(b, t->local_off, (uint64_t *[]){ &plain, &stored }, 2, field, len, e));
    }
    if (crc != t->crc && !(streamed && crc == 0)) return mismatch(b, t, "CRC", crc, t->crc, e);
    if (plain != t->bytes && !(streamed && plain == 0)) return mismatch(b, t, "size", plain, t->bytes, e);
    if (stored != t->bytes && !(streamed && stored == 0)) return mismatch(b, t, "stored size", stored, t->bytes, e);
    return FQ_OK;
}

/* The four forms of a data descriptor: with or without signature, 32 or 64-bit sizes. Miniz writes the long one whenever
 * any number of the entry, its position included, needs 64 bits, so that the form cannot be told from the sizes. */
static bool descriptor_fits(const fqi_zip_entry *t, const unsigned char *p, size_t n)
{
    for (int form = 0; form < 4; form++) {
        size_t sig = form & 1 ? 4 : 0, wide = form & 2 ? 8 : 4;
        if (n < sig + 4 + 2 * wide || (sig && le32(p) != SIG_DESCRIPTOR) || le32(p + sig) != t->crc) continue;
        const unsigned char *q = p + sig + 4;
        if (wide == 8 && le64(q) == t->bytes && le64(q + 8) == t->bytes) return true;
        if (wide == 4 && t->bytes <= FULL32 && le32(q) == t->bytes && le32(q + 4) == t->bytes) return true;
    }
    return false;
}

static fq_status check_descriptor(const fqi_bytes *b, const fqi_zip_entry *t, uint64_t end, uint64_t limit, fq_err *e)
{
    unsigned char d[24];
    size_t n = limit - end < sizeof d ? (size_t)(limit - end) : sizeof d;
    char name[FQI_NAME_MAX + 1];
    if (n > 0) FQI_TRY(b->read(b->user, d, n, end, e));
    if (descriptor_fits(t, d, n)) return FQ_OK;
    return BAD(end, "zip-descriptor",
               "found no data descriptor of entry %s that agrees with the directory, expected CRC %08x and %llu bytes",
               fqi_escape_n(name, t->name, t->n_name), t->crc, (unsigned long long)t->bytes);
}

/* h: local header; scratch: 128 KiB for name and extra field, which both have 16-bit lengths. */
static fq_status check_local_text(const fqi_bytes *b, const fqi_zip_entry *t, const unsigned char *h, unsigned char *scratch,
                                  fq_err *e)
{
    size_t n_name = le16(h + 26), n_extra = le16(h + 28);
    char name[FQI_NAME_MAX + 1], local[FQI_NAME_MAX + 1];
    if (le16(h + 6) != t->flags) return mismatch(b, t, "flags", le16(h + 6), t->flags, e);
    if (le16(h + 8) != 0) return mismatch(b, t, "compression method", le16(h + 8), 0, e);
    if (n_name != t->n_name) return mismatch(b, t, "name length", n_name, t->n_name, e);
    bool need_extra = le32(h + 18) == FULL32 || le32(h + 22) == FULL32;
    FQI_TRY(b->read(b->user, scratch, n_name + (need_extra ? n_extra : 0), t->local_off + N_LOCAL, e));
    if (memcmp(scratch, t->name, n_name) != 0)
        return BAD(t->local_off, "zip-local-mismatch", "found name %s in the local header, expected %s as in the directory",
                   fqi_escape_n(local, (const char *)scratch, n_name), fqi_escape_n(name, t->name, t->n_name));
    return check_local_numbers(b, t, h, scratch + n_name, e);
}

/* limit: where the next entry or the directory begins. */
static fq_status check_local(const fqi_bytes *b, fqi_zip_entry *t, uint64_t limit, unsigned char *scratch, fq_err *e)
{
    unsigned char h[N_LOCAL];
    char name[FQI_NAME_MAX + 1];
    uint64_t end;
    if (t->local_off > limit || limit - t->local_off < N_LOCAL)
        return BAD(t->local_off, "zip-overlap", "found the header of entry %s, expected 30 bytes before byte %llu",
                   fqi_escape_n(name, t->name, t->n_name), (unsigned long long)limit);
    FQI_TRY(b->read(b->user, h, sizeof h, t->local_off, e));
    if (le32(h) != SIG_LOCAL)
        return BAD(t->local_off, "zip-local", "found signature %08x, expected the local header of entry %s", le32(h),
                   fqi_escape_n(name, t->name, t->n_name));
    t->off = t->local_off + N_LOCAL + le16(h + 26) + le16(h + 28);   /* cannot wrap: local_off < file size */
    if (!fqi_add_u64(t->off, t->bytes, &end) || end > limit)
        return BAD(t->off, "zip-overlap", "found %llu bytes of entry %s, expected them to end before byte %llu",
                   (unsigned long long)t->bytes, fqi_escape_n(name, t->name, t->n_name), (unsigned long long)limit);
    FQI_TRY(check_local_text(b, t, h, scratch, e));
    return t->flags & FLAG_STREAMED ? check_descriptor(b, t, end, limit, e) : FQ_OK;
}

/* Entries are in the order of their local headers here, so each one is bounded by the next. */
static fq_status check_locals(const fqi_bytes *b, fqi_zip *z, fq_err *e)
{
    if (z->entry[0].local_off != 0)
        return BAD(0, "zip-prefix", "found the first entry at byte %llu, expected it at byte 0",
                   (unsigned long long)z->entry[0].local_off);
    unsigned char *scratch = fqi_calloc(2, 65536);
    if (!scratch) return fqi_fail_nomem(e, "zip header");
    fq_status s = FQ_OK;
    for (size_t i = 0; i < z->n_entry && s == FQ_OK; i++) {
        uint64_t limit = i + 1 < z->n_entry ? z->entry[i + 1].local_off : z->dir_off;
        if (limit > z->dir_off) limit = z->dir_off;   /* the next position is not checked yet: it may lie past the file */
        s = check_local(b, &z->entry[i], limit, scratch, e);
    }
    free(scratch);
    return s;
}

/* ---- the whole ------------------------------------------------------------------------------------------------- */

static fq_status load(const fqi_bytes *b, fqi_zip *z, fq_err *e)
{
    directory d = { 0 };
    FQI_TRY(find_directory(b, &d, e));
    FQI_TRY(read_directory(b, &d, z, e));
    qsort(z->entry, z->n_entry, sizeof *z->entry, by_name);
    FQI_TRY(check_duplicates(b, z, e));
    qsort(z->entry, z->n_entry, sizeof *z->entry, by_local);
    FQI_TRY(check_locals(b, z, e));
    qsort(z->entry, z->n_entry, sizeof *z->entry, by_name);
    for (size_t i = 0; i < z->n_entry; i++)
        if (z->entry[i].dir_off == z->dir_off) z->first = i;
    return FQ_OK;
}

fq_status fqi_zip_open(const fqi_bytes *b, fqi_zip *out, fq_err *e)
{
    fqi_zip z = { 0 };
    fq_status s = load(b, &z, e);
    if (s == FQ_OK) *out = z;
    else fqi_zip_free(&z);
    return s;
}

void fqi_zip_free(fqi_zip *z)
{
    if (!z) return;
    free(z->dir);
    free(z->entry);
    *z = (fqi_zip){ 0 };
}

const fqi_zip_entry *fqi_zip_find(const fqi_zip *z, const char *name, size_t n_name)
{
    if (n_name > UINT16_MAX) return NULL;
    fqi_zip_entry key = { .name = name, .n_name = (uint16_t)n_name };
    return bsearch(&key, z->entry, z->n_entry, sizeof *z->entry, by_name);
}

static fq_status compare_crc(const fqi_bytes *b, const fqi_zip_entry *t, uint32_t crc, fq_err *e)
{
    char name[FQI_NAME_MAX + 1];
    if (t->crc == 0 || crc == t->crc) return FQ_OK;
    return BAD(t->off, "zip-crc", "found CRC %08x of entry %s, expected %08x: the data is damaged", crc,
               fqi_escape_n(name, t->name, t->n_name), t->crc);
}

fq_status fqi_zip_read(const fqi_bytes *b, const fqi_zip_entry *entry, void *buf, fq_err *e)
{
    if (entry->bytes > 0) FQI_TRY(b->read(b->user, buf, (size_t)entry->bytes, entry->off, e));
    return compare_crc(b, entry, (uint32_t)crc32_z(0, buf, (size_t)entry->bytes), e);
}

fq_status fqi_zip_check_crc(const fqi_bytes *b, const fqi_zip_entry *entry, fq_err *e)
{
    if (entry->crc == 0) return FQ_OK;
    unsigned char *block = fqi_calloc(CRC_BLOCK, 1);
    if (!block) return fqi_fail_nomem(e, "CRC block");
    uLong crc = crc32_z(0, NULL, 0);
    fq_status s = FQ_OK;
    for (uint64_t pos = 0; pos < entry->bytes && s == FQ_OK;) {
        size_t n = entry->bytes - pos < CRC_BLOCK ? (size_t)(entry->bytes - pos) : CRC_BLOCK;
        s = b->read(b->user, block, n, entry->off + pos, e);
        if (s == FQ_OK) crc = crc32_z(crc, block, n);
        pos += n;
    }
    free(block);
    return s == FQ_OK ? compare_crc(b, entry, (uint32_t)crc, e) : s;
}
