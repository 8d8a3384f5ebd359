/* calib_file.c - a file of one JSON object per line, as ids (see calib.h). The text and the conversations in it, not the other fields.
 *
 *     {"text": "..."}                                                 as it is; control tokens that it spells are read as such,
 *                                                                     as in a text file: sets of chats are published in this form too
 *     {"messages": [{"role": "user", "content": "..."}, ...]}         through the model's chat template, without an opened reply;
 *                                                                     without a template that fitq knows: the contents, a line end between
 *
 * An object with both is taken by its text. Documents are joined by the model's end-of-text token; empty ones, and lines of white space,
 * add nothing. A line is held whole and the file is not; lines and file have their limits. A line that is no JSON, or has neither field,
 * or one of another type, or twice, or a role that templates do not have, is refused with its number: who made it meant something by it. */
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "format/json_scan.h"
#include "job/calib_private.h"
#include "job/chat.h"

#define LINE_MAX_BYTES ((size_t)64 << 20)
#define READ_BYTES ((size_t)1 << 20)

typedef struct jsonl {
    const fqi_calib_request *r;
    const char *path;
    fqi_file file;
    uint64_t at;                       /* bytes read from the file */
    char *buf; size_t cap, begin, end; /* [begin, end): read, and in no line yet */
    uint64_t line;                     /* of the line in hand, from 1 */
    fq_tokenizer *tokenizer;
    bool has_template;
    bool has_eos; uint32_t eos;
    fq_chat_message *message; size_t n_message, cap_message;   /* of the line in hand; strings are in buf */
    const char *text; size_t n_text;   /* NULL: the line has none */
    bool has_messages;
    fqi_text_ids ids; size_t cap_ids;
} jsonl;

/* ---- lines ---- */

/* Appends what the file has next, as much as there is room for, at least a byte. */
static fq_status read_more(jsonl *j, fq_err *e)
{
    if (j->r->run->cancelled && j->r->run->cancelled(j->r->run->user)) return fqi_fail(e, FQ_E_CANCELLED, NULL, "cancelled", "stopped on request");
    if (j->begin > 0) memmove(j->buf, j->buf + j->begin, j->end - j->begin);
    j->end -= j->begin;
    j->begin = 0;
    if (j->end == j->cap && !fqi_grow((void **)&j->buf, &j->cap, j->end + READ_BYTES, 1)) return fqi_fail_nomem(e, "line");
    uint64_t left = j->file.bytes - j->at;
    size_t n = j->cap - j->end < READ_BYTES ? j->cap - j->end : READ_BYTES;
    if (n > left) n = (size_t)left;
    FQI_TRY(fqi_file_read(&j->file, j->buf + j->end, n, j->at, e));
    j->end += n;
    j->at += n;
    const fq_progress p = { .phase = "calibration text", .item = "line", .done_bytes = j->at, .total_bytes = j->file.bytes, .done_items = (size_t)j->line };
    if (j->r->run->progress) j->r->run->progress(j->r->run->user, &p);
    return FQ_OK;
}

/* The next line without its line feed, valid until the next call; *line NULL at the end. */
static fq_status next_line(jsonl *j, char **line, size_t *n, fq_err *e)
{
    size_t searched = 0;
    char *feed = NULL;
    j->line++;
    for (;;) {
        if (j->end > j->begin + searched) feed = memchr(j->buf + j->begin + searched, '\n', j->end - j->begin - searched);
        searched = j->end - j->begin;
        if ((feed ? (size_t)(feed - j->buf) - j->begin : searched) > LINE_MAX_BYTES)
            return fqi_fail(e, FQ_E_INPUT, &(fqi_where){ .file = j->path, .offset = FQI_NO_OFFSET, .line = j->line }, "line-length", "found more than %zu bytes, expected at most that many",
                            LINE_MAX_BYTES);
        if (feed || j->at == j->file.bytes) break;
        FQI_TRY(read_more(j, e));
    }
    *line = searched > 0 ? j->buf + j->begin : NULL;
    *n = feed ? (size_t)(feed - j->buf) - j->begin : searched;
    j->begin += *n + (feed != NULL);
    return FQ_OK;
}

static bool is_blank(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r') return false;
    return true;
}

/* ---- one object ---- */

static fq_status fail_token(const fqi_json_scan *s, const char *what, const char *expected, fq_err *e)
{
    char found[FQI_NAME_MAX + 1];
    return fqi_fail(e, FQ_E_INPUT, FQI_AT(NULL, NULL, s->begin), "jsonl", "%s: found %s, expected %s", what, fqi_json_describe(s, found), expected);
}

