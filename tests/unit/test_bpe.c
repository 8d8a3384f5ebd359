/* test_bpe.c - the byte alphabet; joining by rank against the definition of it, on random tables; NFC against Unicode's own test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/utf8.h"
#include "support.h"
#include "tokenizer/tokenizer.h"

static void alphabet(void **state)
{
    static const struct { unsigned char byte; uint32_t code; } known[] = {
        { 0x00, 0x100 }, { 0x0a, 0x10a }, { 0x20, 0x120 }, { 0x21, 0x21 }, { 0x7e, 0x7e }, { 0x7f, 0x121 }, { 0x80, 0x122 },
        { 0xa0, 0x142 }, { 0xa1, 0xa1 }, { 0xac, 0xac }, { 0xad, 0x143 }, { 0xae, 0xae }, { 0xff, 0xff },
    };
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) assert_int_equal(fqi_alphabet_char(known[i].byte), known[i].code);
    int n = 0;
    for (uint32_t c = 0; c < 0x110000; c++) {
        int b = fqi_alphabet_byte(c);
        if (b < 0) continue;
        n++;
        assert_int_equal(fqi_alphabet_char((unsigned char)b), c);
    }
    assert_int_equal(n, 256);
    char out[8];
    size_t n_out;
    assert_true(fqi_alphabet_decode("\xc4\xa0t", 3, out, &n_out));   /* U+0120 t */
    assert_int_equal(n_out, 2);
    assert_memory_equal(out, " t", 2);
    assert_false(fqi_alphabet_decode("a b", 3, out, &n_out));
}

/* ---- random tables -------------------------------------------------------------------------------------------------- */

static uint64_t random_state;
static uint32_t below(uint32_t n)
{
    random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

#define LETTERS 4u
#define TOKENS 120u

/* Tokens are strings over a few letters. A trained table lists merges in the order of what they make; else they are shuffled. */
static void make_table(fqi_bpe *b, char text[TOKENS][64], bool trained)
{
    memset(b, 0, sizeof *b);
    uint32_t n = LETTERS;
    for (uint32_t i = 0; i < 256; i++) b->byte_id[i] = i >= 'a' && i < 'a' + LETTERS ? i - 'a' : 0;
    for (uint32_t i = 0; i < LETTERS; i++) snprintf(text[i], 64, "%c", (char)('a' + i));
    while (n < TOKENS) {
        char joined[130];
        uint32_t l = below(n), r = below(n), id = 0;
        snprintf(joined, sizeof joined, "%s%s", text[l], text[r]);
        if (strlen(joined) > 60) continue;
        while (id < n && strcmp(text[id], joined) != 0) id++;
        if (id < n && trained) continue;
        if (id == n) snprintf(text[n++], 64, "%.63s", joined);
        assert_true(fqi_grow((void **)&b->merge, &b->cap_merge, b->n_merge + 1, sizeof *b->merge));
        b->merge[b->n_merge++] = (fqi_merge){ l, r, id };
    }
    for (size_t i = b->n_merge; !trained && i > 1; i--) {
        size_t k = below((uint32_t)i);
        fqi_merge m = b->merge[k];
        b->merge[k] = b->merge[i - 1];
        b->merge[i - 1] = m;
    }
    b->n_token = n;
    b->length = calloc(n, sizeof *b->length);
    assert_non_null(b->length);
    for (uint32_t i = 0; i < n; i++) b->length[i] = (uint32_t)strlen(text[i]);
    assert_int_equal(fqi_bpe_index(b, NULL), FQ_OK);
}

/* The definition: the lowest rank, the leftmost of it; of a pair that is listed twice the last. */
static size_t naive(const fqi_bpe *b, const char *s, size_t n, uint32_t *sym)
{
    for (size_t i = 0; i < n; i++) sym[i] = b->byte_id[(unsigned char)s[i]];
    for (;;) {
        size_t best = SIZE_MAX, at = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            for (size_t r = b->n_merge; r-- > 0;) {
                if (b->merge[r].left != sym[i] || b->merge[r].right != sym[i + 1]) continue;
                if (r < best) { best = r; at = i; }
                break;
            }
        }
        if (best == SIZE_MAX) return n;
        sym[at] = b->merge[best].id;
        memmove(sym + at + 1, sym + at + 2, (n - at - 2) * sizeof *sym);
        n--;
    }
}

