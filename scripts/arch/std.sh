#!/usr/bin/env bash
# Prints a sysroot that has Rust's standard library for a target: the toolchain's own, if `rustup target
# add` has brought it, else one built from the very same version's sources, out of Debian's rust-src.
#
#   std.sh RUST_TARGET
source "$(dirname "$0")/common.sh"

target=$1
if compgen -G "$(rustc --print target-libdir --target "$target")/libstd-*.rlib" >/dev/null; then
  rustc --print sysroot
  exit
fi
version=$(rustc --version | cut -d' ' -f2)

fetch_sources() {
  local suite found
  for suite in trixie-backports forky sid trixie bookworm; do
    found=$("$root/scripts/arch/debs.sh" "$suite" amd64 --versions rust-src | grep -m 1 "^$version+" || true)
    if [ -n "$found" ]; then
      "$root/scripts/arch/debs.sh" "$suite" amd64 "$1" "rust-src=$found"
      return
    fi
  done
  die "No Debian suite has rust-src $version now: rustup target add $target"
}

build() {
  local library work=$1/build
  library=$(rustc --print sysroot)/lib/rustlib/src/rust/library
  if [ ! -d "$library" ]; then
    once "$cache/rust-src-$version" fetch_sources
    library=$cache/rust-src-$version/usr/src/rustc-$version/library
  fi
  # As the compiler's own build does it; the bitcode is there for link-time optimisation.
  RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$work RUSTFLAGS='-Zforce-unstable-if-unmarked -Cembed-bitcode=yes' \
    cargo build --quiet --locked --release --target "$target" \
    --manifest-path "$library/sysroot/Cargo.toml" --features panic-unwind >&2
  local lib=$1/lib/rustlib/$target/lib
  mkdir -p "$lib"
  cp "$work/$target"/release/deps/lib*.rlib "$lib/"
  rm -rf "$work"
}

once "$cache/std-$version/$target" build
echo "$cache/std-$version/$target"
