/* What a process of ringq does to itself: notice that it was forked, die with its parent. No Python, no segment. */
#ifndef RQ_PROCESS_H
#define RQ_PROCESS_H

#include <stdbool.h>

/* How often this process is the child of a fork since it loaded us; an object of another count is not ours to touch. */
unsigned rq_forks(void);
/* 0 or an errno. */
int rq_forks_count(void);
/* SIGKILL when the thread that started this process ends. 0 or an errno. */
int rq_set_death_signal(void);
/* A thread without Python kills this process (its group, if it leads one) when the pidfd says that the parent is dead.
 * 0 or an errno. */
int rq_watch_parent(int pidfd);
/* Bytes that were written to this pipe and not read; -1: no pipe, or closed. */
int rq_unread(int fd);
/* Whether a descriptor is open, whatever it is. */
bool rq_is_open(int fd);

#endif
