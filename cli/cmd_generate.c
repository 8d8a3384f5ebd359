/* cmd_generate.c - text from a model: a prompt that is continued, or a conversation. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "commands.h"
#include "input.h"
#include "output.h"
#include "progress.h"
#include "signals.h"
#include "stream.h"

#define MAX_TOKENS 256
#define PROMPT_MAX_BYTES ((size_t)64 << 20)   /* 16 million tokens or so: more than any context; ids take as much again */

typedef enum stop_reason { STOP_END, STOP_LENGTH, STOP_CONTEXT } stop_reason;
static const char *const stop_names[] = { "end", "length", "context" };

/* What one run of the command holds. */
typedef struct session {
    const arg_values *a;
    progress progress;
    fq_run run;
    fq_tokenizer *t;
    fq_generator *g;
    bool has_turn_end; uint32_t turn_end;
    uint32_t last;               /* id that was fed last */
    uint32_t *ids; size_t n, cap;      /* generated; all turns together */
    char *text; size_t n_text, cap_text;   /* kept for --json only */
    size_t n_prompt;
    double prompt_seconds, seconds;
    stop_reason stopped;
} session;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double rate(size_t n, double seconds) { return seconds > 0 ? (double)n / seconds : 0; }

static int no_memory(void) { return input_no_memory("generated text"); }

/* A reader that went away is no error, and no reason to go on. */
static int write_failed(int err)
{
    return err == EPIPE ? 0 : input_failed("stdout", "write", err);
}

/* ---- generating ----------------------------------------------------------------------------------------------------- */

static bool keep_id(session *s, uint32_t id)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 256;
        uint32_t *ids = realloc(s->ids, cap * sizeof *ids);
        if (!ids) return false;
        s->ids = ids;
        s->cap = cap;
    }
    s->ids[s->n++] = id;
    s->last = id;
    return true;
}

static bool keep_text(session *s, const char *bytes, size_t n)
{
    if (s->n_text + n > s->cap_text) {
        size_t cap = 2 * (s->cap_text + n) + 1024;
        char *text = realloc(s->text, cap);
        if (!text) return false;
        s->text = text;
        s->cap_text = cap;
    }
    if (n > 0) memcpy(s->text + s->n_text, bytes, n);
    s->n_text += n;
    return true;
}

static bool is_end(const session *s, uint32_t id)
{
    return !s->a->ignore_eos && (fq_generator_is_end(s->g, id) || (s->has_turn_end && id == s->turn_end));
}

/* Control tokens are part of the ids, and of the text if --special asks for them. An id without a token (embeddings are often
 * longer than the vocabulary) has no text. */
static const char *text_of(const session *s, uint32_t id, size_t *n)
{
    const char *bytes = fq_tokenizer_token(s->t, id, n);
    if (!bytes || (fq_tokenizer_is_special(s->t, id) && !s->a->special)) *n = 0;
    return bytes;
}

static int feed(session *s, const uint32_t *ids, size_t n)
{
    fq_err e = { 0 };
    double start = now();
    if (fq_generator_feed(s->g, ids, n, &e) != FQ_OK) return out_error(&e);
    s->prompt_seconds += now() - start;
    s->n_prompt += n;
    return 0;
}

/* One answer. *gone: nobody reads it. */
static int answer(session *s, stream *out, bool *gone)
{
    int64_t most = s->a->max_tokens ? s->a->max_tokens : MAX_TOKENS;
    double start = now();
    int status = 0;
    s->stopped = STOP_LENGTH;
    for (int64_t i = 0; i < most && status == 0 && !*gone; i++) {
        fq_generator_info info;
        fq_err e = { 0 };
        uint32_t id;
        size_t n;
        fq_generator_get_info(s->g, &info);
        if (info.n_token == info.context) {
            s->stopped = STOP_CONTEXT;
            break;
        }
        if (fq_generator_next(s->g, &id, &e) != FQ_OK) {
            status = out_error(&e);
            break;
        }
        const char *bytes = text_of(s, id, &n);
        if (!keep_id(s, id) || (s->a->json && !keep_text(s, bytes, n))) status = no_memory();
        else if (!s->a->json && !stream_put(out, bytes, n)) {
            *gone = true;
            status = write_failed(errno);
        }
        if (is_end(s, id)) {
            s->stopped = STOP_END;
            break;
        }
    }
    s->seconds += now() - start;
    if (!s->a->json && !*gone && !stream_end(out)) {
        *gone = true;
        if (status == 0) status = write_failed(errno);
    }
    return status;
}

