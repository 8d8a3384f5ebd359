/* inspect.c - what is wrong with a checkpoint? The smallest use of libfitq.
 *
 *     cc inspect.c $(pkg-config --cflags --libs fitq) -o inspect && ./inspect CHECKPOINT
 */
#include <stdio.h>

#include <fitq.h>

int main(int argc, char **argv)
{
    fq_ckpt *c;
    fq_err err;
    if (argc != 2) {
        fprintf(stderr, "usage: inspect CHECKPOINT\n");
        return 2;
    }
    if (fq_ckpt_open(argv[1], NULL, &c, &err) != FQ_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    const fq_ckpt_info *info = fq_ckpt_get_info(c);
    printf("%zu tensors, %llu parameters\n", info->n_tensor, (unsigned long long)info->n_param);
    for (size_t i = 0; i < fq_ckpt_n_finding(c); i++) printf("%s\n", fq_ckpt_get_finding(c, i)->text);
    int unsound = fq_ckpt_check(c, NULL) != FQ_OK;
    fq_ckpt_close(c);
    return unsound;
}
