/* args.c - parses command lines by the tables of the commands, and prints the tables as help.
 *
 * `--opt v`, `--opt=v`, `-o v`, `-ov`, `--` ends the options, operands may stand anywhere. Unlike getopt: lists, sizes and choices
 * are checked here, once for all commands; an unknown option names the nearest known one; abbreviations are refused (an
 * abbreviation in a script breaks when an option is added). */
#include "args.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"

const char *const arg_io_names[] = { "auto", "direct", "buffered", NULL };
const char *const arg_layout_names[] = { "spread", "tail", "interleave", NULL };
const char *const arg_served_names[] = { "fp32", "bf16", "fp16", NULL };
const char *const arg_score_names[] = { "second-half", "all", NULL };
const char *const arg_bos_names[] = { "auto", "always", "never", NULL };

int args_usage(const char *command, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    fprintf(stderr, "fitq%s%s: ", command ? " " : "", command ? command : "");
    out_escaped(stderr, text);
    if (command)
        fprintf(stderr, "\n`fitq %s --help` shows the usage\n", command);
    else
        fprintf(stderr, "\n`fitq help` lists the commands\n");
    return -FQ_E_USAGE;
}

/* ---- nearest word ---------------------------------------------------------------------------------------------- */

#define NEAR_MAX 40

/* Levenshtein distance; words longer than NEAR_MAX are far from everything. */
static size_t distance(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    size_t row[NEAR_MAX + 1];
    if (na > NEAR_MAX || nb > NEAR_MAX) return SIZE_MAX;
    for (size_t j = 0; j <= nb; j++) row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t replace = diagonal + (a[i - 1] != b[j - 1]);
            size_t best = row[j] + 1 < row[j - 1] + 1 ? row[j] + 1 : row[j - 1] + 1;
            diagonal = row[j];
            row[j] = replace < best ? replace : best;
        }
    }
    return row[nb];
}

const char *args_nearest(const char *word, const char *const *names)
{
    const char *best = NULL;
    size_t best_d = SIZE_MAX;
    for (size_t i = 0; names[i]; i++) {
        size_t n = strlen(word);
        /* "--inter" for "--interleave": a beginning counts as near */
        size_t d = n >= 3 && strncmp(word, names[i], n) == 0 ? 1 : distance(word, names[i]);
        if (d < best_d) { best_d = d; best = names[i]; }
    }
    return best && best_d <= 1 + strlen(best) / 3 ? best : NULL;
}

/* ---- values ---------------------------------------------------------------------------------------------------- */

static bool parse_i64(const char *text, int64_t *out)
{
    if (*text == '\0' || strspn(text + (*text == '-'), "0123456789") != strlen(text + (*text == '-'))) return false;
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0') return false;
    *out = v;
    return true;
}

bool args_size(const char *text, uint64_t *out)
{
    static const struct { const char *name; uint64_t bytes; } unit[] = {
        { "", 1 }, { "B", 1 },
        { "KB", 1000 }, { "MB", 1000000 }, { "GB", 1000000000 }, { "TB", 1000000000000 },
        { "KiB", 1ull << 10 }, { "MiB", 1ull << 20 }, { "GiB", 1ull << 30 }, { "TiB", 1ull << 40 },
    };
    uint64_t whole = 0, part = 0, scale = 1;
    const char *p = text;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(whole, 10u, &whole) || __builtin_add_overflow(whole, (uint64_t)(*p - '0'), &whole))
            return false;
    }
    if (p == text) return false;
    if (*p == '.') {
        const char *first = ++p;
        for (; *p >= '0' && *p <= '9'; p++) {
            if (scale >= 1000000) return false;
            part = part * 10 + (uint64_t)(*p - '0');
            scale *= 10;
        }
        if (p == first) return false;
    }
    while (*p == ' ') p++;
    for (size_t i = 0; i < sizeof unit / sizeof unit[0]; i++) {
        if (strcasecmp(p, unit[i].name) != 0) continue;
        if (unit[i].bytes == 1 && scale != 1) return false;
        if (__builtin_mul_overflow(whole, unit[i].bytes, &whole)) return false;
        /* part < 10^6, unit <= 2^40: below 2^60 */
        return !__builtin_add_overflow(whole, part * unit[i].bytes / scale, out);
    }
    return false;
}

