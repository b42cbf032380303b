#!/usr/bin/env bash
# Whether the code compiles with the oldest Rust that Cargo.toml, README.md and CONTRIBUTING.md name.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
for file in README.md CONTRIBUTING.md; do
  grep -q "Rust $version or later" "$file" || { echo "$file does not name Rust $version"; exit 1; }
done
rustup toolchain install "$version" --profile minimal --no-self-update
export CARGO_TARGET_DIR=target/msrv
cargo "+$version" check --quiet --locked --workspace
cargo "+$version" check --quiet --locked -p robust-lock-core --all-targets
