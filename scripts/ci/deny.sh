#!/usr/bin/env bash
# Licences, sources and doubles among the Rust dependencies; and advisories, whose data base comes over the
# network: where it cannot be had, the rest is checked, and this says so.
#
#   [ADVISORY_DB=/path/to/a/clone] deny.sh
set -euo pipefail
cd "$(dirname "$0")/../.."

version=0.20.2
if [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $version" ]; then
  cargo install --locked --quiet "cargo-deny@$version"
fi
cargo deny --locked check bans licenses sources
# A clone of the data base, for a machine that does not reach the real one.
if [ -n "${ADVISORY_DB:-}" ]; then
  export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.$ADVISORY_DB.insteadOf" GIT_CONFIG_VALUE_0=https://github.com/RustSec/advisory-db
fi
if cargo deny fetch db; then
  cargo deny --locked --offline check advisories
elif [ -n "${GITHUB_ACTIONS:-}" ]; then
  exit 1
else
  echo 'not run: advisories: their data base cannot be reached ($ADVISORY_DB may name a clone of it)'
fi
