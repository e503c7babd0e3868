import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import type { Certificate } from "../x509/certificate.ts";
import type { IkePeerConfig } from "./environment.ts";
import { identityKey, identityPattern, identityPayload, type IdentityPattern } from "./identity.ts";
import type { IkeSuite } from "./suite.ts";
import type { IdentificationPayload } from "./wire/identification.ts";

/** Peer address that matches every source. */
const ANY_ADDRESS = "any";

/** The peers that may speak from this address: those that name it before those that take any. */
function peersAt(peers: readonly IkePeerConfig[], address: string): IkePeerConfig[] {
  const named = peers.filter(
    (peer) => peer.address !== ANY_ADDRESS && ipFromBytes(ipToBytes(peer.address)) === address,
  );
  return [...named, ...peers.filter((peer) => peer.address === ANY_ADDRESS)];
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
  const found = peersAt(peers, address).filter(
    (peer) =>
      patternOf(peer).matches(idI) &&
      (idR === undefined || identityKey(identityPayload("idr", peer.localIdentity)) === identityKey(idR)),
  );
  return found.find((peer) => patternOf(peer).wildcard === null) ?? found[0];
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
