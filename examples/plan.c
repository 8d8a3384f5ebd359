/* plan.c - the cheapest fix for every GPU count from 1 to 8, from a config.json alone.
 *
 *     cc plan.c $(pkg-config --cflags --libs fitq) -o plan && ./plan config.json
 */
#include <stdio.h>

#include <fitq.h>

int main(int argc, char **argv)
{
    fq_model model;
    fq_plan *plan;
    fq_err err;
    if (argc != 2) {
        fprintf(stderr, "usage: plan CONFIG.JSON\n");
        return 2;
    }
    fq_plan_request request = {
        .tp = (int[]){ 1, 2, 3, 4, 5, 6, 7, 8 }, .n_tp = 8,
        .engine = (const char *const[]){ "vllm" }, .n_engine = 1,
        .format = (const char *const[]){ "gptq-marlin" }, .n_format = 1,
    };
    if (fq_model_read(argv[1], &model, &err) != FQ_OK || fq_plan_create(&model, &request, &plan, &err) != FQ_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    for (size_t i = 0; i < fq_plan_n_entry(plan); i++) {
        const fq_plan_entry *x = fq_plan_get_entry(plan, i);
        const char *fix = x->verdict == FQ_RUNS ? "runs" : x->verdict == FQ_IMPOSSIBLE ? x->note : x->option[0].what;
        printf("%d GPUs: %s\n", x->tp, fix);
    }
    fq_plan_free(plan);
    return 0;
}
