/** The coupling service over its real bus, in this process; its disk is injected. */
import { once } from "node:events";
import { connect } from "node:tls";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { BusClient } from "../../../src/bus/client.ts";
import type { BusConnection } from "../../../src/bus/connection.ts";
import { tlsOptions } from "../../../src/bus/credentials.ts";
import type { Member } from "../../../src/bus/messages.ts";
import { type BusServer, listenBus } from "../../../src/bus/server.ts";
import { parseCluster } from "../../../src/config/cluster-file.ts";
import { systemClock } from "../../../src/core/clock.ts";
import { Counters } from "../../../src/core/counters.ts";
import { silentLog } from "../../../src/core/log.ts";
import { CouplingService } from "../../../src/daemons/coupling/service.ts";
import { Authority, until } from "../bus/authority.ts";
import { FakeDisk, FakeStore } from "../sequence/fakes.ts";

const CLUSTER = `
cluster: lab
bus: { coupling: "127.0.0.1:7700" }
dvipas:
  - { address: 192.0.2.100, distributor: d1, targets: [t1, t2], ports: [80] }
  - { address: 192.0.2.200, distributor: d2, targets: [t3], ports: ALL }
`;
const DVIPA = "192.0.2.100";
const SA = "a".repeat(32);

let lab: Authority;
let store: FakeStore;
let counters: Counters;
let service: CouplingService;
let server: BusServer;
let closers: (() => void | Promise<void>)[];

beforeAll(async () => void (lab = await Authority.create()));
afterAll(() => lab.remove());
beforeEach(async () => {
  store = new FakeStore(new FakeDisk());
  store.auto = true;
  counters = new Counters();
  service = new CouplingService({
    config: parseCluster(CLUSTER, "lab.yaml"),
    store,
    clock: systemClock,
    counters,
    log: silentLog,
    limits: { ceilingStepNumbers: 1000n },
  });
  server = await listenBus({
    host: "127.0.0.1",
    port: 0,
    cluster: "lab",
    self: "coupling",
    credentials: await lab.credentials(null),
    clock: systemClock,
    counters,
    log: silentLog,
    accept: (connection) => service.accept(connection),
  });
  closers = [];
});
afterEach(async () => {
  for (const close of closers) await close();
  service.close();
  await server.close();
});

interface Peer {
  readonly connection: BusConnection;
  readonly notices: string[];
  members: readonly Member[];
}

/** A node that has said hello. */
async function node(name: string, distributes: string[] = []): Promise<Peer> {
  const notices: string[] = [];
  const peer: { members: readonly Member[] } = { members: [] };
  let isGreeted = false;
  const client = new BusClient({
    host: "127.0.0.1",
    port: server.port,
    cluster: "lab",
    self: name,
    credentials: await lab.credentials(name),
    clock: systemClock,
    counters: new Counters(),
    log: silentLog,
    expect: { kind: "coupling", cluster: "lab" },
    handlers: () => ({
      notices: {
        members: ({ members }) => void (peer.members = members),
        recall: ({ highWater, holders }) => void notices.push(`recall ${highWater} ${holders}`),
        fenced: ({ dvipa, epoch }) => void notices.push(`fenced ${dvipa} ${epoch}`),
        rekeySoon: ({ sa }) => void notices.push(`rekeySoon ${sa}`),
      },
    }),
    onOpen: async (connection) => {
      const listen = distributes.length > 0 ? { address: "198.51.100.1", port: 7701 } : null;
      await connection.request("hello", { node: name, instance: "1", listen, distributes });
      isGreeted = true;
    },
  });
  closers.push(() => client.close());
  await until(() => isGreeted, `hello of ${name}`);
  if (client.connection === null) throw new Error("gone");
  return Object.assign(peer, { connection: client.connection, notices });
}

const reserve = (peer: Peer, count: number, nextUnsent = 0n, epoch = 1n) =>
  peer.connection.request("reserve", { sa: SA, epoch, count, nextUnsent });