static fq_status fail_field(const fqi_json_scan *s, const char *field, const char *found, fq_err *e)
{
    return fqi_fail(e, FQ_E_INPUT, FQI_AT(NULL, NULL, s->begin), "jsonl", "%s: found %s, expected one", field, found);
}

/* The value of `field`, which may come once. */
static fq_status read_string(fqi_json_scan *s, const char *field, const char **out, size_t *n, fq_err *e)
{
    if (*out) return fail_field(s, field, "it twice", e);
    FQI_TRY(fqi_json_next(s, e));
    if (s->kind != FQI_JSON_STRING) return fail_token(s, field, "a string", e);
    *out = s->str;
    if (n) *n = s->str_len;
    return FQ_OK;
}

static fq_status skip_value(fqi_json_scan *s, fq_err *e)
{
    FQI_TRY(fqi_json_next(s, e));
    return fqi_json_skip(s, e);
}

/* The object whose opening is current. */
static fq_status read_message(jsonl *j, fqi_json_scan *s, fq_err *e)
{
    fq_chat_message m = { 0 };
    if (s->kind != FQI_JSON_OBJECT) return fail_token(s, "messages", "objects with \"role\" and \"content\"", e);
    for (;;) {
        FQI_TRY(fqi_json_next(s, e));
        if (s->kind == FQI_JSON_OBJECT_END) break;
        if (strcmp(s->str, "role") == 0) FQI_TRY(read_string(s, "role", &m.role, NULL, e));
        else if (strcmp(s->str, "content") == 0) FQI_TRY(read_string(s, "content", &m.content, NULL, e));
        else FQI_TRY(skip_value(s, e));
    }
    if (!m.role) return fail_field(s, "role", "none in a message", e);
    if (!m.content) return fail_field(s, "content", "none in a message", e);
    if (!fqi_grow((void **)&j->message, &j->cap_message, j->n_message + 1, sizeof *j->message)) return fqi_fail_nomem(e, "messages");
    j->message[j->n_message++] = m;
    return FQ_OK;
}

static fq_status read_messages(jsonl *j, fqi_json_scan *s, fq_err *e)
{
    if (j->has_messages) return fail_field(s, "messages", "it twice", e);
    j->has_messages = true;
    FQI_TRY(fqi_json_next(s, e));
    if (s->kind != FQI_JSON_ARRAY) return fail_token(s, "messages", "an array", e);
    for (;;) {
        FQI_TRY(fqi_json_next(s, e));
        if (s->kind == FQI_JSON_ARRAY_END) return FQ_OK;
        FQI_TRY(read_message(j, s, e));
    }
}

static fq_status read_object(jsonl *j, char *line, size_t n, fq_err *e)
{
    fqi_json_scan s;
    fqi_json_init(&s, line, n, NULL, 0, false);
    j->text = NULL;
    j->n_message = 0;
    j->has_messages = false;
    FQI_TRY(fqi_json_next(&s, e));
    if (s.kind != FQI_JSON_OBJECT) return fail_token(&s, "a line", "an object", e);
    for (;;) {
        FQI_TRY(fqi_json_next(&s, e));
        if (s.kind == FQI_JSON_OBJECT_END) break;
        if (strcmp(s.str, "text") == 0) FQI_TRY(read_string(&s, "text", &j->text, &j->n_text, e));
        else if (strcmp(s.str, "messages") == 0) FQI_TRY(read_messages(j, &s, e));
        else FQI_TRY(skip_value(&s, e));
    }
    FQI_TRY(fqi_json_next(&s, e));   /* refuses what follows */
    if (j->text || j->has_messages) return FQ_OK;
    return fqi_fail(e, FQ_E_INPUT, NULL, "jsonl", "found neither \"text\" nor \"messages\", expected one of them");
}

/* ---- documents ---- */

static fq_status encode_messages(jsonl *j, uint32_t **ids, size_t *n, fq_err *e)
{
    static const fq_encode_options plain = { .plain = true };
    if (j->has_template) {
        fq_status s = fqi_chat_encode(j->tokenizer, j->message, j->n_message, true, false, ids, n, e);
        return s == FQ_E_USAGE ? fqi_fail_at(e, FQ_E_INPUT, NULL, e) : s;   /* the role is the file's, not the caller's */
    }
    fqi_str all = { 0 };
    for (size_t i = 0; i < j->n_message; i++) fqi_str_printf(&all, "%s%s", i ? "\n" : "", j->message[i].content);
    fq_status s = all.failed ? fqi_fail_nomem(e, "messages") : fq_tokenizer_encode(j->tokenizer, all.s ? all.s : "", all.len, &plain, ids, n, e);
    fqi_str_free(&all);
    return s;
}