/* The message of a value that was refused; always false. */
static bool bad_value(const arg_command *c, const arg_option *o, const char *value, const char *expected)
{
    args_usage(c->name, "--%s: found \"%s\", expected %s", o->name, value, expected);
    return false;
}

static bool store_int(const arg_command *c, const arg_option *o, const char *value, int64_t *out)
{
    int64_t v;
    /* zero is how arg_values says "not given" */
    if (!parse_i64(value, &v) || v < o->min || v > o->max || v == 0) {
        char want[96];
        snprintf(want, sizeof want, "a whole number from %" PRId64 " to %" PRId64 "%s", o->min, o->max, o->min < 0 ? ", not 0" : "");
        return bad_value(c, o, value, want);
    }
    *out = v;
    return true;
}

static bool add_int(const arg_command *c, const arg_option *o, int64_t v, arg_ints *list)
{
    for (size_t i = 0; i < list->n; i++)
        if (list->v[i] == v) return true;
    if (list->n == ARG_MAX_LIST) {
        args_usage(c->name, "--%s: more than %d values", o->name, ARG_MAX_LIST);
        return false;
    }
    list->v[list->n++] = (int)v;
    return true;
}

/* "2,4,8" and "2-8". */
static bool store_ints(const arg_command *c, const arg_option *o, char *value, arg_ints *list)
{
    char *item;
    while ((item = strsep(&value, ",")) != NULL) {
        int64_t lo, hi;
        char *dash = strchr(item, '-');
        if (dash && dash != item) {
            *dash = '\0';
            if (!store_int(c, o, item, &lo) || !store_int(c, o, dash + 1, &hi)) return false;
        } else {
            if (!store_int(c, o, item, &lo)) return false;
            hi = lo;
        }
        if (lo > hi) return bad_value(c, o, item, "the smaller number first");
        for (int64_t v = lo; v <= hi; v++)
            if (!add_int(c, o, v, list)) return false;
    }
    return true;
}

static bool store_strings(const arg_command *c, const arg_option *o, char *value, arg_strings *list)
{
    char *item;
    while ((item = strsep(&value, ",")) != NULL) {
        if (*item == '\0') return bad_value(c, o, item, "names with commas between them");
        if (list->n == ARG_MAX_LIST) {
            args_usage(c->name, "--%s: more than %d values", o->name, ARG_MAX_LIST);
            return false;
        }
        list->v[list->n++] = item;
    }
    return true;
}

static bool store_choice(const arg_command *c, const arg_option *o, const char *value, int *out)
{
    char want[128] = "one of";
    for (int i = 0; o->choice[i]; i++) {
        if (strcmp(o->choice[i], value) == 0) {
            *out = i;
            return true;
        }
        size_t n = strlen(want);
        snprintf(want + n, sizeof want - n, " %s", o->choice[i]);
    }
    return bad_value(c, o, value, want);
}

static bool store_fit(const arg_command *c, const arg_option *o, char *value, arg_values *out)
{
    static const struct { const char *name; size_t offset; } key[] = {
        { "intermediate_size", offsetof(fq_fit, intermediate_size_pad) },
        { "moe_intermediate_size", offsetof(fq_fit, moe_intermediate_size_pad) },
        { "shared_expert_intermediate_size", offsetof(fq_fit, shared_expert_intermediate_size_pad) },
        { "num_attention_heads", offsetof(fq_fit, num_attention_heads_pad) },
        { "num_key_value_heads", offsetof(fq_fit, num_key_value_heads_pad) },
        { "kv_replication", offsetof(fq_fit, kv_replication) },
        { "vocab_size", offsetof(fq_fit, vocab_size_pad) },
    };
    enum { N_KEY = sizeof key / sizeof key[0] };
    char *item;
    while ((item = strsep(&value, ",")) != NULL) {
        char *equals = strchr(item, '=');
        if (!equals) return bad_value(c, o, item, "KEY=LENGTH[,KEY=LENGTH]");
        *equals = '\0';
        const char *names[N_KEY + 1] = { NULL };
        size_t k = 0;
        for (; k < N_KEY && strcmp(key[k].name, item) != 0; k++) names[k] = key[k].name;
        if (k == N_KEY) {
            const char *near = args_nearest(item, names);
            args_usage(c->name, "--%s: unknown length \"%s\"%s%s%s", o->name, item, near ? "; did you mean " : "",
                       near ? near : "", near ? "?" : "");
            return false;
        }
        int64_t v;
        if (!parse_i64(equals + 1, &v) || v < 1) return bad_value(c, o, equals + 1, "a positive whole number");
        memcpy((char *)&out->set + key[k].offset, &v, sizeof v);
    }
    out->set_given = true;
    return true;
}

