/* test_map.c - axis maps: every constructor against a literal transcription of its definition, and the properties that the
 * proofs in docs/padding.md rest on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "axis_random.h"
#include "base/mem.h"

#define ROUNDS 3000

static char *text_of(const fqi_map *m)
{
    char *s = NULL;
    assert_int_equal(fqi_map_print(m, &s, NULL), FQ_OK);
    return s;
}

static void assert_map(const fqi_map *m, int64_t n_old, int64_t n_new, const char *runs)
{
    char *s = text_of(m);
    assert_string_equal(s, runs);
    assert_int_equal(m->n_old, n_old);
    assert_int_equal(m->n_new, n_new);
    free(s);
}

/* What map.h promises of every map. */
static void assert_sound(const fqi_map *m)
{
    int64_t total = 0;
    for (size_t i = 0; i < m->n_run; i++) {
        const fqi_run *r = &m->run[i];
        assert_true(r->count > 0);
        assert_true(r->src >= -1);
        if (r->src >= 0) assert_true(r->src + r->count <= m->n_old);
        if (i > 0) {
            const fqi_run *p = &m->run[i - 1];
            assert_false(p->src < 0 && r->src < 0);
            assert_false(p->src >= 0 && r->src == p->src + p->count);
        }
        total += r->count;
    }
    assert_int_equal(total, m->n_new);
}

static void assert_refused(fq_status got, const fq_err *e, fq_status want, const char *rule)
{
    if (got != want || strcmp(e->rule, rule) != 0) print_error("status %d rule %s: %s\n", got, e->rule, e->text);
    assert_int_equal(got, want);
    assert_string_equal(e->rule, rule);
}

/* ---- append ---- */

static void test_append(void **state)
{
    (void)state;
    fqi_map m = { .n_old = 10 };
    assert_true(fqi_map_append(&m, 0, 2));
    assert_true(fqi_map_append(&m, 2, 3));
    assert_true(fqi_map_append(&m, 7, 0));
    assert_true(fqi_map_append(&m, -1, 1));
    assert_true(fqi_map_append(&m, -1, 4));
    assert_true(fqi_map_append(&m, 5, 1));
    assert_true(fqi_map_append(&m, 5, 1));
    assert_map(&m, 10, 12, "0:5 -:5 5:1 5:1");
    assert_false(fqi_map_append(&m, 0, -1));
    assert_false(fqi_map_append(&m, -1, INT64_MAX));
    assert_int_equal(m.n_new, 12);
    fqi_map_free(&m);
    fqi_map_free(&m);
    fqi_map_free(NULL);
    assert_true(fqi_map_is_identity(&m));
}

/* ---- the three layouts ---- */

static void test_layouts_by_hand(void **state)
{
    (void)state;
    fqi_map m = { 0 };
    assert_int_equal(fqi_map_identity(&m, 4, NULL), FQ_OK);
    assert_map(&m, 4, 4, "0:4");
    assert_true(fqi_map_is_identity(&m));
    fqi_map_free(&m);
    assert_int_equal(fqi_map_tail(&m, 4, 6, NULL), FQ_OK);
    assert_map(&m, 4, 6, "0:4 -:2");
    assert_false(fqi_map_is_identity(&m));
    fqi_map_free(&m);
    assert_int_equal(fqi_map_interleave(&m, 4, 6, NULL), FQ_OK);
    assert_map(&m, 4, 6, "0:1 -:1 1:1 -:1 2:2");
    fqi_map_free(&m);
    assert_int_equal(fqi_map_interleave(&m, 2, 4, NULL), FQ_OK);
    assert_map(&m, 2, 4, "0:1 -:1 1:1 -:1");
    fqi_map_free(&m);
    assert_int_equal(fqi_map_interleave(&m, 3, 3, NULL), FQ_OK);
    assert_true(fqi_map_is_identity(&m));
    fqi_map_free(&m);
    assert_int_equal(fqi_map_spread(&m, 7, 12, 3, NULL), FQ_OK);
    assert_map(&m, 7, 12, "0:2 -:2 2:2 -:2 4:3 -:1");
    fqi_map_free(&m);
    assert_int_equal(fqi_map_spread(&m, 0, 6, 3, NULL), FQ_OK);
    assert_map(&m, 0, 6, "-:6");
    fqi_map_free(&m);
}

