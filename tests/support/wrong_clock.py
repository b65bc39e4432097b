"""A clock that is wrong for one program and all that it starts: a shim before the C library, compiled in the test."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long ahead(void) {
    const char *told = getenv("TEST_CLOCK_AHEAD_S");
    return told ? atol(told) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, out);
    if (!code && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) out->tv_sec += ahead();
    return code;
}

int gettimeofday(struct timeval *out, void *zone) {
    struct timespec now;
    int code = clock_gettime(CLOCK_REALTIME, &now);
    if (!code && out) { out->tv_sec = now.tv_sec; out->tv_usec = now.tv_nsec / 1000; }
    return code;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
"""


class NoCompiler(Exception):
    """This machine has none."""


def wrong_clock(folder: Path, ahead_s: int) -> dict[str, str]:
    """The environment in which a program's clock is ``ahead_s`` ahead. Raises ``NoCompiler``."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler("a C compiler is not there")
    library = folder / "wrong_clock.so"
    if not library.exists():
        source = folder / "wrong_clock.c"
        source.write_text(_SHIM, encoding="ascii")
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True, timeout=60
        )
    return {"LD_PRELOAD": str(library), "TEST_CLOCK_AHEAD_S": str(ahead_s)}
