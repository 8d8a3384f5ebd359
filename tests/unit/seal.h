/* seal.h - the checksum of a fitq.json that a test wrote or changed by hand. */
#ifndef FITQ_TESTS_SEAL_H
#define FITQ_TESTS_SEAL_H

/* The text with its record_xxh3 made right; frees the argument, caller frees the result. Text that is no JSON stays as it is. */
char *fqt_seal(char *text);

#endif