static void test_lengths_refused(void **state)
{
    (void)state;
    fq_err e;
    fqi_map m = { .n_old = 77 };
    assert_refused(fqi_map_identity(&m, -1, &e), &e, FQ_E_USAGE, "map-length");
    assert_refused(fqi_map_tail(&m, 5, 4, &e), &e, FQ_E_USAGE, "map-length");
    assert_refused(fqi_map_tail(&m, -5, 4, &e), &e, FQ_E_USAGE, "map-length");
    assert_refused(fqi_map_interleave(&m, 4, 9, &e), &e, FQ_E_USAGE, "interleave-length");
    assert_refused(fqi_map_interleave(&m, 4, 3, &e), &e, FQ_E_USAGE, "map-length");
    assert_refused(fqi_map_interleave(&m, (int64_t)1 << 40, (int64_t)1 << 41, &e), &e, FQ_E_USAGE, "map-length");
    assert_refused(fqi_map_spread(&m, 4, 6, 4, &e), &e, FQ_E_USAGE, "spread-groups");
    assert_refused(fqi_map_spread(&m, 4, 6, 0, &e), &e, FQ_E_USAGE, "spread-groups");
    assert_refused(fqi_map_spread(&m, 4, 6, -2, &e), &e, FQ_E_USAGE, "spread-groups");
    assert_refused(fqi_map_spread(&m, 7, 6, 3, &e), &e, FQ_E_USAGE, "map-length");
    assert_refused(fqi_map_spread(&m, 1, (int64_t)1 << 40, (int64_t)1 << 40, &e), &e, FQ_E_USAGE, "map-length");
    fqi_map one = { 0 };
    assert_int_equal(fqi_map_identity(&one, (int64_t)1 << 40, &e), FQ_OK);
    assert_refused(fqi_map_scale(&one, (int64_t)1 << 23, &m, &e), &e, FQ_E_USAGE, "map-length");
    assert_refused(fqi_map_scale(&one, 0, &m, &e), &e, FQ_E_USAGE, "map-unit");
    assert_refused(fqi_map_stack(&one, 1 << 23, &m, &e), &e, FQ_E_USAGE, "map-length");
    assert_refused(fqi_map_stack(&one, 0, &m, &e), &e, FQ_E_USAGE, "map-parts");
    fqi_map_free(&one);
    assert_int_equal(m.n_old, 77); /* outputs untouched on failure */
}

/* The published procedure, literally: twice as many rows as the padding, filled in turn with a row and zeros, then the rest. */
static void test_interleave_is_the_documented_procedure(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < ROUNDS; round++) {
        int64_t pad_size = rng_in(&r, 0, 40), n = rng_in(&r, pad_size > 0 ? pad_size : 1, 90);
        int64_t *row = malloc((size_t)(n + pad_size) * sizeof *row);
        for (int64_t i = 0; i < pad_size * 2; i++) row[i] = i % 2 == 0 ? i / 2 : -1;
        for (int64_t i = pad_size; i < n; i++) row[pad_size + i] = i;
        fqi_map m = { 0 };
        assert_int_equal(fqi_map_interleave(&m, n, n + pad_size, NULL), FQ_OK);
        assert_sound(&m);
        int64_t *got = map_expand(&m);
        assert_memory_equal(got, row, (size_t)(n + pad_size) * sizeof *row);
        free(got);
        free(row);
        fqi_map_free(&m);
    }
    fqi_map m = { 0 };
    assert_int_equal(fqi_map_interleave(&m, 29568, 29696, NULL), FQ_OK);
    assert_int_equal(m.n_run, 2 * 128 + 1);
    assert_int_equal(m.run[256].src, 128);
    assert_int_equal(m.run[256].count, 29568 - 128);
    fqi_map_free(&m);
}

