/* nfc.c - Unicode's form C, run by run. See tokenizer.h.
 *
 * Nearly all text is in that form already, so it is looked through first: characters that are certain to stay are passed over, and
 * only runs around the others are rewritten. A run is cut at characters that never join with what is before them. utf8proc decomposes
 * and composes; putting marks in order is done here, because utf8proc's way takes quadratic time on a long run of them. */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

/* Stays as it is whatever stands beside it, unless a mark follows; has combining class 0 and never joins with what is before it.
 * A list of blocks that hold most of the text of the world, not of all such characters. */
static bool stays(uint32_t c)
{
    return c < 0x300 || (c >= 0x400 && c <= 0x482) || (c >= 0x48a && c <= 0x52f) || (c >= 0x4e00 && c <= 0x9fff) ||
           (c >= 0x3041 && c <= 0x3096) || (c >= 0x30a1 && c <= 0x30fa) || (c >= 0xac00 && c <= 0xd7a3) || (c >= 0x2010 && c <= 0x2027) ||
           (c >= 0x3001 && c <= 0x3002) || (c >= 0xff01 && c <= 0xff5e) || (c >= 0xe01 && c <= 0xe33);
}

/* May a run begin here? No mark of any kind, no part of a Hangul syllable, none of the vowels of Kirat Rai, that are letters. */
static bool begins_run(uint32_t c)
{
    if (stays(c)) return true;
    if ((c >= 0x1100 && c <= 0x11ff) || (c >= 0xa960 && c <= 0xa97f) || (c >= 0xd7b0 && c <= 0xd7ff) || (c >= 0x16d40 && c <= 0x16d7f))
        return false;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME: case UTF8PROC_CATEGORY_CN: return false;
    default: return true;
    }
}

typedef struct marked { utf8proc_int32_t c; int ccc; } marked;

typedef struct work {
    utf8proc_int32_t *c;   /* decomposed run */
    size_t n, cap;
    marked *sort, *spare;
    size_t cap_sort, cap_spare;
    fqi_str out;
} work;

static bool decompose(work *w, const char *text, size_t n)
{
    w->n = 0;
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        int boundary = 0;
        i += fqi_utf8_sequence((const unsigned char *)text + i, n - i, &c);
        if (!fqi_grow((void **)&w->c, &w->cap, w->n + 8, sizeof *w->c)) return false;
        utf8proc_ssize_t k = utf8proc_decompose_char((utf8proc_int32_t)c, w->c + w->n, 8, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &boundary);
        if (k < 0 || k > 8) return false;   /* no character has more than four */
        w->n += (size_t)k;
    }
    return true;
}

/* Stable, by combining class: merge sort of n characters, in place. */
static void sort_marks(marked *v, marked *spare, size_t n)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = lo + width < n ? lo + width : n, hi = lo + 2 * width < n ? lo + 2 * width : n;
            size_t a = lo, b = mid;
            for (size_t k = lo; k < hi; k++) spare[k] = a < mid && (b >= hi || v[a].ccc <= v[b].ccc) ? v[a++] : v[b++];
        }
        memcpy(v, spare, n * sizeof *v);
    }
}

static bool order(work *w)
{
    for (size_t i = 0; i < w->n;) {
        size_t n = 0;
        bool sorted = true;
        for (; i + n < w->n; n++) {
            int ccc = utf8proc_get_property(w->c[i + n])->combining_class;
            if (ccc == 0) break;
            if (!fqi_grow((void **)&w->sort, &w->cap_sort, n + 1, sizeof *w->sort)) return false;
            w->sort[n] = (marked){ w->c[i + n], ccc };
            sorted = sorted && (n == 0 || w->sort[n - 1].ccc <= ccc);
        }
        if (!sorted) {
            if (!fqi_grow((void **)&w->spare, &w->cap_spare, n, sizeof *w->spare)) return false;
            sort_marks(w->sort, w->spare, n);
            for (size_t k = 0; k < n; k++) w->c[i + k] = w->sort[k].c;
        }
        i += n + 1;
    }
    return true;
}

static bool rewrite(work *w, const char *text, size_t n)
{
    if (!decompose(w, text, n) || !order(w)) return false;
    utf8proc_ssize_t left = utf8proc_normalize_utf32(w->c, (utf8proc_ssize_t)w->n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (left < 0) return false;
    for (utf8proc_ssize_t i = 0; i < left; i++) {
        utf8proc_uint8_t buf[4];
        fqi_str_add(&w->out, (const char *)buf, (size_t)utf8proc_encode_char(w->c[i], buf));
    }
    return !w->out.failed;
}

/* From `at` on, the first run that may have to be rewritten: [*begin, *end), or false. */
static bool next_run(const char *text, size_t n, size_t at, size_t *begin, size_t *end)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t start = at, i = at, len;
    uint32_t c = 0;
    for (;; i += len) {
        while (i < n && s[i] < 0x80) start = i++;
        if (i >= n) return false;
        len = fqi_utf8_sequence(s + i, n - i, &c);
        if (!stays(c)) break;
        start = i;
    }
    /* c may change, or change what is before it: the run goes from the last character that stays, or from c itself */
    *begin = begins_run(c) ? i : start;
    for (i += len; i < n; i += len) {
        len = fqi_utf8_sequence(s + i, n - i, &c);
        if (begins_run(c)) break;
    }
    *end = i;
    return true;
}

fq_status fqi_nfc(const char *text, size_t n, char **out, size_t *n_out, fq_err *e)
{
    work w = { 0 };
    size_t at = 0, begin, end;
    bool good = true, changed = false;
    *out = NULL;
    while (good && next_run(text, n, at, &begin, &end)) {
        size_t before = w.out.len + (begin - at);
        fqi_str_add(&w.out, text + at, begin - at);
        good = rewrite(&w, text + begin, end - begin);
        changed = changed || (good && (w.out.len - before != end - begin || memcmp(w.out.s + before, text + begin, end - begin) != 0));
        at = end;
    }
    if (changed) fqi_str_add(&w.out, text + at, n - at);
    good = good && !w.out.failed;
    free(w.c);
    free(w.sort);
    free(w.spare);
    if (good && changed) {
        *out = w.out.s;
        *n_out = w.out.len;
        return FQ_OK;
    }
    fqi_str_free(&w.out);
    return good ? FQ_OK : fqi_fail_nomem(e, "normalized text");
}
