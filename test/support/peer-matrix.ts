import { afterEach, beforeAll, describe, expect, it } from "vitest";
import { readClientDrops } from "../../netns/counters.ts";
import type { Capture } from "../../netns/capture.ts";
import { examineCapture } from "../../netns/evidence.ts";
import {
  endsOf,
  readKernelSas,
  type IpsecMode,
  type IpsecPeer,
  type PeerAuth,
  type PeerConnection,
  type PeerKind,
} from "../../netns/ipsec-peer.ts";
import type { Lab } from "../../netns/lab.ts";
import { SERVICE_ADDRESSES, type IpVersion } from "../../netns/layout.ts";
import { ping, requestName } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import type { IkeStatus } from "../../src/daemons/node/ike-controls.ts";
import type { SaStatus } from "../../src/daemons/node/status.ts";
import { statesOnEveryNode } from "./cluster-probes.ts";
import { useLab } from "./lab-fixture.ts";

const SETTLE_LIMIT_MS = 60_000;
const TEST_LIMIT_MS = 300_000;

/** Who sends the first message. */
type Beginner = "peer" | "cluster";
type Cell = readonly [PeerAuth, IpsecMode, IpVersion];

/**
 * Half of the product of authentication, mode and IP version for each beginner, so chosen that every pair of values of
 * any two of them occurs; the two halves together are the whole product.
 */
const CELLS: Readonly<Record<Beginner, readonly Cell[]>> = {
  peer: [
    ["psk", "transport", 4],
    ["psk", "tunnel", 6],
    ["ecdsa", "transport", 6],
    ["ecdsa", "tunnel", 4],
    ["rsa", "transport", 4],
    ["rsa", "tunnel", 6],
  ],
  cluster: [
    ["psk", "transport", 6],
    ["psk", "tunnel", 4],
    ["ecdsa", "transport", 4],
    ["ecdsa", "tunnel", 6],
    ["rsa", "transport", 6],
    ["rsa", "tunnel", 4],
  ],
};

/** The connection of a cell, as both ends' files have it. */
export function connectionOf([auth, mode, ipVersion]: Cell): PeerConnection {
  return { name: `${auth}-${mode}-v${ipVersion}`, auth, mode, ipVersion };
}

/** The lab of one file with its peer, and what its tests do with both. */
export interface PeerLab {
  readonly lab: () => Lab;
  readonly peer: () => IpsecPeer;
  readonly connections: readonly PeerConnection[];
  /** Negotiates, and returns the one SA as the distributor describes it. */
  readonly establish: (connection: PeerConnection, beginner: Beginner) => Promise<SaStatus>;
  /** Closes it, by the hand of the peer, and waits until nobody knows it any more. */
  readonly close: (connection: PeerConnection) => Promise<void>;
}

/**
 * A lab whose cluster file and peer have the connections of the matrix and `others`. One target: each request is its. Topology:
 * `netns/layout.ts`; the service speaks both IP versions.
 */
export function usePeer(kind: PeerKind, windowPackets: number, others: readonly PeerConnection[] = []): PeerLab {
  const connections = [...[...CELLS.peer, ...CELLS.cluster].map(connectionOf), ...others];
  let peer: IpsecPeer | undefined;
  const lab = useLab(
    {
      targets: 1,
      versions: { service: 6 },
      cluster: { authentication: "certificate", connections, peerWindowPackets: windowPackets },
    },
    async (up) => {
      await Promise.all([up.startCluster(), up.startPeer(kind, connections).then((started) => (peer = started))]);
    },
  );
  const client = (): IpsecPeer => {
    if (peer === undefined) throw new Error("the peer is not up yet");
    return peer;
  };
  const establish = async (connection: PeerConnection, beginner: Beginner): Promise<SaStatus> => {
    if (beginner === "peer") await client().initiate(connection);
    else {
      await client().await(connection);
      await lab().distributor.ask("initiate", { peer: connection.name });
    }
    return onlySa(lab(), connection);
  };
  const close = async (connection: PeerConnection): Promise<void> => {
    await client().terminate(connection);
    await statesOnEveryNode(lab(), 0);
    await until("the peer has no IPsec state", SETTLE_LIMIT_MS, async () => (await clientSas(lab())).length === 0);
  };
  return { lab, peer: client, connections, establish, close };
}

async function clientSas(lab: Lab): ReturnType<typeof readKernelSas> {
  return readKernelSas(lab.network, "client");
}

/** Closed ones stay for a while, to answer again. */
export async function establishedIkeSas(lab: Lab): Promise<IkeStatus> {
  return ((await lab.distributor.ask("ikeSas")) as IkeStatus).filter(({ state }) => state === "established");
}

