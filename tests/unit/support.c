/* support.c - see support.h. */
#include "support.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "make_ckpt.h"

const char *fqt_source(void)
{
    const char *source = getenv("FITQ_SOURCE_DIR");
    return source && *source ? source : ".";
}

const char *fqt_data(void)
{
    const char *data = getenv("FITQ_TEST_DATA");
    if (!data || !*data) {
        print_message("FITQ_TEST_DATA is not set\n");
        skip();
    }
    return data;
}

char *fqt_dir;

int fqt_dir_setup(void **state)
{
    (void)state;
    fqt_dir = fqt_tempdir();
    return 0;
}

int fqt_dir_teardown(void **state)
{
    (void)state;
    fqt_remove(fqt_dir);
    free(fqt_dir);
    fqt_dir = NULL;
    return 0;
}

uint64_t fqt_seed(uint64_t usual)
{
    const char *given = getenv("FITQ_TEST_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : usual;
    if (seed == 0) seed = 1;
    print_message("FITQ_TEST_SEED=%" PRIu64 "\n", seed);
    return seed;
}

uint64_t fqt_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

bool fqt_has_python(void) { return system("python3 -c '' 2>/dev/null") == 0; }

void fqt_need_python(void)
{
    if (fqt_has_python()) return;
    print_message("python3 is missing\n");
    skip();
}

int fqt_python(const char *python, const char *script, const char *arguments)
{
    char cmd[8192];
    int n = snprintf(cmd, sizeof cmd, "PYTHONDONTWRITEBYTECODE=1 %s '%s/%s' %s", python ? python : "python3", fqt_source(), script, arguments);
    if (n < 0 || (size_t)n >= sizeof cmd) return -1;
    int s = system(cmd);
    return s != -1 && WIFEXITED(s) ? WEXITSTATUS(s) : -1;
}

int fqt_to_torch(const char *from, const char *to, const char *what)
{
    char arguments[4096];
    int n = snprintf(arguments, sizeof arguments, "'%s' '%s' %s", from, to, what);
    return n < 0 || (size_t)n >= sizeof arguments ? -1 : fqt_python(NULL, "tests/tools/st_to_bin.py", arguments);
}
