import { createCipheriv, createHmac, randomBytes, type Cipheriv, type CipherGCM } from "node:crypto";
import { concatBytes, u16be, u32be } from "../../../src/core/bytes.ts";
import { ipToBytes } from "../../../src/core/ip.ts";
import { Secret } from "../../../src/core/secret.ts";
import type { SharedSa } from "../../../src/sa/spec.ts";
import { suiteLengths, type ChildSuite } from "../../../src/sa/suite.ts";

/** An SA pair with random keys between the documentation addresses that the lab uses. */
export function sampleSa(suite: ChildSuite, mode: SharedSa["mode"], spi = 0xc0ffee01): SharedSa {
  const lengths = suiteLengths(suite);
  const half = (halfSpi: number): SharedSa["inbound"] => ({
    spi: halfSpi,
    encryptionKey: new Secret(new Uint8Array(randomBytes(lengths.encryptionKeyBytes))),
    integrityKey:
      lengths.integrityKeyBytes === 0 ? null : new Secret(new Uint8Array(randomBytes(lengths.integrityKeyBytes))),
  });
  const any = { protocol: 0, startPort: 0, endPort: 65_535 };
  return {
    id: randomBytes(16).toString("hex"),
    dvipa: "192.0.2.100",
    peer: "192.0.2.10",
    peerName: "client",
    mode,
    suite,
    reqid: 1,
    inbound: half(spi),
    outbound: half(0xc1234567),
    localSelectors: [{ ...any, startAddress: "192.0.2.100", endAddress: "192.0.2.100" }],
    remoteSelectors: [{ ...any, startAddress: "192.0.2.10", endAddress: "192.0.2.10" }],
    peerWindowPackets: 1024,
    inboundWindowPackets: 1024,
    esn: false,
    peerUdpPort: null,
  };
}

export interface TcpFlags {
  readonly syn?: boolean;
  readonly ack?: boolean;
  readonly fin?: boolean;
  readonly rst?: boolean;
}

/** A TCP header (RFC 9293 §3.1) without options, followed by `data`. */
export function tcpSegment(
  sourcePort: number,
  destinationPort: number,
  flags: TcpFlags,
  data = new Uint8Array(),
): Uint8Array {
  const bits = (flags.fin ? 1 : 0) | (flags.syn ? 2 : 0) | (flags.rst ? 4 : 0) | (flags.ack ? 16 : 0);
  const rest = concatBytes(u32be(1), u32be(2), new Uint8Array([0x50, bits]), u16be(0xffff), u32be(0));
  return concatBytes(u16be(sourcePort), u16be(destinationPort), rest, data);
}

/** An IPv4 packet (RFC 791 §3.1); `optionWords` words of no-operation options, `fragmentField` as on the wire. */
export function ipv4Packet(
  source: string,
  destination: string,
  protocol: number,
  body: Uint8Array,
  { optionWords = 0, fragmentField = 0 } = {},
): Uint8Array {
  const options = new Uint8Array(optionWords * 4).fill(1);
  const totalBytes = 20 + options.length + body.length;
  return concatBytes(
    new Uint8Array([0x45 + optionWords, 0]),
    u16be(totalBytes),
    u16be(7),
    u16be(fragmentField),
    new Uint8Array([64, protocol]),
    u16be(0),
    ipToBytes(source),
    ipToBytes(destination),
    options,
    body,
  );
}

/** ESP as a sender makes it (RFC 4303 §2), with full encryption and ICV: independent of the code that peeks. */
export function espPayload(sa: SharedSa, inner: Uint8Array, nextHeader: number, sequence = 1): Uint8Array {
  const { ivBytes, icvBytes, blockBytes } = suiteLengths(sa.suite);
  const padBytes = (blockBytes - ((inner.length + 2) % blockBytes)) % blockBytes;
  const padding = Uint8Array.from({ length: padBytes }, (_, i) => i + 1);
  const plain = concatBytes(inner, padding, new Uint8Array([padBytes, nextHeader]));
  const header = concatBytes(u32be(sa.inbound.spi), u32be(sequence));
  const iv = new Uint8Array(randomBytes(ivBytes));
  const cipher = cipherOf(sa, iv, header, plain.length);
  const encrypted = concatBytes(header, iv, cipher?.update(plain) ?? plain, cipher?.final() ?? new Uint8Array());
  if (!("integrity" in sa.suite)) return concatBytes(encrypted, (cipher as CipherGCM).getAuthTag());
  const hash = `sha${sa.suite.integrity.slice(-3)}`;
  const mac = createHmac(hash, sa.inbound.integrityKey?.expose() ?? new Uint8Array())
    .update(encrypted)
    .digest();
  return concatBytes(encrypted, mac.subarray(0, icvBytes));
}

/** Null for null encryption. */
function cipherOf(sa: SharedSa, iv: Uint8Array, aad: Uint8Array, plaintextLength: number): Cipheriv | null {
  const { suite } = sa;
  const key = sa.inbound.encryptionKey.expose();
  const authTagLength = 16;
  switch (suite.kind) {
    case "aes-gcm-16":
      return createCipheriv(`aes-${suite.keyBits}-gcm`, key.subarray(0, -4), concatBytes(key.subarray(-4), iv)).setAAD(
        aad,
      );
    case "aes-ccm-16": {
      const nonce = concatBytes(key.subarray(-3), iv);
      return createCipheriv(`aes-${suite.keyBits}-ccm`, key.subarray(0, -3), nonce, { authTagLength }).setAAD(aad, {
        plaintextLength,
      });
    }
    case "chacha20-poly1305": {
      const nonce = concatBytes(key.subarray(32), iv);
      return createCipheriv("chacha20-poly1305", key.subarray(0, 32), nonce, { authTagLength }).setAAD(aad, {
        plaintextLength,
      });
    }
    case "aes-ctr":
      return createCipheriv(
        `aes-${suite.keyBits}-ctr`,
        key.subarray(0, -4),
        concatBytes(key.subarray(-4), iv, u32be(1)),
      );
    case "aes-cbc":
      return createCipheriv(`aes-${suite.keyBits}-cbc`, key, iv).setAutoPadding(false);
    case "null":
    case "ah":
      return null;
  }
}

/** A whole ESP packet from the SA's peer to its DVIPA that carries `segment` as its mode demands. */
export function espPacket(
  sa: SharedSa,
  segment: Uint8Array,
  protocol: number,
  { optionWords = 0, source = sa.peer, sequence = 1 } = {},
): Uint8Array {
  const payload =
    sa.mode === "transport"
      ? espPayload(sa, segment, protocol, sequence)
      : espPayload(sa, ipv4Packet(sa.peer, sa.dvipa, protocol, segment, { optionWords }), 4, sequence);
  return ipv4Packet(source, sa.dvipa, 50, payload, sa.mode === "transport" ? { optionWords } : {});
}
