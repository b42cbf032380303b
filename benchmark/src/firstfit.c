/* What Podman does (libpod/lock/shm), in its fastest form: one robust mutex over a bitmap, and a search
 * for the first word with room, under the mutex. The bitmap stands in one piece here, 64 bits a word; Podman's
 * is strewn among the locks, 32 bits a word, and costs a cache line for each. */
#include <errno.h>
#include <node_api.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define WORDS (1 << 14)

struct pool {
  pthread_mutex_t mutex;
  uint64_t taken[WORDS];
};
static struct pool *pools[64];

static void enter(struct pool *pool) {
  if (pthread_mutex_lock(&pool->mutex) == EOWNERDEAD) pthread_mutex_consistent(&pool->mutex);
}

static void arguments(napi_env env, napi_callback_info info, size_t wanted, uint32_t *values) {
  napi_value given[3];
  size_t count = wanted;
  napi_get_cb_info(env, info, &count, given, NULL, NULL);
  for (size_t i = 0; i < wanted; i++) napi_get_value_uint32(env, given[i], &values[i]);
}

static napi_value number(napi_env env, int64_t value) {
  napi_value result;
  napi_create_int64(env, value, &result);
  return result;
}

/* open(pool, taken): the ids below `taken` are allocated. */
static napi_value open_pool(napi_env env, napi_callback_info info) {
  uint32_t a[2];
  arguments(env, info, 2, a);
  struct pool *pool = mmap(NULL, sizeof *pool, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&pool->mutex, &attributes);
  memset(pool->taken, 0xff, a[1] / 64 * 8);
  if (a[1] % 64 != 0) pool->taken[a[1] / 64] = ((uint64_t)1 << a[1] % 64) - 1;
  pools[a[0] % 64] = pool;
  return NULL;
}

/* allocate(pool, capacity): the first free id, or -1. */
static napi_value allocate(napi_env env, napi_callback_info info) {
  uint32_t a[2];
  arguments(env, info, 2, a);
  struct pool *pool = pools[a[0] % 64];
  int64_t id = -1;
  enter(pool);
  for (uint32_t w = 0; w < a[1] / 64; w++) {
    if (pool->taken[w] == UINT64_MAX) continue;
    int bit = __builtin_ctzll(~pool->taken[w]);
    pool->taken[w] |= (uint64_t)1 << bit;
    id = (int64_t)w * 64 + bit;
    break;
  }
  pthread_mutex_unlock(&pool->mutex);
  return number(env, id);
}

/* free(pool, id) */
static napi_value free_id(napi_env env, napi_callback_info info) {
  uint32_t a[2];
  arguments(env, info, 2, a);
  struct pool *pool = pools[a[0] % 64];
  enter(pool);
  pool->taken[a[1] / 64] &= ~((uint64_t)1 << a[1] % 64);
  pthread_mutex_unlock(&pool->mutex);
  return NULL;
}

NAPI_MODULE_INIT() {
  const struct { const char *name; napi_callback callback; } all[] = {{"open", open_pool}, {"allocate", allocate}, {"free", free_id}};
  for (int i = 0; i < 3; i++) {
    napi_value function;
    napi_create_function(env, all[i].name, NAPI_AUTO_LENGTH, all[i].callback, NULL, &function);
    napi_set_named_property(env, exports, all[i].name, function);
  }
  return exports;
}
