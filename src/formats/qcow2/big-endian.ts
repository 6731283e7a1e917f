/** 64-bit numbers as qcow2 stores them (big endian), as plain numbers. */

const HIGH = 2 ** 32;

/** Exact below 2^53. What is larger comes out as some number that is no safe integer and past the end of any file. */
export function getUint64(view: DataView, at: number): number {
  return view.getUint32(at) * HIGH + view.getUint32(at + 4);
}

export function setUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / HIGH));
  view.setUint32(at + 4, value % HIGH);
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
