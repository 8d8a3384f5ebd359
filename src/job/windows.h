/* windows.h - from a text, or a list of ids, to windows of token ids: what eval and verify run a model on. */
#ifndef FITQ_JOB_WINDOWS_H
#define FITQ_JOB_WINDOWS_H

#include "arch/decoder.h"

typedef struct fqi_windows {
    uint32_t *ids;             /* n_window * n_context; owned */
    size_t n_window, n_context, first_scored, n_scored;   /* n_scored: all windows together */
    size_t n_token;            /* of the whole text, those behind the last full window too */
    bool bos;                  /* token 0 of every window was replaced */
    bool random;               /* no text was given: pseudo-random ids */
} fqi_windows;

#define FQI_TEXT_MAX_BYTES (UINT64_C(1) << 30)

/* All ids of a text or list, not cut. With has_bos token 0 of every window that is cut from them is to be bos. */
typedef struct fqi_text_ids { uint32_t *ids; size_t n; bool has_bos; uint32_t bos; } fqi_text_ids;   /* ids: owned, freed with free() */

/* Of t only text or ids (one of them is given) and bos count. Refused as below. */
fq_status fqi_text_ids_make(const fq_text *t, const char *model_dir, int64_t vocab, size_t least, fqi_text_ids *out, fq_err *e);
/* At least one window of `least` ids ("text-length"), all below vocab ("token-id"). path: for messages; model_dir: for those about bos. */
fq_status fqi_text_ids_check(const fqi_text_ids *t, const char *path, const char *model_dir, int64_t vocab, size_t least, fq_err *e);

/* model_dir: its tokenizer.json cuts the text. With neither text nor ids: FQ_E_USAGE, or, if random_ids is set, ids from a
 * fixed generator below vocab. Refused: a text without one full window ("text-length", with both numbers), ids >= vocab ("token-id"),
 * malformed UTF-8, files above FQI_TEXT_MAX_BYTES, what is no regular file. */
fq_status fqi_windows_make(const fq_text *t, const char *model_dir, int64_t vocab, bool random_ids, fqi_windows *out, fq_err *e);
void fqi_windows_free(fqi_windows *w);

#endif
