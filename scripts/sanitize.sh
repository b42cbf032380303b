#!/usr/bin/env bash
# The core's tests under a sanitizer: scripts/sanitize.sh address|thread [arguments of cargo test].
# Stable Rust opens nightly's options with RUSTC_BOOTSTRAP. The standard library is instrumented too (Debian's
# sources, see arch/std.sh): otherwise ThreadSanitizer would not see what its locks do. Tests that step through
# processes or copy them are left out.
set -euo pipefail
cd "$(dirname "$0")/.."

sanitizer=${1:?address or thread}
shift
case $sanitizer in
  address)
    # Segments are never given up; and one test ends a process with SIGBUS.
    export ASAN_OPTIONS=detect_leaks=0:handle_sigbus=0
    tests=(--lib --test damage --test idmap --test model --test opening --test processes --test refusals --test waits)
    ;;
  thread)
    # Some calls are made to be refused; and a thread may hold more than the detector of deadlocks can count.
    export TSAN_OPTIONS=history_size=7:report_mutex_bugs=0:detect_deadlocks=0
    tests=(--lib --test idmap --test model --test processes --test waits)
    ;;
  *)
    echo "address or thread, not $sanitizer" >&2
    exit 2
    ;;
esac
[ $# -gt 0 ] || set -- "${tests[@]}"
host=$(rustc -vV | sed -n 's/^host: //p')
sysroot=$(bash scripts/arch/std.sh "$host" "$sanitizer")
RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=$sanitizer --sysroot=$sysroot" \
  cargo test --locked -p robust-lock-core --target "$host" --target-dir "target/$sanitizer" "$@"
