/**
 * What the demo's guest runs, for busybox's shell. Its first file system (`boot/`) has only as much as reads the disk; the programs and the
 * sums that it knows come from there, in the first block:
 *
 * - *beat* writes a whole block of the working set and reads it back. It needs nothing of what has not arrived.
 * - *look* goes to places all over the disk: it reads a block and compares the sum, or writes a part of one. It waits for what has not arrived.
 *
 * Each tells its deeds on the console, one a line, after the disk has acknowledged them (`guest-diary.ts` reads them). The power button ends
 * both between two deeds.
 */
import { BLOCK, type DiskModel, LOOK_BYTES } from "./model.ts";

/** Beyond those that a disk needs: the power button's. */
export const GUEST_MODULES = ["evdev", "button"];

/** A button that is pressed asks for the end; the loops see that between two deeds. */
export const INIT_SCRIPT = `
dd if=/dev/vda of=/tmp/first bs=${BLOCK} count=1 iflag=direct 2>/dev/null
tr -d '\\000' </tmp/first >/tmp/programs
mkdir -p /etc/acpi/PWRF
printf '#!/bin/sh\\ntouch /tmp/off\\n' >/etc/acpi/PWRF/00000080
chmod +x /etc/acpi/PWRF/00000080
acpid -d 2>/dev/null &
. /tmp/programs
until [ -e /tmp/off ]; do usleep 100000; done
wait $beat $look
sync
echo "off"
poweroff -f
`;

const END_OF_SUMS = "END";

/** What the first block has: the programs, the sums, and zeroes. */
export function firstBlock(model: DiskModel): Buffer {
  const sums = model.looks.map(({ block, isWrite }) => `${block} ${isWrite ? "write" : model.sum(block).slice(0, 8)}`);
  const text = `
beat() {
  n=0
  until [ -e /tmp/off ]; do
    n=$((n + 1)); at=${model.beatBlockInShell}
    yes "beat $n" | head -c ${BLOCK} >/tmp/beat
    if dd if=/tmp/beat of=/dev/vda bs=${BLOCK} seek=$at oflag=direct conv=notrunc 2>/tmp/error &&
      dd if=/dev/vda bs=${BLOCK} skip=$at count=1 iflag=direct 2>/tmp/error | cmp -s - /tmp/beat
    then echo "beat $n at $((at / 16)) MiB: written, right"; else echo "wrong beat $n"; exit; fi
    usleep 200000
  done
}
look() {
  n=0
  while read -r at sum && [ ! -e /tmp/off ]; do
    n=$((n + 1))
    if [ $sum = write ]; then
      yes "look $n" | dd of=/dev/vda bs=${LOOK_BYTES} count=1 seek=$((at * ${BLOCK / LOOK_BYTES})) iflag=fullblock oflag=direct conv=notrunc 2>/dev/null
      [ $? = 0 ] && echo "look $n at $((at / 16)) MiB: written" || { echo "wrong look $n"; exit; }
    else
      got=$(dd if=/dev/vda bs=${BLOCK} skip=$at count=1 iflag=direct 2>/dev/null | md5sum | cut -c1-8)
      [ "$got" = $sum ] && echo "look $n at $((at / 16)) MiB: sum right" || { echo "wrong look $n"; exit; }
    fi
    usleep 50000
  done </tmp/sums
}
cat >/tmp/sums <<${END_OF_SUMS}
${sums.join("\n")}
${END_OF_SUMS}
echo "up"
beat & beat=$!
look & look=$!
`;
  const block = Buffer.alloc(BLOCK);
  if (block.write(text) < text.length || text.length >= BLOCK) throw new Error(`${text.length} bytes are no block`);
  return block;
}
