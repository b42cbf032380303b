#!/usr/bin/env bash
# Prints a sysroot that has Rust's standard library for a target. It is built from the very same version's
# sources (`rustup component add rust-src`, or Debian's rust-src), for the toolchain's own can name the lines of
# a backtrace, and so makes a module half as large again; where there are no sources, that one is taken.
#
#   std.sh RUST_TARGET [SANITIZER]      with one (address, thread), it is instrumented as well
source "$(dirname "$0")/common.sh"

target=$1 sanitizer=${2:-}
version=$(rustc --version | cut -d' ' -f2)

debs() { "$root/scripts/arch/debs.sh" "$1" amd64 "${@:2}"; }

# The Debian suite that has the sources, and which version of the package.
offer() {
  local suite found
  for suite in trixie-backports forky sid trixie bookworm; do
    found=$(debs "$suite" --versions rust-src | grep -m 1 "^$version+") || continue
    echo "$suite $found"
    return
  done
}

fetch_sources() { debs "$1" "$3" "rust-src=$2"; }

build() {
  local work=$1/build lib=$1/lib/rustlib/$target/lib
  # As the compiler's own build does it; the bitcode is there for link-time optimisation.
  local flags="-Zforce-unstable-if-unmarked -Cembed-bitcode=yes${sanitizer:+ -Zsanitizer=$sanitizer}"
  RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$work RUSTFLAGS=$flags \
    cargo build --quiet --locked --release --target "$target" \
    --manifest-path "$library/sysroot/Cargo.toml" --features panic-unwind >&2
  mkdir -p "$lib"
  cp "$work/$target"/release/deps/lib*.rlib "$lib/"
  rm -rf "$work"
}

built=$cache/std-$version/$target${sanitizer:+-$sanitizer}
library=$(rustc --print sysroot)/lib/rustlib/src/rust/library
if [ ! -d "$built" ] && [ ! -d "$library" ]; then
  library=$cache/rust-src-$version/usr/src/rustc-$version/library
  suite='' package=''
  [ -d "$library" ] || read -r suite package < <(offer) || true
  if [ ! -d "$library" ] && [ -z "$suite" ]; then
    [ -z "$sanitizer" ] && compgen -G "$(rustc --print target-libdir --target "$target")/libstd-*.rlib" >/dev/null ||
      die "No Debian suite has rust-src $version now: rustup component add rust-src"
    rustc --print sysroot
    exit
  fi
  once "$cache/rust-src-$version" fetch_sources "$suite" "$package"
fi
once "$built" build
echo "$built"