/* Digits with at most one point, and an exponent: no "nan", "inf" or hexadecimal, which strtod takes as well. */
static bool parse_real(const char *text, double *out)
{
    char *end;
    if (strspn(text, "0123456789.eE+-") != strlen(text)) return false;
    errno = 0;
    double v = strtod(text, &end);
    if (end == text || *end != '\0' || (errno == ERANGE && v != 0)) return false;
    *out = v;
    return true;
}

static bool store_real(const arg_command *c, const arg_option *o, const char *value, double *out)
{
    double v = 0;
    char want[96];
    bool good = parse_real(value, &v);
    if (o->kind == ARG_SHARE) {
        good = good && v > 0 && v <= 1;
        snprintf(want, sizeof want, "a number above 0 and at most 1");
    } else {
        good = good && v >= (double)o->min && v <= (double)o->max;
        snprintf(want, sizeof want, "a number from %" PRId64 " to %" PRId64, o->min, o->max);
    }
    if (!good) return bad_value(c, o, value, want);
    *out = v;
    return true;
}

static bool store_seed(const arg_command *c, const arg_option *o, const char *value, uint64_t *out)
{
    errno = 0;
    unsigned long long v = strtoull(value, NULL, 10);
    if (*value == '\0' || strspn(value, "0123456789") != strlen(value) || errno != 0) return bad_value(c, o, value, "a whole number from 0 to 2^64 - 1");
    *out = v;
    return true;
}

static bool store_size(const arg_command *c, const arg_option *o, const char *value, uint64_t *out)
{
    if (!args_size(value, out) || *out == 0) return bad_value(c, o, value, "a size such as 24GiB (2^30) or 5GB (10^9)");
    if (*out >= (uint64_t)o->min) return true;
    char want[96];
    /* "24" is 24 bytes, and was hardly meant so */
    bool bare = strspn(value, "0123456789") == strlen(value);
    snprintf(want, sizeof want, "at least %s%s%s%s", out_bytes((uint64_t)o->min).s, bare ? "; did you mean " : "", bare ? value : "",
             bare ? "GiB?" : "");
    return bad_value(c, o, value, want);
}

/* Stores value (NULL for a flag) where the option's row says. */
static bool store(const arg_command *c, const arg_option *o, char *value, arg_values *out)
{
    void *at = (char *)out + o->offset;
    switch (o->kind) {
    case ARG_FLAG: *(bool *)at = true; return true;
    case ARG_STRING:
        if (*value == '\0') return bad_value(c, o, value, "something");
        *(const char **)at = value;
        return true;
    case ARG_INT: return store_int(c, o, value, at);
    case ARG_SEED: return store_seed(c, o, value, at);
    case ARG_REAL: case ARG_SHARE: return store_real(c, o, value, at);
    case ARG_SIZE: return store_size(c, o, value, at);
    case ARG_CHOICE: return store_choice(c, o, value, at);
    case ARG_INTS: return store_ints(c, o, value, at);
    case ARG_STRINGS: return store_strings(c, o, value, at);
    case ARG_FIT: return store_fit(c, o, value, out);
    }
    return false;
}

/* ---- command line ---------------------------------------------------------------------------------------------- */

static const arg_option *find_long(const arg_command *c, const char *name, size_t n)
{
    for (size_t i = 0; i < c->n_option; i++)
        if (strlen(c->option[i].name) == n && memcmp(c->option[i].name, name, n) == 0) return &c->option[i];
    return NULL;
}

static const arg_option *find_letter(const arg_command *c, char letter)
{
    for (size_t i = 0; i < c->n_option; i++)
        if (c->option[i].letter == letter) return &c->option[i];
    return NULL;
}

