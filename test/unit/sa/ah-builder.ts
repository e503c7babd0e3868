import { createHmac } from "node:crypto";
import { concatBytes, u32be } from "../../../src/core/bytes.ts";
import type { SharedSa } from "../../../src/sa/spec.ts";
import { suiteLengths } from "../../../src/sa/suite.ts";
import { ipv4Packet } from "./esp-builder.ts";
import { ipv6Packet, type Extension } from "./ipv6-builder.ts";

/**
 * An Authentication Header in front of `inner` (RFC 4302 §2), padded as its IP version wants: independent of the code that peeks.
 * Its ICV is of these bytes alone, where a sender's covers the IP header too: nobody here checks it.
 */
export function ahPayload(sa: SharedSa, inner: Uint8Array, nextHeader: number, sequence = 1): Uint8Array {
  const { icvBytes } = suiteLengths(sa.suite);
  const align = sa.dvipa.includes(":") ? 8 : 4;
  const padBytes = (align - ((12 + icvBytes) % align)) % align;
  const words = (12 + icvBytes + padBytes) / 4;
  const head = concatBytes(new Uint8Array([nextHeader, words - 2, 0, 0]), u32be(sa.inbound.spi), u32be(sequence));
  const hash = `sha${icvBytes * 16}`;
  const mac = createHmac(hash, sa.inbound.integrityKey?.expose() ?? new Uint8Array())
    .update(inner)
    .digest();
  return concatBytes(head, mac.subarray(0, icvBytes), new Uint8Array(padBytes), inner);
}

/** A whole AH packet from the SA's peer to its DVIPA that carries `segment` as its mode demands. */
export function ahPacket(
  sa: SharedSa,
  segment: Uint8Array,
  protocol: number,
  { optionWords = 0, extensions = [] as readonly Extension[], source = sa.peer, sequence = 1 } = {},
): Uint8Array {
  const isV6 = sa.dvipa.includes(":");
  const isTunnel = sa.mode === "tunnel";
  const inner = isV6
    ? ipv6Packet(sa.peer, sa.dvipa, protocol, segment, extensions)
    : ipv4Packet(sa.peer, sa.dvipa, protocol, segment, { optionWords });
  const payload = isTunnel ? ahPayload(sa, inner, isV6 ? 41 : 4, sequence) : ahPayload(sa, segment, protocol, sequence);
  if (isV6) return ipv6Packet(source, sa.dvipa, 51, payload, isTunnel ? [] : extensions);
  return ipv4Packet(source, sa.dvipa, 51, payload, isTunnel ? {} : { optionWords });
}
