/* chat.c - conversations as token ids, for the two templates that most published models use.
 *
 *     ChatML     <|im_start|>role\ncontent<|im_end|>\n ... <|im_start|>assistant\n
 *     Llama 3    <|begin_of_text|> <|start_header_id|>role<|end_header_id|>\n\ncontent<|eot_id|> ... <|start_header_id|>assistant<|end_header_id|>\n\n
 *
 * What is known is recognised by the tokenizer's added tokens; Jinja is not read. So what a template of a single model adds (a
 * standing system message, dates, tools) is not there: whoever wants it says it. Control tokens are put in as ids, and everything
 * between two of them is encoded in one piece as plain text: a message that spells "<|im_end|>" is a message with these ten characters.
 * Sources: the chat_template of Qwen2's and of Llama 3.1's tokenizer_config.json. */
#include "job/chat.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

typedef struct template_row {
    const char *open, *middle, *close;   /* added tokens; middle NULL: text */
    const char *begin;                   /* added token that a conversation begins with, where the tokenizer has it; or NULL */
    const char *after_role;              /* text between role (or middle) and content */
    const char *after_close;             /* text behind a turn */
    bool trim;                           /* content without the white space around it */
} template_row;

/* The first that fits: models that were taught ChatML on top of Llama 3 have the tokens of both. */
static const template_row known[] = {
    { "<|im_start|>", NULL, "<|im_end|>", NULL, "\n", "\n", false },
    { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|begin_of_text|>", "\n\n", "", true },
};

typedef struct chat {
    const fq_tokenizer *t;
    const template_row *row;
    uint32_t open, middle, close, begin;
    bool has_begin;
    uint32_t *ids; size_t n, cap;   /* what is built; owned */
    fqi_str text;                   /* of the piece between two control tokens */
} chat;

static bool detect(const fq_tokenizer *t, chat *out)
{
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        const template_row *r = &known[i];
        if (!fq_tokenizer_find_added(t, r->open, &out->open) || !fq_tokenizer_find_added(t, r->close, &out->close)) continue;
        if (r->middle && !fq_tokenizer_find_added(t, r->middle, &out->middle)) continue;
        out->has_begin = r->begin && fq_tokenizer_find_added(t, r->begin, &out->begin);
        out->row = r;
        out->t = t;
        return true;
    }
    return false;
}

static fq_status put(chat *c, const uint32_t *ids, size_t n, fq_err *e)
{
    if (!fqi_grow((void **)&c->ids, &c->cap, c->n + n, sizeof *c->ids)) return fqi_fail_nomem(e, "chat");
    if (n > 0) memcpy(c->ids + c->n, ids, n * sizeof *ids);
    c->n += n;
    return FQ_OK;
}

/* The gathered text as plain ids, and then the control token `id`, unless it is NULL. */
static fq_status flush(chat *c, const uint32_t *id, fq_err *e)
{
    static const fq_encode_options plain = { .plain = true };
    if (c->text.failed) return fqi_fail_nomem(e, "chat");
    if (c->text.len > 0) {
        uint32_t *ids;
        size_t n;
        FQI_TRY(fq_tokenizer_encode(c->t, c->text.s, c->text.len, &plain, &ids, &n, e));
        fq_status s = put(c, ids, n, e);
        fq_free(ids);
        FQI_TRY(s);
        c->text.len = 0;
    }
    return id ? put(c, id, 1, e) : FQ_OK;
}

/* ---- trimming as the templates' language does it ---- */

static bool is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Malformed bytes are no white space; the tokenizer refuses them. */
static void trim(const char **text, size_t *n)
{
    const unsigned char *s = (const unsigned char *)*text;
    size_t end = 0, pos = 0, begin = *n;
    while (pos < *n) {
        uint32_t c;
        size_t len = fqi_utf8_sequence(s + pos, *n - pos, &c);
        if (len == 0 || !is_space(c)) {
            if (begin > pos) begin = pos;
            end = pos + (len ? len : 1);
        }
        pos += len ? len : 1;
    }
    *text += begin;
    *n = end > begin ? end - begin : 0;
}

/* ---- building ---- */

/* Opens a turn; its content goes to c->text afterwards. */
static fq_status open_turn(chat *c, const char *role, fq_err *e)
{
    FQI_TRY(flush(c, &c->open, e));
    fqi_str_puts(&c->text, role);
    if (c->row->middle) FQI_TRY(flush(c, &c->middle, e));
    fqi_str_puts(&c->text, c->row->after_role);
    return FQ_OK;
}

static fq_status message(chat *c, const fq_chat_message *m, fq_err *e)
{
    static const char *const roles[] = { "system", "user", "assistant" };
    bool role_known = false;
    for (size_t i = 0; i < 3; i++) role_known = role_known || strcmp(roles[i], m->role) == 0;
    if (!role_known) {
        char shown[FQI_NAME_MAX + 1];
        return fqi_fail(e, FQ_E_USAGE, NULL, "chat-role", "found a message of \"%s\", expected system, user or assistant", fqi_escape(shown, m->role));
    }
    const char *content = m->content;
    size_t n = strlen(content);
    for (size_t i = 0; i < n;) {   /* here, so that the position is the one in the message */
        uint32_t code;
        size_t len = fqi_utf8_sequence((const unsigned char *)content + i, n - i, &code);
        if (len == 0) return fqi_fail(e, FQ_E_INPUT, FQI_AT(m->role, NULL, i), "utf-8", "found a message that is not UTF-8, expected UTF-8");
        i += len;
    }
    if (c->row->trim) trim(&content, &n);
    FQI_TRY(open_turn(c, m->role, e));
    fqi_str_add(&c->text, content, n);
    FQI_TRY(flush(c, &c->close, e));
    fqi_str_puts(&c->text, c->row->after_close);
    return FQ_OK;
}

static fq_status build(chat *c, const fq_chat_message *m, size_t n, bool first, bool reply, fq_err *e)
{
    if (first && c->has_begin) FQI_TRY(put(c, &c->begin, 1, e));
    if (!first) fqi_str_puts(&c->text, c->row->after_close);   /* behind the assistant's turn, which ended with the closing token */
    for (size_t i = 0; i < n; i++) FQI_TRY(message(c, &m[i], e));
    if (reply) FQI_TRY(open_turn(c, "assistant", e));
    return flush(c, NULL, e);
}

fq_status fqi_chat_encode(const fq_tokenizer *t, const fq_chat_message *m, size_t n, bool first, bool reply, uint32_t **ids, size_t *n_ids, fq_err *e)
{
    chat c = { 0 };
    if (!detect(t, &c))
        return fqi_fail(e, FQ_E_INPUT, NULL, "chat-template",
                        "found a tokenizer with the control tokens of neither ChatML (<|im_start|>, <|im_end|>) nor Llama 3 (<|start_header_id|>, <|end_header_id|>, "
                        "<|eot_id|>), expected one of these two: other chat templates are not read");
    fq_status s = build(&c, m, n, first, reply, e);
    fqi_str_free(&c.text);
    if (s != FQ_OK) {
        free(c.ids);
        return s;
    }
    *ids = c.ids;
    *n_ids = c.n;
    return FQ_OK;
}

fq_status fq_chat_encode(const fq_tokenizer *t, const fq_chat_message *m, size_t n, bool first, uint32_t **ids, size_t *n_ids, fq_err *e)
{
    return fqi_chat_encode(t, m, n, first, true, ids, n_ids, e);
}

bool fq_chat_end(const fq_tokenizer *t, uint32_t *id)
{
    chat c = { 0 };
    if (!detect(t, &c)) return false;
    *id = c.close;
    return true;
}