async function registered(windowPackets = 64): Promise<{ d1: Peer; t1: Peer; t2: Peer }> {
  const d1 = await node("d1", [DVIPA]);
  const [t1, t2] = [await node("t1"), await node("t2")];
  expect(await d1.connection.request("own", { dvipa: DVIPA })).toEqual({ epoch: 1n });
  await d1.connection.request("registerSa", {
    sa: SA,
    dvipa: DVIPA,
    epoch: 1n,
    firstNumber: 1n,
    windowPackets,
    esn: false,
    counterNonce: true,
  });
  return { d1, t1, t2 };
}

test("members, ownership and grants, as nodes see them", async () => {
  const { d1, t1, t2 } = await registered();
  expect(await reserve(t1, 8)).toEqual({ first: 1n, end: 9n, highWater: 9n, holders: 1, rekeySoon: false });
  expect(await reserve(t2, 8)).toMatchObject({ first: 9n, end: 17n, holders: 2 });
  expect(await reserve(d1, 8)).toMatchObject({ first: 17n });
  await until(() => t1.members.length === 3, "members");
  expect(t1.members.find(({ name }) => name === "d1")).toEqual({
    name: "d1",
    listen: { address: "198.51.100.1", port: 7701 },
    distributes: [DVIPA],
    connected: true,
  });
  expect(service.status()).toMatchObject({
    ready: true,
    dvipas: [{ address: DVIPA, owner: "d1", epoch: 1n }],
    sas: [
      {
        sa: SA,
        next: 25n,
        ceiling: 1001n,
        holders: [{ node: "t1", first: 1n, end: 9n }, { node: "t2" }, { node: "d1" }],
      },
    ],
  });
  d1.connection.close("test");
  await until(() => t1.members.some(({ name, connected }) => name === "d1" && !connected), "d1 gone");
});

test("the owner learns who was granted a number, and nobody else does", async () => {
  const { d1, t1, t2 } = await registered();
  await reserve(t1, 8);
  await reserve(t2, 8);
  const holderOf = (peer: Peer, sequence: number, sa = SA) =>
    peer.connection.request("holderOf", { sa, dvipa: DVIPA, sequence });
  expect(await Promise.all([0, 8, 9, 16, 17].map((sequence) => holderOf(d1, sequence)))).toEqual(
    [null, "t1", "t2", "t2", null].map((holder) => ({ node: holder })),
  );
  expect(await holderOf(d1, 8, "b".repeat(32))).toEqual({ node: null });
  await expect(holderOf(t1, 8)).rejects.toMatchObject({ code: "cluster.notOwner" });
});

test("a new epoch fences the old one and tells the others", async () => {
  const { d1, t1 } = await registered();
  expect(await d1.connection.request("own", { dvipa: DVIPA })).toEqual({ epoch: 2n });
  await expect(reserve(t1, 8)).rejects.toMatchObject({ code: "cluster.staleEpoch" });
  await until(() => t1.notices.includes(`fenced ${DVIPA} 2`), "fenced");
  expect(d1.notices).toEqual([]);
});

test("who holds others up is recalled, and its release lets them through", async () => {
  const { t1, t2 } = await registered();
  await reserve(t1, 100);
  const waiting = reserve(t2, 32);
  await until(() => t1.notices.some((notice) => notice.startsWith("recall ")), "a recall");
  await t1.connection.request("release", { sa: SA, epoch: 1n, nextUnsent: 0n });
  expect(await waiting).toMatchObject({ first: 101n });
});

