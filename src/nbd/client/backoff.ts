/** How long to wait before the next attempt to connect. */

const FIRST_MS = 100;
const LONGEST_MS = 5000;

/**
 * Doubles from attempt to attempt up to a bound, less a random part of up to a half, so that the clients of a server that
 * comes back don't all come at once.
 *
 * @param failures attempts that have failed, at least one
 */
export function backoffMs(failures: number, random: () => number): number {
  const whole = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(failures - 1, 20));
  return whole * (1 - random() / 2);
}
