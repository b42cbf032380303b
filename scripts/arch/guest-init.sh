#!/bin/bash
# The first process of a guest: makes the usual places, runs /work/inside.sh, says its exit code, and
# turns the machine off.
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LANG=C.UTF-8 TERM=dumb
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t devpts pts /dev/pts
# For the tests: a freezer, and a folder that lies on no tmpfs.
mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir -p /var/tmp
mount -t ramfs ramfs /var/tmp
ln -sf /proc/self/fd /dev/fd
exec </dev/null >/dev/console 2>&1
echo guest >/proc/sys/kernel/hostname
read -r -a words </proc/cmdline
for word in "${words[@]}"; do
  case $word in patience=*) export ROBUST_LOCK_TEST_PATIENCE=${word#*=} ;; esac
done
cd /work || exit 1
[ "$(uname -m)" != s390x ] || export NODE_OPTIONS="--require /no-opt.cjs"
bash /work/inside.sh
echo "guest: exit code $?"
sync
echo o >/proc/sysrq-trigger
sleep 60
