/* args.h - option tables, and one parser for all of them.
 *
 * Every command is a row (arg_command) with its options as a table. Parsing, --help and shell completion read the same table, so
 * that none of them can know an option that the others do not. The parser stores into an arg_values and points into argv:
 * nothing is allocated. */
#ifndef FITQ_CLI_ARGS_H
#define FITQ_CLI_ARGS_H

#include "fitq.h"

#define ARG_MAX_LIST 64

typedef struct arg_ints { int v[ARG_MAX_LIST]; size_t n; } arg_ints;
typedef struct arg_strings { const char *v[ARG_MAX_LIST]; size_t n; } arg_strings;

/* What a command line can say, all commands together. Zero = not given. */
typedef struct arg_values {
    const char *operand[2];
    size_t n_operand;
    const char *output, *prefix, *as;
    arg_ints tp;
    arg_strings engine, format;
    int64_t group_size, context, kv_cache_bits, threads;
    uint64_t gpu_memory, memory, shard_size;
    int io, layout;   /* index into the option's choices */
    fq_fit set;
    bool set_given;
    bool vocab, overwrite, resume, dry_run, json, quiet, tensors, weights, help;
    bool decode, count, special, plain, skip_special;   /* tokenize */
    const char *text, *ids, *scratch;   /* what runs a model */
    int64_t chunks;
    int served;                         /* index into the option's choices */
    const char *reference;              /* eval */
    int score, bos;                     /* index into the option's choices */
    const char *prompt, *prompt_file, *system;   /* generate */
    int64_t max_tokens;
    int64_t ranks;                       /* what can be divided over ranks */
    arg_ints cost_ranks;                 /* plan --quantize-cost */
    bool quantize_cost;
    int64_t tokens;
    double matrix_rate;
    uint64_t disk_rate, network_rate;
    double heartbeat;
    bool expert_parallel;
    int rank_names;                      /* shard: index into the option's choices */
    double temperature, top_p;
    uint64_t seed;
    bool chat, exact, ignore_eos;
    const char *calib, *report, *gpus;   /* quantize, fit */
    int64_t regroup;                     /* pad */
    bool fold_order;                     /* pad */
    const char *adapter, *like;          /* pad, unpad */
    bool drop;                           /* unpad */
    const char *form;                    /* convert */
    int zeros;                           /* index into the option's choices */
    int64_t bits, samples, seqlen, refit, min_expert_tokens;
    int method, packing, scale, scale_store, order;   /* index into the option's choices */
    double damp, shift;
    bool asymmetric, positive_scales, textbook, lm_head, strict, restart, no_refit, no_shift;
} arg_values;

typedef enum arg_kind {
    ARG_FLAG,      /* bool */
    ARG_STRING,    /* const char * */
    ARG_INT,       /* int64_t in [min, max], never 0 */
    ARG_SEED,      /* uint64_t, any */
    ARG_REAL,      /* double in [min, max] */
    ARG_SHARE,     /* double in (0, 1] */
    ARG_SIZE,      /* uint64_t of at least min: "24GiB", "5GB", bytes */
    ARG_CHOICE,    /* int: index into choice[] */
    ARG_INTS,      /* arg_ints: "2,3,4" or "2-8", each in [min, max] */
    ARG_STRINGS,   /* arg_strings: "a,b" */
    ARG_FIT        /* fq_fit: "intermediate_size=29696,..." */
} arg_kind;

/* What the value of an option may be, for completion. */
typedef enum arg_complete { ARG_ANY, ARG_PATH, ARG_ENGINE, ARG_FORMAT } arg_complete;

typedef struct arg_option {
    const char *name;           /* without the dashes */
    char letter;                /* 0 = none */
    arg_kind kind;
    const char *value;          /* how --help calls the value; NULL for a flag */
    size_t offset;              /* into arg_values */
    const char *help;
    const char *const *choice;  /* ARG_CHOICE: NULL-terminated; ARG_STRING: suggestions for completion, or NULL */
    int64_t min, max;
    arg_complete complete;
} arg_option;