/* ---- one text --------------------------------------------------------------------------------------------------------- */

/* "FILE: " before a message of the library about a text, which has no file to it. */
static int text_error(const char *name, const fq_err *e)
{
    fq_err named = *e;
    if (e->code == FQ_E_NOMEM) return out_error(e);
    snprintf(named.text, sizeof named.text, "%.1024s: %.1000s", name, e->text);
    return out_error(&named);
}

/* Ids of the prompt: as it stands, with what the tokenizer puts before a text, or as the user's message of a conversation. */
static int encode_prompt(const session *s, const char *text, size_t n, const char *name, uint32_t **ids, size_t *n_ids)
{
    static const fq_encode_options special = { .add_special = true };
    fq_err e = { 0 };
    if (!s->a->chat) {
        if (fq_tokenizer_encode(s->t, text, n, &special, ids, n_ids, &e) != FQ_OK) return text_error(name, &e);
        return 0;
    }
    fq_chat_message m[2] = { { "system", s->a->system }, { "user", text } };
    size_t skip = s->a->system == NULL;
    if (fq_chat_encode(s->t, m + skip, 2 - skip, true, ids, n_ids, &e) != FQ_OK) return text_error(name, &e);
    return 0;
}

static int refuse(const char *name, const char *what)
{
    fq_err e = { .code = FQ_E_INPUT };
    snprintf(e.text, sizeof e.text, "%.1024s: %s", name, what);
    return out_error(&e);
}

static int print_json(const session *s)
{
    json_t *root = json_object(), *ids = json_array();
    fq_generator_info info;
    fq_generator_get_info(s->g, &info);
    out_put(root, "text", out_json_bytes(s->text ? s->text : "", s->n_text));
    for (size_t i = 0; i < s->n; i++) out_append(ids, json_integer(s->ids[i]));
    out_put(root, "ids", ids);
    out_put_str(root, "stopped", stop_names[s->stopped]);
    out_put_u64(root, "prompt_tokens", s->n_prompt);
    out_put_u64(root, "tokens", s->n);
    out_put_real(root, "prompt_seconds", s->prompt_seconds);
    out_put_real(root, "seconds", s->seconds);
    out_put_str(root, "kernel", info.kernel);
    out_put_int(root, "threads", info.n_thread);
    out_put_u64(root, "weight_bytes_per_token", info.weight_bytes);
    out_put_u64(root, "memory_bytes", info.memory_bytes);
    return out_json(root);
}

static int one_text(session *s, const char *text, size_t n, const char *name)
{
    uint32_t *ids = NULL;
    size_t n_ids = 0;
    bool gone = false;
    stream out = stream_start(stdout, out_is_terminal());
    if (s->a->chat && memchr(text, '\0', n)) return refuse(name, "found a NUL in a message, expected text");
    int status = encode_prompt(s, text, n, name, &ids, &n_ids);
    if (status == 0 && n_ids == 0) status = refuse(name, "found an empty prompt, expected at least one token");
    if (status == 0) status = feed(s, ids, n_ids);
    fq_free(ids);
    if (status == 0) status = answer(s, &out, &gone);
    return status == 0 && s->a->json ? print_json(s) : status;
}

/* ---- a conversation --------------------------------------------------------------------------------------------------- */

/* Lines of standard input. read() is called only when something is there: a signal interrupts poll(), whatever SA_RESTART says. */
typedef struct lines { char *s; size_t n, cap, used; bool end; } lines;