static int64_t n_real_between(const int64_t *v, int64_t begin, int64_t end)
{
    int64_t n = 0;
    for (int64_t i = begin; i < end; i++) n += v[i] >= 0;
    return n;
}

/* For every number of ranks that divides the number of groups. */
static void assert_balanced(const int64_t *v, int64_t n_new, int64_t n_group)
{
    for (int64_t p = 1; p <= n_group; p++) {
        if (n_group % p != 0) continue;
        int64_t least = INT64_MAX, most = 0;
        for (int64_t k = 0; k < p; k++) {
            int64_t n = n_real_between(v, k * (n_new / p), (k + 1) * (n_new / p));
            if (n < least) least = n;
            if (n > most) most = n;
        }
        assert_true(most - least <= 1);
    }
}

static void test_spread(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < ROUNDS; round++) {
        int64_t n_group = rng_in(&r, 1, 48), slots = rng_in(&r, 1, 12), n_new = n_group * slots, n_old = rng_in(&r, 0, n_new);
        fqi_map m = { 0 };
        assert_int_equal(fqi_map_spread(&m, n_old, n_new, n_group, NULL), FQ_OK);
        assert_sound(&m);
        assert_int_equal(m.n_new, n_new);
        int64_t *v = map_expand(&m);
        int64_t next = 0;
        for (int64_t k = 0; k < n_group; k++) {
            int64_t want = (k + 1) * n_old / n_group - k * n_old / n_group;
            for (int64_t i = 0; i < slots; i++) assert_int_equal(v[k * slots + i], i < want ? next++ : -1);
            if (n_old >= n_group) assert_true(want > 0);
        }
        assert_int_equal(next, n_old);
        assert_balanced(v, n_new, n_group);
        free(v);
        fqi_map_free(&m);
    }
    fqi_map m = { 0 }; /* the real case: 232 groups of 128, 8 ranks hold 3696 real channels each */
    assert_int_equal(fqi_map_spread(&m, 29568, 29696, 232, NULL), FQ_OK);
    int64_t *v = map_expand(&m);
    for (int64_t k = 0; k < 8; k++) assert_int_equal(n_real_between(v, k * 3712, (k + 1) * 3712), 3696);
    free(v);
    fqi_map_free(&m);
}

/* ---- heads ---- */

static void test_heads_by_hand(void **state)
{
    (void)state;
    static const struct { fqi_heads s; const char *q, *kv; } row[] = {
        { { 28, 4, 32, 4, 1, 0, false }, "0:7 -:1 7:7 -:1 14:7 -:1 21:7 -:1", "0:4" },     /* Qwen2-7B on 8 */
        { { 6, 2, 12, 4, 1, 0, false }, "0:6 -:6", "0:2 -:2" },
        { { 6, 2, 12, 4, 1, 0, true }, "-:3 0:3 -:3 3:3", "-:1 0:1 -:1 1:1" },
        { { 6, 2, 8, 4, 2, 0, false }, "0:3 -:1 3:3 -:1", "0:1 0:2 1:1" },
        { { 8, 2, 8, 4, 2, 0, true }, "0:8", "0:1 0:2 1:1" },                             /* copies 0 0 1 1, no dummies */
        { { 71, 1, 72, 1, 1, 0, true }, "0:71 -:1", "0:1" },                              /* Falcon-7B on 8 */
        { { 6, 2, 8, 2, 1, 2, false }, "0:3 -:1 3:1 -:1 4:2", "0:2" },
        { { 14, 2, 16, 2, 1, 2, true }, "0:7 -:1 7:1 -:1 8:6", "0:2" },                 /* Qwen2.5-0.5B, groups of 128: two heads of 64 */
        { { 6, 2, 6, 2, 1, 4, false }, "0:6", "0:2" },                                  /* nothing to fill up with */
        { { 6, 2, 10, 2, 1, 4, false }, "0:3 -:2 3:1 -:2 4:2", "0:2" },                 /* enough for one of two places */
        { { 5, 1, 8, 4, 3, 0, false }, "0:5 -:3", "0:1 0:1 0:1 -:1" },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        fqi_map q = { 0 }, kv = { 0 };
        assert_int_equal(fqi_map_heads(&row[i].s, &q, &kv, NULL), FQ_OK);
        char *s = text_of(&q);
        assert_string_equal(s, row[i].q);
        free(s);
        s = text_of(&kv);
        assert_string_equal(s, row[i].kv);
        free(s);
        fqi_map_free(&q);
        fqi_map_free(&kv);
    }
}

