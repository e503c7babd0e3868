import { createHash } from "node:crypto";
import { tunnelReqid } from "../../../src/net/ids.ts";
import type { TrafficSelector } from "../../../src/sa/spec.ts";
import { suiteLengths, type ChildSuite } from "../../../src/sa/suite.ts";
import { ipProtocolOf } from "../../../src/xfrm/shadow.ts";
import type { PlainSa, PlainState } from "./plain.ts";

export const GCM_128: ChildSuite = { kind: "aes-gcm-16", keyBits: 128 };
export const AH_256: ChildSuite = { kind: "ah", integrity: "hmac-sha2-256" };
/** Keys for tests: derived from a name, used nowhere else. */
function testKeys(name: string, suite: ChildSuite): { encryptionKey: Uint8Array; integrityKey: Uint8Array | null } {
  const { encryptionKeyBytes, integrityKeyBytes } = suiteLengths(suite);
  const bytes = (label: string, length: number): Uint8Array =>
    new Uint8Array(createHash("shake256", { outputLength: length }).update(`${name} ${label}`).digest());
  return {
    encryptionKey: bytes("encryption", encryptionKeyBytes),
    integrityKey: integrityKeyBytes === 0 ? null : bytes("integrity", integrityKeyBytes),
  };
}

/** A state that sends from `source` to `destination`. */
export function testState(
  source: string,
  destination: string,
  spi: number,
  changes: Partial<PlainState> = {},
): PlainState {
  const suite = changes.suite ?? GCM_128;
  return {
    id: { destination, spi, protocol: ipProtocolOf(suite) },
    source,
    mode: "transport",
    reqid: tunnelReqid(1),
    suite,
    ...testKeys(`spi ${spi}`, suite),
    esn: false,
    replayWindowPackets: 0,
    encapsulation: null,
    allowance: { kind: "unlimited" },
    eventThresholdPackets: 0,
    ...changes,
  };
}

function everything(address: string): TrafficSelector {
  return { startAddress: address, endAddress: address, protocol: 0, startPort: 0, endPort: 65535 };
}

/** An SA of DVIPA `dvipa` with `peer`, seen from the DVIPA. */
export function testSa(dvipa: string, peer: string, changes: Partial<PlainSa> = {}): PlainSa {
  const suite = changes.suite ?? GCM_128;
  return {
    id: "0123456789abcdef0123456789abcdef",
    dvipa,
    peer,
    peerName: "client",
    mode: "transport",
    suite,
    reqid: tunnelReqid(1),
    inbound: { spi: 0x1001, ...testKeys("inbound", suite) },
    outbound: { spi: 0x2002, ...testKeys("outbound", suite) },
    localSelectors: [everything(dvipa)],
    remoteSelectors: [everything(peer)],
    peerWindowPackets: 1024,
    inboundWindowPackets: 1024,
    esn: false,
    peerUdpPort: null,
    ...changes,
  };
}

/** The same SA seen from the other end. */
export function mirrored(sa: PlainSa): PlainSa {
  return {
    ...sa,
    dvipa: sa.peer,
    peer: sa.dvipa,
    inbound: sa.outbound,
    outbound: sa.inbound,
    localSelectors: sa.remoteSelectors,
    remoteSelectors: sa.localSelectors,
  };
}
