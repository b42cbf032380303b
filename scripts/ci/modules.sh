#!/usr/bin/env bash
# Builds native modules as they are released, and checks them: into $ROBUST_LOCK_OUT, or the root.
#
#   modules.sh PLATFORM...      linux-arm64-musl and so on; all
set -euo pipefail
cd "$(dirname "$0")/../.."
source scripts/arch/common.sh

[ "$*" != all ] || set -- $(awk '{ print $1 }' <<<"$platforms")
for name in "$@"; do
  # CI's rustup brings the standard library; elsewhere it is the user's to say so, or one is built.
  if [ -n "${GITHUB_ACTIONS:-}" ] && ! compgen -G "$(rustc --print target-libdir --target "$(rust_target "$name")")/libstd-*.rlib" >/dev/null; then
    rustup target add "$(rust_target "$name")"
  fi
done
bash scripts/arch/build.sh "$@"
out=${ROBUST_LOCK_OUT:-.}
files=()
for name in "$@"; do files+=("$out/robust-lock.$name.node"); done
node scripts/release/check-binary.mjs "${files[@]}"