static void check_word(const fqi_bpe *b, fqi_bpe_scratch *scratch, const char *s, size_t n, uint64_t seed)
{
    uint32_t want[512];
    size_t n_want = naive(b, s, n, want);
    for (fqi_bpe_way way = FQI_BPE_AUTO; way <= FQI_BPE_SMALL_BLOCKS; way++) {
        fqi_ids got = { 0 };
        assert_int_equal(fqi_bpe_encode(b, scratch, s, n, way, &got, NULL), FQ_OK);
        if (got.n != n_want || memcmp(got.v, want, n_want * sizeof *want) != 0)
            fail_msg("seed %llu, way %d, word %.*s", (unsigned long long)seed, (int)way, (int)n, s);
        free(got.v);
    }
}

/* Does a merge make a pair that comes before it? Then the order within its rank counts. */
static bool has_late(const fqi_bpe *b)
{
    for (size_t r = 0; r < b->n_merge; r++)
        if (b->merge[r].left != b->merge[r].right && b->ordered[r / 64] >> r % 64 & 1) return true;
    return false;
}

static void against_the_definition(void **state)
{
    (void)state;
    static char text[TOKENS][64];
    const char *given = getenv("FITQ_TEST_SEED");
    int n_late = 0;
    for (uint64_t seed = given ? strtoull(given, NULL, 10) : 1, end = seed + (given ? 1 : 60); seed < end; seed++) {
        fqi_bpe b;
        fqi_bpe_scratch scratch = { 0 };
        random_state = seed * 7919;
        make_table(&b, text, seed % 2 == 0);
        assert_true(seed % 2 == 1 || !has_late(&b));
        n_late += has_late(&b);
        for (int k = 0; k < 40; k++) {
            char s[400];
            size_t n = 1 + below(k % 4 == 0 ? 400 : 40);
            uint32_t letters = 1 + below(LETTERS);
            for (size_t i = 0; i < n; i++) s[i] = (char)('a' + below(letters));
            check_word(&b, &scratch, s, n, seed);
        }
        fqi_bpe_scratch_free(&scratch);
        fqi_bpe_free(&b);
    }
    print_message("%d tables with late merges\n", n_late);
    if (!given) assert_true(n_late >= 25);
}

/* ---- blocks ---------------------------------------------------------------------------------------------------------- */

static void same_in_blocks(const fqi_bpe *b, fqi_bpe_scratch *scratch, const char *s, size_t n, const char *what, uint64_t seed)
{
    fqi_ids whole = { 0 };
    assert_int_equal(fqi_bpe_encode(b, scratch, s, n, FQI_BPE_WHOLE, &whole, NULL), FQ_OK);
    static const fqi_bpe_way ways[] = { FQI_BPE_AUTO, FQI_BPE_SMALL_BLOCKS };
    for (size_t i = 0; i < 2; i++) {
        fqi_ids got = { 0 };
        assert_true(fqi_ids_add(&got, 77));   /* ids of an earlier piece are not gone back into */
        assert_int_equal(fqi_bpe_encode(b, scratch, s, n, ways[i], &got, NULL), FQ_OK);
        if (got.n != whole.n + 1 || got.v[0] != 77 || memcmp(got.v + 1, whole.v, whole.n * sizeof *whole.v) != 0)
            fail_msg("%s, seed %llu, way %d, %zu bytes", what, (unsigned long long)seed, (int)ways[i], n);
        free(got.v);
    }
    free(whole.v);
}

