#!/bin/busybox sh
# The first process of a machine of `cargo xtask kernels`: the console tells what is wrong here, the second serial port
# takes the results.
export PATH=/bin HOME=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
for folder in /dev/shm /tmp /run; do mount -t tmpfs tmpfs $folder; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
for module in $(cat /modules/order); do insmod /modules/$module; done
ip link set lo up
ulimit -n 4096
# Before 5.11 maps count as locked memory.
ulimit -l unlimited
cd /tmp
export BALANCING_E2E_SLOWER=10 BALANCING_POLICY_LEASE=600s
exec </dev/null >/dev/ttyS1 2>&1
/suite/balancing-e2e-kernel
/suite/deps/node --color never --exact $(cat /skipped)
echo "ended with $?"
sync
poweroff -f
