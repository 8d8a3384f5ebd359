/* cmd_help.c - help, version and completion: what the program knows about itself. */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "output.h"

/* ---- engine and format ids ------------------------------------------------------------------------------------- */

typedef const char *id_at(size_t i);

static const char *engine_id(size_t i)
{
    const fq_engine_info *e = fq_engine_get(i);
    return e ? e->id : NULL;
}

static const char *format_id(size_t i)
{
    const fq_format_info *f = fq_format_get(i);
    return f ? f->id : NULL;
}

static bool check_ids(const arg_command *c, const char *what, id_at *at, arg_strings *list)
{
    const char *known[ARG_MAX_LIST] = { NULL };
    size_t n_known = 0;
    while (n_known < ARG_MAX_LIST - 1 && at(n_known)) {
        known[n_known] = at(n_known);
        n_known++;
    }
    for (size_t i = 0; i < list->n; i++) {
        if (strcmp(list->v[i], "all") == 0) {
            memcpy(list->v, known, n_known * sizeof *known);
            list->n = n_known;
            return true;
        }
        size_t k = 0;
        while (k < n_known && strcmp(known[k], list->v[i]) != 0) k++;
        if (k < n_known) continue;
        const char *near = args_nearest(list->v[i], known);
        args_usage(c->name, "unknown %s \"%s\"%s%s%s (`fitq help %ss` lists them)", what, list->v[i],
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "", what);
        return false;
    }
    return true;
}

bool command_engines(const arg_command *c, arg_strings *list) { return check_ids(c, "engine", engine_id, list); }
bool command_formats(const arg_command *c, arg_strings *list) { return check_ids(c, "format", format_id, list); }

/* Two lines each: names and sources are too long for one. */
static void list_engines(void)
{
    for (size_t i = 0; fq_engine_get(i); i++) {
        const fq_engine_info *e = fq_engine_get(i);
        printf("%s%-14s%s%s %s%s\n%14s", out_on(OUT_BOLD), e->id, out_off(OUT_BOLD), e->name, e->version,
               e->is_default ? "; default" : "", "");
        out_flow(e->source, 14, 14, OUT_DIM);
    }
}

static void list_formats(void)
{
    static const char *const head[] = { "ID", "FORMAT", ">BITS", ">GROUP", "SOURCE" };
    out_table t;
    out_table_start(&t, head, 5);
    for (size_t i = 0; fq_format_get(i); i++) {
        const fq_format_info *f = fq_format_get(i);
        out_cell(&t, OUT_BOLD, "%s", f->id);
        out_cell(&t, OUT_PLAIN, "%s", f->name);
        out_cell(&t, OUT_PLAIN, "%g", f->bits_per_weight);
        if (f->group_size > 0) out_cell(&t, OUT_PLAIN, "%d", f->group_size);
        else out_cell(&t, OUT_PLAIN, "%s", f->group_size < 0 ? "chosen" : "-");
        out_cell(&t, OUT_DIM, "%s", f->source);
    }
    out_table_print(&t, 0);
}

static void list_families(void)
{
    for (size_t i = 0; fq_family_name(i); i++) printf("%s\n", fq_family_name(i));
}

/* ---- help ------------------------------------------------------------------------------------------------------ */

static void overview(void)
{
    static const char *const head[] = { "", "" };
    printf("fitq %s - fits large language model checkpoints to GPU counts\n\nusage: fitq COMMAND ...\n\n",
           fq_version());
    out_table t;
    out_table_start(&t, head, 2);
    for (size_t i = 0; commands[i]; i++) {
        out_cell(&t, OUT_BOLD, "%s", commands[i]->name);
        out_cell(&t, OUT_PLAIN, "%s", commands[i]->summary);
    }
    out_table_print(&t, 2);
    printf("\n`fitq COMMAND --help` shows the options and examples of a command. Start with:\n"
           "  fitq plan config.json --tp 2,4,8\n");
}

static int run_help(const arg_values *a)
{
    const char *topic = a->n_operand ? a->operand[0] : NULL;
    if (!topic) overview();
    else if (strcmp(topic, "engines") == 0) list_engines();
    else if (strcmp(topic, "formats") == 0) list_formats();
    else if (strcmp(topic, "families") == 0) list_families();
    else if (command_find(topic)) args_help(command_find(topic));
    else {
        const char *near = command_nearest(topic);
        return args_usage("help", "no help on \"%s\"%s%s%s", topic, near ? "; did you mean " : "", near ? near : "",
                          near ? "?" : "");
    }
    return 0;
}

