/* adapter.h - `pad --adapter` and `unpad --adapter`: a LoRA adapter carried along with its model. */
#ifndef FITQ_CLI_ADAPTER_H
#define FITQ_CLI_ADAPTER_H

#include "args.h"

/* The whole command, once --adapter or --like was given. Returns the exit status. */
int adapter_run(const char *command, const arg_values *a, bool back);

#define ARG_OPT_ADAPTER { "adapter", 0, ARG_STRING, "DIR", ARG_OFFSET(adapter), \
      "instead of PATH: a LoRA adapter as PEFT saves it, with --like", NULL, 0, 0, ARG_ANY }
#define ARG_OPT_LIKE { "like", 0, ARG_STRING, "DIR", ARG_OFFSET(like), "the fitted model whose maps the adapter goes by", NULL, 0, 0, ARG_ANY }

#endif
