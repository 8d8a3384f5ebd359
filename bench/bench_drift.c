/* bench_drift.c - how far a padded model drifts from the original, and how far the original drifts from itself when its sums are only
 * ordered another way. Prints the table of the README's section "Is it still the same model?".
 *
 *     bench_drift MODEL TEXT --set-width N [PROMPTS [TOKENS]]
 *
 * Pads MODEL's intermediate_size to N in every layout, proves each copy over the first windows of TEXT, and lets each continue
 * the same prompts greedily. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fitq.h"

#define N_WINDOW 8
#define CONTEXT 512
#define PROMPT 32
#define N_COPY 3

static const char *const layout_name[N_COPY] = { [FQ_LAYOUT_TAIL] = "tail", [FQ_LAYOUT_INTERLEAVE] = "interleave", [FQ_LAYOUT_SPREAD] = "spread" };
static const fq_layout order_of_rows[N_COPY] = { FQ_LAYOUT_TAIL, FQ_LAYOUT_INTERLEAVE, FQ_LAYOUT_SPREAD };

typedef struct job {
    const char *model, *text;
    int64_t width;
    size_t n_prompt, n_new;
    uint32_t *ids; size_t n_ids;
    char work[64], copy[N_COPY][96];
} job;

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "bench_drift: %s\n", what);
    exit(1);
}

static void tokenize(job *j)
{
    FILE *f = fopen(j->text, "rb");
    char *text = malloc(1 << 24);
    fq_tokenizer *t;
    fq_err e;
    if (!f || !text) die("cannot read the text");
    size_t n = fread(text, 1, 1 << 24, f);
    fclose(f);
    while (n > 0 && ((unsigned char)text[n - 1] & 0x80)) n--;   /* not in the middle of a character */
    if (fq_tokenizer_open(j->model, &t, &e) != FQ_OK || fq_tokenizer_encode(t, text, n, NULL, &j->ids, &j->n_ids, &e) != FQ_OK) die(e.text);
    fq_tokenizer_close(t);
    free(text);
    if (j->n_ids < j->n_prompt * PROMPT) die("the text is too short for so many prompts");
}

static void pad_all(job *j)
{
    fq_err e;
    for (int l = 0; l < N_COPY; l++) {
        snprintf(j->copy[l], sizeof j->copy[l], "%s/%s", j->work, layout_name[l]);
        fq_pad_options o = { .source = j->model, .target = j->copy[l], .fit = { .intermediate_size_pad = j->width }, .layout = (fq_layout)l, .group_size = 64 };
        if (fq_pad(&o, NULL, NULL, &e) != FQ_OK) die(e.text);
    }
}

/* Greedy continuation of prompt k. */
static void continue_one(const job *j, const char *path, fq_served served, bool exact, size_t k, uint32_t *out)
{
    fq_generator *g;
    fq_err e;
    fq_generator_options o = { .context = (int64_t)(PROMPT + j->n_new), .served = served, .exact = exact };
    if (fq_generator_open(path, &o, NULL, &g, &e) != FQ_OK) die(e.text);
    if (fq_generator_feed(g, j->ids + k * (j->n_ids / j->n_prompt), PROMPT, &e) != FQ_OK) die(e.text);
    for (size_t i = 0; i < j->n_new; i++)
        if (fq_generator_next(g, &out[i], &e) != FQ_OK) die(e.text);
    fq_generator_close(g);
}

static uint32_t *continue_all(const job *j, const char *path, fq_served served, bool exact)
{
    uint32_t *out = calloc(j->n_prompt * j->n_new, sizeof *out);
    if (!out) die("out of memory");
    for (size_t k = 0; k < j->n_prompt; k++) continue_one(j, path, served, exact, k, out + k * j->n_new);
    return out;
}

static size_t n_diverged(const job *j, const uint32_t *a, const uint32_t *b)
{
    size_t n = 0;
    for (size_t k = 0; k < j->n_prompt; k++) n += memcmp(a + k * j->n_new, b + k * j->n_new, j->n_new * sizeof *a) != 0;
    return n;
}

static fq_proof prove(const job *j, const char *b, fq_served served)
{
    fq_proof r = { 0 };
    fq_err e;
    fq_verify_options o = { .a = j->model, .b = b, .text = { .text = j->text, .context = CONTEXT, .chunks = N_WINDOW }, .served = served };
    if (fq_verify(&o, NULL, &r, &e) != FQ_OK) die(e.text);
    return r;
}

static void measure(const job *j, fq_served served, const char *name)
{
    uint32_t *base = continue_all(j, j->model, served, false), *alone = continue_all(j, j->model, served, true);
    for (int i = 0; i < N_COPY; i++) {
        fq_layout l = order_of_rows[i];
        fq_proof r = prove(j, j->copy[l], served);
        uint32_t *fast = continue_all(j, j->copy[l], served, false), *fixed = continue_all(j, j->copy[l], served, true);
        if (i == 0)
            printf("| %s | original, another order | | %.1e | %.1e | %.2f %% | %zu of %zu |\n", name, r.noise, r.kld_noise.value, 100 * r.same_top_noise.value,
                   n_diverged(j, base, alone), j->n_prompt);
        printf("| %s | %s | %s, %zu of %zu texts diverge | %.1e | %.1e | %.2f %% | %zu of %zu |\n", name, layout_name[l], r.fixed_bits ? "same bits" : "other bits",
               n_diverged(j, alone, fixed), j->n_prompt, r.fast_diff, r.kld.value, 100 * r.same_top.value, n_diverged(j, base, fast), j->n_prompt);
        if (i == N_COPY - 1) printf("| | largest logit %.1f, bound %.1e, %zu predictions, kernel %s | | | | | |\n", r.max_logit, r.bound, r.plan.n_scored, r.plan.kernel);
        fflush(stdout);
        free(fast);
        free(fixed);
    }
    free(base);
    free(alone);
}

int main(int argc, char **argv)
{
    job j = { .n_prompt = 64, .n_new = 128, .work = "/tmp/fitq-drift-XXXXXX" };
    if (argc < 5 || strcmp(argv[3], "--set-width") != 0) die("usage: bench_drift MODEL TEXT --set-width N [PROMPTS [TOKENS]]");
    j.model = argv[1];
    j.text = argv[2];
    j.width = atoll(argv[4]);
    if (argc > 5) j.n_prompt = (size_t)atoll(argv[5]);
    if (argc > 6) j.n_new = (size_t)atoll(argv[6]);
    if (j.n_prompt == 0 || j.n_new == 0 || !mkdtemp(j.work)) die("nothing to do, or no temporary folder");
    tokenize(&j);
    pad_all(&j);
    printf("| held as | model | fixed order | fast order: largest logit difference | KL divergence | same top token | greedy texts that diverge |\n|---|---|---|---|---|---|---|\n");
    measure(&j, FQ_SERVED_F32, "fp32");
    measure(&j, FQ_SERVED_BF16, "bf16");
    measure(&j, FQ_SERVED_FP16, "fp16");
    fq_free(j.ids);
    fprintf(stderr, "copies are left in %s\n", j.work);
    return 0;
}