/** Waits until the cluster has one established IKE SA with one Child SA, on every node and in the peer's kernel. */
export async function onlySa(lab: Lab, { name }: PeerConnection, not?: SaStatus): Promise<SaStatus> {
  await until(`one IKE SA with ${name}`, SETTLE_LIMIT_MS, async () => {
    const [ike, ...others] = await establishedIkeSas(lab);
    return others.length === 0 && ike?.peerName === name && ike.children.length === 1;
  });
  const { sas } = await lab.distributor.waitFor(
    "has one SA, a new one",
    SETTLE_LIMIT_MS,
    (status) => status.sas.length === 1 && status.sas[0]?.id !== not?.id && status.sas[0]?.outbound === "now",
  );
  const [sa] = sas;
  if (sa === undefined) throw new Error("no SA");
  await statesOnEveryNode(lab, 2);
  await until("the peer has both halves", SETTLE_LIMIT_MS, async () => (await clientSas(lab)).length === 2);
  return sa;
}

/** The tests of the matrix, and one that examines the wire after all of them. */
export function testMatrix({ lab, peer, establish, close }: PeerLab): void {
  let capture: Capture;
  beforeAll(async () => {
    capture = await lab().startCapture();
  });
  describe.each(["peer", "cluster"] as const)("the %s begins", (beginner) => {
    it.each(CELLS[beginner])(
      "%s, %s mode, IPv%d: both ends agree, a target answers",
      async (...cell) => {
        const connection = connectionOf(cell);
        const sa = await establish(connection, beginner);
        expect(sa).toMatchObject({ mode: connection.mode, peerName: connection.name });
        await expectSamePair(lab(), peer(), connection, sa);
        expect(await ping(lab(), 2, { ipVersion: connection.ipVersion })).toEqual({ sent: 2, received: 2 });
        const answer = await requestName(lab(), connection.ipVersion);
        expect(answer).toEqual({ ok: true, node: "t1", problem: undefined });
        await connectionsClosed(lab(), connection);
        await close(connection);
      },
      TEST_LIMIT_MS,
    );
  });
  it("the wire showed ESP of all of them, and nothing in clear", async () => {
    expect(await capture.stop()).toEqual({ droppedByKernel: 0 });
    const [v4, v6] = await Promise.all(
      [4, 6].map(async (version) => examineCapture(capture.path, SERVICE_ADDRESSES[version as IpVersion].dvipa)),
    );
    const wires = [v4, v6];
    const nothing = { duplicates: [], cleartextSamples: [], cleartextPackets: 0 };
    expect(wires).toMatchObject([nothing, nothing]);
    for (const wire of wires) {
      // One SA for each cell of that version (half of them), two pings and a TCP connection on each.
      const counts = [...(wire?.espFromDvipaBySpi.values() ?? [])];
      expect(counts).toHaveLength(CELLS.peer.length);
      expect(Math.min(...counts)).toBeGreaterThanOrEqual(5);
    }
    expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
  });
}

/** The last segments of TCP must not meet a client that has just lost its SA: it would send them in clear. */
async function connectionsClosed(lab: Lab, connection: PeerConnection): Promise<void> {
  const { dvipa } = endsOf(connection);
  const host = connection.ipVersion === 6 ? `[${dvipa}]` : dvipa;
  const list = ["ss", "-Htn", "state", "connected", "exclude", "time-wait", "dst", host];
  let open = "";
  await until("the client's TCP connections have closed", SETTLE_LIMIT_MS, async () => {
    open = await lab.network.run("client", list);
    return open === "";
  }).catch((error: unknown) => {
    throw new Error(`still open: ${open}`, { cause: error });
  });
}

/** The peer's kernel has the pair that the distributor has negotiated, in the same mode. */
async function expectSamePair(lab: Lab, peer: IpsecPeer, connection: PeerConnection, sa: SaStatus): Promise<void> {
  const { address, dvipa } = endsOf(connection);
  const found = await clientSas(lab);
  const { mode } = connection;
  const toDvipa = { source: address, destination: dvipa, spi: sa.spiIn, mode };
  const fromDvipa = { source: dvipa, destination: address, spi: sa.spiOut, mode };
  expect(found).toHaveLength(2);
  expect(found).toEqual(expect.arrayContaining([expect.objectContaining(toDvipa), expect.objectContaining(fromDvipa)]));
  const inbound = found.find(({ spi }) => spi === sa.spiOut);
  expect(inbound?.windowPackets).toBe(peer.defaultWindowPackets);
}

/** What a failed test left must not meet the next one. */
export function forgetAfterEach({ lab, peer, connections }: PeerLab): void {
  afterEach(async () => {
    for (const { peerName } of await establishedIkeSas(lab())) {
      const connection = connections.find(({ name }) => name === peerName);
      if (connection !== undefined) await peer().terminate(connection);
    }
  });
}
