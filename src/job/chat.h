/* chat.h - conversations as token ids, in the model's own template: fq_chat_encode of fitq.h, and for conversations that are over. */
#ifndef FITQ_JOB_CHAT_H
#define FITQ_JOB_CHAT_H

#include "base/err.h"

/* fq_chat_encode; without `reply` the ids end where the last turn does, and no turn of the assistant's is opened. n >= 1 then. */
fq_status fqi_chat_encode(const fq_tokenizer *t, const fq_chat_message *m, size_t n, bool first, bool reply, uint32_t **ids, size_t *n_ids, fq_err *e);

#endif
