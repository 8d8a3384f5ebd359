/* plan_json.c - a plan as JSON; the keys are documented in fitq-plan(1) and stay. */
#include <stdlib.h>

#include "output.h"
#include "plan_view.h"

static const char *verdict_name(fq_verdict v)
{
    static const char *const name[] = { [FQ_RUNS] = "runs", [FQ_NEEDS_FIT] = "needs-fit", [FQ_IMPOSSIBLE] = "impossible",
                                        [FQ_UNKNOWN] = "not-judged" };
    return name[v];
}

static json_t *violation_json(const fq_violation *x)
{
    json_t *o = json_object();
    out_put_str(o, "rule", x->rule);
    out_put_str(o, "tensor", x->tensor);
    out_put_str(o, "text", x->text);
    out_put_str(o, "source", x->source);
    out_put_str(o, "engine_text", x->engine_text);
    out_put_bool(o, "silent", x->silent);
    return o;
}

static json_t *option_json(const fq_option *x)
{
    json_t *o = json_object();
    out_put_str(o, "what", x->what);
    out_put(o, "fit", out_json_fit(&x->fit));
    out_put(o, "group_size", x->group_size ? json_integer(x->group_size) : json_null());
    out_put_bool(o, "expert_parallel", x->expert_parallel);
    out_put_real(o, "param_percent", x->param_percent);
    out_put_real(o, "byte_percent", x->byte_percent);
    out_put_u64(o, "weight_bytes_per_gpu", x->weight_bytes_per_gpu);
    out_put_u64(o, "kv_bytes_per_token_per_gpu", x->kv_bytes_per_token_per_gpu);
    out_put_real(o, "cost_bytes_per_gpu", x->cost);
    out_put_str(o, "reexpress_as", x->reexpress_as[0] ? x->reexpress_as : NULL);
    return o;
}

static json_t *memory_json(const fq_plan_entry *x)
{
    if (!x->memory_asked) return json_null();
    json_t *o = json_object();
    out_put_bool(o, "known", x->memory_known);
    out_put(o, "fits", x->memory_known ? json_boolean(x->memory_fits) : json_null());
    out_put(o, "need_bytes", x->memory_known ? out_json_u64(x->memory_need_bytes) : json_null());
    out_put(o, "longest_context", x->memory_known ? json_integer(x->longest_context) : json_null());
    out_put(o, "bits_that_fit", x->memory_known ? json_real(x->bits_that_fit) : json_null());
    return o;
}

static json_t *entry_json(const fq_plan_entry *x)
{
    json_t *o = json_object(), *violations = json_array(), *options = json_array();
    out_put_str(o, "engine", x->engine->id);
    out_put_str(o, "engine_version", x->engine->version);
    out_put_str(o, "format", x->format->id);
    out_put_int(o, "gpus", x->tp);
    out_put_int(o, "group_size", x->group_size);
    out_put_str(o, "verdict", verdict_name(x->verdict));
    out_put_str(o, "note", x->note[0] ? x->note : NULL);
    for (size_t i = 0; i < x->n_violation; i++) out_append(violations, violation_json(&x->violation[i]));
    out_put(o, "violations", violations);
    for (size_t i = 0; i < x->n_option; i++) out_append(options, option_json(&x->option[i]));
    out_put(o, "options", options);
    out_put(o, "memory", memory_json(x));
    return o;
}

static json_t *way_json(json_t *o, const plan_view *v, const plan_advice *a, const plan_way *w)
{
    out_put(o, "fit", out_json_fit(&w->fit));
    out_put(o, "group_size", w->group_size ? json_integer(w->group_size) : json_null());
    out_put_bool(o, "regroup", w->regroups);
    out_put_str(o, "engine", w->engine);
    out_put_bool(o, "expert_parallel", w->expert_parallel);
    out_put_str(o, "reexpress_as", w->as_llama ? "llama" : NULL);
    out_put_real(o, "param_percent", w->param_percent);
    json_t *weights = json_array();
    for (size_t i = 0; i < a->n_tp; i++)
        out_append(weights, w->weight_bytes_per_gpu[i] ? out_json_u64(w->weight_bytes_per_gpu[i]) : json_null());
    out_put(o, "weight_bytes_per_gpu", weights);
    char *command = plan_way_writes(w) && !plan_no_command(v) ? plan_command(v, a, w) : NULL;
    out_put_str(o, "command", command);
    free(command);
    return o;
}

static const char *state_name(plan_state s)
{
    static const char *const name[] = { "runs", "needs-fit", "impossible", "partly-impossible", "not-together", "not-judged" };
    return name[s];
}

/* The cheapest way is the checkpoint; the others follow. */
static json_t *advice_json(const plan_view *v, const plan_advice *a)
{
    static const plan_way as_it_is = { .fit = { 0 } };
    json_t *o = json_object(), *gpus = json_array(), *others = json_array();
    for (size_t i = 0; i < a->n_tp; i++) out_append(gpus, json_integer(a->tp[i]));
    for (size_t i = 1; i < a->n_way; i++) out_append(others, way_json(json_object(), v, a, &a->way[i]));
    out_put(o, "gpus", gpus);
    out_put_str(o, "state", state_name(a->state));
    out_put_bool(o, "possible", a->state == PLAN_RUNS || a->state == PLAN_WAYS);
    out_put_str(o, "why", a->why);
    out_put_str(o, "not_judged", a->unjudged);
    way_json(o, v, a, a->n_way ? &a->way[0] : &as_it_is);
    out_put(o, "alternatives", others);
    return o;
}

int plan_print_json(const plan_view *v)
{
    json_t *root = json_object(), *entries = json_array(), *advice = json_array();
    out_put_str(root, "fitq", fq_version());
    out_put_str(root, "path", v->values->operand[0]);
    out_put(root, "model", out_json_model(v->model));
    out_put_int(root, "context", v->request->context ? v->request->context : 8192);
    for (size_t i = 0; i < fq_plan_n_entry(v->plan); i++)
        out_append(entries, entry_json(fq_plan_get_entry(v->plan, i)));
    out_put(root, "entries", entries);
    for (size_t i = 0; i < v->n_advice; i++) out_append(advice, advice_json(v, &v->advice[i]));
    out_put(root, "checkpoints", advice);
    return out_json(root);
}