static const char *const topics[] = { "engines", "formats", "families", "inspect", "plan", "fit", "pad", "convert", "quantize", "unpad", "shard", "unshard", "verify",
                                      "eval", "generate", "tokenize",
                                      "version", "completion", NULL };
static const arg_option only_help[] = { ARG_OPT_HELP };

const arg_command cmd_help = {
    .name = "help", .summary = "help on a command; engines, formats, families: the tables",
    .synopsis = "[COMMAND|engines|formats|families]",
    .text = "Prints the commands, the options of one command, or one of the tables that plans are made from: engines, "
            "weight formats, model families.",
    .examples = "  fitq help plan\n  fitq help engines\n",
    .option = only_help, .n_option = 1, .max_operand = 1, .operand_choice = topics, .run = run_help,
};

/* ---- version --------------------------------------------------------------------------------------------------- */

static int run_version(const arg_values *a)
{
    (void)a;
    printf("fitq %s\n", fq_version());
    return 0;
}

static const char *const nothing[] = { NULL };

const arg_command cmd_version = {
    .name = "version", .summary = "the version",
    .synopsis = "", .text = "Prints the version.", .examples = "  fitq version\n",
    .option = only_help, .n_option = 1, .max_operand = 0, .operand_choice = nothing, .run = run_version,
};

/* ---- completion ------------------------------------------------------------------------------------------------ */

/* The words an option's value may be, separated by spaces; nothing when they are not a list. */
static void print_words(const arg_option *o)
{
    for (size_t i = 0; o->choice && o->choice[i]; i++) printf("%s%s", i ? " " : "", o->choice[i]);
    if (o->complete != ARG_ENGINE && o->complete != ARG_FORMAT) return;
    id_at *at = o->complete == ARG_ENGINE ? engine_id : format_id;
    for (size_t i = 0; at(i); i++) printf("%s ", at(i));
    printf("all");
}

static bool has_words(const arg_option *o)
{
    return o->choice || o->complete == ARG_ENGINE || o->complete == ARG_FORMAT;
}

static void bash_command(const arg_command *c)
{
    printf("    %s)\n        case \"$previous\" in\n", c->name);
    for (size_t i = 0; i < c->n_option; i++) {
        const arg_option *o = &c->option[i];
        if (o->kind == ARG_FLAG) continue;
        printf("        --%s", o->name);
        if (o->letter) printf("|-%c", o->letter);
        printf(") ");
        if (has_words(o)) {
            printf("_fitq_words \"");
            print_words(o);
            printf("\"; ");
        } else if (o->complete == ARG_PATH) {
            printf("COMPREPLY=($(compgen -f -- \"$word\")); ");
        }
        printf("return ;;\n");
    }
    printf("        esac\n        if [[ $word == -* ]]; then\n            _fitq_words \"");
    for (size_t i = 0; i < c->n_option; i++) printf("%s--%s", i ? " " : "", c->option[i].name);
    printf("\"\n        else\n            ");
    if (c->operand_choice) {
        printf("_fitq_words \"");
        for (size_t i = 0; c->operand_choice[i]; i++) printf("%s%s", i ? " " : "", c->operand_choice[i]);
        printf("\"");
    } else {
        printf("COMPREPLY=($(compgen -f -- \"$word\"))");
    }
    printf("\n        fi ;;\n");
}

static void bash_completion(void)
{
    printf("# bash completion for fitq; made by `fitq completion bash`\n"
           "_fitq_words() {\n"
           "    # a list is completed after its last comma\n"
           "    local done=\"\"\n"
           "    [[ $word == *,* ]] && done=\"${word%%,*},\"\n"
           "    COMPREPLY=($(compgen -P \"$done\" -W \"$1\" -- \"${word##*,}\"))\n"
           "}\n"
           "_fitq() {\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n"
           "    COMPREPLY=()\n"
           "    if (( COMP_CWORD == 1 )); then\n        _fitq_words \"");
    for (size_t i = 0; commands[i]; i++) printf("%s%s", i ? " " : "", commands[i]->name);
    printf("\"\n        return\n    fi\n    case \"${COMP_WORDS[1]}\" in\n");
    for (size_t i = 0; commands[i]; i++) bash_command(commands[i]);
    printf("    esac\n}\ncomplete -o filenames -F _fitq fitq\n");
}

/* Text inside single quotes, for zsh's option specs: quotes, brackets and colons are escaped. */
static void zsh_text(const char *s)
{
    for (; *s; s++) {
        if (*s == '\'') printf("'\\''");
        else if (strchr("[]:\\", *s)) printf("\\%c", *s);
        else putchar(*s);
    }
}