test("rights come from the certificate and the cluster file", async () => {
  const { d1, t1 } = await registered();
  const t3 = await node("t3");
  const d2 = await node("d2", ["192.0.2.200"]);
  await expect(reserve(t3, 1)).rejects.toMatchObject({ code: "cluster.notOwner" });
  await expect(t1.connection.request("own", { dvipa: DVIPA })).rejects.toMatchObject({ code: "cluster.notOwner" });
  await expect(d2.connection.request("own", { dvipa: DVIPA })).rejects.toMatchObject({ code: "cluster.notOwner" });
  await expect(t1.connection.request("retireSa", { sa: SA, dvipa: DVIPA, epoch: 1n })).rejects.toMatchObject({
    code: "cluster.notOwner",
  });
  const registration = {
    sa: "b".repeat(32),
    dvipa: DVIPA,
    epoch: 1n,
    firstNumber: 1n,
    windowPackets: 64,
    esn: false,
    counterNonce: true,
  };
  await expect(t1.connection.request("registerSa", registration)).rejects.toMatchObject({ code: "cluster.notOwner" });
  expect(counters.get("coupling.notATarget")).toBe(1);
  await d1.connection.request("retireSa", { sa: SA, dvipa: DVIPA, epoch: 1n });
  await expect(reserve(t1, 1)).rejects.toMatchObject({ code: "cluster.unknownSa" });
});

/** A connection that has not said hello. */
async function stranger(name: string): Promise<BusConnection> {
  const client = new BusClient({
    host: "127.0.0.1",
    port: server.port,
    cluster: "lab",
    self: name,
    credentials: await lab.credentials(name),
    clock: systemClock,
    counters: new Counters(),
    log: silentLog,
    expect: { kind: "coupling", cluster: "lab" },
    handlers: () => ({ notices: { members: () => {} } }),
    onOpen: () => Promise.resolve(),
  });
  closers.push(() => client.close());
  await until(() => client.connection !== null, "a connection");
  if (client.connection === null) throw new Error("gone");
  return client.connection;
}

test("a certificate for one name does not say hello as another", async () => {
  const connection = await stranger("t1");
  await expect(
    connection.request("hello", { node: "d1", instance: "1", listen: null, distributes: [] }),
  ).rejects.toMatchObject({ code: "bus.unauthorised" });
  await expect(connection.request("own", { dvipa: DVIPA })).rejects.toMatchObject({ code: "bus.protocol" });
  expect(counters.get("coupling.impersonation")).toBe(1);
});

test("nothing goes before hello, and hello promises only what the file says", async () => {
  const connection = await stranger("d1");
  await expect(connection.request("own", { dvipa: DVIPA })).rejects.toMatchObject({ code: "bus.protocol" });
  await expect(
    connection.request("hello", { node: "d1", instance: "1", listen: null, distributes: ["192.0.2.200"] }),
  ).rejects.toMatchObject({ code: "cluster.notOwner" });
});

test("a node that the file does not name is sent away", async () => {
  const socket = connect({
    host: "127.0.0.1",
    port: server.port,
    ...tlsOptions(await lab.credentials("x9")),
    checkServerIdentity: () => undefined,
  });
  socket.on("error", () => {});
  socket.resume();
  await once(socket, "close");
  expect(counters.get("bus.identityRefused")).toBe(1);
});

test("a newer connection of a node ends the older one", async () => {
  const { t1 } = await registered();
  const newer = await stranger("t1");
  await newer.request("hello", { node: "t1", instance: "2", listen: null, distributes: [] });
  expect(await t1.connection.closed).toContain("closed");
});

test("A4 a failed disk write stops all granting; the service stays up and says so", async () => {
  const { d1, t1 } = await registered();
  store.broken = true;
  let next = 1n;
  const refusal = await (async () => {
    for (;;) next = (await reserve(t1, 32, next)).end;
  })().catch((error: unknown) => error);
  expect(refusal).toMatchObject({ code: "store.failed" });
  expect(next).toBeLessThanOrEqual(1001n);
  await expect(d1.connection.request("own", { dvipa: DVIPA })).rejects.toMatchObject({ code: "store.failed" });
  expect(service.status()).toMatchObject({ ready: false });
  expect(service.status().failure).toContain("broken by the test");
});
