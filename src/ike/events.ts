import type { LogLevel } from "../core/log.ts";
import type { SharedSa } from "../sa/spec.ts";
import type { IpsecProtocol } from "../sa/suite.ts";

/** An address with a UDP port. */
export interface Endpoint {
  readonly address: string;
  readonly port: number;
}

/** The two ends that a datagram travels between, seen from us. */
export interface Path {
  readonly local: Endpoint;
  readonly remote: Endpoint;
}

/** What the operator or the cluster orders. */
export type IkeCommand =
  /** Make an heir and delete the old one (RFC 7296 §2.8). */
  | { readonly kind: "rekeyChild"; readonly saId: string }
  /** `ikeSaId` as in {@link IkeSaSummary}; the heir inherits the Child SAs. */
  | { readonly kind: "rekeyIke"; readonly ikeSaId: string }
  /** Agree with the peer on the message IDs to go on from (RFC 6311); nothing happens with a peer that cannot. */
  | { readonly kind: "synchroniseIke"; readonly ikeSaId: string }
  /** Reach a peer of the cluster file; `dvipa` null: as which the file says. */
  | { readonly kind: "initiate"; readonly peerName: string; readonly dvipa: string | null }
  /** A packet from the DVIPA to `destination` waits for an SA: reach the `onDemand` peer that it is behind. Both canonical. */
  | { readonly kind: "demand"; readonly dvipa: string; readonly destination: string }
  /** Reach every peer of the cluster file that says `auto`, now and for ever; forget those that do not any more. */
  | { readonly kind: "initiateAll" }
  | { readonly kind: "deleteChild"; readonly saId: string }
  /** `ikeSaId` as in {@link IkeSaSummary}. */
  | { readonly kind: "deleteIke"; readonly ikeSaId: string }
  | { readonly kind: "deletePeer"; readonly peerName: string }
  | { readonly kind: "deleteAll" };

/** What happens to the core. `nowMs` never goes back. */
export type IkeEvent =
  /** `bytes` without the non-ESP marker (RFC 3948 §2.2); the ports say whether there was one. */
  | (Path & { readonly kind: "datagram"; readonly nowMs: number; readonly bytes: Uint8Array })
  | { readonly kind: "timer"; readonly nowMs: number }
  | { readonly kind: "childInstalled"; readonly nowMs: number; readonly saId: string }
  | { readonly kind: "childInstallFailed"; readonly nowMs: number; readonly saId: string; readonly reason: string }
  /** ESP or AH from `peer` to `dvipa` with an SPI of no SA of that protocol. The addresses are canonical. */
  | {
      readonly kind: "unknownEsp";
      readonly nowMs: number;
      readonly protocol: IpsecProtocol;
      readonly peer: string;
      readonly dvipa: string;
      readonly spi: number;
    }
  /** An authentic packet of the peer came on the SA: the peer sends on it. */
  | { readonly kind: "childHeard"; readonly nowMs: number; readonly saId: string }
  /** What all nodes together have used of the SA, in the direction that has more. */
  | {
      readonly kind: "childUsed";
      readonly nowMs: number;
      readonly saId: string;
      readonly bytes: bigint;
      readonly packets: bigint;
    }
  | { readonly kind: "command"; readonly nowMs: number; readonly command: IkeCommand };

/** What the runner must do, in this order. */
export type IkeEffect =
  | (Path & { readonly kind: "send"; readonly bytes: Uint8Array })
  /**
   * Install the SA everywhere, then report `childInstalled` or `childInstallFailed`. `hold`: there is an older SA of the same
   * reqid; receive on this one, but send on the old one until `useOutbound`. The runner owns (and wipes) the keys.
   */
  | { readonly kind: "installChild"; readonly sa: SharedSa; readonly outbound: "now" | "hold" }
  /** Of the SAs of its reqid, send on this one; it may have been sent on before, and may be so now. */
  | { readonly kind: "useOutbound"; readonly saId: string }
  /** The peer's NAT has given it another port: an SA in UDP is sent there from now on. */
  | { readonly kind: "moveChild"; readonly saId: string; readonly peerUdpPort: number }
  /** One byte 0xff from port 4500, without a marker: keeps open the NAT that we are behind (RFC 3948 §2.3). */
  | (Path & { readonly kind: "keepalive" })
  /**
   * Both directions, after so long: packets on an SA that was rekeyed may still be under way. What follows waits for a switch to
   * another SA that has begun, where there is time. May name an SA whose installation failed or was never reported.
   */
  | { readonly kind: "removeChild"; readonly saId: string; readonly reason: string; readonly afterMs: number }
  | { readonly kind: "count"; readonly name: string }
  | {
      readonly kind: "log";
      readonly level: LogLevel;
      readonly message: string;
      readonly fields: Readonly<Record<string, unknown>>;
    }
  /** When the one next `timer` event is wanted; replaces the wish before, null means none. Repeated after each `timer`. */
  | { readonly kind: "wakeAt"; readonly atMs: number | null };

/** A Child SA for status output: no keys. */
export interface ChildSaSummary {
  readonly saId: string;
  readonly mode: SharedSa["mode"];
  readonly suite: string;
  readonly reqid: number;
  readonly inboundSpi: number;
  readonly outboundSpi: number;
  /**
   * `held`: an older one is still used to send; `replaced`: a newer one is there; `redundant`: both ends rekeyed at once, and
   * the other one stays; `closing`: our DELETE is on its way.
   */
  readonly state: "installing" | "held" | "active" | "replaced" | "redundant" | "closing";
  /**
   * What all nodes together have used of it, in the direction that has more, as decimal text; null while nobody has said. Known
   * only of SAs with such a limit.
   */
  readonly used: UsageText | null;
  /** Hard limits, likewise; null for none. */
  readonly limits: UsageText;
}

interface UsageText {
  readonly bytes: string | null;
  readonly packets: string | null;
}

/** An IKE SA for status output: no keys. */
export interface IkeSaSummary {
  /** Both SPIs in hex, joined by `_`. */
  readonly id: string;
  readonly state: "halfOpen" | "authenticating" | "established" | "rekeyed" | "deleting" | "closed";
  /** Null before the peer is authenticated. */
  readonly peerName: string | null;
  readonly local: Endpoint;
  readonly remote: Endpoint;
  readonly suite: string;
  readonly group: string;
  readonly establishedAtMs: number | null;
  readonly children: readonly ChildSaSummary[];
}
