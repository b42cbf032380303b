#!/usr/bin/env bash
# The workflows, checked by actionlint: the one of $PATH, or one that Go builds.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=1.7.12
cache=${ROBUST_LOCK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/robust-lock}/actionlint-$version
if command -v actionlint >/dev/null; then
  actionlint
elif command -v go >/dev/null || [ -x "$cache/actionlint" ]; then
  [ -x "$cache/actionlint" ] || GOBIN=$cache go install "github.com/rhysd/actionlint/cmd/actionlint@v$version"
  "$cache/actionlint"
else
  echo 'not run: actionlint: there is neither it nor a Go to build it'
  [ -z "${GITHUB_ACTIONS:-}" ]
fi
