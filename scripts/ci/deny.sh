#!/usr/bin/env bash
# Licences, sources and doubles among the Rust dependencies; and advisories, whose data base comes over the
# network: where it cannot be had, the rest is checked, and this says so.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=0.20.2
if [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $version" ]; then
  cargo install --locked --quiet "cargo-deny@$version"
fi
cargo deny --locked check bans licenses sources
if cargo deny fetch db; then
  cargo deny --locked check --disable-fetch advisories
elif [ -n "${GITHUB_ACTIONS:-}" ]; then
  exit 1
else
  echo 'not run: advisories: their data base cannot be reached'
fi
