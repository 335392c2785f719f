#!/usr/bin/env bash
# Boots systemd as the first process of a machine of its own: new namespaces, this machine's /usr read-only, everything
# else in memory, a network of its own, cgroups below this process's own. It changes nothing outside, and all of it
# ends with its first process.
#
#   unshare --mount --pid --fork --uts --ipc --net --kill-child boot.sh ROOT CGROUP [SOURCE=TARGET]...
#   unshare --mount boot.sh --sweep ROOT CGROUP      removes the cgroups that such a machine left
#   unshare --mount boot.sh --probe ROOT CGROUP      whether cgroups can be made here at all
#
# ROOT is an empty directory, CGROUP a name that nobody else uses. Each directory SOURCE is there at TARGET, read-only.
set -euo pipefail

# Puts the hierarchy of cgroup v2 at $1, wherever else this machine has it; `own` is our place in it.
mount_cgroups() {
    mount --make-rprivate /
    mount -t cgroup2 cgroup2 "$1"
    own="$1$(sed -n 's/^0:://p' /proc/self/cgroup)"
}

read_only() {
    mkdir -p "$2"
    mount --bind "$1" "$2"
    mount -o remount,bind,ro "$2"
}

if [ "$1" = --probe ]; then
    mount_cgroups "$2"
    mkdir "$own/$3"
    rmdir "$own/$3"
    exit
fi

if [ "$1" = --sweep ]; then
    mount_cgroups "$2"
    [ ! -d "$own/$3" ] || find "$own/$3" -depth -type d -exec rmdir {} +
    exit
fi

if [ "$1" != --inside ]; then
    mount_cgroups "$1"
    mkdir "$own/$2"
    echo 0 >"$own/$2/cgroup.procs"
    umount "$1"
    exec unshare --cgroup "$0" --inside "$@"
fi
root="$2"
shift 3

mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p etc/systemd/system dev proc sys run tmp var root
read_only /usr usr
for name in bin sbin lib lib32 lib64 libx32; do
    [ ! -L "/$name" ] || cp -P "/$name" . # links into /usr, since Debian 12
done
for bind in "$@"; do read_only "${bind%%=*}" "./${bind#*=}"; done

mount -t proc proc proc
read_only proc/sys proc/sys # the kernel's settings are everybody's
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
for name in null zero full random urandom tty; do
    : >"dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for name in in:0 out:1 err:2; do ln -s "fd/${name#*:}" "dev/std${name%:*}"; done

cp -a /etc/passwd /etc/group /etc/ld.so.cache etc/
echo 'hosts: files' >etc/nsswitch.conf
echo 127.0.0.1 localhost >etc/hosts
echo edge-1 >etc/hostname
echo 0123456789abcdef0123456789abcdef >etc/machine-id # without one, a first boot enables what it finds
ln -s /usr/lib/systemd/system/basic.target etc/systemd/system/default.target
for unit in modprobe@.service sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
    sys-fs-fuse-connections.mount dev-hugepages.mount proc-sys-fs-binfmt_misc.automount; do
    ln -s /dev/null "etc/systemd/system/$unit" # they would have the kernel load modules
done

mkdir .before
pivot_root . .before
umount -l /.before
rmdir /.before
exec env -i container=grayctl-test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin \
    setpriv --bounding-set -sys_module,-sys_time /usr/lib/systemd/systemd </dev/null
