#!/usr/bin/env bash
# Makes this machine's packages as a release does, and tries them where there is neither a compiler nor a
# network.
#
#   try.sh [--musl] [pack|bundle ...]       packaging/pack.test.mjs and so on; all
#
# With --musl it is musl's package, on a system that has no other libc (scripts/arch/musl-root.sh; x64).
# $ROBUST_LOCK_BINARIES is a folder of modules that are there already; else this machine's is built. With
# $ROBUST_LOCK_PACKED the packages themselves are there, in npm/, and they are what is tried.
set -euo pipefail
cd "$(dirname "$0")/../.."

binaries=${ROBUST_LOCK_BINARIES:-target/own-binaries}
system=() libc=glibc
platform=$(node --input-type=module -e 'import { ownPlatform } from "./scripts/release/platform.mjs"; console.log(ownPlatform())')
if [ "${1:-}" = --musl ]; then
  shift
  system=(bash scripts/arch/musl-root.sh)
  platform=linux-x64-musl libc=musl
  # It is fetched while there is a network.
  "${system[@]}" true || { code=$?; [ "$code" != 77 ] || [ -n "${GITHUB_ACTIONS:-}" ] || exit 0; exit "$code"; }
fi

if [ -z "${ROBUST_LOCK_PACKED:-}" ]; then
  npm run --silent build
  if [ -n "${ROBUST_LOCK_BINARIES:-}" ]; then
    node scripts/release/check-binary.mjs "$binaries"/*.node
  elif rm -rf "$binaries" && python3 -m pip --version >/dev/null 2>&1; then
    ROBUST_LOCK_OUT=$binaries bash scripts/ci/modules.sh "$platform"
  else
    echo "not run: the checks of the released module: it is linked by zig, which pip brings, and there is no pip"
    [ -z "${GITHUB_ACTIONS:-}" ] || exit 1
    mkdir -p "$binaries"
    cp "robust-lock.$platform.node" "$binaries/"
  fi
  modules=("$binaries"/robust-lock.*.node)
  platforms=("${modules[@]##*/robust-lock.}")
  node scripts/release/pack.mjs --binaries "$binaries" --only "${platforms[@]%.node}"
fi
npm ci --prefix packaging --libc=$libc --no-audit --no-fund --prefer-offline --loglevel=error
[ ${#system[@]} -gt 0 ] || node packaging/nodes.mjs

# Without a network: only the loopback interface, if there is an ip(8) to raise it.
alone=()
if unshare --net true 2>/dev/null; then
  alone=(unshare --net)
elif unshare --map-root-user --net true 2>/dev/null; then
  alone=(unshare --map-root-user --net)
fi
failed=0
for suite in "${@:-pack bundle}"; do
  for one in $suite; do
    "${alone[@]}" sh -c 'ip link set lo up 2>/dev/null; exec "$@"' sh "${system[@]}" node "packaging/$one.test.mjs" || failed=1
  done
done
exit "$failed"
