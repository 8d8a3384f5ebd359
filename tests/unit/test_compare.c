/* test_compare.c - comparing two tables of tensors that lie in two files: random maps, strides and byte orders on both sides, in
 * the smallest memory, with known damage. The expected counts come from an element-by-element gather. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "axis_random.h"
#include "job/compare.h"
#include "make_ckpt.h"

#define N_TENSOR 6
#define MAX_DIM 4

typedef struct side {
    fq_ckpt ckpt;
    fqi_shard shard[2];
    fqi_tensor tensor[N_TENSOR];
    int64_t shape[N_TENSOR][MAX_DIM], stride[N_TENSOR][MAX_DIM];
    unsigned char *file[2];
    size_t n_file[2];
} side;

static unsigned size_of(const fqi_tensor *t) { return fq_dtype_bits((fq_dtype)t->dtype) / 8; }

static int64_t n_element(const fqi_tensor *t)
{
    int64_t n = 1;
    for (int d = 0; d < t->rank; d++) n *= t->shape[d];
    return n;
}

/* Gives tensor i a place at the end of a shard, with strides in a random order of the dimensions or row-major. */
static void place(rng *r, side *s, int i)
{
    fqi_tensor *t = &s->tensor[i];
    int order[MAX_DIM];
    int64_t step = 1;
    for (int d = 0; d < t->rank; d++) order[d] = t->rank - 1 - d;
    bool strided = rng_in(r, 0, 2) == 0;
    for (int d = t->rank - 1; strided && d > 0; d--) {
        int k = (int)rng_in(r, 0, d), swap = order[d];
        order[d] = order[k];
        order[k] = swap;
    }
    for (int d = 0; d < t->rank; d++) {
        s->stride[i][order[d]] = step;
        step *= t->shape[order[d]];
        if (strided && rng_in(r, 0, 2) == 0) step += rng_in(r, 1, 5);
    }
    t->stride = strided ? s->stride[i] : NULL;
    t->byteswap = rng_in(r, 0, 3) == 0;
    t->shard = (uint32_t)rng_in(r, 0, 1);
    t->bytes = (uint64_t)n_element(t) * size_of(t);
    size_t skip = (size_t)rng_in(r, 0, 3) * 4, grown = s->n_file[t->shard] + skip + (size_t)(step + 8) * size_of(t);
    t->off = s->n_file[t->shard] + skip;
    s->file[t->shard] = realloc(s->file[t->shard], grown);
    for (size_t k = s->n_file[t->shard]; k < grown; k++) s->file[t->shard][k] = (unsigned char)(1 + rng_next(r) % 255);
    s->n_file[t->shard] = grown;
}

/* Where element `index` (row-major) of a tensor lies. */
static unsigned char *at(const side *s, const fqi_tensor *t, int64_t index)
{
    int64_t pos = index, rest = index;
    if (t->stride) pos = 0;
    for (int d = t->rank - 1; t->stride && d >= 0; d--) {
        pos += rest % t->shape[d] * t->stride[d];
        rest /= t->shape[d];
    }
    return s->file[t->shard] + t->off + (size_t)pos * size_of(t);
}

static void copy_number(unsigned char *to, const unsigned char *from, unsigned n, bool swap)
{
    for (unsigned k = 0; k < n; k++) to[k] = from[swap ? n - 1 - k : k];
}

static void write_side(side *s, const char *dir, const char *prefix)
{
    for (int k = 0; k < 2; k++) {
        char name[16];
        snprintf(name, sizeof name, "%s%d", prefix, k);
        fqt_write(dir, name, s->file[k] ? (void *)s->file[k] : "", s->n_file[k]);
        struct stat st;
        s->shard[k].name = s->shard[k].path = fqt_join(dir, name);
        assert_int_equal(stat(s->shard[k].path, &st), 0);
        s->shard[k].bytes = (uint64_t)st.st_size;
        s->shard[k].mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
    }
    s->ckpt.shard = s->shard;
    s->ckpt.n_shard = 2;
}

static void free_side(side *s)
{
    for (int k = 0; k < 2; k++) {
        free(s->file[k]);
        free(s->shard[k].path);
    }
}

typedef struct probe {
    side a, b;
    fqi_map map[N_TENSOR][MAX_DIM];
    fqi_compare_item item[N_TENSOR];
    uint64_t n_same[N_TENSOR], n_zero[N_TENSOR], n_wrong[N_TENSOR];
} probe;

