/* test_plan_heads.c - head counts: the enumerated table under the plain vLLM rule, and the search against brute force.
 *
 * "m2" is the plan that stores every KV head twice first. Both the best plan without copies and, where the table lists one, the m2
 * plan must be among the options. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "plan/heads.h"
#include "plan_models.h"
#include "support.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

typedef struct pair { int64_t heads, kv; } pair;
typedef struct want { pair m1, m2; } want;   /* 0 heads = not listed; m1 unchanged = fits as it is */

static const int table_tp[] = { 3, 4, 5, 6, 7, 8 };
static const struct { pair real; want at[6]; } table[] = {
    { { 64, 8 },
      { { { 72, 9 }, { 0, 0 } }, { { 64, 8 }, { 0, 0 } }, { { 80, 10 }, { 0, 0 } }, { { 96, 12 }, { 72, 18 } }, { { 112, 14 }, { 84, 21 } },
        { { 64, 8 }, { 0, 0 } } } },
    { { 32, 8 },
      { { { 36, 9 }, { 0, 0 } }, { { 32, 8 }, { 0, 0 } }, { { 40, 10 }, { 0, 0 } }, { { 48, 12 }, { 36, 18 } }, { { 56, 14 }, { 0, 0 } },
        { { 32, 8 }, { 0, 0 } } } },
    { { 28, 4 },
      { { { 42, 6 }, { 0, 0 } }, { { 28, 4 }, { 0, 0 } }, { { 35, 5 }, { 0, 0 } }, { { 42, 6 }, { 0, 0 } }, { { 49, 7 }, { 0, 0 } },
        { { 32, 4 }, { 0, 0 } } } },
    { { 40, 10 },
      { { { 48, 12 }, { 42, 21 } }, { { 48, 12 }, { 40, 20 } }, { { 40, 10 }, { 0, 0 } }, { { 48, 12 }, { 0, 0 } },
        { { 56, 14 }, { 42, 21 } }, { { 64, 16 }, { 0, 0 } } } },
    { { 71, 1 },
      { { { 72, 1 }, { 0, 0 } }, { { 72, 1 }, { 0, 0 } }, { { 75, 1 }, { 0, 0 } }, { { 72, 1 }, { 0, 0 } }, { { 77, 1 }, { 0, 0 } },
        { { 72, 1 }, { 0, 0 } } } },
    { { 40, 40 },
      { { { 42, 42 }, { 0, 0 } }, { { 40, 40 }, { 0, 0 } }, { { 40, 40 }, { 0, 0 } }, { { 42, 42 }, { 0, 0 } }, { { 42, 42 }, { 0, 0 } },
        { { 40, 40 }, { 0, 0 } } } },
    { { 52, 52 },
      { { { 54, 54 }, { 0, 0 } }, { { 52, 52 }, { 0, 0 } }, { { 55, 55 }, { 0, 0 } }, { { 54, 54 }, { 0, 0 } }, { { 56, 56 }, { 0, 0 } },
        { { 56, 56 }, { 0, 0 } } } },
};

static bool has_option(const fq_plan_entry *x, pair real, pair p, int64_t rep)
{
    for (size_t i = 0; i < x->n_option; i++) {
        const fq_fit *f = &x->option[i].fit;
        int64_t heads = f->num_attention_heads_pad ? f->num_attention_heads_pad : real.heads;
        int64_t kv = f->num_key_value_heads_pad ? f->num_key_value_heads_pad : real.kv;
        if (heads == p.heads && kv == p.kv && (f->kv_replication ? f->kv_replication : 1) == rep) return true;
    }
    return false;
}

static void the_table(void **state)
{
    (void)state;
    static const char *const engine[] = { "vllm" }, *const format[] = { "bf16" };
    for (size_t i = 0; i < COUNT(table); i++) {
        const pair real = table[i].real;
        /* A width and vocabulary that every count up to 8 divides: only heads are in question. */
        const fq_model m = MODEL("llama", 1, real.heads * 128, 4, 53760, real.heads, real.kv, 128, DENSE(107520, 4));
        fq_plan_request r = { .tp = table_tp, .n_tp = 6, .engine = engine, .n_engine = 1, .format = format, .n_format = 1 };
        fq_plan *p = NULL;
        assert_int_equal(fq_plan_create(&m, &r, &p, NULL), FQ_OK);
        for (size_t t = 0; t < 6; t++) {
            const fq_plan_entry *x = fq_plan_get_entry(p, t);
            const want *w = &table[i].at[t];
            bool same = w->m1.heads == real.heads && w->m1.kv == real.kv;
            assert_int_equal(x->verdict, same ? FQ_RUNS : FQ_NEEDS_FIT);
            if (!has_option(x, real, w->m1, 1))
                fail_msg("%d/%d tp %d: no %d/%d", (int)real.heads, (int)real.kv, table_tp[t], (int)w->m1.heads, (int)w->m1.kv);
            if (w->m2.heads && !has_option(x, real, w->m2, 2))
                fail_msg("%d/%d tp %d: no m2 %d/%d", (int)real.heads, (int)real.kv, table_tp[t], (int)w->m2.heads, (int)w->m2.kv);
            /* No option without copies is smaller than the table's. */
            for (size_t k = 0; k < x->n_option; k++)
                if (!same && x->option[k].fit.kv_replication == 0 && x->option[k].fit.num_attention_heads_pad < w->m1.heads)
                    fail_msg("%d/%d tp %d: found %d heads", (int)real.heads, (int)real.kv, table_tp[t],
                             (int)x->option[k].fit.num_attention_heads_pad);
        }
        fq_plan_free(p);
    }
}

