/* cmd_tokenize.c - text to ids and back, with the model's own tokenizer. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "input.h"
#include "output.h"

/* "FILE: " before a message of the library about a text, which has no file to it. */
static int text_error(const fq_err *e, const input *in)
{
    fq_err named = *e;
    if (e->code == FQ_E_NOMEM) return out_error(e);
    snprintf(named.text, sizeof named.text, "%.1024s: %.1000s", in->name, e->text);
    return out_error(&named);
}

/* ---- ids as text ------------------------------------------------------------------------------------------------- */

/* Tens of millions of them: no printf. */
static void print_ids(const uint32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char text[12];
        size_t k = sizeof text;
        uint32_t v = ids[i];
        do text[--k] = (char)('0' + v % 10);
        while ((v /= 10) != 0);
        if (i > 0) text[--k] = ' ';
        fwrite(text + k, 1, sizeof text - k, stdout);
    }
    putchar('\n');
}

/* ---- JSON ---------------------------------------------------------------------------------------------------------- */

static int print_json(const fq_tokenizer *t, const uint32_t *ids, size_t n, bool count)
{
    json_t *root = json_object(), *list = json_array(), *tokens = json_array();
    out_put_u64(root, "count", n);
    for (size_t i = 0; i < n && !count; i++) {
        size_t len;
        const char *bytes = fq_tokenizer_token(t, ids[i], &len);
        out_append(list, json_integer(ids[i]));
        out_append(tokens, out_json_bytes(bytes, len));
    }
    if (count) {
        json_decref(list);
        json_decref(tokens);
    } else {
        out_put(root, "ids", list);
        out_put(root, "tokens", tokens);
    }
    return out_json(root);
}

/* ---- the command ----------------------------------------------------------------------------------------------------- */

static int encode(const fq_tokenizer *t, const arg_values *a, const input *in)
{
    fq_encode_options o = { .add_special = a->special, .plain = a->plain };
    uint32_t *ids = NULL;
    size_t n = 0;
    fq_err e = { 0 };
    int status = 0;
    if (fq_tokenizer_encode(t, in->s, in->n, &o, &ids, &n, &e) != FQ_OK) return text_error(&e, in);
    if (a->json) status = print_json(t, ids, n, a->count);
    else if (a->count) printf("%zu\n", n);
    else print_ids(ids, n);
    fq_free(ids);
    return status;
}

static int decode(const fq_tokenizer *t, const arg_values *a, const input *in)
{
    fq_decode_options o = { .skip_special = a->skip_special };
    uint32_t *ids = NULL;
    size_t n_ids, n = 0;
    char *text = NULL;
    fq_err e = { 0 };
    int status = 0;
    fq_status s = fq_ids_parse(in->s, in->n, &ids, &n_ids, &e);
    if (s == FQ_OK) s = fq_tokenizer_decode(t, ids, n_ids, &o, &text, &n, &e);
    fq_free(ids);
    if (s != FQ_OK) return text_error(&e, in);
    if (a->json) {
        json_t *root = json_object();
        out_put_u64(root, "count", n_ids);
        out_put(root, "text", out_json_bytes(text, n));
        status = out_json(root);
    } else {
        fwrite(text, 1, n, stdout);
    }
    fq_free(text);
    return status;
}

static int run_tokenize(const arg_values *a)
{
    if (a->decode && (a->count || a->special || a->plain)) return args_usage("tokenize", "--decode does not go with --count, --special or --plain");
    if (a->skip_special && !a->decode) return args_usage("tokenize", "--skip-special needs --decode");
    fq_tokenizer *t = NULL;
    fq_err e = { 0 };
    input in = { 0 };
    if (fq_tokenizer_open(a->operand[0], &t, &e) != FQ_OK) return out_error(&e);
    int status = input_read(a->n_operand > 1 ? a->operand[1] : NULL, INPUT_MAX_BYTES, &in);
    if (status == 0) status = a->decode ? decode(t, a, &in) : encode(t, a, &in);
    free(in.s);
    fq_tokenizer_close(t);
    return status;
}

static const arg_option options[] = {
    { "count", 0, ARG_FLAG, NULL, ARG_OFFSET(count), "print only how many ids there are", NULL, 0, 0, ARG_ANY },
    { "decode", 0, ARG_FLAG, NULL, ARG_OFFSET(decode), "the other way: ids to text", NULL, 0, 0, ARG_ANY },
    { "special", 0, ARG_FLAG, NULL, ARG_OFFSET(special), "add what the tokenizer puts around a text, e.g. <|begin_of_text|>", NULL, 0, 0,
      ARG_ANY },
    { "plain", 0, ARG_FLAG, NULL, ARG_OFFSET(plain), "the text of added tokens, e.g. \"<|im_end|>\", is ordinary text", NULL, 0, 0, ARG_ANY },
    { "skip-special", 0, ARG_FLAG, NULL, ARG_OFFSET(skip_special), "with --decode: leave out special tokens", NULL, 0, 0, ARG_ANY },
    ARG_OPT_JSON, ARG_OPT_HELP,
};

const arg_command cmd_tokenize = {
    .name = "tokenize", .summary = "text to token ids with the model's own tokenizer, and back",
    .synopsis = "PATH [FILE] [--count | --decode] [options]",
    .text = "PATH is a tokenizer.json or a folder that has one. The text of FILE (standard input if there is none or it is -) is one text: "
            "line ends are part of it. Its ids are printed on one line. With --decode the input is ids, and the bytes that they stand for "
            "are printed exactly.",
    .examples = "  fitq tokenize Qwen2-72B prompt.txt\n"
                "  fitq tokenize Qwen2-72B corpus.txt --count\n"
                "  printf 'Hello world' | fitq tokenize tokenizer.json\n"
                "  fitq tokenize Qwen2-72B prompt.txt | fitq tokenize Qwen2-72B --decode\n",
    .option = options, .n_option = sizeof options / sizeof options[0],
    .min_operand = 1, .max_operand = 2, .run = run_tokenize,
};
