/** The SAs and packets of `peek.main.ts`. Keys follow from the index of the SA: every program of the bench makes the same ones. */
import { createHash } from "node:crypto";
import { Secret } from "../../src/core/secret.ts";
import type { SharedSa } from "../../src/sa/spec.ts";
import { suiteLengths, type EspSuite } from "../../src/sa/suite.ts";
import { espPacket, sampleSa, tcpSegment, type TcpFlags } from "../unit/sa/esp-builder.ts";

export const DVIPA = "192.0.2.100";
export const PORT = 443;
/** SAs that send, each from an address of its own. */
export const SAS = 64;
export const CONNECTIONS_PER_SA = 8;

const FIRST_CLIENT_PORT = 20_000;
const FIRST_SPI = 0xc0000100;
/** RFC 791 §3.1 and RFC 9293 §3.1, both without options. */
const IPV4_HEADER_BYTES = 20;
const TCP_HEADER_BYTES = 20;
const TCP = 6;

/** What goes into one packet. */
export interface Shape {
  readonly suite: EspSuite;
  readonly mode: SharedSa["mode"];
  /** Of the packet as it would be without ESP: IP and TCP header, and data. */
  readonly plainBytes: number;
}

export function benchSa({ suite, mode }: Shape, index: number): SharedSa {
  const spi = FIRST_SPI + index;
  const lengths = suiteLengths(suite);
  const sa = sampleSa(suite, mode, spi);
  const inbound = {
    spi,
    encryptionKey: keyOf(`encryption ${index}`, lengths.encryptionKeyBytes),
    integrityKey: lengths.integrityKeyBytes === 0 ? null : keyOf(`integrity ${index}`, lengths.integrityKeyBytes),
  };
  return { ...sa, dvipa: DVIPA, peer: `198.51.100.${index + 1}`, inbound, reqid: index + 1 };
}

/** A segment of connection number `connection` of the SA. */
export function benchPacket(sa: SharedSa, connection: number, flags: TcpFlags, plainBytes: number): Uint8Array {
  const data = new Uint8Array(plainBytes - IPV4_HEADER_BYTES - TCP_HEADER_BYTES);
  return espPacket(sa, tcpSegment(FIRST_CLIENT_PORT + connection, PORT, flags, data), TCP);
}

function keyOf(name: string, lengthBytes: number): Secret {
  return new Secret(new Uint8Array(createHash("sha512").update(name).digest().subarray(0, lengthBytes)));
}
