/* main.c - fitq: finds the command in the table, parses its options, runs it.
 *
 * Exit status: 0, or the negated fq_status of the library, or 128 + n by way of the signal itself. */
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "output.h"
#include "signals.h"

const arg_command *const commands[] = {
    &cmd_inspect, &cmd_plan, &cmd_fit, &cmd_pad, &cmd_convert, &cmd_quantize, &cmd_unpad, &cmd_shard, &cmd_unshard, &cmd_verify, &cmd_eval, &cmd_generate, &cmd_tokenize, &cmd_help, &cmd_version, &cmd_completion, NULL,
};

const arg_command *command_find(const char *name)
{
    for (size_t i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

const char *command_nearest(const char *name)
{
    const char *names[16] = { NULL };
    for (size_t i = 0; commands[i] && i < 15; i++) names[i] = commands[i]->name;
    return args_nearest(name, names);
}

/* Of what cannot be divided rank 0 does all, and the others have nothing to do. */
static bool can_be_divided(const arg_command *c)
{
    for (size_t i = 0; i < c->n_option; i++)
        if (strcmp(c->option[i].name, "ranks") == 0 && c->option[i].kind == ARG_INT) return true;   /* of plan it is a list of what might be */
    return false;
}

static int run(const arg_command *c, int n, char **argv)
{
    arg_values a;
    if (!args_parse(c, n, argv, &a)) return -FQ_E_USAGE;
    if (a.help) {
        args_help(c);
        return 0;
    }
    if (!can_be_divided(c)) {
        if (fq_rank() > 0) return 0;
        a.ranks = 1;   /* and it must not wait for the others */
    }
    return c->run(&a);
}

/* glibc raises the size from which it maps blocks to that of each large block that is freed, and keeps later ones of that size in its heap:
 * a quarter more memory than is in use, and estimates of it that do not hold. A library must not decide that; a program may. */
static void keep_large_blocks_apart(void)
{
#ifdef M_MMAP_THRESHOLD
    (void)mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}

int main(int argc, char **argv)
{
    keep_large_blocks_apart();
    out_start();
    signals_start();
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        run(&cmd_help, 0, NULL);
        return out_finish(-FQ_E_USAGE);
    }
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) name = "help";
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) name = "version";
    const arg_command *c = command_find(name);
    if (!c) {
        const char *near = command_nearest(name);
        return args_usage(NULL, "unknown command \"%s\"%s%s%s", name, near ? "; did you mean " : "", near ? near : "",
                          near ? "?" : "");
    }
    int status = run(c, argc - 2, argv + 2);
    status = out_finish(status);
    if (status == -FQ_E_CANCELLED) signals_reraise();
    return status;
}