static int fill(lines *l)
{
    struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
    int status = poll(&p, 1, -1) < 0 && errno != EINTR ? input_failed("standard input", "poll", errno) : 0;
    if (status != 0 || signals_cancelled(NULL) || p.revents == 0) return status;
    if (l->cap - l->n < 4096) {
        size_t cap = 2 * l->cap + 8192;
        char *text = realloc(l->s, cap);
        if (!text) return input_no_memory("standard input");
        l->s = text;
        l->cap = cap;
    }
    ssize_t got = read(STDIN_FILENO, l->s + l->n, l->cap - l->n - 1);   /* a NUL goes behind the last line */
    if (got < 0 && errno != EINTR && errno != EAGAIN) return input_failed("standard input", "read", errno);
    if (got == 0) l->end = true;
    if (got > 0) l->n += (size_t)got;
    return 0;
}

/* The next line, NUL-terminated, without its end; *line is NULL at the end of the input. Bytes are looked at once: a line may be as long
 * as a text. */
static int next_line(lines *l, char **line)
{
    *line = NULL;
    memmove(l->s, l->s + l->used, l->n - l->used);
    l->n -= l->used;
    l->used = 0;
    for (size_t seen = 0;;) {
        char *end = l->n > seen ? memchr(l->s + seen, '\n', l->n - seen) : NULL;
        if (!end && l->end) {
            if (l->n == 0) return 0;
            end = l->s + l->n;
        }
        if (end) {
            size_t n = (size_t)(end - l->s);
            l->used = n < l->n ? n + 1 : n;
            if (memchr(l->s, '\0', n)) return refuse("standard input", "found a NUL in a message, expected text");
            *end = '\0';
            if (n > 0 && end[-1] == '\r') end[-1] = '\0';
            *line = l->s;
            return 0;
        }
        seen = l->n;
        if (seen > PROMPT_MAX_BYTES) return input_too_long("standard input", PROMPT_MAX_BYTES);
        int status = fill(l);
        if (status != 0) return status;
        if (signals_cancelled(NULL)) return -FQ_E_CANCELLED;
    }
}

static int one_turn(session *s, const char *text, bool first, bool *gone)
{
    uint32_t *ids = NULL;
    size_t n_ids = 0;
    fq_err e = { 0 };
    fq_chat_message m[2] = { { "system", s->a->system }, { "user", text } };
    size_t skip = !first || s->a->system == NULL;
    stream out = stream_start(stdout, out_is_terminal());
    /* an answer that was cut, or ended in another way, is closed before the next message */
    int status = first || s->last == s->turn_end ? 0 : feed(s, &s->turn_end, 1);
    if (status == 0 && fq_chat_encode(s->t, m + skip, 2 - skip, first, &ids, &n_ids, &e) != FQ_OK) status = out_error(&e);
    if (status == 0) {
        s->last = ids[n_ids - 1];   /* an answer may stay empty when the context is full */
        status = feed(s, ids, n_ids);
    }
    fq_free(ids);
    return status == 0 ? answer(s, &out, gone) : status;
}

static int conversation(session *s)
{
    bool ask = isatty(STDIN_FILENO) != 0, first = true, gone = false;
    lines l = { .s = malloc(8192), .cap = 8192 };
    int status = l.s ? 0 : input_no_memory("standard input");
    while (status == 0 && !gone) {
        char *line = NULL;
        if (ask) {
            fputs("> ", stdout);
            fflush(stdout);
        }
        status = next_line(&l, &line);
        if (status != 0 || !line) break;
        if (line[strspn(line, " \t")] == '\0') continue;
        status = one_turn(s, line, first, &gone);
        first = false;
    }
    if (ask && !gone && status == 0) putchar('\n');
    free(l.s);
    return status;
}

/* ---- the command ----------------------------------------------------------------------------------------------------- */