typedef struct arg_command {
    const char *name;
    const char *summary;        /* one line */
    const char *synopsis;       /* after "fitq NAME " */
    const char *text;           /* paragraph for --help */
    const char *examples;       /* lines, each "  fitq ..." */
    const char *exit_status;    /* beyond 0 and the common ones, or NULL */
    const arg_option *option;
    size_t n_option;
    size_t min_operand, max_operand;
    const char *const *operand_choice;  /* completion of operands; NULL = paths */
    int (*run)(const arg_values *a);    /* returns the exit status */
    void (*more_help)(void);            /* printed before the examples; NULL = nothing */
} arg_command;

/* The rows that several commands have. */
extern const char *const arg_io_names[];      /* order of fq_io */
extern const char *const arg_layout_names[];  /* order of fq_layout */
extern const char *const arg_served_names[];  /* order of fq_served */
extern const char *const arg_score_names[];   /* order of fq_score */
extern const char *const arg_bos_names[];     /* order of fq_bos */
#define ARG_OFFSET(member) offsetof(arg_values, member)
#define ARG_OPT_JSON \
    { "json", 0, ARG_FLAG, NULL, ARG_OFFSET(json), "print JSON on stdout instead of text", NULL, 0, 0, ARG_ANY }
#define ARG_OPT_QUIET \
    { "quiet", 'q', ARG_FLAG, NULL, ARG_OFFSET(quiet), "no progress and no notes on stderr", NULL, 0, 0, ARG_ANY }
#define ARG_OPT_HELP { "help", 'h', ARG_FLAG, NULL, ARG_OFFSET(help), "print this help", NULL, 0, 0, ARG_ANY }
#define ARG_OPT_THREADS \
    { "threads", 't', ARG_INT, "N", ARG_OFFSET(threads), "threads (default: one per processor, at most 8)", NULL, 1, \
      256, ARG_ANY }
#define ARG_OPT_MEMORY \
    { "memory", 0, ARG_SIZE, "SIZE", ARG_OFFSET(memory), "bound for I/O buffers (default: 128MiB)", NULL, 0, 0, ARG_ANY }
#define ARG_OPT_IO \
    { "io", 0, ARG_CHOICE, "MODE", ARG_OFFSET(io), \
      "auto: large files bypass the page cache where possible; direct; buffered (default: auto)", arg_io_names, 0, 0, \
      ARG_ANY }
#define ARG_OPT_OUTPUT \
    { "output", 'o', ARG_STRING, "DIR", ARG_OFFSET(output), "folder to write", NULL, 0, 0, ARG_PATH }
#define ARG_OPT_SHARD_SIZE \
    { "shard-size", 0, ARG_SIZE, "SIZE", ARG_OFFSET(shard_size), "largest file to write (default: 5GB)", NULL, 0, 0, \
      ARG_ANY }
#define ARG_OPT_OVERWRITE \
    { "overwrite", 0, ARG_FLAG, NULL, ARG_OFFSET(overwrite), "replace an existing output folder", NULL, 0, 0, ARG_ANY }
#define ARG_OPT_RESUME \
    { "resume", 0, ARG_FLAG, NULL, ARG_OFFSET(resume), \
      "continue an interrupted run of the same request; without one, start afresh", NULL, 0, 0, ARG_ANY }
#define ARG_OPT_TP(text) \
    { "tp", 0, ARG_INTS, "N,...", ARG_OFFSET(tp), text, NULL, 1, 64, ARG_ANY }
#define ARG_OPT_ENGINE \
    { "engine", 'e', ARG_STRINGS, "ID,...", ARG_OFFSET(engine), \
      "engines that have to run it, or all (default: vllm,sglang; `fitq help engines` lists them)", NULL, 0, 0, ARG_ENGINE }
#define ARG_OPT_FORMAT(dflt) \
    { "format", 'f', ARG_STRINGS, "ID,...", ARG_OFFSET(format), \
      "weight formats, or all (default: " dflt "; `fitq help formats` lists them)", NULL, 0, 0, ARG_FORMAT }
