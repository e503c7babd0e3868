import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { stringify } from "yaml";
import { APPLICATION_PORT, BUS_PORT, CLIENT_ADDRESS, CLIENT_IDENTITY, DVIPA, DVIPA_IDENTITY } from "./layout.ts";
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
}

/**
 * Writes `cluster.yaml` for d1 and the coupling service and `cluster-target.yaml`, which names only the bus, for the
 * targets. The key is in `psk` beside them.
 */
export async function writeClusterFiles(
  directory: string,
  network: LabNetwork,
  settings: ClusterSettings,
): Promise<void> {
  const bus = { coupling: `${network.interfaceOf("cf", "trust").address}:${BUS_PORT}` };
  const dvipa = {
    address: DVIPA,
    interface: network.interfaceOf("d1", "client").name,
    distributor: "d1",
    targets: network.nodes.filter(({ role }) => role === "target").map(({ name }) => name),
    ports: [APPLICATION_PORT],
  };
  const peer = {
    name: "client",
    address: CLIENT_ADDRESS,
    identity: CLIENT_IDENTITY,
    localIdentity: DVIPA_IDENTITY,
    psk: { file: "psk" },
    modes: ["transport", "tunnel"],
    replayWindow: settings.peerWindowPackets,
    inboundReplayWindow: settings.inboundWindowPackets,
    espProposals: settings.espProposals,
    esn: settings.esn,
  };
  const files = {
    "cluster.yaml": { cluster: CLUSTER_NAME, bus, dvipas: [dvipa], peers: [peer] },
    "cluster-target.yaml": { cluster: CLUSTER_NAME, bus },
  };
  await Promise.all(
    Object.entries(files).map(([name, content]) =>
      writeFile(join(directory, name), stringify(content), { mode: 0o600 }),
    ),
  );
}
