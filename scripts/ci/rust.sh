#!/usr/bin/env bash
# The Rust with which CI works and releases are built: the same on every runner, whose own are of various ages.
# The sources of the standard library are part of it (see ../arch/std.sh).
set -euo pipefail

version=1.95.0
rustup toolchain install "$version" --profile minimal --component clippy,rustfmt,rust-src --no-self-update
# A developer's machine keeps its own.
if [ -n "${GITHUB_ACTIONS:-}" ] || ! rustup default >/dev/null 2>&1; then
  rustup default "$version"
fi