static void test_heads_refused(void **state)
{
    (void)state;
    static const fqi_heads row[] = {
        { 28, 4, 33, 4, 1, 0, false },   /* not a multiple of the KV heads */
        { 28, 4, 24, 4, 1, 0, false },   /* fewer than there are */
        { 28, 4, 28, 2, 1, 0, false },   /* fewer KV heads */
        { 28, 4, 56, 7, 2, 0, false },   /* 8 copies do not fit into 7 */
        { 28, 4, 28, 7, 1, 0, false },   /* groups of 4 cannot hold 7 */
        { 28, 3, 56, 7, 1, 0, false },   /* the source itself */
        { 0, 4, 8, 4, 1, 0, false }, { 28, 0, 56, 7, 1, 0, false }, { -28, 4, 56, 7, 1, 0, false }, { 28, 4, 28, 4, 0, 0, false },
        { 28, 4, 28, 0, 1, 0, false }, { 28, 4, 28, INT64_MAX, INT64_MAX, 0, false },
        { 4, 4, (int64_t)1 << 40, 4, 1, 0, false },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        fq_err e;
        fqi_map q = { 0 }, kv = { 0 };
        assert_refused(fqi_map_heads(&row[i], &q, &kv, &e), &e, FQ_E_USAGE, "heads");
        assert_null(q.run);
        assert_null(kv.run);
    }
}

/* Random head counts that make sense. */
static fqi_heads random_heads(rng *r)
{
    fqi_heads s = { .kv = rng_in(r, 1, 12), .kv_rep = rng_in(r, 1, 4), .spread = rng_in(r, 0, 1) == 1 };
    int64_t group = rng_in(r, 1, 9), largest = (group + s.kv_rep - 1) / s.kv_rep;
    s.h = s.kv * group;
    s.kv_pad = s.kv * s.kv_rep + rng_in(r, 0, 9);
    int64_t group_pad = largest + rng_in(r, 0, 3);
    while (group_pad * s.kv_pad < s.h) group_pad++;
    s.h_pad = s.kv_pad * group_pad;
    s.block = rng_in(r, 0, 1) ? rng_in(r, 2, 5) : 0;
    return s;
}

static void check_heads(const fqi_heads *s, const int64_t *q, const int64_t *kv)
{
    int64_t group = s->h / s->kv, group_pad = s->h_pad / s->kv_pad, floor_share = group / s->kv_rep;
    int64_t *n_copy = calloc((size_t)s->kv, sizeof *n_copy);
    int64_t next = 0;
    for (int64_t t = 0; t < s->kv_pad; t++) {
        int64_t n_real = 0;
        for (int64_t j = t * group_pad; j < (t + 1) * group_pad; j++) {
            if (q[j] < 0) continue;
            if (s->block <= 1) assert_int_equal(j, t * group_pad + n_real); /* dummies at the end of the group */
            assert_int_equal(q[j], next++);               /* every real head once, in order */
            assert_int_equal(q[j] / group, kv[t]);        /* and reading its own KV head */
            n_real++;
        }
        if (kv[t] < 0) {
            assert_int_equal(n_real, 0);
            continue;
        }
        assert_true(n_real == floor_share || n_real == floor_share + 1);
        n_copy[kv[t]]++;
    }
    assert_int_equal(next, s->h);
    for (int64_t k = 0; k < s->kv; k++) assert_int_equal(n_copy[k], s->kv_rep);
    free(n_copy);
    if (s->spread) assert_balanced(kv, s->kv_pad, s->kv_pad);
    else assert_int_equal(n_real_between(kv, 0, s->kv * s->kv_rep), s->kv * s->kv_rep);
}