static bool unknown_option(const arg_command *c, char *name)
{
    const char *names[64] = { NULL };
    for (size_t i = 0; i < c->n_option && i < 63; i++) names[i] = c->option[i].name;
    name[strcspn(name, "=")] = '\0';
    const char *near = args_nearest(name, names);
    args_usage(c->name, "unknown option --%s%s%s%s", name, near ? "; did you mean --" : "", near ? near : "",
               near ? "?" : "");
    return false;
}

/* One word that begins with '-'. *i moves on when the value is the next word. */
static bool parse_option(const arg_command *c, int n, char **argv, int *i, arg_values *out)
{
    char *word = argv[*i], *value = NULL;
    const arg_option *o;
    if (word[1] == '-') {
        size_t len = strcspn(word + 2, "=");
        o = find_long(c, word + 2, len);
        if (!o) return unknown_option(c, word + 2);
        if (word[2 + len] == '=') value = word + 3 + len;
    } else {
        o = find_letter(c, word[1]);
        if (!o) {
            args_usage(c->name, "unknown option %s", word);
            return false;
        }
        if (word[2] != '\0') value = word + 2;
    }
    if (o->kind == ARG_FLAG) {
        if (value) {
            args_usage(c->name, "--%s takes no value", o->name);
            return false;
        }
        return store(c, o, NULL, out);
    }
    if (!value) {
        if (*i + 1 >= n) {
            args_usage(c->name, "--%s needs a value: %s", o->name, o->value);
            return false;
        }
        value = argv[++*i];
    }
    return store(c, o, value, out);
}

bool args_parse(const arg_command *c, int n, char **argv, arg_values *out)
{
    memset(out, 0, sizeof *out);
    bool options = true;
    for (int i = 0; i < n; i++) {
        if (options && strcmp(argv[i], "--") == 0) {
            options = false;
        } else if (options && argv[i][0] == '-' && argv[i][1] != '\0') {
            if (!parse_option(c, n, argv, &i, out)) return false;
            if (out->help) return true;
        } else if (out->n_operand == c->max_operand) {
            args_usage(c->name, "unexpected \"%s\"", argv[i]);
            return false;
        } else {
            out->operand[out->n_operand++] = argv[i];
        }
    }
    if (out->n_operand < c->min_operand) {
        args_usage(c->name, "usage: fitq %s %s", c->name, c->synopsis);
        return false;
    }
    return true;
}

/* ---- help ------------------------------------------------------------------------------------------------------ */

#define HELP_COLUMN 28

/* Prints text wrapped at the width of the output with `indent` before every line but the first. Words in backquotes stay together. */
static void wrapped(const char *text, size_t indent)
{
    size_t column = indent;
    bool first = true;
    while (*text) {
        size_t word = 0;
        bool quoted = false;
        while (text[word] && (quoted || text[word] != ' ')) quoted ^= text[word++] == '`';
        if (!first && column + 1 + word > (size_t)out_width()) {
            printf("\n%*s", (int)indent, "");
            column = indent;
            first = true;
        }
        printf("%s%.*s", first ? "" : " ", (int)word, text);
        column += word + !first;
        first = false;
        text += word;
        while (*text == ' ') text++;
    }
    putchar('\n');
}

void args_help(const arg_command *c)
{
    printf("usage: fitq %s %s\n\n", c->name, c->synopsis);
    wrapped(c->text, 0);
    printf("\noptions:\n");
    for (size_t i = 0; i < c->n_option; i++) {
        const arg_option *o = &c->option[i];
        char left[64];
        snprintf(left, sizeof left, "%c%c%s --%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                 o->letter ? "," : " ", o->name, o->value ? " " : "", o->value ? o->value : "");
        printf("  %-*s ", HELP_COLUMN - 3, left);
        if (strlen(left) > HELP_COLUMN - 3) printf("\n%*s", HELP_COLUMN, "");
        wrapped(o->help, HELP_COLUMN);
    }
    if (c->more_help) c->more_help();
    printf("\nexamples:\n%s", c->examples);
    char status[256];
    snprintf(status, sizeof status, "0 done; 2 usage; 3 bad input; 4 I/O; 5 memory%s", c->exit_status ? c->exit_status : "");
    printf("\nexit status:\n  ");
    wrapped(status, 2);
}