static void long_words(void **state)
{
    (void)state;
    static char text[TOKENS][64], s[60000];
    for (uint64_t seed = 1; seed <= 12; seed++) {
        fqi_bpe b;
        fqi_bpe_scratch scratch = { 0 };
        random_state = seed * 104729;
        make_table(&b, text, seed % 2 == 0);
        for (uint32_t letters = 1; letters <= LETTERS; letters++) {
            for (size_t i = 0; i < sizeof s; i++) s[i] = (char)('a' + below(letters));
            same_in_blocks(&b, &scratch, s, sizeof s - below(30000), "letters", seed);
        }
        size_t n = 0;
        while (n < sizeof s - 64) {   /* tokens in a row */
            const char *t = text[below((uint32_t)b.n_token)];
            memcpy(s + n, t, strlen(t));
            n += strlen(t);
        }
        same_in_blocks(&b, &scratch, s, n, "tokens", seed);
        fqi_bpe_scratch_free(&scratch);
        fqi_bpe_free(&b);
    }
}

#define CHAIN 200u

/* Bytes 0, 1, 2, ... 199, where a later pair has a lower rank: 198 + 199 is joined first, then 196 + 197, ... so the parity of the
 * end of a run decides how its beginning is joined. A cut is right only where the run behind it is known to its end. */
static void far_influence(void **state)
{
    (void)state;
    fqi_bpe b = { .n_token = 256 + CHAIN };
    fqi_bpe_scratch scratch = { 0 };
    static char s[50000];
    size_t n = 0;
    b.length = calloc(b.n_token, sizeof *b.length);
    b.merge = calloc(CHAIN, sizeof *b.merge);
    assert_true(b.length != NULL && b.merge != NULL);
    for (uint32_t i = 0; i < b.n_token; i++) b.length[i] = i < 256 ? 1 : 2;
    for (uint32_t i = 0; i < 256; i++) b.byte_id[i] = i;
    for (uint32_t i = CHAIN - 1; i-- > 0;) b.merge[b.n_merge++] = (fqi_merge){ i, i + 1, 256 + i };
    assert_int_equal(fqi_bpe_index(&b, NULL), FQ_OK);
    random_state = 5;
    while (n < sizeof s - CHAIN) {
        uint32_t from = below(CHAIN), to = from + below(CHAIN - from);
        for (; from <= to; from++) s[n++] = (char)from;
    }
    same_in_blocks(&b, &scratch, s, n, "runs", 5);
    fqi_bpe_scratch_free(&scratch);
    fqi_bpe_free(&b);
}

static void unknown_bytes(void **state)
{
    (void)state;
    for (int fuse = 0; fuse < 2; fuse++) {
        fqi_bpe b = { .n_token = 3, .unk_id = 2, .fuse_unk = fuse };
        fqi_bpe_scratch scratch = { 0 };
        fqi_ids got = { 0 };
        for (int i = 0; i < 256; i++) b.byte_id[i] = FQI_BPE_NO_SYMBOL;
        b.byte_id['a'] = 0;
        b.length = calloc(3, sizeof *b.length);
        b.merge = calloc(1, sizeof *b.merge);
        assert_true(b.length != NULL && b.merge != NULL);
        b.length[0] = 1;
        b.length[1] = 2;
        b.merge[b.n_merge++] = (fqi_merge){ 0, 0, 1 };
        assert_int_equal(fqi_bpe_index(&b, NULL), FQ_OK);
        assert_int_equal(fqi_bpe_encode(&b, &scratch, "aaxxa", 5, FQI_BPE_AUTO, &got, NULL), FQ_OK);
        static const uint32_t apart[] = { 1, 2, 2, 0 }, fused[] = { 1, 2, 0 };
        assert_int_equal(got.n, fuse ? 3 : 4);
        assert_memory_equal(got.v, fuse ? fused : apart, got.n * sizeof *got.v);
        free(got.v);
        fqi_bpe_scratch_free(&scratch);
        fqi_bpe_free(&b);
    }
}

