/* heads.c - the search for head counts.
 *
 * For a given rep and kv_pad the smallest group_pad is a matter of divisibility, so the search walks only over kv_pad. It ends for
 * two reasons: kv_pad has reached a common multiple of all units, where the smallest group is legal and everything beyond costs more
 * in both counts; or the cheapest conceivable plan at this kv_pad is no better than one already found. Walking is capped, because
 * the common multiple of many GPU counts can be large; at the cap the common multiple itself is taken. */
#include "plan/heads.h"

#include "base/checked.h"

enum { MAX_WALK = 1 << 14 };
static const int64_t max_heads = 1 << 24;

static bool kv_legal(const fqi_head_rule *r, int64_t kv)
{
    if (kv % r->tp == 0) return (kv / r->tp) % r->unit_kv == 0;
    return r->kv_copy && kv < r->tp && r->tp % kv == 0 && r->unit_kv == 1;
}

bool fqi_heads_legal(const fqi_head_rule *r, int64_t heads, int64_t kv)
{
    return heads % kv == 0 && heads % r->tp == 0 && (heads / r->tp) % r->unit_q == 0 && kv_legal(r, kv);
}

static double cost_of(const fqi_head_rule *rule, size_t n, int64_t heads, int64_t kv)
{
    double cost = 0;
    for (size_t i = 0; i < n; i++) {
        double tp = (double)rule[i].tp, kv_rank = (double)kv / tp;
        cost += rule[i].q_bytes * (double)heads / tp + rule[i].kv_bytes * (kv_rank < 1 ? 1 : kv_rank);
    }
    return cost;
}

/* What all rules together ask of heads, and of KV heads once they are split everywhere. */
typedef struct units { int64_t heads, kv, both; bool keep; } units;

static bool units_of(const fqi_head_rule *rule, size_t n, units *u)
{
    *u = (units){ .heads = 1, .kv = 1 };
    for (size_t i = 0; i < n; i++) {
        if (!fqi_lcm_i64(u->heads, rule[i].tp * rule[i].unit_q, &u->heads) || u->heads > max_heads) return false;
        if (!fqi_lcm_i64(u->kv, rule[i].tp * rule[i].unit_kv, &u->kv) || u->kv > max_heads) return false;
        u->keep |= rule[i].keep_heads;
    }
    return fqi_lcm_i64(u->heads, u->kv, &u->both) && u->both <= max_heads;
}

static bool kv_legal_all(const fqi_head_rule *rule, size_t n, int64_t kv)
{
    for (size_t i = 0; i < n; i++)
        if (!kv_legal(&rule[i], kv)) return false;
    return true;
}

/* The candidate at kv_pad; false if there is none. */
static bool candidate(const fqi_head_rule *rule, size_t n, const units *u, int64_t heads, int64_t kv_pad, int64_t group_min,
                      fqi_head_plan *p)
{
    if (!kv_legal_all(rule, n, kv_pad)) return false;
    int64_t group_pad;
    if (u->keep) {
        if (heads % kv_pad != 0 || heads / kv_pad < group_min || heads % u->heads != 0) return false;
        group_pad = heads / kv_pad;
    } else if (!fqi_round_up_i64(group_min, u->heads / fqi_gcd_i64(u->heads, kv_pad), &group_pad)) {
        return false;
    }
    p->kv_pad = kv_pad;
    if (!fqi_mul_i64(kv_pad, group_pad, &p->heads_pad) || p->heads_pad > max_heads) return false;
    p->cost = cost_of(rule, n, p->heads_pad, kv_pad);
    return true;
}

static bool better(const fqi_head_plan *a, const fqi_head_plan *b)
{
    if (a->cost != b->cost) return a->cost < b->cost;
    return a->heads_pad != b->heads_pad ? a->heads_pad < b->heads_pad : a->kv_pad < b->kv_pad;
}

static bool best_for_rep(const fqi_head_rule *rule, size_t n, const units *u, int64_t heads, int64_t kv, int64_t rep,
                         fqi_head_plan *best)
{
    int64_t group = heads / kv, group_min = (group + rep - 1) / rep, first = kv * rep, last;
    if (!fqi_round_up_i64(first, u->both, &last) || last > max_heads) return false;
    bool found = false;
    fqi_head_plan p = { .rep = rep };
    for (int64_t kv_pad = first; kv_pad <= last; kv_pad++) {
        if (kv_pad - first >= MAX_WALK) kv_pad = last;
        if (u->keep && kv_pad * group_min > heads) break;
        if (found && cost_of(rule, n, kv_pad * group_min, kv_pad) > best->cost) break;
        if (candidate(rule, n, u, heads, kv_pad, group_min, &p) && (!found || better(&p, best))) {
            *best = p;
            found = true;
        }
    }
    return found;
}

/* Keeps out[] sorted; drops what is not better than a kept plan in either count. Returns the new length. */
static size_t keep_plan(fqi_head_plan *out, size_t n, size_t max, const fqi_head_plan *p)
{
    for (size_t i = 0; i < n; i++)
        if (out[i].heads_pad <= p->heads_pad && out[i].kv_pad <= p->kv_pad) return n;
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (!(p->heads_pad <= out[i].heads_pad && p->kv_pad <= out[i].kv_pad)) out[kept++] = out[i];
    n = kept;
    size_t at = 0;
    while (at < n && !better(p, &out[at])) at++;
    if (at >= max) return n;
    if (n < max) n++;
    for (size_t i = n - 1; i > at; i--) out[i] = out[i - 1];
    out[at] = *p;
    return n;
}

size_t fqi_heads_solve(int64_t heads, int64_t kv, const fqi_head_rule *rule, size_t n_rule, fqi_head_plan *out, size_t max)
{
    bool legal = true;
    for (size_t i = 0; i < n_rule && legal; i++) legal = fqi_heads_legal(&rule[i], heads, kv);
    if (legal) {
        out[0] = (fqi_head_plan){ .heads_pad = heads, .kv_pad = kv, .rep = 1, .cost = cost_of(rule, n_rule, heads, kv) };
        return 1;
    }
    units u;
    if (!units_of(rule, n_rule, &u)) return 0;
    size_t n = 0;
    for (int64_t rep = 1; rep <= heads / kv && rep <= 128; rep++) {
        fqi_head_plan best;
        if (best_for_rep(rule, n_rule, &u, heads, kv, rep, &best)) n = keep_plan(out, n, max, &best);
    }
    return n;
}
