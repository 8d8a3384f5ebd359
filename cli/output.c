/* output.c - colour, human-readable numbers, tables, JSON. */
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static bool colour;
static int line_width = 100;
static bool json_lost;  /* a value could not be made: the document would lie */

/* mpirun gives its processes a pseudo terminal, wherever its own output goes. */
bool out_is_terminal(void) { return isatty(1) && !getenv("OMPI_COMM_WORLD_SIZE"); }

void out_start(void)
{
    /* A descriptor that is closed now would be given to the first file that is opened, and what we print would go into
     * somebody's checkpoint. */
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF && open("/dev/null", O_RDWR) != fd) _exit(-FQ_E_IO);
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    colour = out_is_terminal() && !(no && *no) && term && strcmp(term, "dumb") != 0;
    /* tables do not get better beyond 160 columns, nor possible below 60 */
    struct winsize size = { 0 };
    if (out_is_terminal() && ioctl(1, TIOCGWINSZ, &size) == 0 && size.ws_col)
        line_width = size.ws_col < 60 ? 60 : size.ws_col > 160 ? 160 : size.ws_col;
}

int out_width(void) { return line_width; }

int out_finish(int status)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return status;
    if (errno == EPIPE || errno == 0) return status;
    fprintf(stderr, "fitq: stdout: write: %s\n", strerror(errno));
    return status ? status : -FQ_E_IO;
}

const char *out_on(out_style s)
{
    static const char *const code[] = { "", "\033[1m", "\033[2m", "\033[32m", "\033[33m", "\033[31m" };
    return colour ? code[s] : "";
}

const char *out_off(out_style s) { return colour && s != OUT_PLAIN ? "\033[0m" : ""; }

/* ---- names from files ------------------------------------------------------------------------------------------- */

/* Bytes of the valid UTF-8 character at p that is safe on a terminal, or 0. */
static size_t safe_character(const unsigned char *p)
{
    if (p[0] < 0x80) return p[0] >= 0x20 && p[0] != 0x7f;
    size_t n = p[0] >= 0xc2 && p[0] <= 0xdf ? 2 : p[0] >= 0xe0 && p[0] <= 0xef ? 3 : p[0] >= 0xf0 && p[0] <= 0xf4 ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if (n == 2 && p[0] == 0xc2 && p[1] < 0xa0) return 0;  /* C1 controls */
    if (n == 3 && ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f))) return 0;
    if (n == 4 && ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))) return 0;
    return n;
}

/* Escapes text into out[n_out]; false if it was cut. */
static bool escape(const char *text, char *out, size_t n_out)
{
    const unsigned char *p = (const unsigned char *)text;
    size_t used = 0;
    while (*p) {
        size_t n = safe_character(p);
        if (used + (n ? n : 4) >= n_out) { out[used] = '\0'; return false; }
        if (n) {
            memcpy(out + used, p, n);
            used += n;
            p += n;
        } else {
            snprintf(out + used, 5, "\\x%02x", *p++);
            used += 4;
        }
    }
    out[used] = '\0';
    return true;
}

void out_escaped(FILE *f, const char *text)
{
    char line[4096];
    if (!escape(text, line, sizeof line)) memcpy(line + strlen(line) - 3, "...", 3);
    fputs(line, f);
}

int out_error(const fq_err *e)
{
    if (fq_rank() == 0) {   /* all ranks have the same message */
        fputs("fitq: ", stderr);
        out_escaped(stderr, e->text[0] ? e->text : "failed without a message");
        fputc('\n', stderr);
    }
    return e->code < 0 ? -(int)e->code : 1;
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

out_text out_bytes(uint64_t n)
{
    static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
    out_text t;
    size_t u = 0;
    double v = (double)n;
    /* 1023.95 would be printed as 1024.0 */
    while (v >= 1023.95 && u < 5) { v /= 1024; u++; }
    if (u == 0) snprintf(t.s, sizeof t.s, "%" PRIu64 " B", n);
    else snprintf(t.s, sizeof t.s, "%.1f %s", v, unit[u]);
    return t;
}

out_text out_quant(const fq_model *m)
{
    out_text t = { "" };
    const bool fp8 = m->quant == FQ_QUANT_FP8;
    if (m->quant_bits <= 0) return t;
    int n = snprintf(t.s, sizeof t.s, " %d bits", m->quant_bits);
    if (m->quant_group_size > 0) snprintf(t.s + n, sizeof t.s - (size_t)n, fp8 ? " in blocks %d wide" : " in groups of %d", m->quant_group_size);
    else if (m->quant_group_size < 0) snprintf(t.s + n, sizeof t.s - (size_t)n, fp8 ? ", no blocks" : ", one group per row");
    return t;
}

out_text out_count(uint64_t n)
{
    static const char *const unit[] = { "", " K", " M", " B", " T" };
    out_text t;
    size_t u = 0;
    double v = (double)n;
    if (n < 10000) {
        snprintf(t.s, sizeof t.s, "%" PRIu64, n);
        return t;
    }
    while (v >= 999.95 && u < 4) { v /= 1000; u++; }
    snprintf(t.s, sizeof t.s, "%.1f%s", v, unit[u]);
    return t;
}

out_text out_grouped(uint64_t n)
{
    out_text t;
    char plain[32];
    int len = snprintf(plain, sizeof plain, "%" PRIu64, n);
    size_t used = 0;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0) t.s[used++] = ',';
        t.s[used++] = plain[i];
    }
    t.s[used] = '\0';
    return t;
}

