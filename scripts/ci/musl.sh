#!/usr/bin/env bash
# The TypeScript suites on Alpine, with one of its Nodes, in a container.
#
#   musl.sh NODE_MAJOR
#
# $ROBUST_LOCK_BINARIES is a folder in which the module is already; else it is cross-built here.
set -euo pipefail
cd "$(dirname "$0")/../.."

arch=$(node -p process.arch)
[ -f dist/index.cjs ] || npm run --silent build
if [ -n "${ROBUST_LOCK_BINARIES:-}" ]; then
  cp "$ROBUST_LOCK_BINARIES/robust-lock.linux-$arch-musl.node" .
else
  bash scripts/ci/modules.sh "linux-$arch-musl"
fi
engine=$(command -v docker || command -v podman)
# As root in there, and in PID and mount namespaces of its own: what the suites need for their own ones.
"$engine" run --rm --volume "$PWD:/tree:ro" --shm-size 1g --cap-add SYS_ADMIN \
  --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
  "node:$1-alpine" sh -euc '
    apk add --no-cache util-linux procps >/dev/null
    mkdir /own && cd /own
    tar -C /tree --exclude=./target --exclude=./.git -c . | tar -x
    rm -f robust-lock.*-gnu*.node
    node scripts/test-ts.mjs'
