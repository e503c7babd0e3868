import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import type { Certificate } from "../x509/certificate.ts";
import type { IkePeerConfig } from "./environment.ts";
import { identityKey, identityPattern, identityPayload, type IdentityPattern } from "./identity.ts";
import type { IkeSuite } from "./suite.ts";
import type { IdentificationPayload } from "./wire/identification.ts";

/** Peer address that matches every source. */
const ANY_ADDRESS = "any";

/** A configuration, prepared once: a new one comes as a new array. */
interface PeerIndex {
  /** By canonical address. */
  readonly named: ReadonlyMap<string, readonly IkePeerConfig[]>;
  readonly any: readonly IkePeerConfig[];
  /** By `identityKey`: those that are named exactly. */
  readonly exact: ReadonlyMap<string, readonly IkePeerConfig[]>;
  readonly wild: readonly IkePeerConfig[];
}

const indexes = new WeakMap<readonly IkePeerConfig[], PeerIndex>();

function indexOf(peers: readonly IkePeerConfig[]): PeerIndex {
  let index = indexes.get(peers);
  if (index === undefined) indexes.set(peers, (index = makeIndex(peers)));
  return index;
}

function makeIndex(peers: readonly IkePeerConfig[]): PeerIndex {
  const isExact = (peer: IkePeerConfig): boolean => patternOf(peer).wildcard === null;
  return {
    named: Map.groupBy(
      peers.filter(({ address }) => address !== ANY_ADDRESS),
      ({ address }) => ipFromBytes(ipToBytes(address)),
    ),
    any: peers.filter(({ address }) => address === ANY_ADDRESS),
    exact: Map.groupBy(peers.filter(isExact), ({ remoteIdentity }) =>
      identityKey(identityPayload("idi", remoteIdentity)),
    ),
    wild: peers.filter((peer) => !isExact(peer)),
  };
}

/** The peers that may speak from this address: those that name it before those that take any. */
function peersAt(peers: readonly IkePeerConfig[], address: string): readonly IkePeerConfig[] {
  const { named, any } = indexOf(peers);
  const found = named.get(address);
  return found === undefined ? any : [...found, ...any];
}

/**
 * IKE suites for a message from this address, before we know who sends it: the union over the peers that may; null for all.
 * An unknown address gets all, so that it learns nothing before it fails to authenticate.
 */
export function ikeSuitesFor(peers: readonly IkePeerConfig[], address: string): readonly IkeSuite[] | null {
  const found = peersAt(peers, address);
  const suites = found.map(({ ikeSuites }) => ikeSuites);
  return found.length === 0 || suites.includes(null) ? null : suites.flatMap((list) => list ?? []);
}

/**
 * The authorities that a peer at this address may come with: those of the peers that may speak from there, of all for an
 * unknown address. Empty when nobody uses certificates.
 */
export function anchorsFor(peers: readonly IkePeerConfig[], address: string): readonly Certificate[] {
  const found = peersAt(peers, address);
  const anchors = (found.length === 0 ? peers : found).flatMap(({ auth }) =>
    auth.kind === "certificate" ? auth.trust.anchors : [],
  );
  return [...new Map(anchors.map((anchor) => [anchor.fingerprint, anchor])).values()];
}

/**
 * The peer with this address and identity, and (when it asks for one) this identity of ours. One that is named exactly goes
 * before a pattern; among patterns, the order of the cluster file decides.
 */
export function findPeer(
  peers: readonly IkePeerConfig[],
  address: string,
  idI: IdentificationPayload,
  idR: IdentificationPayload | undefined,
): IkePeerConfig | undefined {
  const { named, exact, wild } = indexOf(peers);
  const here = named.get(address) ?? [];
  const find = (candidates: readonly IkePeerConfig[]): IkePeerConfig | undefined => {
    const fitting = candidates.filter((peer) => patternOf(peer).matches(idI) && servesAs(peer, idR));
    return fitting.find((peer) => here.includes(peer)) ?? fitting.find((peer) => peer.address === ANY_ADDRESS);
  };
  return find(exact.get(identityKey(idI)) ?? []) ?? find(wild);
}

/** True when we are, towards this peer, who it asks for. */
function servesAs(peer: IkePeerConfig, idR: IdentificationPayload | undefined): boolean {
  return idR === undefined || identityKey(identityPayload("idr", peer.localIdentity)) === identityKey(idR);
}

/** True when this identity is one that the peer may come with. */
export function isOfPeer(peer: IkePeerConfig, identity: IdentificationPayload): boolean {
  return patternOf(peer).matches(identity);
}

/** The peer's only identity, in text; null when it may have several. */
export function exactIdentity(peer: IkePeerConfig): string | null {
  return patternOf(peer).wildcard === null ? peer.remoteIdentity : null;
}

/** Reading a pattern costs; the configuration of a peer never changes. */
const patterns = new WeakMap<IkePeerConfig, IdentityPattern>();

function patternOf(peer: IkePeerConfig): IdentityPattern {
  let pattern = patterns.get(peer);
  if (pattern === undefined) patterns.set(peer, (pattern = identityPattern(peer.remoteIdentity)));
  return pattern;
}
