import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { stringify } from "yaml";
import { APPLICATION_PORT, BUS_PORT, CLIENT2_IDENTITY, DVIPA, PRIVATE_SUBNET } from "./layout.ts";
import { endsOf, type PeerConnection } from "./ipsec-peer.ts";
import type { LabNetwork } from "./network.ts";

/** The cluster's name, also in its certificates. */
export const CLUSTER_NAME = "lab";

/** What of the cluster file a test may choose. */
export interface ClusterSettings {
  /** The client's anti-replay window as the cluster knows it, packets. */
  readonly peerWindowPackets: number;
  /** The cluster's own, packets. */
  readonly inboundWindowPackets: number;
  readonly esn: "prefer" | "allow" | "never";
  /** ESP proposals that the client may have, in the cluster file's words; null: the default ones. */
  readonly espProposals: readonly string[] | null;
  /** How the client and the DVIPA prove who they are. */
  readonly authentication: "psk" | "certificate";
  /** How the DVIPAs spread connections, as the cluster file has it; absent for the default. */
  readonly distribution?: Readonly<Record<string, unknown>>;
  /** The DVIPAs' filter as the cluster file has it; absent for none. */
  readonly filter?: Readonly<Record<string, unknown>>;
  /** True: SAs for the DVIPA may end at d1's own address on the client network. */
  readonly gateway?: boolean;
  /** Sections of the peer as the cluster file has them; absent for the defaults. */
  readonly peer?: Readonly<Record<string, unknown>>;
  /** A peer for each of these instead of the one client; null: the client. Needs `authentication: "certificate"`. */
  readonly connections: readonly PeerConnection[] | null;
}

/** The DVIPA's certificates in the lab's IKE PKI with their kinds of keys, the preferred one first. */
export const DVIPA_CERTIFICATES = { "dvipa-ecdsa": "ecdsa", "dvipa-rsa": "rsa", "dvipa-ed25519": "ed25519" } as const;
/** Where the lab's IKE PKI is, relative to the cluster file. */
export const IKE_PKI_DIRECTORY = "ike-pki";

/**
 * Writes `cluster.yaml` for d1 and the coupling service and `cluster-target.yaml`, which names only the bus, for the
 * targets. The key is in `psk` beside them, certificates for IKE in {@link IKE_PKI_DIRECTORY}.
 */
export async function writeClusterFiles(
  directory: string,
  network: LabNetwork,
  settings: ClusterSettings,
): Promise<void> {
  const withCertificates = settings.authentication === "certificate";
  const inPki = (file: string): string => `${IKE_PKI_DIRECTORY}/${file}`;
  const coupling = network.busAddressOf("cf");
  const bus = { coupling: `${coupling.includes(":") ? `[${coupling}]` : coupling}:${BUS_PORT}` };
  // An IPv6 lab's nodes have the IPv4 DVIPA as well: both versions on one host must not get into each other's way.
  const addresses = network.ipVersion === 4 ? [DVIPA] : [network.dvipa, DVIPA];
  const dvipas = addresses.map((address) => ({
    address,
    interface: network.interfaceOf("d1", "client").name,
    distributor: "d1",
    targets: network.nodes.filter(({ role }) => role === "target").map(({ name }) => name),
    ports: [APPLICATION_PORT],
    // Copies: the cluster file has no aliases.
    ...(settings.distribution === undefined ? {} : { distribution: structuredClone(settings.distribution) }),
    ...(settings.filter === undefined ? {} : { filter: structuredClone(settings.filter) }),
    ...(settings.gateway === true && address === network.dvipa ? { gateways: [network.gatewayAddress] } : {}),
    ...(withCertificates
      ? {
          certificates: Object.keys(DVIPA_CERTIFICATES).map((name) => ({
            chain: inPki(`${name}.pem`),
            key: inPki(`${name}.key`),
          })),
        }
      : {}),
  }));
  const hasNat = network.natAddress !== null;
  const peer = {
    name: "client",
    address: hasNat ? "ANY" : network.clientAddress,
    ...(hasNat ? { remoteSubnets: [PRIVATE_SUBNET] } : {}),
    identity: network.identities.client,
    localIdentity: network.identities.dvipa,
    ...(withCertificates ? { certificate: {} } : { psk: { file: "psk" } }),
    modes: ["transport", "tunnel"],
    replayWindow: settings.peerWindowPackets,
    inboundReplayWindow: settings.inboundWindowPackets,
    espProposals: settings.espProposals,
    esn: settings.esn,
    ...settings.peer,
  };
  // A copy: the cluster file has no aliases.
  const second = { ...structuredClone(peer), name: "client2", identity: CLIENT2_IDENTITY };
  if (!hasNat) second.address = network.addressOfClient("client2");
  const clients = network.hasSecondClient ? [peer, second] : [peer];
  const files = {
    "cluster.yaml": {
      cluster: CLUSTER_NAME,
      bus,
      ...(withCertificates
        ? {
            certificates: {
              authorities: [inPki("ca.pem")],
              revocationLists: [inPki("ca.crl"), inPki("intermediate.crl")],
              revocation: "strict",
            },
          }
        : {}),
      dvipas,
      peers: settings.connections?.map((connection) => peerSection(connection, settings)) ?? clients,
    },
    "cluster-target.yaml": { cluster: CLUSTER_NAME, bus },
  };
  await Promise.all(
    Object.entries(files).map(([name, content]) =>
      writeFile(join(directory, name), stringify(content), { mode: 0o600 }),
    ),
  );
}

function peerSection(connection: PeerConnection, settings: ClusterSettings): object {
  const { address, identity, dvipaIdentity } = endsOf(connection);
  return {
    name: connection.name,
    address,
    identity,
    localIdentity: dvipaIdentity,
    ...(connection.auth === "psk" ? { psk: { file: "psk" } } : { certificate: {} }),
    modes: [connection.mode],
    replayWindow: settings.peerWindowPackets,
  };
}