static void test_heads_read_their_own_kv(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < ROUNDS; round++) {
        fqi_heads s = random_heads(&r);
        fqi_map q = { 0 }, kv = { 0 };
        fq_err e = { 0 };
        if (fqi_map_heads(&s, &q, &kv, &e) != FQ_OK) fail_msg("%s", e.text);
        assert_sound(&q);
        assert_sound(&kv);
        int64_t *vq = map_expand(&q), *vkv = map_expand(&kv);
        assert_int_equal(q.n_new, s.h_pad);
        assert_int_equal(kv.n_new, s.kv_pad);
        check_heads(&s, vq, vkv);
        free(vq);
        free(vkv);
        fqi_map_free(&q);
        fqi_map_free(&kv);
    }
}

/* ---- scale, stack ---- */

static void test_scale_and_stack(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < ROUNDS; round++) {
        fqi_map m, scaled = { 0 }, stacked = { 0 };
        map_random(&r, rng_in(&r, 0, 9), rng_in(&r, 0, 14), &m);
        int64_t unit = rng_in(&r, 1, 5);
        int parts = (int)rng_in(&r, 1, 3);
        assert_int_equal(fqi_map_scale(&m, unit, &scaled, NULL), FQ_OK);
        assert_int_equal(fqi_map_stack(&m, parts, &stacked, NULL), FQ_OK);
        assert_sound(&scaled);
        assert_sound(&stacked);
        assert_int_equal(scaled.n_old, m.n_old * unit);
        assert_int_equal(scaled.n_new, m.n_new * unit);
        assert_int_equal(stacked.n_old, m.n_old * parts);
        assert_int_equal(stacked.n_new, m.n_new * parts);
        int64_t *v = map_expand(&m), *vs = map_expand(&scaled), *vt = map_expand(&stacked);
        for (int64_t i = 0; i < scaled.n_new; i++) assert_int_equal(vs[i], v[i / unit] < 0 ? -1 : v[i / unit] * unit + i % unit);
        for (int64_t i = 0; i < stacked.n_new; i++) {
            int64_t one = v[i % m.n_new];
            assert_int_equal(vt[i], one < 0 ? -1 : one + i / m.n_new * m.n_old);
        }
        free(v);
        free(vs);
        free(vt);
        fqi_map_free(&m);
        fqi_map_free(&scaled);
        fqi_map_free(&stacked);
    }
}

/* ---- inverse, counts ---- */

static void check_inverse(const fqi_map *m)
{
    int64_t *v = map_expand(m), hole = -1;
    int64_t *first = malloc(((size_t)m->n_old + 1) * sizeof *first);
    for (int64_t i = 0; i < m->n_old; i++) first[i] = -1;
    for (int64_t i = m->n_new - 1; i >= 0; i--)
        if (v[i] >= 0) first[v[i]] = i;
    for (int64_t i = m->n_old - 1; i >= 0; i--)
        if (first[i] < 0) hole = i;
    fqi_map back = { 0 };
    fq_err e = { 0 };
    fq_status s = fqi_map_inverse(m, &back, &e);
    if (hole >= 0) {
        assert_refused(s, &e, FQ_E_INPUT, "map-not-onto");
    } else {
        assert_int_equal(s, FQ_OK);
        assert_sound(&back);
        assert_int_equal(back.n_old, m->n_new);
        assert_int_equal(back.n_new, m->n_old);
        int64_t *vb = map_expand(&back);
        assert_memory_equal(vb, first, (size_t)m->n_old * sizeof *first);
        free(vb);
        fqi_map_free(&back);
    }
    free(first);
    free(v);
}

static void check_counts(const fqi_map *m)
{
    int64_t *v = map_expand(m);
    bool *seen = calloc((size_t)m->n_old + 1, sizeof *seen);
    fqi_map_count want = { .missing = m->n_old }, got = { 0 };
    for (int64_t i = 0; i < m->n_new; i++) {
        if (v[i] < 0) want.zero++;
        else if (seen[v[i]]) want.copy++;
        else { want.same++; want.missing--; seen[v[i]] = true; }
    }
    assert_int_equal(fqi_map_count_uses(m, &got, NULL), FQ_OK);
    assert_int_equal(got.same, want.same);
    assert_int_equal(got.copy, want.copy);
    assert_int_equal(got.zero, want.zero);
    assert_int_equal(got.missing, want.missing);
    free(seen);
    free(v);
}

