/* The page that all contend on: a robust, process-shared, error-checking mutex, and a gate before it, a second
 * one that those who wait hold in turn while they wait for the first. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* As in a slot of ours: what is contended for stands on cache lines of its own. */
struct page {
  volatile int counter;
  _Alignas(128) pthread_mutex_t main;
  _Alignas(128) pthread_mutex_t gate;
};

static inline void settle(pthread_mutex_t *mutex, int result) {
  if (result == EOWNERDEAD) result = pthread_mutex_consistent(mutex);
  if (result != 0) exit(1);
}

static inline void take(pthread_mutex_t *mutex) { settle(mutex, pthread_mutex_lock(mutex)); }

/* Which int of a mutex says who has it. */
#ifdef __GLIBC__
enum { LOCK_WORD = 0 };
#else /* musl */
enum { LOCK_WORD = 1 };
#endif

/* Straight to the lock only while nobody stands at the gate. */
static inline void take_in_turn(struct page *page) {
  if (__atomic_load_n((int *)&page->gate + LOCK_WORD, __ATOMIC_RELAXED) == 0) {
    int result = pthread_mutex_trylock(&page->main);
    if (result != EBUSY) {
      settle(&page->main, result);
      return;
    }
  }
  take(&page->gate);
  take(&page->main);
  pthread_mutex_unlock(&page->gate);
}
