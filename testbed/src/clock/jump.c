// The wall clock of one process, ahead of the machine's by as many seconds as the file in TESTBED_CLOCK says (64 bits).
// Preloaded before glibc. The monotonic clock stays as it is, as when somebody sets the time of a real machine.
//
// libfaketime does not know C11's cnd_timedwait, on which librdkafka waits: its waits would last as much longer as the
// clock is ahead. Here they end when this clock says so, also when it jumps meanwhile, as the kernel's do.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static volatile int64_t none;
static volatile int64_t *ahead = &none;
static __typeof__(&clock_gettime) real_clock_gettime;
static __typeof__(&cnd_timedwait) real_cnd_timedwait;

__attribute__((constructor)) static void begin(void) {
    real_clock_gettime = REAL(clock_gettime);
    real_cnd_timedwait = REAL(cnd_timedwait);
    const char *path = getenv("TESTBED_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *shared = file < 0 ? MAP_FAILED : mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED) abort();
    ahead = shared;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_clock_gettime) real_clock_gettime = REAL(clock_gettime);
    int result = real_clock_gettime(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead;
    return result;
}

int timespec_get(struct timespec *now, int base) {
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, now) == 0 ? base : 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec exact;
    if (clock_gettime(CLOCK_REALTIME, &exact)) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (where) *where = exact.tv_sec;
    return exact.tv_sec;
}

// In slices of at most 50 ms, between which the clock is looked at.
int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until) {
    for (;;) {
        struct timespec real, slice;
        real_clock_gettime(CLOCK_REALTIME, &real);
        slice = (struct timespec){real.tv_sec, real.tv_nsec + 50000000};
        if (slice.tv_nsec >= 1000000000) slice = (struct timespec){slice.tv_sec + 1, slice.tv_nsec - 1000000000};
        struct timespec end = {until->tv_sec - *ahead, until->tv_nsec};
        int last = end.tv_sec < slice.tv_sec || (end.tv_sec == slice.tv_sec && end.tv_nsec <= slice.tv_nsec);
        int result = real_cnd_timedwait(condition, mutex, last ? &end : &slice);
        if (result != thrd_timedout || last) return result;
    }
}
