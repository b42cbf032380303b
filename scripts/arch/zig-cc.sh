#!/usr/bin/env bash
# The linker that cargo is given: `zig cc` for $ZIG_TARGET, which common.sh sets.
set -euo pipefail
arguments=()
for argument in "$@"; do
  case $argument in
    # zig's own unwinder, linked statically, stands in for libgcc's.
    -lgcc_s) arguments+=(-lunwind) ;;
    -lgcc | -lgcc_eh) ;;
    # Words of gcc's that zig does not know; none of them matters to it.
    -m64 | -no-pie | -Wl,--no-undefined-version) ;;
    *) arguments+=("$argument") ;;
  esac
done
exec "$ZIG" cc -target "$ZIG_TARGET" "${arguments[@]}"
