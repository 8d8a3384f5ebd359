/* version.c - which libfitq is linked. */
#include "fitq.h"

const char *fq_version(void) { return FQ_VERSION; }