/* One tensor of A, its maps, and what B must hold. */
static void make_item(rng *r, probe *p, int i)
{
    static const fq_dtype dtype[] = { FQ_DTYPE_U8, FQ_DTYPE_BF16, FQ_DTYPE_F32, FQ_DTYPE_F64 };
    static char name[N_TENSOR][16];
    fqi_tensor *a = &p->a.tensor[i], *b = &p->b.tensor[i];
    bool large = i == 0;   /* more than one piece of 64 KiB */
    snprintf(name[i], sizeof name[i], "t%d", i);
    *a = (fqi_tensor){ .name = name[i], .shape = p->a.shape[i], .dtype = (uint8_t)dtype[rng_in(r, 0, 3)], .rank = (uint8_t)rng_in(r, large ? 2 : 0, MAX_DIM - 1) };
    *b = *a;
    b->shape = p->b.shape[i];
    p->item[i] = (fqi_compare_item){ .a = a, .b = b };
    for (int d = 0; d < a->rank; d++) {
        fqi_map *m = &p->map[i][d];
        int64_t n = !large ? rng_in(r, 1, 7) : a->rank == 2 ? rng_in(r, 150, 300) : rng_in(r, 30, 45);
        p->a.shape[i][d] = n;
        if (rng_in(r, 0, large ? 5 : 1) != 1) assert_int_equal(fqi_map_interleave(m, n, n + rng_in(r, 0, n), NULL), FQ_OK);
        else map_random(r, n, n + 3, m);
        bool use = rng_in(r, 0, 3) != 0;
        p->item[i].map[d] = use ? m : NULL;
        p->b.shape[i][d] = use ? m->n_new : n;
    }
    place(r, &p->a, i);
    place(r, &p->b, i);
}

static void fill_item(probe *p, int i)
{
    const fqi_tensor *a = &p->a.tensor[i], *b = &p->b.tensor[i];
    int64_t *v[MAX_DIM] = { 0 };
    for (int d = 0; d < a->rank; d++) v[d] = p->item[i].map[d] ? map_expand(p->item[i].map[d]) : NULL;
    for (int64_t k = 0; k < n_element(b); k++) {
        int64_t rest = k, from = 0, scale = 1;
        bool zero = false;
        for (int d = a->rank - 1; d >= 0; d--) {
            int64_t j = rest % b->shape[d];
            rest /= b->shape[d];
            if (v[d]) j = v[d][j];
            zero = zero || j < 0;
            from += j * scale;
            scale *= a->shape[d];
        }
        if (zero) memset(at(&p->b, b, k), 0, size_of(b));
        else copy_number(at(&p->b, b, k), at(&p->a, a, from), size_of(a), a->byteswap != b->byteswap);
        p->n_zero[i] += zero;
        p->n_same[i] += !zero;
    }
    for (int d = 0; d < a->rank; d++) free(v[d]);
}

/* Changes some elements of B; a change is never undone by a second one. */
static void damage(rng *r, probe *p, int i)
{
    const fqi_tensor *b = &p->b.tensor[i];
    int64_t n = n_element(b), most = n > 1000 ? 1000 : n;
    int64_t k = n > 0 ? rng_in(r, 0, n / most) : 0;
    for (; k < n && p->n_wrong[i] < 20; k += rng_in(r, 1, n / 4 + 1)) {
        unsigned char *x = at(&p->b, b, k), zeros[8] = { 0 };
        bool was_zero = memcmp(x, zeros, size_of(b)) == 0; /* contents never are: no byte of a file is 0 */
        x[rng_in(r, 0, size_of(b) - 1)] ^= (unsigned char)(1u << 7 | (was_zero ? 0 : 1u));
        p->n_wrong[i]++;
        if (was_zero) p->n_zero[i]--;
        else p->n_same[i]--;
    }
}

static void check(const probe *p, const fqi_compare *c)
{
    uint64_t n_wrong = 0;
    for (int i = 0; i < N_TENSOR; i++) {
        assert_int_equal(p->item[i].n_same, p->n_same[i]);
        assert_int_equal(p->item[i].n_zero, p->n_zero[i]);
        assert_int_equal(p->item[i].n_wrong, p->n_wrong[i]);
        n_wrong += p->n_wrong[i];
    }
    assert_int_equal(c->differs, n_wrong > 0);
}

