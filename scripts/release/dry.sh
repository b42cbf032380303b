#!/usr/bin/env bash
# Walks a whole release without publishing anything, and lists what one would publish.
#
#   dry.sh [PLATFORM ...]       linux-x64-gnu and so on; all
set -uo pipefail
cd "$(dirname "$0")/../.."

hindrances=()
step() {
  printf '\n== %s\n' "$*"
  "$@" || hindrances+=("$*")
}
must() {
  printf '\n== %s\n' "$*"
  "$@" || { printf '** failed: %s\n' "$*"; exit 1; }
}

# git says nothing of a folder that is somebody else's, as in a container.
if ! changes=$(git status --porcelain); then
  hindrances+=('git does not say what has changed')
elif [ -n "$changes" ]; then
  hindrances+=('there are changes that are not committed')
fi
version=$(node -p 'require("./package.json").version')
step node scripts/release/check-version.mjs "v$version"
must npm ci --no-audit --no-fund --prefer-offline --loglevel=error
rm -rf dist
must npm run --silent build
export ROBUST_LOCK_OUT=target/release-binaries
rm -rf "$ROBUST_LOCK_OUT"
must bash scripts/ci/modules.sh "${@:-all}"
must node scripts/release/pack.mjs --binaries "$ROBUST_LOCK_OUT" ${*:+--only "$@"}
ROBUST_LOCK_PACKED=yes must bash scripts/release/try.sh
# On a developer's machine the registry may be out of reach.
"$([ -n "${GITHUB_ACTIONS:-}" ] && echo must || echo step)" node scripts/release/publish.mjs --dry-run
must bash scripts/release/github.sh "v$version" --notes
[ -n "${GITHUB_REPOSITORY:-}" ] || hindrances+=('the packages name no repository: that is known where GITHUB_REPOSITORY is set, and provenance demands it')

printf '\n== A release of %s would publish, in this order:\n' "$version"
node scripts/release/list.mjs
printf '\nand lay the tarballs and SHA256SUMS beside the GitHub release v%s.\n' "$version"
if [ ${#hindrances[@]} -gt 0 ]; then
  printf '\nIt would stop at:\n'
  printf '  - %s\n' "${hindrances[@]}"
fi
