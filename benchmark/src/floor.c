/* The floor: a robust, process-shared, error-checking mutex behind Node-API, with nothing around it.
 * lock() and unlock() take a number, as ours take two, and return one. */
#define _GNU_SOURCE
#include <errno.h>
#include <node_api.h>
#include <pthread.h>
#include <sys/mman.h>

static pthread_mutex_t *mutexes;

static napi_value number(napi_env env, int value) {
  napi_value result;
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
  return number(env, result);
}

static napi_value unlock(napi_env env, napi_callback_info info) {
  return number(env, pthread_mutex_unlock(&mutexes[index_of(env, info)]));
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