/* ---- NFC -------------------------------------------------------------------------------------------------------------- */

static size_t put_utf8(char *out, uint32_t c)
{
    if (c < 0x80) { out[0] = (char)c; return 1; }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00u >> n & 0xff) | c);
    return n;
}

static void is_nfc(const char *text, size_t n, const char *want, size_t n_want, const char *where)
{
    char *made;
    size_t n_made = n;
    assert_int_equal(fqi_nfc(text, n, &made, &n_made, NULL), FQ_OK);
    const char *got = made != NULL ? made : text;
    if (made == NULL) n_made = n;
    if (n_made != n_want || memcmp(got, want, n_want) != 0) fail_msg("%s", where);
    free(made);
}

static size_t parse_column(char **line, char *out)
{
    size_t n = 0;
    char *column = strsep(line, ";"), *end;
    assert_non_null(column);
    for (char *p = column; *p != '\0';) {
        n += put_utf8(out + n, (uint32_t)strtoul(p, &end, 16));
        assert_true(end > p);
        p = *end == ' ' ? end + 1 : end;
    }
    return n;
}

/* Unicode's table: c2 = NFC of c1, c2, c3; c4 = NFC of c4 and c5. Each also within other text. */
static void normalization_test(void **state)
{
    (void)state;
    const char *data = fqt_data();
    char path[4096], line[4096], column[5][512], around[2][1200];
    size_t n[5], lines = 0;
    snprintf(path, sizeof path, "%s/text/unicode/NormalizationTest.txt", data);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        char *rest = line;
        if (line[0] == '#' || line[0] == '@') continue;
        for (int k = 0; k < 5; k++) n[k] = parse_column(&rest, column[k]);
        for (int k = 0; k < 5; k++) {
            int want = k < 3 ? 1 : 3;
            is_nfc(column[k], n[k], column[want], n[want], line);
            size_t a = (size_t)snprintf(around[0], 1200, "ab\xd0\xb6 %.*s. %.*sz", (int)n[k], column[k], (int)n[k], column[k]);
            size_t b = (size_t)snprintf(around[1], 1200, "ab\xd0\xb6 %.*s. %.*sz", (int)n[want], column[want], (int)n[want], column[want]);
            /* marks join with the space before them */
            if ((unsigned char)column[want][0] < 0xcc) is_nfc(around[0], a, around[1], b, line);
        }
        lines++;
    }
    fclose(f);
    print_message("%zu lines\n", lines);
    assert_true(lines > 18000);
}

/* Marks without end on one letter: as long as the text, in an order that makes a bubble sort quadratic. */
static void many_marks(void **state)
{
    (void)state;
    size_t n = 1;
    enum { PAIRS = 300000 };
    char *text = malloc(1 + 4 * PAIRS), *made;
    assert_non_null(text);
    text[0] = 'a';
    for (int i = 0; i < PAIRS; i++) {
        n += put_utf8(text + n, 0x301);   /* above, class 230 */
        n += put_utf8(text + n, 0x323);   /* below, class 220: comes first */
    }
    double start = fqi_now_seconds();
    size_t n_made;
    assert_int_equal(fqi_nfc(text, n, &made, &n_made, NULL), FQ_OK);
    assert_non_null(made);
    assert_memory_equal(made, "\xe1\xba\xa1\xcc\xa3", 5);   /* U+1EA1, then dots below */
    assert_true(fqi_now_seconds() - start < 20);
    free(made);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alphabet), cmocka_unit_test(against_the_definition), cmocka_unit_test(long_words),
        cmocka_unit_test(far_influence), cmocka_unit_test(unknown_bytes),
        cmocka_unit_test(normalization_test), cmocka_unit_test(many_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
