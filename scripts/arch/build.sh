#!/usr/bin/env bash
# Cross-builds the native module: robust-lock.NAME.node in the repository's root, where a build for this
# machine stands too, or in the folder $ROBUST_LOCK_OUT.
#
#   build.sh NAME...      linux-arm64-musl and so on, as common.sh lists them; all: every one
source "$(dirname "$0")/common.sh"

[ $# -gt 0 ] || die "$(sed -n '5s/^# *//p' "$0")"
[ "$*" != all ] || set -- $(awk '{ print $1 }' <<<"$platforms")
out=${ROBUST_LOCK_OUT:-$root}
mkdir -p "$out"
for name in "$@"; do
  (
    with_target "$name" cargo build --quiet --locked --release --manifest-path "$root/crates/node/Cargo.toml"
    module=$out/robust-lock.$name.node
    cp "$output/$(rust_target "$name")/release/librobust_lock_node.so" "$module"
    # glibc's program interpreter has the function that finds thread-locals, and so the linker names it. libc needs it
    # itself: it is in every process, and among what a symbol is looked for in.
    needed=$("$PATCHELF" --print-needed "$module")
    interpreter=$(grep '^ld' <<<"$needed" || true)
    [ -z "$interpreter" ] || "$PATCHELF" --remove-needed "$interpreter" "$module"
  )
  ls -l "$out/robust-lock.$name.node" | awk -v name="$name" '{ print name ": " $5 " bytes" }'
done
