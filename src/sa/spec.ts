import type { Secret } from "../core/secret.ts";
import type { ChildSuite } from "./suite.ts";

/** The largest replay window that a Linux state has, with or without ESN: `XFRMA_REPLAY_ESN_MAX`, include/uapi/linux/xfrm.h. */
export const MAX_WINDOW_PACKETS = 4096;

/** Port of IKE and ESP behind a NAT (RFC 7296 §2.23, RFC 3948 §2.1). */
export const NAT_T_PORT = 4500;

/** A traffic selector (RFC 7296 §3.13.1): an address range, a port range, one IP protocol or any. Ranges are inclusive, as on the wire. */
export interface TrafficSelector {
  readonly startAddress: string;
  readonly endAddress: string;
  /** 0 is any. */
  readonly protocol: number;
  readonly startPort: number;
  readonly endPort: number;
}

/** Hard limits of what an SA may carry in one direction, summed over all nodes (seeds: lifesize); null for none. */
export interface Lifesize {
  readonly bytes: bigint | null;
  readonly packets: bigint | null;
}

/** One direction of a Child SA. */
export interface SaHalf {
  /** RFC 4303 §2.1, RFC 4302 §2.4; at least 256. */
  readonly spi: number;
  /** Encryption key; for AES-GCM followed by its salt; empty for null encryption and AH. */
  readonly encryptionKey: Secret;
  /** Null for an AEAD. */
  readonly integrityKey: Secret | null;
}

/** The address to which the peer sends the SA's packets, and from which ours come. */
export function localEndOf({ gateway, dvipa }: Pick<SharedSa, "gateway" | "dvipa">): string {
  return gateway ?? dvipa;
}

/** Overwrites the keys of an SA that nobody uses any more. */
export function wipeSaKeys({ inbound, outbound }: Pick<SharedSa, "inbound" | "outbound">): void {
  for (const { encryptionKey, integrityKey } of [inbound, outbound]) {
    encryptionKey.wipe();
    integrityKey?.wipe();
  }
}

/**
 * A Child SA pair of a DVIPA, as IKE negotiated it and as the distributor mirrors it to every target.
 * It says what an SA is and nothing about who uses it.
 */
export interface SharedSa {
  /** Names the pair over the cluster and for all time (128 random bits, hex): a reused SPI is another SA. */
  readonly id: string;
  /** The virtual address that it protects, and its local end unless there is a `gateway`. */
  readonly dvipa: string;
  /**
   * Local end of an SA that ends at an address of the distributor's own (RFC 4301: a security gateway), in tunnel mode; absent: the
   * DVIPA. Nobody but the distributor has its keys: on other nodes they are empty.
   */
  readonly gateway?: string | undefined;
  /** The IKE peer's address: remote end of the SA. */
  readonly peer: string;
  /** The peer's name in the cluster file. */
  readonly peerName: string;
  /** Who it proved to be (`identityKey`). Absent in SAs that no IKE of ours made. */
  readonly peerIdentity?: string | undefined;
  /** Numbers of the rules of the DVIPA's filter that are about this peer, ascending; absent where the DVIPA has none. */
  readonly filterRules?: readonly number[] | undefined;
  readonly mode: "transport" | "tunnel";
  /** Tells the protocol too: `protocolOf`. */
  readonly suite: ChildSuite;
  /** Tunnel name: joins policies and states. The same on every node, kept over a rekey. */
  readonly reqid: number;
  /** peer → DVIPA */
  readonly inbound: SaHalf;
  /** DVIPA → peer */
  readonly outbound: SaHalf;
  /** TSr seen from a responder: our side. */
  readonly localSelectors: readonly TrafficSelector[];
  readonly remoteSelectors: readonly TrafficSelector[];
  /** The peer's anti-replay window in packets (configured per peer, design.md "Window rule"). */
  readonly peerWindowPackets: number;
  /** Our own anti-replay window in packets, of the inbound state on every node. */
  readonly inboundWindowPackets: number;
  /** Extended sequence numbers (RFC 4303 §2.2.1). */
  readonly esn: boolean;
  /** Absent: nobody counts what the SA carries. */
  readonly lifesize?: Lifesize | undefined;
  /** The peer's UDP port when a NAT is on the way and ESP travels in UDP, from our port 4500 (RFC 3948); null: in IP itself. */
  readonly peerUdpPort: number | null;
}
