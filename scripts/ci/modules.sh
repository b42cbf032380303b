#!/usr/bin/env bash
# Builds native modules as they are released, and checks them: into $ROBUST_LOCK_OUT, or the root.
#
#   modules.sh PLATFORM...      linux-arm64-musl and so on; all
set -euo pipefail
cd "$(dirname "$0")/../.."
source scripts/arch/common.sh

[ "$*" != all ] || set -- $(awk '{ print $1 }' <<<"$platforms")
bash scripts/arch/build.sh "$@"
out=${ROBUST_LOCK_OUT:-.}
files=()
for name in "$@"; do files+=("$out/robust-lock.$name.node"); done
node scripts/release/check-binary.mjs "${files[@]}"
