import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import type { IkePeerConfig } from "./environment.ts";
import { identityKey, identityPayload } from "./identity.ts";
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

/** The peer with this address and identity, and (when it asks for one) this identity of ours. */
export function findPeer(
  peers: readonly IkePeerConfig[],
  address: string,
  idI: IdentificationPayload,
  idR: IdentificationPayload | undefined,
): IkePeerConfig | undefined {
  const wanted = identityKey(idI);
  return peersAt(peers, address).find(
    (peer) =>
      identityKey(identityPayload("idi", peer.remoteIdentity)) === wanted &&
      (idR === undefined || identityKey(identityPayload("idr", peer.localIdentity)) === identityKey(idR)),
  );
}