static void print_stats(const session *s)
{
    fq_generator_info info;
    fq_generator_get_info(s->g, &info);
    fprintf(stderr, "prompt: %zu tokens in %.1f s, %.1f tokens/s\n", s->n_prompt, s->prompt_seconds, rate(s->n_prompt, s->prompt_seconds));
    fprintf(stderr, "generated: %zu tokens in %.1f s, %.1f tokens/s (%s kernels, %d thread%s, %s of weights a token)\n", s->n, s->seconds, rate(s->n, s->seconds),
            info.kernel, info.n_thread, info.n_thread == 1 ? "" : "s", out_bytes(info.weight_bytes).s);
    if (s->stopped == STOP_CONTEXT) fprintf(stderr, "fitq: the context of %" PRId64 " tokens is full; --context makes it longer\n", info.context);
}

/* tokenizer.json lies beside the weights, whether PATH is the folder or a file in it. */
static int open_tokenizer(session *s, const char *path)
{
    struct stat st;
    fq_err e = { 0 };
    char *dir = strdup(path);
    if (!dir) return input_no_memory(path);
    if (stat(path, &st) == 0 && !S_ISDIR(st.st_mode)) {
        char *slash = strrchr(dir, '/');
        if (!slash) strcpy(dir, *path ? "." : "");
        else slash[slash == dir] = '\0';
    }
    fq_status status = fq_tokenizer_open(dir, &s->t, &e);
    free(dir);
    return status == FQ_OK ? 0 : out_error(&e);
}

static int open_all(session *s)
{
    const arg_values *a = s->a;
    fq_generator_options o = { .context = a->context, .temperature = a->temperature, .top_p = a->top_p, .seed = a->seed, .served = (fq_served)a->served, .exact = a->exact };
    fq_err e = { 0 };
    int status = open_tokenizer(s, a->operand[0]);
    if (status != 0) return status;
    s->has_turn_end = a->chat && fq_chat_end(s->t, &s->turn_end);
    if (a->chat && !s->has_turn_end) {   /* before gigabytes are read */
        uint32_t *ids = NULL;
        size_t n;
        return fq_chat_encode(s->t, NULL, 0, true, &ids, &n, &e) == FQ_OK ? 0 : out_error(&e);
    }
    progress_run(&s->progress, &s->run, a);
    if (fq_generator_open(a->operand[0], &o, &s->run, &s->g, &e) != FQ_OK) status = out_error(&e);
    progress_end(&s->progress);
    return status;
}

static int check(const arg_values *a)
{
    if (a->prompt && a->prompt_file) return args_usage("generate", "--prompt does not go with --prompt-file");
    if (!a->prompt && !a->prompt_file && !a->chat) return args_usage("generate", "say what to continue: --prompt TEXT, --prompt-file FILE or --chat");
    if (!a->prompt && !a->prompt_file && a->json) return args_usage("generate", "--json needs --prompt or --prompt-file");
    if (a->system && !a->chat) return args_usage("generate", "--system needs --chat");
    if (a->temperature <= 0 && a->top_p > 0) return args_usage("generate", "--top-p needs --temperature");
    if (a->temperature <= 0 && a->seed != 0) return args_usage("generate", "--seed needs --temperature");
    return 0;
}

static int run_generate(const arg_values *a)
{
    session s = { .a = a };
    input in = { .name = "--prompt" };
    int status = check(a);
    if (status != 0) return status;
    if (a->prompt_file) status = input_read(a->prompt_file, PROMPT_MAX_BYTES, &in);
    if (status == 0 && a->prompt_file && in.n == in.cap) {   /* room for the NUL */
        char *text = realloc(in.s, in.n + 1);
        if (text) in.s = text;
        else status = input_no_memory(in.name);
    }
    if (status == 0 && a->prompt_file) in.s[in.n] = '\0';
    if (status == 0) status = open_all(&s);
    if (status == 0 && fq_rank() > 0) {   /* rank 0 has the prompt and the answer */
        fq_err e = { 0 };
        if (fq_generator_serve(s.g, &e) != FQ_OK) status = out_error(&e);
    } else if (status == 0) {
        if (a->prompt_file) status = one_text(&s, in.s, in.n, in.name);
        else if (a->prompt) status = one_text(&s, a->prompt, strlen(a->prompt), in.name);
        else status = conversation(&s);
        if (s.n_prompt > 0 && !a->quiet) print_stats(&s);
    }
    fq_generator_close(s.g);
    fq_tokenizer_close(s.t);
    free(s.ids);
    free(s.text);
    free(in.s);
    return status;
}

