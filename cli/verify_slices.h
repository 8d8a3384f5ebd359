/* verify_slices.h - `fitq verify PATH --tp N`: what engines would load on each GPU. */
#ifndef FITQ_CLI_VERIFY_SLICES_H
#define FITQ_CLI_VERIFY_SLICES_H

#include "args.h"

/* Returns the exit status. One operand, one number of GPUs; names of engines and formats are checked. */
int verify_slices(const arg_values *a);

#endif