out_text out_percent(double p)
{
    out_text t;
    if (fabs(p) < 0.0005) snprintf(t.s, sizeof t.s, "0 %%");
    else snprintf(t.s, sizeof t.s, fabs(p) < 10 ? "%+.2f %%" : "%+.1f %%", p);
    return t;
}

out_text out_shape(int rank, const int64_t *dim)
{
    out_text t;
    size_t used = (size_t)snprintf(t.s, sizeof t.s, "[");
    for (int d = 0; d < rank; d++) {
        int n = snprintf(t.s + used, sizeof t.s - used, "%s%" PRId64, d ? ", " : "", dim[d]);
        if (n < 0 || used + (size_t)n > sizeof t.s - 6) {
            strcpy(t.s + used, "...");
            used += 3;
            break;
        }
        used += (size_t)n;
    }
    strcpy(t.s + used, "]");
    return t;
}

out_text out_duration(double seconds)
{
    out_text t;
    if (!(seconds >= 0) || seconds > 1e7) seconds = 0;
    long s = lround(seconds);
    if (s < 60) snprintf(t.s, sizeof t.s, "%ld s", s);
    else if (s < 3600) snprintf(t.s, sizeof t.s, "%ld:%02ld", s / 60, s % 60);
    else snprintf(t.s, sizeof t.s, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    return t;
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

void out_table_start(out_table *t, const char *const *head, size_t n_column)
{
    *t = (out_table){ .head = head, .n_column = n_column };
}

static bool table_room(out_table *t)
{
    if (t->n_cell < t->cap) return true;
    size_t cap = t->cap ? 2 * t->cap : 64;
    char **cell = realloc(t->cell, cap * sizeof *cell);
    if (cell) t->cell = cell;
    out_style *style = realloc(t->style, cap * sizeof *style);
    if (style) t->style = style;
    if (!cell || !style) return false;
    t->cap = cap;
    return true;
}

void out_cell(out_table *t, out_style s, const char *fmt, ...)
{
    char raw[1024], text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(raw, sizeof raw, fmt, ap);
    va_end(ap);
    escape(raw, text, sizeof text);
    char *copy = table_room(t) ? strdup(text) : NULL;
    if (!copy) {
        t->lost = true;
        return;
    }
    t->cell[t->n_cell] = copy;
    t->style[t->n_cell++] = s;
}

/* Columns that a text takes: characters, not bytes. */
static int text_width(const char *s)
{
    int n = 0;
    for (; *s; s++) n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

/* What stays on the line of the word before: "896 -> 1024", "4.8 GiB", "+0.35 %". 0 = nothing. */
static size_t glued(const char *rest)
{
    static const char *const unit[] = { " %", " KiB", " MiB", " GiB", " TiB" };
    if (strncmp(rest, " -> ", 4) == 0) return 4 + strcspn(rest + 4, " ");
    for (size_t i = 0; i < sizeof unit / sizeof unit[0]; i++) {
        size_t n = strlen(unit[i]);
        if (strncmp(rest, unit[i], n) == 0) return n + strcspn(rest + n, " ");
    }
    return 0;
}

void out_flow(const char *text, int at, int indent, out_style s)
{
    int column = at;
    bool first = true;
    while (*text) {
        char raw[512], word[2048];
        size_t n = strcspn(text, " ");
        for (size_t more; (more = glued(text + n)) > 0;) n += more;
        snprintf(raw, sizeof raw, "%.*s", (int)n, text);
        escape(raw, word, sizeof word);
        int width = text_width(word);
        if (!first && column + 1 + width > out_width()) {
            printf("\n%*s", indent, "");
            column = indent;
            first = true;
        }
        printf("%s%s%s%s", first ? "" : " ", out_on(s), word, out_off(s));
        column += width + !first;
        first = false;
        text += n;
        text += strspn(text, " ");
    }
    putchar('\n');
}

#define WRAP_ROOM 20   /* narrower than this a wrapped column is worse than a long line */

/* One padded cell; the last column is not padded, so that no line ends in spaces, but wrapped. */
static void print_cell(const char *text, out_style s, int width, bool right, int column, bool last)
{
    int fill = width - text_width(text);
    if (fill < 0) fill = 0;
    if (right) printf("%*s", fill, "");
    if (last && !right && column + text_width(text) > out_width() && column <= out_width() - WRAP_ROOM) {
        out_flow(text, column, column + 2, s);
        return;
    }
    printf("%s%s%s", out_on(s), text, out_off(s));
    if (last) putchar('\n');
    else if (!right) printf("%*s", fill, "");
}

static void table_widths(const out_table *t, int *width)
{
    for (size_t c = 0; c < t->n_column; c++) width[c] = 0;
    for (size_t i = 0; i < t->n_cell; i++) {
        int w = text_width(t->cell[i]);
        if (w > width[i % t->n_column]) width[i % t->n_column] = w;
    }
    for (size_t c = 0; c < t->n_column; c++) {
        int w = text_width(t->head[c]) - (t->head[c][0] == '>');
        if (width[c] > 0 && w > width[c]) width[c] = w;
    }
}

/* A row: cells of `row`, or the titles when row is NULL. */
static void table_row(const out_table *t, char *const *row, const out_style *style, const int *width, int indent)
{
    size_t last = 0;
    for (size_t c = 0; c < t->n_column; c++) {
        const char *text = row ? row[c] : t->head[c];
        if (width[c] > 0 && (row == NULL || *text)) last = c;
    }
    printf("%*s", indent, "");
    int column = indent;
    for (size_t c = 0; c <= last; c++) {
        if (width[c] == 0) continue;
        bool right = t->head[c][0] == '>';
        const char *text = row ? row[c] : t->head[c] + right;
        print_cell(text, row ? style[c] : OUT_DIM, width[c], right, column, c == last);
        if (c < last) printf("  ");
        column += width[c] + 2;
    }
}

void out_table_print(out_table *t, int indent)
{
    int width[OUT_MAX_COLUMN];
    bool titled = false;
    table_widths(t, width);
    for (size_t c = 0; c < t->n_column; c++) titled |= t->head[c][t->head[c][0] == '>'] != '\0';
    if (titled && t->n_cell > 0) table_row(t, NULL, NULL, width, indent);
    for (size_t i = 0; i + t->n_column <= t->n_cell; i += t->n_column)
        table_row(t, t->cell + i, t->style + i, width, indent);
    if (t->lost) fprintf(stderr, "fitq: out of memory: a table is incomplete\n");
    out_table_drop(t);
}

void out_table_drop(out_table *t)
{
    for (size_t i = 0; i < t->n_cell; i++) free(t->cell[i]);
    free(t->cell);
    free(t->style);
    *t = (out_table){ 0 };
}

/* ---- JSON ------------------------------------------------------------------------------------------------------- */

void out_put(json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, value) != 0) json_lost = true;
}

void out_put_int(json_t *object, const char *key, int64_t v) { out_put(object, key, json_integer(v)); }

json_t *out_json_u64(uint64_t v) { return json_integer(v > INT64_MAX ? INT64_MAX : (int64_t)v); }

void out_put_u64(json_t *object, const char *key, uint64_t v) { out_put(object, key, out_json_u64(v)); }

void out_put_bool(json_t *object, const char *key, bool v) { out_put(object, key, json_boolean(v)); }

void out_put_real(json_t *object, const char *key, double v)
{
    out_put(object, key, isfinite(v) ? json_real(v) : json_null());
}

void out_put_value(json_t *object, const char *key, const fq_value *v)
{
    json_t *o = json_object();
    out_put_real(o, "value", v->value);
    out_put_real(o, "error", v->error);
    out_put(object, key, o);
}

void out_put_str(json_t *object, const char *key, const char *v)
{
    char text[4096];
    json_t *value = v ? json_string(v) : json_null();
    if (!value && v) {
        escape(v, text, sizeof text);
        value = json_string(text);
    }
    out_put(object, key, value);
}

json_t *out_json_bytes(const char *s, size_t n)
{
    json_t *text = json_stringn(s, n);
    if (text != NULL) return text;
    char *made = malloc(4 * n + 1), *p = made;
    if (made == NULL) return NULL;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c < 0x7f) *p++ = (char)c;
        else p += sprintf(p, "\\x%02x", c);
    }
    text = json_stringn(made, (size_t)(p - made));
    free(made);
    return text;
}