/* ---- against brute force -------------------------------------------------------------------------------------------- */

static unsigned long long rng;
static int64_t below(int64_t n)
{
    rng = rng * 6364136223846793005ull + 1442695040888963407ull;
    return (int64_t)((rng >> 33) % (unsigned long long)n);
}

/* The rule, written out again from the engines' own words. */
static bool legal(const fqi_head_rule *r, int64_t heads, int64_t kv)
{
    if (heads % kv != 0 || heads % r->tp != 0) return false;
    if (heads / r->tp % r->unit_q != 0) return false;
    if (kv >= r->tp) return kv % r->tp == 0 && kv / r->tp % r->unit_kv == 0;
    return r->kv_copy && r->tp % kv == 0 && 1 % r->unit_kv == 0;
}

static double cost(const fqi_head_rule *r, size_t n, int64_t heads, int64_t kv)
{
    double c = 0;
    for (size_t i = 0; i < n; i++)
        c += r[i].q_bytes * (double)heads / r[i].tp + r[i].kv_bytes * (kv < r[i].tp ? 1.0 : (double)kv / r[i].tp);
    return c;
}

static bool legal_all(const fqi_head_rule *r, size_t n, int64_t heads, int64_t kv)
{
    for (size_t i = 0; i < n; i++)
        if (!legal(&r[i], heads, kv)) return false;
    return true;
}

/* Cheapest over everything that is exact: rep copies of each KV head, groups large enough for their query heads. first, last:
 * the reps to look at. */
static double brute(const fqi_head_rule *r, size_t n, int64_t h, int64_t kv, bool keep, int64_t limit, int64_t first, int64_t last)
{
    double best = -1;
    for (int64_t rep = first; rep <= last; rep++) {
        int64_t need = (h / kv + rep - 1) / rep;
        for (int64_t kv_pad = kv * rep; kv_pad <= limit; kv_pad++) {
            for (int64_t group = need; group * kv_pad <= limit; group++) {
                if (keep && group * kv_pad != h) continue;
                if (!legal_all(r, n, group * kv_pad, kv_pad)) continue;
                double c = cost(r, n, group * kv_pad, kv_pad);
                if (best < 0 || c < best) best = c;
            }
        }
    }
    return best;
}

/* Of every rep the best plan is there, or one that is no worse in both counts; and no plan is there that another makes pointless. */
static void check_alternatives(const fqi_head_rule *r, size_t n, int64_t h, int64_t kv, bool keep, const fqi_head_plan *out, size_t found)
{
    for (size_t i = 0; i < found; i++)
        for (size_t k = 0; k < found; k++)
            assert_false(i != k && out[k].heads_pad <= out[i].heads_pad && out[k].kv_pad <= out[i].kv_pad);
    for (int64_t rep = 1; rep <= h / kv; rep++) {
        double best = brute(r, n, h, kv, keep, 700, rep, rep);
        bool there = best < 0;
        for (size_t i = 0; i < found && !there; i++) there = out[i].cost <= best * (1 + 1e-12);
        for (size_t i = 0; i < found && best >= 0; i++)
            if (out[i].rep == rep && out[i].heads_pad <= 700) assert_true(out[i].cost <= best * (1 + 1e-12));
        assert_true(there);
    }
}

