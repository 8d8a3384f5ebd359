/* signals.c - the handler only stores the number: everything else happens where the job asks whether to stop. */
#include "signals.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t caught;

static void on_signal(int number) { caught = number; }

void signals_start(void)
{
    static const int stop[] = { SIGINT, SIGTERM, SIGHUP, SIGXCPU };
    for (size_t i = 0; i < sizeof stop / sizeof stop[0]; i++) {
        struct sigaction old, act = { .sa_handler = on_signal };
        /* RESETHAND: the second signal finds the default action. RESTART: the library sees no EINTR because of us. */
        act.sa_flags = (int)(SA_RESETHAND | SA_RESTART);
        sigemptyset(&act.sa_mask);
        /* A job under nohup keeps ignoring HUP. */
        if (sigaction(stop[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN) continue;
        sigaction(stop[i], &act, NULL);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
}

bool signals_cancelled(void *user)
{
    (void)user;
    return caught != 0;
}

void signals_reraise(void)
{
    if (caught == 0) return;
    signal(caught, SIG_DFL);
    raise(caught);
}
