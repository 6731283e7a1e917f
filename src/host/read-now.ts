/**
 * Reading from a file what is in the page cache, and only that: preadv2(2) with RWF_NOWAIT. Such a read costs a microsecond or two
 * on the thread that asks, a fifth of a trip through libuv's pool, and it never waits for a disk.
 *
 * The call takes the address of the memory to fill. A buffer's memory lies where it lies until it is collected, or
 * detached, and a view of a detached buffer has no bytes; so addresses are remembered by buffer.
 */
import { nativeCalls } from "./native.ts";

const RWF_NOWAIT = 0x08;
const IOVEC_BYTES = 16;

const iovec = new Uint8Array(IOVEC_BYTES);
const iovecView = new DataView(iovec.buffer);
const addresses = new WeakMap<ArrayBuffer, number>();
let lastBuffer: ArrayBufferLike | undefined;
let lastAddress = 0;

/** Whether there is the call at all. */
export function canReadNow(): boolean {
  return nativeCalls()?.preadv2 !== undefined;
}

/**
 * Reads into `target` as much as is in memory. Only where `canReadNow`.
 *
 * @param inMemory the file system lies in memory and need not be told not to wait (tmpfs has no such call)
 * @returns bytes read, which may be fewer than asked for, or a negated errno: EAGAIN when nothing is in memory, ENOTSUP (95) on a
 *   file system that can't tell
 */
export function readNow(fd: number, target: Uint8Array, offset: number, inMemory: boolean): number {
  if (target.length === 0) return 0;
  const { buffer } = target;
  const address = (buffer === lastBuffer ? lastAddress : lookUp(buffer)) + target.byteOffset;
  iovecView.setUint32(0, address >>> 0, true);
  iovecView.setUint32(4, Math.floor(address / 2 ** 32), true);
  iovecView.setUint32(8, target.length, true);
  return nativeCalls()?.preadv2?.(fd, iovec, offset, inMemory ? 0 : RWF_NOWAIT) ?? -1;
}

function lookUp(buffer: ArrayBufferLike): number {
  const plain = buffer as ArrayBuffer;
  let address = addresses.get(plain);
  if (address === undefined) {
    address = nativeCalls()?.addressOf(plain) ?? 0;
    addresses.set(plain, address);
  }
  lastBuffer = buffer;
  lastAddress = address;
  return address;
}
