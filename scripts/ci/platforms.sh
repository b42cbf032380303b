#!/usr/bin/env bash
# The platforms of a release, as a JSON array.
source "$(dirname "$0")/../arch/common.sh"
awk 'NF { printf "%s\"%s\"", separator, $1; separator = "," } BEGIN { printf "[" } END { print "]" }' <<<"$platforms"
