#!/usr/bin/env bash
# The TypeScript suites on Alpine, with one of its Nodes, in a container; the module is cross-built here.
#
#   musl.sh NODE_MAJOR
set -euo pipefail
cd "$(dirname "$0")/../.."

arch=$(node -p process.arch)
[ -f dist/index.cjs ] || npm run --silent build
bash scripts/ci/modules.sh "linux-$arch-musl"
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
