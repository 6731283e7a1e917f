#!/bin/busybox sh
# A guest that reads as one that boots, says so, and then goes on reading what it has read already.
/bin/busybox mkdir -p /proc /dev /sys
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk; do
  insmod /modules/$module.ko
done
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -onlcr
disk=/dev/vda
stride=$(($(cat /sys/block/vda/size) / 8 / 64))
# 8 MiB in one piece, and 60 pieces of 64 KiB from all over the disk.
dd if=$disk bs=1M count=8 iflag=direct of=/dev/null 2>/dev/null || echo "@failed"
piece=4
while [ $piece -lt 64 ]; do
  dd if=$disk bs=4k count=16 skip=$((piece * stride)) iflag=direct of=/dev/null 2>/dev/null || echo "@failed"
  piece=$((piece + 1))
done
echo "@first"
# 2,048 reads of 4 KiB, one after the other, of what is local now: when they began and ended, by the guest's own clock.
while true; do
  begun=$(cut -d' ' -f1 /proc/uptime)
  dd if=$disk bs=4k count=2048 iflag=direct of=/dev/null 2>/dev/null || echo "@failed"
  echo "@reads $begun $(cut -d' ' -f1 /proc/uptime)"
done
