"""A clock that is off: a library that shifts the time of day of the programs that load it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.harness.programs import program

SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long shift(void) {
    const char *seconds = getenv("SHIFT_SECONDS");
    return seconds ? atol(seconds) : 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int result = real(now, zone);
    now->tv_sec += shift();
    return result;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += shift();
    return result;
}

time_t time(time_t *now) {
    time_t (*real)(time_t *) = dlsym(RTLD_NEXT, "time");
    time_t result = real(NULL) + shift();
    if (now) *now = result;
    return result;
}
"""


def shifted(folder: Path, seconds: int) -> dict[str, str]:
    """Returns the environment variables under which a program's clock is ahead. Skips the test if this
    machine has no C compiler."""
    compiler = program("cc", "gcc", "clang")
    source, library = folder / "shift.c", folder / "shift.so"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SHIFT_SECONDS": str(seconds)}