static void zsh_option(const arg_option *o)
{
    printf(" \\\n            '");
    if (o->letter) printf("(-%c --%s)'{-%c,--%s}'", o->letter, o->name, o->letter, o->name);
    else printf("--%s", o->name);
    printf("[");
    zsh_text(o->help);
    printf("]");
    if (o->kind != ARG_FLAG) {
        printf(":");
        zsh_text(o->value);
        printf(":");
        if (has_words(o) && o->kind == ARG_STRINGS) {
            printf("_sequence compadd - ");
            print_words(o);
        } else if (has_words(o)) {
            printf("(");
            print_words(o);
            printf(")");
        } else if (o->complete == ARG_PATH) {
            printf("_files");
        }
    }
    printf("'");
}

static void zsh_completion(void)
{
    printf("#compdef fitq\n# zsh completion for fitq; made by `fitq completion zsh`\n"
           "_fitq() {\n    local -a commands\n    commands=(\n");
    for (size_t i = 0; commands[i]; i++) {
        printf("        '%s:", commands[i]->name);
        zsh_text(commands[i]->summary);
        printf("'\n");
    }
    printf("    )\n    if (( CURRENT == 2 )); then\n        _describe command commands\n        return\n    fi\n"
           "    local command=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $command in\n");
    for (size_t i = 0; commands[i]; i++) {
        const arg_command *c = commands[i];
        printf("        %s) _arguments", c->name);
        for (size_t k = 0; k < c->n_option; k++) zsh_option(&c->option[k]);
        if (c->operand_choice) {
            printf(" \\\n            '*:topic:(");
            for (size_t k = 0; c->operand_choice[k]; k++) printf("%s%s", k ? " " : "", c->operand_choice[k]);
            printf(")'");
        } else {
            printf(" \\\n            '*:path:_files'");
        }
        printf(" ;;\n");
    }
    printf("    esac\n}\n_fitq \"$@\"\n");
}

static void fish_text(const char *s)
{
    for (; *s; s++) printf(*s == '\'' || *s == '\\' ? "\\%c" : "%c", *s);
}

static void fish_command(const arg_command *c)
{
    const char *when = "__fish_seen_subcommand_from";
    for (size_t i = 0; i < c->n_option; i++) {
        const arg_option *o = &c->option[i];
        printf("complete -c fitq -n '%s %s' -l %s", when, c->name, o->name);
        if (o->letter) printf(" -s %c", o->letter);
        if (o->kind != ARG_FLAG) printf(o->complete == ARG_PATH ? " -rF" : " -x");
        if (has_words(o)) {
            printf(" -a '");
            print_words(o);
            printf("'");
        }
        printf(" -d '");
        fish_text(o->help);
        printf("'\n");
    }
    if (!c->operand_choice) {
        printf("complete -c fitq -n '%s %s' -F\n", when, c->name);
    } else if (c->operand_choice[0]) {
        printf("complete -c fitq -n '%s %s' -a '", when, c->name);
        for (size_t i = 0; c->operand_choice[i]; i++) printf("%s%s", i ? " " : "", c->operand_choice[i]);
        printf("'\n");
    }
}

static void fish_completion(void)
{
    printf("# fish completion for fitq; made by `fitq completion fish`\ncomplete -c fitq -f\n");
    for (size_t i = 0; commands[i]; i++) {
        printf("complete -c fitq -n __fish_use_subcommand -a %s -d '", commands[i]->name);
        fish_text(commands[i]->summary);
        printf("'\n");
    }
    for (size_t i = 0; commands[i]; i++) fish_command(commands[i]);
}

static int run_completion(const arg_values *a)
{
    const char *shell = a->operand[0];
    if (strcmp(shell, "bash") == 0) bash_completion();
    else if (strcmp(shell, "zsh") == 0) zsh_completion();
    else if (strcmp(shell, "fish") == 0) fish_completion();
    else return args_usage("completion", "unknown shell \"%s\", expected bash, zsh or fish", shell);
    return 0;
}

static const char *const shells[] = { "bash", "zsh", "fish", NULL };

const arg_command cmd_completion = {
    .name = "completion", .summary = "a completion script for bash, zsh or fish",
    .synopsis = "bash|zsh|fish",
    .text = "Prints a completion script, made from the same tables as the options themselves. `make install` puts the "
            "three where the shells look.",
    .examples = "  fitq completion bash > ~/.local/share/bash-completion/completions/fitq\n"
                "  fitq completion fish > ~/.config/fish/completions/fitq.fish\n",
    .option = only_help, .n_option = 1, .min_operand = 1, .max_operand = 1, .operand_choice = shells,
    .run = run_completion,
};