static void test_random(void **state)
{
    (void)state;
    rng r = rng_start(__func__);
    char *dir = fqt_tempdir();
    int n_large = 0, n_damaged = 0;
    for (int round = 0; round < 100; round++) {
        probe p = { 0 };
        for (int i = 0; i < N_TENSOR; i++) make_item(&r, &p, i);
        for (int i = 0; i < N_TENSOR; i++) fill_item(&p, i);
        bool bad = rng_in(&r, 0, 1) == 0;
        for (int i = 0; bad && i < N_TENSOR; i += (int)rng_in(&r, 1, 3)) damage(&r, &p, i);
        write_side(&p.a, dir, "a");
        write_side(&p.b, dir, "b");
        fq_run run = { .memory_bytes = 12 << 16, .n_thread = (int)rng_in(&r, 1, 3), .io = rng_in(&r, 0, 1) ? FQ_IO_DIRECT : FQ_IO_BUFFERED };
        fqi_compare c = { .ckpt_a = &p.a.ckpt, .ckpt_b = &p.b.ckpt, .item = p.item, .n_item = N_TENSOR, .run = &run };
        fq_err e = { 0 };
        if (fqi_compare_run(&c, &e) != FQ_OK) fail_msg("%s", e.text);
        check(&p, &c);
        n_large += p.b.tensor[0].bytes > 3 * 65536;
        n_damaged += c.differs;
        for (int i = 0; i < N_TENSOR; i++)
            for (int d = 0; d < MAX_DIM; d++) fqi_map_free(&p.map[i][d]);
        free_side(&p.a);
        free_side(&p.b);
    }
    assert_true(n_large > 20 && n_damaged > 20); /* the cases that matter did occur */
    fqt_remove(dir);
    free(dir);
}

/* A file that became shorter after its table was read is an error, not a difference and not a crash. */
static void test_short_file(void **state)
{
    (void)state;
    char *dir = fqt_tempdir();
    side s = { 0 };
    int64_t shape[1] = { 1000 };
    s.file[0] = calloc(1000, 1);
    s.n_file[0] = 1000;
    write_side(&s, dir, "s");
    fqi_tensor t = { .name = "t", .shape = shape, .rank = 1, .dtype = FQ_DTYPE_U8, .bytes = 1000, .off = 1 };
    fqi_compare_item i = { .a = &t, .b = &t };
    const fq_run run = { 0 };
    fqi_compare c = { .ckpt_a = &s.ckpt, .ckpt_b = &s.ckpt, .item = &i, .n_item = 1, .run = &run };
    fq_err e = { 0 };
    assert_int_equal(fqi_compare_run(&c, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "file-size");
    free_side(&s);
    fqt_remove(dir);
    free(dir);
}

/* Two four-bit numbers share a byte: copied they compare, mapped they are refused. */
static void test_four_bits(void **state)
{
    (void)state;
    char *dir = fqt_tempdir();
    side s = { 0 };
    int64_t shape[2] = { 10, 20 };
    s.file[0] = calloc(200, 1);
    s.n_file[0] = 200;
    s.file[0][107] = 0x10;
    write_side(&s, dir, "s");
    fqi_tensor a = { .name = "t", .shape = shape, .rank = 2, .dtype = FQ_DTYPE_F4, .bytes = 100 }, b = a;
    b.off = 100;
    fqi_compare_item i = { .a = &a, .b = &b };
    const fq_run run = { 0 };
    fqi_compare c = { .ckpt_a = &s.ckpt, .ckpt_b = &s.ckpt, .item = &i, .n_item = 1, .run = &run };
    fq_err e = { 0 };
    assert_int_equal(fqi_compare_run(&c, &e), FQ_OK);
    assert_int_equal(i.n_same, 198);
    assert_int_equal(i.n_wrong, 2);
    fqi_map m = { 0 };
    assert_int_equal(fqi_map_interleave(&m, 10, 10, NULL), FQ_OK);
    i.map[0] = &m;
    assert_int_equal(fqi_compare_run(&c, &e), FQ_E_INPUT);
    assert_string_equal(e.rule, "packed-dtype");
    fqi_map_free(&m);
    free_side(&s);
    fqt_remove(dir);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_random), cmocka_unit_test(test_short_file), cmocka_unit_test(test_four_bits) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
