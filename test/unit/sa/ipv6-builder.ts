import { concatBytes, u16be, u32be } from "../../../src/core/bytes.ts";
import { ipToBytes } from "../../../src/core/ip.ts";

/** Protocol numbers of IPv6 extension headers (RFC 8200 §4). */
export const EXTENSION = { hopByHop: 0, routing: 43, fragment: 44, ah: 51, noNext: 59, destination: 60 } as const;

/** An extension header but for its first byte, the next header. */
export interface Extension {
  readonly protocol: number;
  readonly rest: Uint8Array;
}

/** Hop-by-hop or destination options: `units` times 8 bytes more than the shortest, of PadN. */
export function options(protocol: 0 | 60, units = 0): Extension {
  const padBytes = 4 + 8 * units;
  return { protocol, rest: concatBytes(new Uint8Array([units, 1, padBytes]), new Uint8Array(padBytes)) };
}

/** A routing header (RFC 8200 §4.4) of type 4 with room for one address. */
export function routing(segmentsLeft: number): Extension {
  return { protocol: EXTENSION.routing, rest: concatBytes(new Uint8Array([2, 4, segmentsLeft]), new Uint8Array(20)) };
}

/** A fragment header (RFC 8200 §4.5); `offset` counts 8 bytes. */
export function fragment(offset: number, more: boolean): Extension {
  const field = u16be((offset << 3) | (more ? 1 : 0));
  return { protocol: EXTENSION.fragment, rest: concatBytes(new Uint8Array([0]), field, u32be(7)) };
}

/** The headers in a row, each naming the next, the last one `protocol`; and what names the first. */
export function chain(extensions: readonly Extension[], protocol: number): { first: number; bytes: Uint8Array } {
  const next = (i: number): number => extensions[i]?.protocol ?? protocol;
  const bytes = concatBytes(...extensions.map(({ rest }, i) => concatBytes(new Uint8Array([next(i + 1)]), rest)));
  return { first: next(0), bytes };
}

/** An IPv6 packet (RFC 8200 §3) with extension headers before `body`. */
export function ipv6Packet(
  source: string,
  destination: string,
  protocol: number,
  body: Uint8Array,
  extensions: readonly Extension[] = [],
): Uint8Array {
  const { first, bytes } = chain(extensions, protocol);
  const head = concatBytes(u32be(0x60000000), u16be(bytes.length + body.length), new Uint8Array([first, 64]));
  return concatBytes(head, ipToBytes(source), ipToBytes(destination), bytes, body);
}
