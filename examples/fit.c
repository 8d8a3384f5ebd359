/* fit.c - fits a checkpoint to a GPU count, for GPTQ in groups of 64, and proves that it is still the same model, with progress.
 *
 *     cc fit.c $(pkg-config --cflags --libs fitq) -o fit && ./fit CHECKPOINT OUT 8
 */
#include <stdio.h>
#include <stdlib.h>

#include <fitq.h>

static void on_progress(void *user, const fq_progress *p)
{
    int *last = user, percent = p->total_bytes ? (int)(100 * (double)p->done_bytes / (double)p->total_bytes) : 0;
    if (percent / 10 != *last / 10) fprintf(stderr, "%s: %d %%\n", p->phase, percent);
    *last = percent;
}

int main(int argc, char **argv)
{
    fq_err err;
    fq_pad_report padded;
    fq_verify_report proof;
    int last = 0;
    if (argc != 4) {
        fprintf(stderr, "usage: fit CHECKPOINT OUT GPUS\n");
        return 2;
    }
    int gpus = atoi(argv[3]);
    fq_pad_options options = { .source = argv[1], .target = argv[2], .tp = &gpus, .n_tp = 1,
                               .format = (const char *const[]){ "gptq" }, .n_format = 1, .group_size = 64 };
    fq_run run = { .progress = on_progress, .user = &last };

    if (fq_pad(&options, &run, &padded, &err) != FQ_OK || fq_verify_weights(argv[1], argv[2], &run, &proof, &err) != FQ_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    printf("intermediate_size %lld -> %lld\n", (long long)padded.model.intermediate_size,
           (long long)padded.model_pad.intermediate_size);
    printf("%llu elements in place, %llu zeros, %llu missing, %llu wrong\n", (unsigned long long)proof.n_element_same,
           (unsigned long long)proof.n_element_zero, (unsigned long long)proof.n_element_missing,
           (unsigned long long)proof.n_element_wrong);
    return 0;
}
