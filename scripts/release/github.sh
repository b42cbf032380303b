#!/usr/bin/env bash
# Makes the GitHub release of a tag that is there already: the changelog's entry, the tarballs, their
# checksums. Needs gh, and a token that may write to the repository.
#
#   github.sh vX.Y.Z [--notes]      only looks at the files, and prints what it would say
set -euo pipefail
cd "$(dirname "$0")/../.."

tag=$1
version=${tag#v}
notes=$(mktemp)
trap 'rm -f "$notes"' EXIT
awk -v head="## [$version] " 'index($0, head) == 1 { on = 1; next } /^## / { on = 0 } on' CHANGELOG.md >"$notes"
(cd npm && sha256sum --check --quiet SHA256SUMS)
if [ "${2:-}" = --notes ]; then
  cat "$notes"
  exit
fi
flags=(--verify-tag --title "$tag" --notes-file "$notes")
[[ $version != *-* ]] || flags+=(--prerelease)
if gh release view "$tag" >/dev/null 2>&1; then
  gh release upload "$tag" npm/*.tgz npm/SHA256SUMS --clobber
else
  gh release create "$tag" "${flags[@]}" npm/*.tgz npm/SHA256SUMS
fi