#define ARG_OPT_GROUP_SIZE(dflt) \
    { "group-size", 'g', ARG_INT, "N", ARG_OFFSET(group_size), \
      "channels that share a scale (default: " dflt "; -1: one group per row)", NULL, -1, 65536, ARG_ANY }
#define ARG_OPT_CONTEXT \
    { "context", 'c', ARG_INT, "TOKENS", ARG_OFFSET(context), "tokens to hold in the KV cache (default: 8192)", NULL, 1, \
      INT64_C(1) << 40, ARG_ANY }
/* Of the commands that run a model. */
#define ARG_OPT_TEXT \
    { "text", 0, ARG_STRING, "FILE", ARG_OFFSET(text), "text to run on, cut by the model's tokenizer.json", NULL, 0, 0, ARG_PATH }
#define ARG_OPT_IDS \
    { "ids", 0, ARG_STRING, "FILE", ARG_OFFSET(ids), "token ids to run on, as `fitq tokenize` prints them", NULL, 0, 0, ARG_PATH }
#define ARG_OPT_WINDOW(dflt) \
    { "context", 'c', ARG_INT, "N", ARG_OFFSET(context), "tokens of a window (default: " dflt ")", NULL, 2, INT64_C(1) << 24, ARG_ANY }
#define ARG_OPT_CHUNKS(dflt) \
    { "chunks", 0, ARG_INT, "N", ARG_OFFSET(chunks), "most windows to run on (default: " dflt ")", NULL, 1, INT64_C(1) << 40, ARG_ANY }
#define ARG_OPT_SERVED \
    { "served-dtype", 0, ARG_CHOICE, "TYPE", ARG_OFFSET(served), \
      "round weights and results as an engine would that holds them so: fp32, bf16 or fp16 (default: fp32)", arg_served_names, 0, 0, ARG_ANY }
#define ARG_OPT_EXACT \
    { "exact", 0, ARG_FLAG, NULL, ARG_OFFSET(exact), "add in a fixed order: the same bits on every machine and for any number of threads; slower", NULL, 0, 0, \
      ARG_ANY }
#define ARG_OPT_SCRATCH \
    { "scratch", 0, ARG_STRING, "DIR", ARG_OFFSET(scratch), "folder for what exceeds the memory (default: $TMPDIR, or /tmp)", NULL, 0, 0, ARG_PATH }
/* Of the commands that can be divided over ranks. */
#define ARG_OPT_RANKS \
    { "ranks", 0, ARG_INT, "N", ARG_OFFSET(ranks), "divide the model over N ranks, threads of this process; under mpirun or srun its processes are the ranks", NULL, 1, 64, ARG_ANY }
#define ARG_OPT_EXPERT_PARALLEL \
    { "expert-parallel", 0, ARG_FLAG, NULL, ARG_OFFSET(expert_parallel), "ranks hold whole experts, not a slice of each", NULL, 0, 0, ARG_ANY }
#define ARG_OPT_HEARTBEAT \
    { "heartbeat", 0, ARG_REAL, "SECONDS", ARG_OFFSET(heartbeat), "under mpirun or srun: end when a rank shows no sign of life for so long (default: 60)", NULL, 1, 86400, ARG_ANY }
#define ARG_OPT_RUN_MEMORY \
    { "memory", 0, ARG_SIZE, "SIZE", ARG_OFFSET(memory), "bound for the whole process (default: three quarters of what is free)", NULL, 0, 0, ARG_ANY }

/* Parses argv[0..n) (without the program and the command) by the command's table. On failure the message is on stderr and
 * the result is false. --help stops the parsing. argv strings are cut in place. */
bool args_parse(const arg_command *c, int n, char **argv, arg_values *out);

/* "1.5GiB", "5GB", "4096" -> bytes. */
bool args_size(const char *text, uint64_t *out);

void args_help(const arg_command *c);

/* The word in names (NULL-terminated) nearest to word, or NULL if none is near. */
const char *args_nearest(const char *word, const char *const *names);

/* Prints "fitq COMMAND: message" and where help is; returns the exit status of a usage error. command may be NULL. */
int args_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