static void test_inverse_and_counts_of_any_map(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    int n_onto = 0;
    for (int round = 0; round < ROUNDS * 3; round++) {
        fqi_map m;
        map_random(&r, rng_in(&r, 0, 6), rng_in(&r, 0, 24), &m);
        fqi_map_count c;
        assert_int_equal(fqi_map_count_uses(&m, &c, NULL), FQ_OK);
        n_onto += c.missing == 0 && c.copy > 0;
        check_inverse(&m);
        check_counts(&m);
        fqi_map_free(&m);
    }
    assert_true(n_onto > 100); /* the interesting case did occur */
}

/* A layout, then its inverse, moves every channel back to where it was; likewise the head maps. */
static void check_undone(fqi_map *m)
{
    fqi_map back = { 0 };
    assert_int_equal(fqi_map_inverse(m, &back, NULL), FQ_OK);
    int64_t *v = map_expand(m), *b = map_expand(&back);
    for (int64_t i = 0; i < m->n_old; i++) assert_int_equal(v[b[i]], i);
    fqi_map_count c;
    assert_int_equal(fqi_map_count_uses(m, &c, NULL), FQ_OK);
    assert_int_equal(c.missing, 0);
    free(v);
    free(b);
    check_counts(m);
    fqi_map_free(&back);
    fqi_map_free(m);
}

static void test_every_layout_is_undone(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < ROUNDS; round++) {
        int64_t n_old = rng_in(&r, 1, 200), n_group = rng_in(&r, 1, 20);
        int64_t n_spread = (n_old + rng_in(&r, 0, 50) + n_group - 1) / n_group * n_group;
        fqi_map m = { 0 }, kv = { 0 };
        assert_int_equal(fqi_map_tail(&m, n_old, n_old + rng_in(&r, 0, 300), NULL), FQ_OK);
        check_undone(&m);
        assert_int_equal(fqi_map_interleave(&m, n_old, n_old + rng_in(&r, 0, n_old), NULL), FQ_OK);
        check_undone(&m);
        assert_int_equal(fqi_map_spread(&m, n_old, n_spread, n_group, NULL), FQ_OK);
        check_undone(&m);
        fqi_heads s = random_heads(&r);
        assert_int_equal(fqi_map_heads(&s, &m, &kv, NULL), FQ_OK);
        check_undone(&m);
        check_undone(&kv);
    }
}

/* ---- text ---- */

static void test_text_round_trip(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    for (int round = 0; round < ROUNDS; round++) {
        fqi_map m, back = { 0 };
        map_random(&r, rng_in(&r, 0, 300), rng_in(&r, 0, 400), &m);
        char *s = text_of(&m);
        fq_err e = { 0 };
        if (fqi_map_parse(s, m.n_old, m.n_new, "fitq.json", &back, &e) != FQ_OK) fail_msg("%s: %s", s, e.text);
        assert_sound(&back);
        char *again = text_of(&back);
        assert_string_equal(s, again);
        assert_int_equal(back.n_old, m.n_old);
        free(s);
        free(again);
        fqi_map_free(&m);
        fqi_map_free(&back);
    }
}

