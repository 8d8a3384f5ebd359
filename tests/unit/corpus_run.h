/* corpus_run.h - one kind of the corpus against its published table: status and the exact error line of every case. */
#ifndef FITQ_TESTS_CORPUS_RUN_H
#define FITQ_TESTS_CORPUS_RUN_H

#include "fitq.h"

/* What fitq says of a case (a file or a folder). */
typedef fq_status fqt_judge(const char *path, fq_err *e);

/* Makes the cases of `kind` with tests/corpus/make_corpus.py in a temporary folder and runs the tests; the result is main's. at_least:
 * cases that must be there (a corpus that lost its files would pass as well). Without python3 the tests are skipped, and say so. */
int fqt_corpus_main(const char *kind, int at_least, fqt_judge *judge);

#endif