static fq_status put(jsonl *j, const uint32_t *ids, size_t n, fq_err *e)
{
    fqi_text_ids *t = &j->ids;
    const bool between = t->n > 0 && j->has_eos;
    if (n == 0) return FQ_OK;
    if (!fqi_grow((void **)&t->ids, &j->cap_ids, t->n + n + 1, sizeof *t->ids)) return fqi_fail_nomem(e, "token ids");
    if (between) t->ids[t->n++] = j->eos;
    memcpy(t->ids + t->n, ids, n * sizeof *ids);
    t->n += n;
    return FQ_OK;
}

static fq_status add_line(jsonl *j, char *line, size_t n, fq_err *e)
{
    uint32_t *ids = NULL;
    size_t n_ids = 0;
    FQI_TRY(read_object(j, line, n, e));
    if (j->text) FQI_TRY(fq_tokenizer_encode(j->tokenizer, j->text, j->n_text, NULL, &ids, &n_ids, e));
    else if (j->n_message > 0) FQI_TRY(encode_messages(j, &ids, &n_ids, e));
    fq_status s = put(j, ids, n_ids, e);
    fq_free(ids);
    return s;
}

static fq_status read_lines(jsonl *j, fq_err *e)
{
    for (;;) {
        char *line = NULL;
        size_t n = 0;
        fq_err why = { 0 };
        FQI_TRY(next_line(j, &line, &n, e));
        if (!line) return FQ_OK;
        if (is_blank(line, n)) continue;
        fq_status s = add_line(j, line, n, &why);
        if (s != FQ_OK) return fqi_fail_at(e, s, &(fqi_where){ .file = j->path, .offset = FQI_NO_OFFSET, .line = j->line }, &why);
    }
}

/* Of the ids that end a text, the one that ends documents: not the one that ends a turn of a chat, if there is another. */
static void choose_eos(jsonl *j)
{
    const fqi_ends *ends = &j->r->ends;
    uint32_t turn = 0;
    j->has_template = fq_chat_end(j->tokenizer, &turn);
    j->has_eos = ends->n > 0;
    if (j->has_eos) j->eos = ends->id[0];
    for (size_t i = ends->n; i-- > 0;)
        if (!j->has_template || ends->id[i] != turn) j->eos = ends->id[i];
    if (!j->has_eos) fqi_calib_say(j->r, FQ_LOG_WARN, "the model names no end-of-text token (eos_token_id): documents of the calibration text follow one another without one");
}

static fq_status read_file(jsonl *j, fq_err *e)
{
    const char *dir = j->r->m->ckpt->dir;
    FQI_TRY(fqi_file_open(&j->file, j->path, FQ_IO_BUFFERED, e));
    if (j->file.bytes > FQI_TEXT_MAX_BYTES)
        return fqi_fail(e, FQ_E_INPUT, FQI_FILE(j->path), "file-size", "found %llu bytes, expected at most %llu", (unsigned long long)j->file.bytes, (unsigned long long)FQI_TEXT_MAX_BYTES);
    FQI_TRY(fq_tokenizer_open(dir, &j->tokenizer, e));
    const fq_tokenizer_info *info = fq_tokenizer_get_info(j->tokenizer);
    j->ids.has_bos = info->n_prefix > 0;
    if (j->ids.has_bos) j->ids.bos = info->prefix[0];
    choose_eos(j);
    FQI_TRY(read_lines(j, e));
    return fqi_text_ids_check(&j->ids, j->path, dir, j->r->n_vocab, j->r->seqlen, e);
}

fq_status fqi_calib_jsonl(const fqi_calib_request *r, fqi_text_ids *out, fq_err *e)
{
    jsonl j = { .r = r, .path = r->o->file, .file = FQI_FILE_NONE };
    fq_status s = read_file(&j, e);
    fqi_file_close(&j.file);
    fq_tokenizer_close(j.tokenizer);
    free(j.message);
    free(j.buf);
    if (s != FQ_OK) {
        free(j.ids.ids);
        return s;
    }
    *out = j.ids;
    return FQ_OK;
}
