/* The contestants in C, on mutexes of the kind that robust-lock uses:
 *   none    no lock at all
 *   plain   a robust, process-shared, error-checking mutex as it is
 *   gate    the same behind a gate, see gate.h
 *
 *   crew init PAGE           makes the mutexes
 *   crew contend PAGE PARENT a process of a crew, which answers lines as worker.mjs does; there is no event
 *                            loop here, and so none that is late */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "gate.h"

enum { BUCKETS = 448, UNIT_NS = 16 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static void block(double ns) {
  struct timespec t = {(time_t)(ns / 1e9), (long)(ns - (time_t)(ns / 1e9) * 1e9)};
  while (nanosleep(&t, &t) == -1 && errno == EINTR) {}
}

/* As in histogram.mjs. */
static int bucket_of(double ns) {
  double most = 0x7fffffff;
  unsigned units = ns / UNIT_NS < most ? ns / UNIT_NS : most;
  if (units < 16) return units;
  int octave = 31 - __builtin_clz(units);
  return (octave - 3) * 16 + ((units >> (octave - 4)) & 15);
}

static int init(struct page *page) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
  return pthread_mutex_init(&page->main, &attributes) | pthread_mutex_init(&page->gate, &attributes);
}

static void contend(struct page *page, int plain, int gate, double begin, double end, double hold, double pause) {
  static long counts[BUCKETS];
  memset(counts, 0, sizeof counts);
  long held = 0, in_time = 0;
  double longest = 0, asked;
  if (begin > now()) block(begin - now());
  while ((asked = now()) < end) {
    if (gate) take_in_turn(page);
    else if (plain) take(&page->main);
    double since = now(), waited = since - asked;
    int seen = page->counter;
    counts[bucket_of(waited)]++;
    if (waited > longest) longest = waited;
    held++;
    if (since < end) in_time++;
    if (hold > 0) while (now() - since < hold) {}
    page->counter = seen + 1;
    if (plain || gate) pthread_mutex_unlock(&page->main);
    if (pause > 0) block(pause);
  }
  printf("%ld %ld %.0f", held, in_time, longest);
  for (int i = 0; i < BUCKETS; i++) printf(" %ld", counts[i]);
  puts("");
  fflush(stdout);
}

int main(int count, char **arguments) {
  if (count < 3) return 2;
  int fd = open(arguments[2], O_RDWR | O_CLOEXEC);
  if (fd < 0) return 1;
  struct page *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (page == MAP_FAILED) return 1;
  if (strcmp(arguments[1], "init") == 0) return init(page);
  if (count != 4) return 2;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != atoi(arguments[3])) return 1;
  puts("{\"names\":[\"none\",\"plain\",\"gate\"],\"absent\":[]}");
  fflush(stdout);
  char name[16];
  double begin, end, hold, pause;
  while (scanf(" contend %15s %lf %lf %lf %lf %*f", name, &begin, &end, &hold, &pause) == 5)
    contend(page, strcmp(name, "plain") == 0, strcmp(name, "gate") == 0, begin, end, hold, pause);
  return 0;
}
