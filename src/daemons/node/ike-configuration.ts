import { readCredential, readTrust } from "../../config/certificates.ts";
import type { ClusterConfig, PeerConfig } from "../../config/cluster-schema.ts";
import { readPsk } from "../../config/psk.ts";
import { EsplexError, messageOf } from "../../core/errors.ts";
import type { ChildLifetime, IkeCredential, IkePeerConfig, PeerAuth } from "../../ike/environment.ts";
import { identityPattern, identityPayload, isIdentityOf } from "../../ike/identity.ts";
import type { TrustStore } from "../../x509/chain.ts";

/** What IKE takes from the cluster file and the files that it names. */
export interface IkeConfiguration {
  readonly peers: readonly IkePeerConfig[];
  /** By DVIPA. */
  readonly credentials: ReadonlyMap<string, readonly IkeCredential[]>;
  /** What the operator should know, though it stops nothing. */
  readonly warnings: readonly string[];
}

/**
 * Reads peers, keys, certificates and revocation lists for the DVIPAs of this node. Throws `config.unreadable` and
 * `config.invalid`; nothing is half read.
 */
export async function loadIkeConfiguration(
  config: ClusterConfig,
  clusterFile: string,
  nodeName: string,
  wallClockMs: number,
): Promise<IkeConfiguration> {
  const own = config.dvipas.filter(({ distributor }) => distributor === nodeName);
  const credentials = new Map<string, readonly IkeCredential[]>();
  for (const { address, certificates } of own) {
    credentials.set(address, await Promise.all(certificates.map((files) => readCredential(files, clusterFile))));
  }
  const usesCertificates = config.peers.some(({ certificate }) => certificate?.authorities.length === 0);
  const common = usesCertificates ? await readTrust(config.certificates, [], clusterFile) : null;
  const trustOf = async (own: readonly string[]): Promise<TrustStore> =>
    own.length === 0 && common !== null ? common : readTrust(config.certificates, own, clusterFile);
  const peers = await Promise.all(config.peers.map((peer) => loadPeer(peer, trustOf, clusterFile)));
  const all = [...credentials.values()].flat();
  const late = all.flatMap(({ chain }) => chain).filter(({ notAfterMs }) => notAfterMs < wallClockMs);
  const nameless = peers.filter(
    ({ auth, localIdentity }) => auth.kind === "certificate" && own.length > 0 && !all.some(isFor(localIdentity)),
  );
  return {
    peers,
    credentials,
    warnings: [
      ...late.map(({ subject }) => `the certificate of ${subject.toString()} has expired: peers will refuse it`),
      ...revocationWarnings(peers, wallClockMs),
      ...nameless.map(({ name, localIdentity }) => `peer ${name}: no certificate of ours is for ${localIdentity}`),
    ],
  };
}

/** Lists that are out of date, and authorities that strict revocation leaves without a list: nobody below them gets in. */
function revocationWarnings(peers: readonly IkePeerConfig[], nowMs: number): string[] {
  const trusts = new Set(peers.flatMap(({ auth }) => (auth.kind === "certificate" ? [auth.trust] : [])));
  const texts = [...trusts].flatMap(({ anchors, revocationLists, revocation }) => {
    const late = revocationLists.filter(({ nextUpdateMs }) => nextUpdateMs !== null && nextUpdateMs < nowMs);
    const bare = anchors.filter(({ subject }) => revocationLists.every(({ issuer }) => issuer.key !== subject.key));
    return [
      ...late.map(({ issuer }) => `the revocation list of ${issuer.toString()} is out of date`),
      ...(revocation === "relaxed"
        ? []
        : bare.map(
            ({ subject }) =>
              `revocation is strict, and ${subject.toString()} has no list: its certificates are refused`,
          )),
    ];
  });
  return [...new Set(texts)];
}

function isFor(localIdentity: string): (credential: IkeCredential) => boolean {
  const identity = identityPayload("idr", localIdentity);
  return ({ chain: [own] }) => isIdentityOf(own, identity);
}

type TrustOf = (own: readonly string[]) => Promise<TrustStore>;

async function loadPeer(peer: PeerConfig, trustOf: TrustOf, clusterFile: string): Promise<IkePeerConfig> {
  try {
    identityPattern(peer.identity);
    identityPayload("idr", peer.localIdentity);
  } catch (error) {
    throw new EsplexError("config.invalid", `peer ${peer.name}: ${messageOf(error)}`);
  }
  return {
    name: peer.name,
    address: peer.address === "ANY" ? "any" : peer.address,
    remoteIdentity: peer.identity,
    localIdentity: peer.localIdentity,
    auth: await loadAuth(peer, trustOf, clusterFile),
    modes: peer.modes,
    remoteSubnets: peer.remoteSubnets,
    replayWindowPackets: peer.replayWindow,
    inboundWindowPackets: peer.inboundReplayWindow,
    ikeSuites: peer.ikeProposals,
    // AH alone is AH only: who lists both may have both.
    espSuites: peer.ahProposals === null ? peer.espProposals : [...(peer.espProposals ?? []), ...peer.ahProposals],
    esn: peer.esn,
    childLifetime: childLifetimeOf(peer),
    ikeLifetimeMs: 1_000 * peer.ikeLifetime.seconds,
    initiate: { ...peer.initiate, mode: peer.initiate.mode ?? peer.modes[0] ?? "tunnel" },
  };
}

function childLifetimeOf({ childLifetime: { seconds, bytes, packets } }: PeerConfig): ChildLifetime {
  return { timeMs: 1_000 * seconds, bytes, packets };
}

async function loadAuth(peer: PeerConfig, trustOf: TrustOf, clusterFile: string): Promise<PeerAuth> {
  const { name, psk, certificate } = peer;
  if (psk !== null) return { kind: "psk", psk: await readPsk({ name, psk }, clusterFile) };
  return { kind: "certificate", trust: await trustOf(certificate?.authorities ?? []) };
}