void out_append(json_t *array, json_t *value)
{
    if (json_array_append_new(array, value) != 0) json_lost = true;
}

json_t *out_json_shape(int rank, const int64_t *dim)
{
    json_t *a = json_array();
    for (int d = 0; d < rank; d++) out_append(a, json_integer(dim[d]));
    return a;
}

/* Only what changes: {} is "as it is". */
json_t *out_json_fit(const fq_fit *fit)
{
    json_t *o = json_object();
    if (fit->intermediate_size_pad) out_put_int(o, "intermediate_size", fit->intermediate_size_pad);
    if (fit->moe_intermediate_size_pad) out_put_int(o, "moe_intermediate_size", fit->moe_intermediate_size_pad);
    if (fit->shared_expert_intermediate_size_pad)
        out_put_int(o, "shared_expert_intermediate_size", fit->shared_expert_intermediate_size_pad);
    if (fit->num_attention_heads_pad) out_put_int(o, "num_attention_heads", fit->num_attention_heads_pad);
    if (fit->num_key_value_heads_pad) out_put_int(o, "num_key_value_heads", fit->num_key_value_heads_pad);
    if (fit->kv_replication > 1) out_put_int(o, "kv_replication", fit->kv_replication);
    if (fit->vocab_size_pad) out_put_int(o, "vocab_size", fit->vocab_size_pad);
    return o;
}