static void test_text_refused(void **state)
{
    (void)state;
    static const struct { const char *text; int64_t n_old, n_new; } row[] = {
        { "0:128 -:1 128:127x", 300, 256 },
        { "", 4, 4 },
        { "0:4", 4, 5 },              /* too short */
        { "0:4", 4, 3 },              /* too long */
        { "0:5", 4, 5 },              /* beyond the source */
        { "4:1", 4, 1 },
        { "-1:1", 4, 1 },
        { "0:0 0:4", 4, 4 },          /* empty run */
        { "-:0 0:4", 4, 4 }, { "0:4 4:0", 4, 4 }, { "0:4 -:0", 4, 4 }, { "0:4 0:0", 4, 4 },
        { "0:-4", 4, 4 },
        { "+0:4", 4, 4 }, { "0:+4", 4, 4 }, { "00:4", 4, 4 }, { "0:04", 4, 4 }, { "0x0:4", 4, 4 },
        { " 0:4", 4, 4 }, { "0:4 ", 4, 4 }, { "0:2  2:2", 4, 4 }, { "0:2\t2:2", 4, 4 }, { "0:2,2:2", 4, 4 }, { "0:2\n", 4, 2 },
        { "0", 4, 4 }, { "0:", 4, 4 }, { ":4", 4, 4 }, { "-", 4, 4 }, { "-:", 4, 4 }, { "--:4", 4, 4 }, { "0:4:1", 4, 4 },
        { "0 :4", 4, 4 }, { "0: 4", 4, 4 }, { "0.0:4", 4, 4 }, { "0:4e0", 4, 4 }, { "nan:4", 4, 4 },
        { "0:9223372036854775808", 4, 4 },                            /* 2^63 */
        { "9223372036854775807:9223372036854775807", INT64_MAX, INT64_MAX },
        { "-:9223372036854775807 -:9223372036854775807", 4, INT64_MAX },
        { "99999999999999999999999999:1", 4, 1 },
        { "\x1b[2J:4", 4, 4 },
        { "0:4", -4, 4 }, { "0:4", 4, -4 },
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        fq_err e = { 0 };
        fqi_map m = { .n_old = 77 };
        fq_status s = fqi_map_parse(row[i].text, row[i].n_old, row[i].n_new, "fitq.json", &m, &e);
        if (s == FQ_OK) print_error("accepted: %s\n", row[i].text);
        assert_refused(s, &e, FQ_E_INPUT, "map-text");
        assert_int_equal(m.n_old, 77);
        assert_non_null(strstr(e.text, "fitq.json"));
        for (const char *p = e.text; *p; p++) assert_true((unsigned char)*p >= ' ');
    }
}

/* A hostile text is as expensive as it is long, whatever lengths it claims, and is bounded. */
static void test_text_of_absurd_size(void **state)
{
    (void)state;
    fqi_map m = { 0 }, back = { 0 };
    fqi_map_count c;
    fq_err e;
    assert_int_equal(fqi_map_parse("0:4611686018427387904 -:1", (int64_t)1 << 62, ((int64_t)1 << 62) + 1, "f", &m, NULL), FQ_OK);
    assert_int_equal(fqi_map_inverse(&m, &back, NULL), FQ_OK);
    assert_int_equal(fqi_map_count_uses(&m, &c, NULL), FQ_OK);
    assert_true(c.same == (int64_t)1 << 62 && c.zero == 1);
    fqi_map_free(&m);
    fqi_map_free(&back);
    fqi_str b = { 0 };
    fqi_str_puts(&b, "0:1");
    for (unsigned i = 0; i < FQI_MAP_MAX_RUN; i++) fqi_str_puts(&b, " 0:1");
    assert_false(b.failed);
    assert_refused(fqi_map_parse(b.s, 1, (int64_t)FQI_MAP_MAX_RUN + 1, "f", &m, &e), &e, FQ_E_INPUT, "map-text");
    fqi_str_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_append),
        cmocka_unit_test(test_layouts_by_hand),
        cmocka_unit_test(test_lengths_refused),
        cmocka_unit_test(test_interleave_is_the_documented_procedure),
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_heads_by_hand),
        cmocka_unit_test(test_heads_refused),
        cmocka_unit_test(test_heads_read_their_own_kv),
        cmocka_unit_test(test_scale_and_stack),
        cmocka_unit_test(test_inverse_and_counts_of_any_map),
        cmocka_unit_test(test_every_layout_is_undone),
        cmocka_unit_test(test_text_round_trip),
        cmocka_unit_test(test_text_refused),
        cmocka_unit_test(test_text_of_absurd_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
