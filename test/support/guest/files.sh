# A guest with a file system (ext4) on its disk. One command a line from the console, one line that begins with "@" for an answer.
mkdir /disk
if mount -t ext4 /dev/vda /disk; then echo "@ready $(cat /sys/block/vda/size)"; else echo "@failed to mount it"; fi
cd /disk
while read -r act name kibibytes text; do
  case $act in
    # Durable when the answer comes.
    write) if yes "$text" | head -c ${kibibytes}k >$name && sync; then echo "@written"; else echo "@failed: $(df -k /disk | tail -n 1)"; fi ;;
    # All files that were there from the beginning, and all that were written.
    image) echo "@$(md5sum -c sums 2>/dev/null | grep -vc ': OK$') wrong" ;;
    sum) echo "@$(md5sum <$name | cut -c1-32)" ;;
    # What the kernel has said of the disk and its file system since the beginning.
    errors) echo "@$(dmesg | grep -cE 'I/O error|EXT4-fs (error|warning)|Buffer I/O')" ;;
    off) cd /; umount /disk; echo "@off"; poweroff -f ;;
  esac
done
