#!/usr/bin/env bash
# The Rust tests, and the id map under loom, which needs a build of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo test --workspace --locked
# Every interleaving with up to three preemptions: more find nothing new, and take hours.
LOOM_MAX_PREEMPTIONS=3 RUSTFLAGS='--cfg loom' \
  cargo test --locked -p robust-lock-core --test loom --release --target-dir target/loom
