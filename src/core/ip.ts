import { isIP } from "node:net";
import { EsplexError } from "./errors.ts";

/** IP version of an address in text. Throws `wire.malformed` when it is none. */
export function ipVersion(address: string): 4 | 6 {
  const version = isIP(address);
  if (version !== 4 && version !== 6) throw new EsplexError("wire.malformed", `not an IP address: ${address}`);
  return version;
}

/** The 4 or 16 bytes of an address in text, in network byte order. */
export function ipToBytes(address: string): Uint8Array {
  return ipVersion(address) === 4 ? v4ToBytes(address) : v6ToBytes(address);
}

/** The canonical text (RFC 5952) of 4 or 16 address bytes. */
export function ipFromBytes(bytes: Uint8Array): string {
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`;
  if (bytes.length !== 16)
    throw new EsplexError("wire.malformed", `an IP address has 4 or 16 bytes, not ${bytes.length}`);
  const groups = Array.from({ length: 8 }, (_, i) => ((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0));
  const { start, length } = longestZeroRun(groups);
  const text = (part: readonly number[]): string => part.map((group) => group.toString(16)).join(":");
  return length < 2 ? text(groups) : `${text(groups.slice(0, start))}::${text(groups.slice(start + length))}`;
}

/** The characters of an address that is known to be one are digits and dots; a dot comes before the digits. */
const DIGIT_0 = 0x30;

/** Not `split` and `map`: thousands of addresses come through here at once. */
function v4ToBytes(address: string): Uint8Array {
  const bytes = new Uint8Array(4);
  let at = 0;
  let value = 0;
  for (let i = 0; i < address.length; i++) {
    const digit = address.charCodeAt(i) - DIGIT_0;
    if (digit >= 0) {
      value = 10 * value + digit;
    } else {
      bytes[at++] = value;
      value = 0;
    }
  }
  bytes[at] = value;
  return bytes;
}

function v6ToBytes(address: string): Uint8Array {
  const [withoutZone = ""] = address.split("%");
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(withoutZone);
  const [, prefix = "", v4 = ""] = dotted ?? [];
  const tail = dotted === null ? [] : [...v4ToBytes(v4)];
  const colons = dotted === null ? withoutZone : prefix.endsWith("::") ? prefix : prefix.slice(0, -1);
  const [left = "", right] = colons.split("::");
  const head = groupsToBytes(left);
  const end = [...groupsToBytes(right ?? ""), ...tail];
  const bytes = new Uint8Array(16);
  bytes.set(head, 0);
  bytes.set(right === undefined ? tail : end, right === undefined ? head.length : 16 - end.length);
  return bytes;
}

function groupsToBytes(text: string): number[] {
  if (text === "") return [];
  return text.split(":").flatMap((group) => {
    const value = Number.parseInt(group, 16);
    return [value >>> 8, value & 0xff];
  });
}

function longestZeroRun(groups: readonly number[]): { start: number; length: number } {
  let best = { start: 0, length: 0 };
  let start = 0;
  for (let i = 0; i <= groups.length; i++) {
    if (i < groups.length && groups[i] === 0) continue;
    if (i - start > best.length) best = { start, length: i - start };
    start = i + 1;
  }
  return best;
}
