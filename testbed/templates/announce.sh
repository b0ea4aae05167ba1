#!/bin/sh
# Run by cloud-init in guests of cloud images: tells the host, at the serial port, how far this guest has come.
#
#     announce CONSOLE STAGE
#
# The stage `sshd` is the last: it is told when all that a node is asked for is there.

console=$1 stage=$2

mark() {
    read -r uptime _ </proc/uptime
    # A new line first: whoever else writes to this port may be in the middle of one.
    printf '\ntestbed: stage=%s t=%s\n' "$1" "$uptime" >"$console"
}

fail() {
    printf '\ntestbed: stage=failed reason=%s\n' "$*" >"$console"
    exit 1
}

# Port 22 as /proc/net/tcp has it, in the state LISTEN.
listens() { grep -qs '^ *[0-9]*: [0-9A-F]*:0016 [0-9A-F]*:0000 0A ' /proc/net/tcp /proc/net/tcp6; }

if [ "$stage" = sshd ]; then
    command -v python3 >/dev/null || fail "the image has no python3"
    modprobe -q vfio-pci || fail "the image's kernel has no module vfio-pci"
    until listens; do sleep 0.1; done
fi
mark "$stage"