static void search_equals_brute_force(void **state)
{
    (void)state;
    rng = fqt_seed((uint64_t)time(NULL));
    for (int round = 0; round < 400; round++) {
        int64_t kv = 1 + below(6), h = kv * (1 + below(7));
        size_t n = 1 + (size_t)below(2);
        fqi_head_rule r[2];
        bool keep = below(8) == 0;
        for (size_t i = 0; i < n; i++)
            r[i] = (fqi_head_rule){ .tp = 1 + (int)below(9), .unit_q = 1 << below(3), .unit_kv = 1 << below(2), .kv_copy = below(3) > 0,
                                    .keep_heads = keep, .q_bytes = 1 + (double)below(9), .kv_bytes = 1 + (double)below(40) };
        fqi_head_plan out[8];
        size_t found = fqi_heads_solve(h, kv, r, n, out, 8);
        /* Any legal plan below this bound is seen; the common multiple of two small rules is well inside. */
        double best = brute(r, n, h, kv, keep, 700, 1, h / kv);
        if (legal_all(r, n, h, kv)) {
            assert_int_equal(found, 1);
            assert_int_equal(out[0].heads_pad, h);
            assert_int_equal(out[0].kv_pad, kv);
            continue;
        }
        if (best < 0) {
            if (found && out[0].heads_pad <= 700) fail_msg("round %d: found a plan that brute force does not know", round);
            continue;
        }
        assert_true(found > 0);
        for (size_t i = 0; i < found; i++) {
            assert_true(legal_all(r, n, out[i].heads_pad, out[i].kv_pad));
            assert_true(out[i].kv_pad >= kv * out[i].rep);
            assert_true(out[i].heads_pad / out[i].kv_pad >= (h / kv + out[i].rep - 1) / out[i].rep);
            if (keep) assert_int_equal(out[i].heads_pad, h);
            if (i) assert_true(out[i - 1].cost <= out[i].cost);
        }
        if (out[0].heads_pad > 700) { /* outside the box that was searched: it must be there for a reason */
            assert_true(out[0].cost <= best);
            continue;
        }
        if (round % 4 == 0) check_alternatives(r, n, h, kv, keep, out, found);
        if (out[0].cost > best * (1 + 1e-12) || out[0].cost < best * (1 - 1e-12))
            fail_msg("round %d: %d/%d: cost %.17g for %d/%d, brute force %.17g", round, (int)h, (int)kv, out[0].cost,
                     (int)out[0].heads_pad, (int)out[0].kv_pad, best);
    }
}

/* 64/8 on 6 GPUs: copies buy fewer query heads with more KV heads; all that are not pointless, cheapest first. */
static void alternatives_in_order(void **state)
{
    (void)state;
    const fqi_head_rule r = { .tp = 6, .unit_q = 1, .unit_kv = 1, .kv_copy = true, .q_bytes = 1, .kv_bytes = 1 };
    fqi_head_plan out[8];
    assert_int_equal(fqi_heads_solve(64, 8, &r, 1, out, 8), 3);
    static const int64_t listed[][3] = { { 72, 18, 2 }, { 96, 12, 1 }, { 66, 66, 8 } };
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(out[i].heads_pad, listed[i][0]);
        assert_int_equal(out[i].kv_pad, listed[i][1]);
        assert_int_equal(out[i].rep, listed[i][2]);
    }
    /* Two KV heads are needed anyway, so storing the one twice is free and halves the groups. */
    const fqi_head_rule two[] = { { .tp = 1, .unit_q = 1, .unit_kv = 2, .kv_copy = true, .q_bytes = 1, .kv_bytes = 1 },
                                  { .tp = 1, .unit_q = 3, .unit_kv = 1, .kv_copy = true, .q_bytes = 1, .kv_bytes = 1 } };
    size_t n = fqi_heads_solve(5, 1, two, 2, out, 8); /* rep 1: 12/2 (groups of 6); rep 2: 6/2 (groups of 3) */
    assert_true(n >= 1);
    assert_int_equal(out[0].heads_pad, 6);
    assert_int_equal(out[0].kv_pad, 2);
}

/* Every count from 1 to 64 has a plan for every usual head count. */
static void every_gpu_count(void **state)
{
    (void)state;
    static const pair real[] = { { 64, 8 }, { 32, 8 }, { 28, 4 }, { 40, 10 }, { 71, 1 }, { 52, 52 }, { 14, 2 }, { 96, 8 }, { 128, 16 } };
    for (size_t i = 0; i < COUNT(real); i++) {
        for (int tp = 1; tp <= 64; tp++) {
            fqi_head_rule r = { .tp = tp, .unit_q = 1, .unit_kv = 1, .kv_copy = true, .q_bytes = 1, .kv_bytes = 4 };
            fqi_head_plan out[4];
            size_t n = fqi_heads_solve(real[i].heads, real[i].kv, &r, 1, out, 4);
            assert_true(n > 0);
            for (size_t k = 0; k < n; k++) assert_true(legal(&r, out[k].heads_pad, out[k].kv_pad));
        }
    }
}

/* Many counts at once: the common multiple is large, and the answer still comes, or is refused. */
static void all_counts_at_once(void **state)
{
    (void)state;
    fqi_head_rule r[64];
    fqi_head_plan out[4];
    for (int i = 0; i < 64; i++)
        r[i] = (fqi_head_rule){ .tp = i + 1, .unit_q = 1, .unit_kv = 1, .kv_copy = true, .q_bytes = 1, .kv_bytes = 4 };
    assert_int_equal(fqi_heads_solve(64, 8, r, 64, out, 4), 0);
    assert_true(fqi_heads_solve(64, 8, r, 10, out, 4) > 0);
    assert_true(out[0].heads_pad % 2520 == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table),
        cmocka_unit_test(search_equals_brute_force),
        cmocka_unit_test(alternatives_in_order),
        cmocka_unit_test(every_gpu_count),
        cmocka_unit_test(all_counts_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
