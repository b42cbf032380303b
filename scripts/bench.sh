#!/usr/bin/env bash
# `npm run bench`: builds, installs benchmark/ if it is not, and runs it. With --quick it does without the peer
# that takes minutes to compile where no prebuilt module can be had. Only the run itself writes to stdout (--json).
set -euo pipefail
cd "$(dirname "$0")/.."

npm run --silent build >&2
quick=all
for argument; do [ "$argument" != --quick ] || quick=quick; done

# What is installed: for which lock file and Node, and whether everything.
wanted=$(node -p process.versions.modules)$(sha256sum < benchmark/package-lock.json)
stamp=benchmark/node_modules/.installed
if ! { [ -e $stamp ] && { grep -qxF "all $wanted" $stamp || grep -qxF "$quick $wanted" $stamp; }; }; then
  if [ $quick = quick ]; then
    npm ci --prefix benchmark --no-audit --no-fund --ignore-scripts >&2
    npm rebuild --prefix benchmark fs-ext >&2 || true # a peer that cannot be built is named by the run
  else
    npm ci --prefix benchmark --no-audit --no-fund >&2
  fi
  echo "$quick $wanted" > $stamp
fi
node benchmark/src/main.mjs "$@"