json_t *out_json_model(const fq_model *m)
{
    json_t *o = json_object();
    out_put_str(o, "model_type", m->model_type);
    out_put_str(o, "architecture", m->architecture);
    out_put_str(o, "family", m->family[0] ? m->family : NULL);
    out_put_int(o, "hidden_size", m->hidden_size);
    out_put_int(o, "num_hidden_layers", m->num_hidden_layers);
    out_put_int(o, "vocab_size", m->vocab_size);
    out_put_int(o, "intermediate_size", m->intermediate_size);
    out_put_int(o, "moe_intermediate_size", m->moe_intermediate_size);
    out_put_int(o, "shared_expert_intermediate_size", m->shared_expert_intermediate_size);
    out_put_int(o, "num_experts", m->num_experts);
    out_put_int(o, "num_experts_per_tok", m->num_experts_per_tok);
    out_put_int(o, "num_attention_heads", m->num_attention_heads);
    out_put_int(o, "num_key_value_heads", m->num_key_value_heads);
    out_put_int(o, "head_dim", m->head_dim);
    out_put_bool(o, "tie_word_embeddings", m->tie_word_embeddings);
    out_put_str(o, "torch_dtype", m->torch_dtype[0] ? m->torch_dtype : NULL);
    if (m->quant != FQ_QUANT_NONE) {
        json_t *q = json_object();
        out_put_str(q, "method", m->quant_name);
        out_put_int(q, "bits", m->quant_bits);
        out_put_int(q, "group_size", m->quant_group_size);
        out_put_bool(q, "sym", m->quant_sym);
        out_put_bool(q, "desc_act", m->quant_desc_act);
        out_put(o, "quantization", q);
    } else {
        out_put(o, "quantization", json_null());
    }
    return o;
}

int out_json(json_t *root)
{
    if (json_lost || !root) {
        json_decref(root);
        fprintf(stderr, "fitq: out of memory: JSON output\n");
        return -FQ_E_NOMEM;
    }
    int bad = json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(12));
    putchar('\n');
    json_decref(root);
    /* A failed write is found by out_finish; anything else is memory. */
    if (bad && !ferror(stdout)) {
        fprintf(stderr, "fitq: out of memory: JSON output\n");
        return -FQ_E_NOMEM;
    }
    return 0;
}
