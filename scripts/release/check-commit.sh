#!/usr/bin/env bash
# Whether a commit may be released: it is on main, and ci.yml has passed for it when it was pushed there. Needs the whole history, and gh
# with a token that may read the repository's runs.
#
#   check-commit.sh COMMIT
set -euo pipefail
cd "$(dirname "$0")/../.."

git merge-base --is-ancestor "$1" origin/main || { echo "$1 is not on main"; exit 1; }
passed=$(gh run list --workflow ci.yml --event push --branch main --commit "$1" --status success --json databaseId --jq length)
[ "$passed" -gt 0 ] || { echo "ci.yml has not passed on main for $1 (yet): it does so for the last commit of each push"; exit 1; }
echo "$1 is on main, and ci.yml has passed"
