#!/usr/bin/env bash
# The core's tests under a sanitizer: scripts/sanitize.sh address|thread [arguments of cargo test].
# Stable Rust opens nightly's options with RUSTC_BOOTSTRAP. The standard library is not instrumented; the
# C library's calls are intercepted. Tests that step through processes or count system calls are left out.
set -euo pipefail
cd "$(dirname "$0")/.."

sanitizer=${1:?address or thread}
shift
flags="-Zsanitizer=$sanitizer"
case $sanitizer in
  address)
    # Segments are never given up; and one test ends a process with SIGBUS.
    export ASAN_OPTIONS=detect_leaks=0:handle_sigbus=0
    tests=(--lib --test damage --test idmap --test model --test opening --test processes --test waits)
    ;;
  thread)
    flags+=' -Cunsafe-allow-abi-mismatch=sanitizer'
    export TSAN_OPTIONS=history_size=7
    tests=(--lib --test idmap --test waits --test processes)
    ;;
  *)
    echo "address or thread, not $sanitizer" >&2
    exit 2
    ;;
esac
[ $# -gt 0 ] || set -- "${tests[@]}"
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTC_BOOTSTRAP=1 RUSTFLAGS="$flags" \
  cargo test --locked -p robust-lock-core --target "$host" --target-dir "target/$sanitizer" "$@"
