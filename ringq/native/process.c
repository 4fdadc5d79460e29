/* Fork counting, the death signal, the thread that watches the parent, and what it has not read. */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define WATCH_STACK_BYTES (128 * 1024)
#define WATCH_FALLBACK_NS 100000000 /* between looks once a handler has taken the pidfd from us */

static atomic_uint forks; /* relaxed everywhere: a fork has one thread, which writes it before anything else runs */

static void count_fork(void)
{
    atomic_fetch_add_explicit(&forks, 1, memory_order_relaxed);
}

unsigned rq_forks(void)
{
    return atomic_load_explicit(&forks, memory_order_relaxed);
}

int rq_forks_count(void)
{
    static bool registered; /* under the import lock */
    int error = registered ? 0 : pthread_atfork(NULL, NULL, count_fork);
    registered = error == 0;
    return error;
}

int rq_set_death_signal(void)
{
    return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 ? 0 : errno;
}

struct watch {
    int pidfd;
    pid_t parent;
};

static void die(void)
{
    kill(getpgrp() == getpid() ? 0 : getpid(), SIGKILL);
}

/* Waits without a bound and without waking: a poll under way keeps its hold on the pidfd's file, so a handler that
 * closes every descriptor does not end it. Only when the number has become useless before a poll is the parent's pid
 * looked at instead, which is exact, as a child is handed to another parent before the pidfd becomes readable. */
static void *watch(void *argument)
{
    struct watch *given = argument;
    struct pollfd parent = {.fd = given->pidfd, .events = POLLIN};
    const struct timespec pause = {.tv_nsec = WATCH_FALLBACK_NS};
    while (getppid() == given->parent) {
        int ready = poll(&parent, 1, -1);
        if (ready > 0 && getppid() == given->parent) {
            nanosleep(&pause, NULL); /* closed, or another file under this number */
        }
    }
    die();
    return NULL;
}

/* The same for a process that is not our parent (a host that started the server through something else). */
static void *watch_stranger(void *argument)
{
    struct watch *given = argument;
    struct pollfd stranger = {.fd = given->pidfd, .events = POLLIN};
    while (poll(&stranger, 1, -1) < 1 || (stranger.revents & POLLIN) == 0) {
        if ((stranger.revents & POLLNVAL) != 0) {
            return NULL;
        }
    }
    die();
    return NULL;
}

/* The pid a pidfd stands for, -1 once that process has been reaped; LONG_MIN: it is no pidfd. */
static long pid_of(int pidfd)
{
    char path[64];
    char text[512];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return LONG_MIN;
    }
    ssize_t bytes = read(fd, text, sizeof text - 1);
    close(fd);
    text[bytes > 0 ? bytes : 0] = '\0';
    const char *line = strstr(text, "\nPid:");
    return line != NULL ? strtol(line + 5, NULL, 10) : LONG_MIN;
}

int rq_watch_parent(int pidfd)
{
    static struct watch given; /* one watch in a process; the thread outlives every frame */
    static bool watching;
    sigset_t every, before;
    pthread_attr_t attributes;
    pthread_t thread;
    long pid = pid_of(pidfd);
    if (watching) {
        return EBUSY;
    }
    if (pid == LONG_MIN) {
        return EBADF;
    }
    given = (struct watch){.pidfd = pidfd, .parent = (pid_t)pid};
    int error = pthread_attr_init(&attributes);
    if (error != 0) {
        return error;
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, WATCH_STACK_BYTES);
    sigfillset(&every); /* no handler of Python's may run on this thread */
    pthread_sigmask(SIG_SETMASK, &every, &before);
    error = pthread_create(&thread, &attributes, pid == getppid() ? watch : watch_stranger, &given);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    watching = error == 0;
    return error;
}

int rq_unread(int fd)
{
    int bytes;
    if (ioctl(fd, FIONREAD, &bytes) != 0) {
        return -1;
    }
    /* Files, terminals and sockets answer FIONREAD too, with something else; only a pipe has a pipe's size. Where there
     * is nothing to read it is not asked: that would be another system call after each attempt. */
    return bytes == 0 || fcntl(fd, F_GETPIPE_SZ) >= 0 ? bytes : -1;
}

bool rq_is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}
