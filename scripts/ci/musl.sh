#!/usr/bin/env bash
# The TypeScript suites on Alpine, with one of its Nodes, in a container; and the packages of a release, if there are any.
#
#   musl.sh NODE_MAJOR
#
# $ROBUST_LOCK_BINARIES is a folder in which the module is already; else it is cross-built here. With $ROBUST_LOCK_PACKED
# the packages are there, in npm/: they are installed and tried as try.sh does it.
set -euo pipefail
cd "$(dirname "$0")/../.."

arch=$(node -p process.arch)
[ -f dist/index.cjs ] || npm run --silent build
if [ -n "${ROBUST_LOCK_BINARIES:-}" ]; then
  cp "$ROBUST_LOCK_BINARIES/robust-lock.linux-$arch-musl.node" .
else
  bash scripts/ci/modules.sh "linux-$arch-musl"
fi
packed=${ROBUST_LOCK_PACKED:-}
[ -z "$packed" ] || npm ci --prefix packaging --libc=musl --no-audit --no-fund --prefer-offline --loglevel=error
engine=$(command -v docker || command -v podman)
# As root in there, and in PID and mount namespaces of its own: what the suites need for their own ones. NET_ADMIN raises the
# loopback interface where there is no network.
tar -c --exclude=./target --exclude=./.git --exclude=./benchmark/node_modules --exclude='./robust-lock.*-gnu*.node' . |
  "$engine" run --rm --interactive --shm-size 1g --cap-add SYS_ADMIN --cap-add NET_ADMIN \
    --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
    --env ROBUST_LOCK_PACKED="$packed" --env GITHUB_REPOSITORY --env GITHUB_SERVER_URL \
    "node:$1-alpine" sh -euc '
    apk add --no-cache util-linux procps >/dev/null </dev/null
    mkdir /own && cd /own
    tar -x
    node scripts/test-ts.mjs
    # Where there is no network.
    [ -z "$ROBUST_LOCK_PACKED" ] || unshare --net sh -euc "
      ip link set lo up
      node packaging/pack.test.mjs
      node packaging/bundle.test.mjs"'
