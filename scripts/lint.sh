#!/usr/bin/env bash
# Formatters, linters and type checks. Needs `npm ci`, and one `npm run build` before it.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
# Of the binding only its test: the crate itself, compiled for tests, would seem to use none of the
# functions that it registers.
cargo clippy --workspace --locked -- -D warnings
cargo clippy -p robust-lock-core --all-targets --locked -- -D warnings
cargo clippy -p robust-lock-node --test phase --locked -- -D warnings
npx tsc -p tsconfig.json --noEmit
npx tsc -p tsconfig.tools.json --noEmit
npx oxlint --type-aware --tsconfig tsconfig.tools.json .
# Whoever moves code sees which mutation has lost its place.
node scripts/mutations.mjs --places
