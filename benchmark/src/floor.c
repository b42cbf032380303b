/* The floor: a robust, process-shared, error-checking mutex behind Node-API, with nothing around it.
 *
 * Why it is an honest one. It does what no lock for Node can do without: two calls into C, each of which takes
 * the number of a lock, finds that one among several, calls the C library's mutex of the kind that survives its
 * owner, and answers with the errno. It is compiled like ours, and mapped shared between processes like ours. It
 * knows no guard, no token, no time limit, no record of an owner's death, no check that the mutex is this
 * thread's; it is not fair, and it cannot wait without blocking. Ours answers by saying nothing if all is well,
 * because a number made for JS costs 2 ns: the floor can do that, too, and is measured that way beside.
 * Nothing cheaper is open to an addon: V8's fast calls are not part of Node-API, and WebAssembly has no robust
 * mutex. */
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

static napi_value unless_zero(napi_env env, int value) { return value == 0 ? NULL : number(env, value); }

static pthread_mutex_t *mutex_of(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  uint32_t index = 0;
  napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
  napi_get_value_uint32(env, argument, &index);
  return &mutexes[index % 64];
}

static int take(pthread_mutex_t *mutex) {
  int result = pthread_mutex_lock(mutex);
  if (result == EOWNERDEAD) pthread_mutex_consistent(mutex);
  return result;
}

static napi_value lock(napi_env env, napi_callback_info info) { return number(env, take(mutex_of(env, info))); }

static napi_value unlock(napi_env env, napi_callback_info info) { return number(env, pthread_mutex_unlock(mutex_of(env, info))); }

static napi_value lock_mutely(napi_env env, napi_callback_info info) { return unless_zero(env, take(mutex_of(env, info))); }

static napi_value unlock_mutely(napi_env env, napi_callback_info info) {
  return unless_zero(env, pthread_mutex_unlock(mutex_of(env, info)));
}

NAPI_MODULE_INIT() {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
  mutexes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  for (int i = 0; i < 64; i++) pthread_mutex_init(&mutexes[i], &attributes);
  const struct { const char *name; napi_callback callback; } all[] = {{"lock", lock}, {"unlock", unlock}, {"lockMutely", lock_mutely}, {"unlockMutely", unlock_mutely}};
  for (int i = 0; i < 4; i++) {
    napi_value function;
    napi_create_function(env, all[i].name, NAPI_AUTO_LENGTH, all[i].callback, NULL, &function);
    napi_set_named_property(env, exports, all[i].name, function);
  }
  return exports;
}
