/* The floor: a robust, process-shared, error-checking mutex behind Node-API, with nothing around it.
 *
 * Why it is an honest one. It does what no lock for Node can do without: two calls into C, each of which takes
 * the number of a lock, finds that one among several, calls the C library's mutex of the kind that survives its owner,
 * and tells whether it went well: by saying nothing, as ours does, for a number made for JS costs 2 to 5 ns. It is compiled
 * like ours, and mapped shared between processes like ours. It knows no guard, no token, no time limit, no
 * record of the owner's death, no check that the mutex is this thread's; it is not fair, and it cannot wait
 * without blocking. Nothing cheaper is open to an addon: V8's fast calls are not part of Node-API, and
 * WebAssembly has no robust mutex. */
#define _GNU_SOURCE
#include <errno.h>
#include <node_api.h>
#include <pthread.h>
#include <sys/mman.h>

static pthread_mutex_t *mutexes;

static napi_value tell(napi_env env, int value) {
  napi_value result = NULL;
  if (value == 0) return result;
  napi_create_int32(env, value, &result);
  return result;
}

static uint32_t index_of(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  uint32_t index = 0;
  napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
  napi_get_value_uint32(env, argument, &index);
  return index % 64;
}

static napi_value lock(napi_env env, napi_callback_info info) {
  pthread_mutex_t *mutex = &mutexes[index_of(env, info)];
  int result = pthread_mutex_lock(mutex);
  if (result == EOWNERDEAD) pthread_mutex_consistent(mutex);
  return tell(env, result);
}

static napi_value unlock(napi_env env, napi_callback_info info) {
  return tell(env, pthread_mutex_unlock(&mutexes[index_of(env, info)]));
}

NAPI_MODULE_INIT() {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
  mutexes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 64; i++) pthread_mutex_init(&mutexes[i], &attributes);
  napi_value function;
  napi_create_function(env, "lock", NAPI_AUTO_LENGTH, lock, NULL, &function);
  napi_set_named_property(env, exports, "lock", function);
  napi_create_function(env, "unlock", NAPI_AUTO_LENGTH, unlock, NULL, &function);
  napi_set_named_property(env, exports, "unlock", function);
  return exports;
}
