import type { Secret } from "../core/secret.ts";
import type { SigningKey } from "../crypto/signature.ts";
import type { Certificate } from "../x509/certificate.ts";
import type { TrustStore } from "../x509/chain.ts";
import type { ChildSuite } from "../sa/suite.ts";
import type { IkeSuite } from "./suite.ts";

export type ChildMode = "transport" | "tunnel";

/**
 * Whether a Child SA has extended sequence numbers (RFC 4303 §2.2.1): `allow` takes what the peer lists first, `prefer`
 * takes them from every proposal that has them, `never` refuses a proposal that has nothing else.
 */
export type EsnPolicy = "prefer" | "allow" | "never";

/** How a peer and we prove to each other who we are; the same in both directions. */
export type PeerAuth =
  | { readonly kind: "psk"; readonly psk: Secret }
  /** `trust`: whom we believe about this peer. */
  | { readonly kind: "certificate"; readonly trust: TrustStore };

/** A certificate that we can prove to be ours. */
export interface IkeCredential {
  /** Our own certificate first, then those that lead to its authority; the peer gets all of them. */
  readonly chain: readonly [Certificate, ...Certificate[]];
  readonly key: SigningKey;
}

/** How long an SA may be used: hard limits, null for none. It is rekeyed in good time before each. */
export interface ChildLifetime {
  readonly timeMs: number | null;
  /** In the direction that has more, summed over all nodes; as ESP counts them. */
  readonly bytes: bigint | null;
  readonly packets: bigint | null;
}

/** A peer of the cluster file that may negotiate with our DVIPAs. */
export interface IkePeerConfig {
  readonly name: string;
  /** Its address, or `any`. */
  readonly address: string;
  /** In text, see `identityPattern`: for certificates it may hold wildcards. */
  readonly remoteIdentity: string;
  /** Who we are towards this peer. */
  readonly localIdentity: string;
  readonly auth: PeerAuth;
  readonly modes: readonly ChildMode[];
  /** Networks behind the peer, allowed in tunnel mode besides its own address. */
  readonly remoteSubnets: readonly string[];
  /** The peer's anti-replay window. */
  readonly replayWindowPackets: number;
  /** Ours towards this peer, on every node. */
  readonly inboundWindowPackets: number;
  /** Null: everything that esplex supports. */
  readonly ikeSuites: readonly IkeSuite[] | null;
  /** Of ESP, and of AH where the cluster file lists some. Null: `DEFAULT_ESP_SUITES`. */
  readonly espSuites: readonly ChildSuite[] | null;
  readonly esn: EsnPolicy;
  readonly childLifetime: ChildLifetime;
  readonly ikeLifetimeMs: number | null;
  readonly initiate: InitiatePolicy;
}

/** How we reach out to a peer. */
export interface InitiatePolicy {
  /** `auto`: at the start, and whenever it is lost; `onDemand`: for traffic that needs an SA; `none`: on command. */
  readonly start: "auto" | "onDemand" | "none";
  /** As which DVIPA; null for the first of the peer's IP version. */
  readonly dvipa: string | null;
  readonly mode: ChildMode;
}

/** What the core needs from the outside: everything that is random or belongs to the cluster. */
export interface IkeEnvironment {
  randomBytes(lengthBytes: number): Uint8Array;
  /** An inbound SPI that no SA, of ESP or AH, in the cluster has. May throw `cluster.exhausted`. */
  newSpi(): number;
  /** A reqid that no tunnel in the cluster has. May throw `cluster.exhausted`. */
  newReqid(): number;
  /** Addresses that this node answers for now. */
  dvipas(): readonly string[];
  /** Addresses of this node's own at which it answers as a security gateway, with the DVIPA that it protects there; absent: none. */
  gateways?(): ReadonlyMap<string, string>;
  peers(): readonly IkePeerConfig[];
  /** What we can show at this address, the preferred one first. */
  credentials(local: string): readonly IkeCredential[];
  /** Time of day in milliseconds since 1970: certificates and CRLs have dates. */
  wallClockMs(): number;
}
