/* commands.h - the commands; main.c has the table. */
#ifndef FITQ_CLI_COMMANDS_H
#define FITQ_CLI_COMMANDS_H

#include "args.h"

extern const arg_command cmd_inspect, cmd_plan, cmd_fit, cmd_pad, cmd_convert, cmd_quantize, cmd_unpad, cmd_shard, cmd_unshard, cmd_verify, cmd_eval, cmd_generate, cmd_tokenize, cmd_help, cmd_version, cmd_completion;

/* In the order of `fitq help`; NULL-terminated. */
extern const arg_command *const commands[];
const arg_command *command_find(const char *name);
/* The command whose name is nearest, or NULL. */
const char *command_nearest(const char *name);

/* Expands "all", checks every id, and keeps the order of the command line. True and list->v borrowed from the library's tables,
 * or false and a message. */
bool command_engines(const arg_command *c, arg_strings *list);
bool command_formats(const arg_command *c, arg_strings *list);

#endif
