# All that the guest does: it takes one command a line from the console, and answers with one line that begins with "@".
disk=/dev/vda
echo "@ready $(cat /sys/block/vda/size)"
while read -r act at count text; do
  case $act in
    # Past the guest's cache, in sectors of 512 bytes.
    read) echo "@$(dd if=$disk bs=512 skip=$at count=$count iflag=direct,fullblock 2>/tmp/error | md5sum | cut -c1-32) $(tr '\n' ' ' </tmp/error | cut -c1-60)" ;;
    write)
      if yes "$text" | dd of=$disk bs=512 seek=$at count=$count iflag=fullblock oflag=direct conv=notrunc 2>/tmp/error
      then echo "@written"; else echo "@failed $(tr '\n' ' ' </tmp/error)"; fi ;;
    # By the guest's cache, which writes whole pages when it likes, or at a sync.
    lazy)
      if yes "$text" | dd of=$disk bs=512 seek=$at count=$count iflag=fullblock conv=notrunc 2>/tmp/error
      then echo "@written"; else echo "@failed $(tr '\n' ' ' </tmp/error)"; fi ;;
    # Names of the disks there are, and a checksum of one as a whole.
    disks) echo "@$(ls /sys/block | tr '\n' ' ')" ;;
    sum) echo "@$(md5sum /dev/$at | cut -c1-32)" ;;
    # By fsync, after which the disk has been told to flush: sync alone does not tell a disk without a file system.
    flush) if sync && dd if=/dev/zero of=$disk count=0 conv=fsync,notrunc 2>/dev/null && blockdev --flushbufs $disk; then echo "@flushed"; else echo "@failed"; fi ;;
    # Twelve reads of a page at the same time, `count` pages apart, from page `at` on: how many could be had.
    many)
      for i in 0 1 2 3 4 5 6 7 8 9 10 11; do
        dd if=$disk bs=4096 skip=$((at + i * count)) count=1 iflag=direct of=/dev/null 2>/tmp/many.$i &
      done
      wait
      echo "@$(cat /tmp/many.* | grep -c '^1+0 records out')" ;;
    # Everything, while whatever comes next goes on.
    walk) cat $disk >/dev/null & echo "@walking" ;;
    off) wait; sync; echo "@off"; poweroff -f ;;
  esac
done
