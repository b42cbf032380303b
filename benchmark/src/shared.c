/* What a crew's processes in Node need of C: the page that they share; an end with their parent's, however that
 * ends; and the contestant that is nothing but the mutex and its gate, behind Node-API. */
#include <fcntl.h>
#include <node_api.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "gate.h"

static struct page *shared;

static napi_value failed(napi_env env, const char *what) {
  napi_throw_error(env, NULL, what);
  return NULL;
}

/* map(path): the file's first page as an ArrayBuffer. */
static napi_value map(napi_env env, napi_callback_info info) {
  size_t count = 1, length;
  napi_value argument, result;
  char path[4096];
  if (napi_get_cb_info(env, info, &count, &argument, NULL, NULL) != napi_ok || count != 1 ||
      napi_get_value_string_utf8(env, argument, path, sizeof path, &length) != napi_ok)
    return failed(env, "map(path)");
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return failed(env, "open");
  void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (page == MAP_FAILED) return failed(env, "mmap");
  shared = page;
  if (napi_create_external_arraybuffer(env, page, 4096, NULL, NULL, &result) != napi_ok)
    return failed(env, "no external ArrayBuffers here");
  return result;
}

/* bind(parent): the parent's pid, which may have ended before the call. */
static napi_value bind_to(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  int32_t parent = 0;
  napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
  napi_get_value_int32(env, argument, &parent);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) exit(1);
  return NULL;
}

static napi_value lock(napi_env env, napi_callback_info info) {
  take_in_turn(shared);
  return NULL;
}

static napi_value unlock(napi_env env, napi_callback_info info) {
  pthread_mutex_unlock(&shared->main);
  return NULL;
}

NAPI_MODULE_INIT() {
  struct { const char *name; napi_callback call; } functions[] = {{"map", map}, {"bind", bind_to}, {"lock", lock}, {"unlock", unlock}};
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].call, NULL, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
  return exports;
}
