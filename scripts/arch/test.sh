#!/usr/bin/env bash
# Cross-builds the native module and the Rust tests, and runs all the suites where they belong:
#
#   npm run test:arch -- ARCH [part of a TypeScript suite's name...]
#
#   x64-musl    here, with a Node and a libc of musl's
#   arm64       in a system with a kernel of that architecture under qemu (guest.sh): 4 KiB pages;
#   arm64-16k   16 KiB pages; s390x: big-endian; ppc64el: 64 KiB pages; armhf: 32 bit; riscv64
#
# A pass shows the ABI, the kernel's side of robust mutexes, page size, byte order and word size. It does
# not show weak memory ordering, for the emulation keeps the strong order of x86, nor speed.
# A user-mode emulator has no robust lists, and so proves nothing: it is only shown that the library refuses
# to work there.
source "$(dirname "$0")/common.sh"
cd "$root"

arch=${1:-}
case $arch in
  x64-musl) name=linux-x64-musl packages=() ;;
  arm64 | arm64-16k) name=linux-arm64-gnu packages=(qemu-system-arm) user=aarch64 ;;
  armhf) name=linux-arm-gnueabihf packages=(qemu-system-arm) user=arm ;;
  ppc64el) name=linux-ppc64-gnu packages=(qemu-system-ppc) user=ppc64le ;;
  riscv64) name=linux-riscv64-gnu packages=(qemu-system-misc) user=riscv64 ;;
  s390x) name=linux-s390x-gnu packages=(qemu-system-misc) user=s390x ;;
  *) die 'Which? x64-musl, arm64, arm64-16k, armhf, ppc64el, riscv64, s390x' ;;
esac
shift

# What this machine must have. A machine that cannot have it is not tested, and says so; in CI it must.
not_run() {
  echo "not run: $arch: $*"
  [ -z "${GITHUB_ACTIONS:-}" ] || exit 1
  exit 0
}
if ! type -P apt-get python3 rustc >/dev/null || [ -z "$(debian_mirror)" ]; then
  not_run "it needs Debian's apt and its packages, python3 and Rust"
fi
missing=()
for package in cpio python3-pip qemu-user-static "${packages[@]}"; do
  dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || not_run "apt-get install ${missing[*]}"
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
fi

begun=$SECONDS
stage=$output/stage/$arch
rm -rf "$stage"
mkdir -p "$stage/rust"

# The Rust tests: their names and programs, out of what cargo says about them.
# (With the module's own floor: an older glibc can do less than this machine's. But they unwind, which on
# ppc64 takes a newer one than the module does.)
export CARGO_PROFILE_DEV_DEBUG=0
GLIBC=$([ "$arch" != ppc64el ] || echo 2.36) with_target "$name" cargo test --no-run --quiet --locked -p robust-lock-core --message-format=json |
  node -e '
    for (const line of require("node:fs").readFileSync(0, "utf8").split("\n").filter(Boolean)) {
      const { executable, target, profile } = JSON.parse(line)
      if (executable && profile.test && target.name !== "loom") console.log(target.name, executable)
    }' |
  while read -r test executable; do cp "$executable" "$stage/rust/$test"; done

# The TypeScript ones: this tree as it is built, without what only builds it.
bash scripts/arch/build.sh "$name"
npm run --silent build
without=(napi-rs octokit oxlint oxlint-tsgolint)
[ "$arch" = x64-musl ] || without+=(typescript)
tar -c --exclude-vcs --exclude='./robust-lock.*.node' --exclude=./target --exclude=./node_modules/.cache \
  "${without[@]/#/--exclude=./node_modules/@}" --exclude=./benchmark/node_modules . |
  tar -x -C "$stage"
cp "robust-lock.$name.node" "$stage/"
cp scripts/arch/inside.sh "$stage/inside.sh"
printf '%s\n' "$@" >"$stage/wanted"
if [ "$arch" != x64-musl ]; then
  # TypeScript's compiler is a program for this machine, and the declarations are the same everywhere.
  rm "$stage/build/__test__/types.test.cjs"
  echo 'not run: types: there is no compiler in the guest'
fi
echo "built in $((SECONDS - begun)) s"

# The code of the error with which a user-mode emulator's library refuses.
refusal='try { require("robust-lock").openManager({ name: `robust-lock-test-${process.pid}` }) } catch (error) { console.log(error.code) }'
refuses() {
  local said
  said=$(cd "$stage" && "$@" -e "$refusal")
  echo "under $1: ${said:-it opened}"
  [ "$said" = ERR_ROBUST_LOCK_NOT_ROBUST ] || failed=1
}

failed=0
if [ "$arch" = x64-musl ]; then
  node=$(scripts/arch/musl-node.sh)
  refuses qemu-x86_64-static "$node"
  NODE_BINARY=$node bash "$stage/inside.sh" || failed=1
else
  files=$(bash scripts/arch/guest.sh "$arch" --root)
  refuses "qemu-$user-static" -L "$files" "$files/usr/bin/node"
  bash scripts/arch/guest.sh "$arch" "$stage" || failed=1
fi
echo "$arch: $([ "$failed" = 0 ] && echo passed || echo FAILED) after $((SECONDS - begun)) s"
exit "$failed"