static const arg_option options[] = {
    { "prompt", 'p', ARG_STRING, "TEXT", ARG_OFFSET(prompt), "text to continue; control tokens in it, e.g. <|im_start|>, are read as such", NULL, 0, 0, ARG_ANY },
    { "prompt-file", 0, ARG_STRING, "FILE", ARG_OFFSET(prompt_file), "the same from a file, or - for standard input", NULL, 0, 0, ARG_PATH },
    { "chat", 0, ARG_FLAG, NULL, ARG_OFFSET(chat),
      "the prompt is a user's message; without one, messages are lines of standard input, and the conversation goes on", NULL, 0, 0, ARG_ANY },
    { "system", 0, ARG_STRING, "TEXT", ARG_OFFSET(system), "with --chat: the system's message", NULL, 0, 0, ARG_ANY },
    { "max-tokens", 'n', ARG_INT, "N", ARG_OFFSET(max_tokens), "most tokens of an answer (default: 256)", NULL, 1, INT64_C(1) << 40, ARG_ANY },
    { "temperature", 0, ARG_REAL, "T", ARG_OFFSET(temperature), "choose at random, likelier words more often; 0: always the likeliest (default: 0)", NULL, 0, 100, ARG_ANY },
    { "top-p", 0, ARG_SHARE, "P", ARG_OFFSET(top_p), "with --temperature: only among the likeliest that have P of the probability (default: 1)", NULL, 0, 0, ARG_ANY },
    { "seed", 0, ARG_SEED, "N", ARG_OFFSET(seed), "with --temperature: start of the random numbers (default: 0)", NULL, 0, 0, ARG_ANY },
    { "context", 'c', ARG_INT, "N", ARG_OFFSET(context), "most tokens of prompt and answers together (default: 4096, or what the model was made for)", NULL, 1,
      INT64_C(1) << 30, ARG_ANY },
    { "ignore-eos", 0, ARG_FLAG, NULL, ARG_OFFSET(ignore_eos), "go on behind the token that ends a text", NULL, 0, 0, ARG_ANY },
    { "special", 0, ARG_FLAG, NULL, ARG_OFFSET(special), "print control tokens too", NULL, 0, 0, ARG_ANY },
    ARG_OPT_SERVED, ARG_OPT_EXACT, ARG_OPT_JSON, ARG_OPT_THREADS, ARG_OPT_RANKS, ARG_OPT_EXPERT_PARALLEL, ARG_OPT_HEARTBEAT,
    { "memory", 0, ARG_SIZE, "SIZE", ARG_OFFSET(memory), "bound for the whole process (default: what is free)", NULL, 0, 0, ARG_ANY },
    ARG_OPT_QUIET, ARG_OPT_HELP,
};

const arg_command cmd_generate = {
    .name = "generate", .summary = "let a model write: continue a text, or chat",
    .synopsis = "PATH (--prompt TEXT | --prompt-file FILE | --chat) [options]",
    .text = "The model in PATH, with its own tokenizer.json, continues a text. The text is printed as it comes, and a newline behind it unless it ends "
            "in one; how fast it was goes to stderr. --chat knows the templates ChatML (Qwen and others) and Llama 3; nothing in a message is "
            "read as a control token there. All weights are held in memory as they are stored. On a terminal, control characters that "
            "the model writes are shown as \\xNN.",
    .examples = "  fitq generate Qwen2-7B --prompt \"Once upon a time\"\n"
                "  fitq generate Qwen2-7B --prompt-file story.txt --max-tokens 500 --temperature 0.8 --top-p 0.95 --seed 1\n"
                "  fitq generate Qwen2-7B --chat --system \"Answer in one sentence.\"\n",
    .exit_status = "; 6 numbers that are not finite",
    .option = options, .n_option = sizeof options / sizeof options[0],
    .min_operand = 1, .max_operand = 1, .run = run_generate,
};
