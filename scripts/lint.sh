#!/usr/bin/env bash
# Formatters, linters and type checks. Needs `npm ci`, and one `npm run build` before it.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
npx tsc -p tsconfig.json --noEmit
npx tsc -p tsconfig.tools.json --noEmit
npx oxlint --type-aware --tsconfig tsconfig.tools.json .
