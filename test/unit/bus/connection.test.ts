/** Two ends of the bus over real mutual TLS on loopback. */
import { once } from "node:events";
import { duplexPair } from "node:stream";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { BusClient, type BusClientOptions } from "../../../src/bus/client.ts";
import { BusConnection, type BusHandlers } from "../../../src/bus/connection.ts";
import { EnvelopeWriter } from "../../../src/bus/envelope.ts";
import { MAX_FRAME_BYTES } from "../../../src/bus/frames.ts";
import type { BusLimits } from "../../../src/bus/limits.ts";
import { Outgoing } from "../../../src/bus/outgoing.ts";
import { type BusServer, listenBus } from "../../../src/bus/server.ts";
import { systemClock } from "../../../src/core/clock.ts";
import { Counters } from "../../../src/core/counters.ts";
import { EsplexError } from "../../../src/core/errors.ts";
import { silentLog } from "../../../src/core/log.ts";
import { connect as connectPlain, type AddressInfo } from "node:net";
import { connect, createServer, type TLSSocket } from "node:tls";
import { tlsOptions } from "../../../src/bus/credentials.ts";
import { FrameDecoder } from "../../../src/bus/frames.ts";
import { isBatch } from "../../../src/bus/reserve-batch.ts";
import { Authority, until } from "./authority.ts";
import { encodeFrames } from "./frames.ts";

const SA = "a".repeat(32);
const GRANT = { first: 1n, end: 2n, highWater: 2n, holders: 1, rekeySoon: false };
const fast: Partial<BusLimits> = { heartbeatMs: 50, silenceMs: 400, requestMs: 300 };

let lab: Authority;
let closers: (() => void | Promise<void>)[] = [];
beforeAll(async () => void (lab = await Authority.create()));
afterAll(() => lab.remove());
afterEach(async () => {
  for (const close of closers.reverse()) await close();
  closers = [];
});

interface Listening {
  readonly server: BusServer;
  readonly counters: Counters;
  readonly connections: BusConnection[];
}

async function listen(handlers: BusHandlers, limits: Partial<BusLimits> = fast): Promise<Listening> {
  const counters = new Counters();
  const connections: BusConnection[] = [];
  const server = await listenBus({
    host: "127.0.0.1",
    port: 0,
    cluster: "lab",
    self: "coupling",
    credentials: await lab.credentials(null),
    clock: systemClock,
    counters,
    log: silentLog,
    limits,
    accept: (connection) => {
      connections.push(connection);
      return handlers;
    },
  });
  closers.push(() => server.close());
  return { server, counters, connections };
}

async function dial(
  port: number,
  options: Partial<BusClientOptions> = {},
): Promise<{ client: BusClient; counters: Counters }> {
  const counters = new Counters();
  const client = new BusClient({
    host: "127.0.0.1",
    port,
    cluster: "lab",
    self: "t1",
    credentials: await lab.credentials("t1"),
    clock: systemClock,
    counters,
    log: silentLog,
    limits: fast,
    expect: { kind: "coupling", cluster: "lab" },
    handlers: () => ({}),
    onOpen: () => Promise.resolve(),
    ...options,
  });
  closers.push(() => client.close());
  return { client, counters };
}

async function open(port: number, options: Partial<BusClientOptions> = {}): Promise<BusConnection> {
  const { client } = await dial(port, options);
  await until(() => client.connection !== null, "a connection");
  if (client.connection === null) throw new Error("closed at once");
  return client.connection;
}

/** A peer with a good certificate that writes what it likes. */
async function raw(port: number, node = "t1"): Promise<TLSSocket> {
  const socket = connect({
    host: "127.0.0.1",
    port,
    ...tlsOptions(await lab.credentials(node)),
    checkServerIdentity: () => undefined,
  });
  socket.on("error", () => {});
  await once(socket, "secureConnect");
  closers.push(() => void socket.destroy());
  return socket;
}

/** The bytes of the first turn of "t1", with byte `at` of the first frame's body changed to `to`. */
function batchFrames(write: (out: Outgoing) => void, at?: number, to = 0): Buffer {
  const out = new Outgoing("t1", new EnvelopeWriter("t1"), MAX_FRAME_BYTES);
  write(out);
  const bytes = out.take();
  if (at !== undefined) bytes[4 + at] = to;
  return bytes;
}

/** Resolves when the other side has ended the connection, in whatever way. */
function ended(socket: TLSSocket): Promise<void> {
  socket.on("error", () => {});
  socket.resume();
  return new Promise((resolve) => socket.once("close", () => resolve()));
}

const reserve = { sa: SA, epoch: 1n, count: 1, nextUnsent: 0n };

test("requests are answered, errors keep their code, both ways", async () => {
  const { server, connections } = await listen({
    requests: {
      own: ({ dvipa }) => {
        if (dvipa === "192.0.2.1") return { epoch: 7n };
        throw new EsplexError("cluster.notOwner", "not yours");
      },
    },
  });
  const connection = await open(server.port, {
    handlers: () => ({ requests: { leaseWant: () => Promise.resolve({ ok: true }) } }),
  });
  expect(await connection.request("own", { dvipa: "192.0.2.1" })).toEqual({ epoch: 7n });
  await expect(connection.request("own", { dvipa: "192.0.2.2" })).rejects.toMatchObject({ code: "cluster.notOwner" });
  expect(await connections[0]?.request("leaseWant", { sa: SA })).toEqual({ ok: true });
});

test("messages are handled in order; reserve does not hold others up", async () => {
  const log: string[] = [];
  const later = <T>(name: string, ms: number, value: T): Promise<T> => {
    log.push(`${name} starts`);
    return new Promise((resolve) =>
      setTimeout(() => {
        log.push(`${name} ends`);
        resolve(value);
      }, ms),
    );
  };
  const { server } = await listen({
    requests: {
      own: ({ dvipa }) => later(dvipa, 30, { epoch: 1n }),
      reserve: () => later("reserve", 60, GRANT),
    },
    notices: { resync: () => void log.push("resync") },
  });
  const connection = await open(server.port);
  const all = [
    connection.request("reserve", reserve),
    connection.request("own", { dvipa: "192.0.2.1" }),
    connection.request("own", { dvipa: "192.0.2.2" }),
  ];
  connection.notify("resync", {});
  await Promise.all(all);
  await until(() => log.includes("resync"), "the notice");
  expect(log.filter((line) => line !== "reserve ends")).toEqual([
    "reserve starts",
    "192.0.2.1 starts",
    "192.0.2.1 ends",
    "192.0.2.2 starts",
    "192.0.2.2 ends",
    "resync",
  ]);
});

test("a request that is never answered times out; the connection stays, the late answer is counted", async () => {
  let answer: (value: typeof GRANT) => void = () => {};
  const { server } = await listen({ requests: { reserve: () => new Promise((resolve) => (answer = resolve)) } });
  const { client, counters } = await dial(server.port);
  await until(() => client.connection !== null, "a connection");
  await expect(client.connection?.request("reserve", reserve, 100)).rejects.toMatchObject({ code: "bus.timeout" });
  answer(GRANT);
  await until(() => counters.get("bus.lateAnswer") === 1, "the late answer");
  expect(client.connection?.isOpen).toBe(true);
});

test("an answer is taken once: its repeat is dropped, also while the next request waits; a repeated frame ends the connection", async () => {
  // A coupling service that writes what it likes.
  const requests: Buffer[] = [];
  const sockets: TLSSocket[] = [];
  const service = createServer({ ...tlsOptions(await lab.credentials(null)), requestCert: true }, (socket) => {
    const decoder = new FrameDecoder();
    sockets.push(socket);
    socket.on("error", () => {});
    socket.on("data", (chunk: Buffer) => requests.push(...decoder.push(chunk).filter(isBatch)));
  });
  service.listen(0, "127.0.0.1");
  await once(service, "listening");
  closers.push(() => void service.close());
  const { client, counters } = await dial((service.address() as AddressInfo).port, { limits: { requestMs: 10_000 } });
  await until(() => client.connection !== null && sockets.length === 1, "a connection");
  const { connection } = client;
  const answer = (number: number, id: number, first: number): string =>
    `{"n":${number},"f":"coupling","a":${id},"b":{"first":"${first}","end":"${first + 1}","highWater":"9","holders":1,"rekeySoon":false}}`;

  const one = connection?.request("reserve", reserve);
  await until(() => requests.length === 1, "the first request");
  sockets[0]?.write(encodeFrames([answer(1, 1, 1)]));
  expect(await one).toMatchObject({ first: 1n });

  const two = connection?.request("reserve", reserve);
  await until(() => requests.length === 2, "the second request");
  sockets[0]?.write(encodeFrames([answer(2, 1, 1)]));
  await until(() => counters.get("bus.lateAnswer") === 1, "the repeat");
  sockets[0]?.write(encodeFrames([answer(3, 2, 2)]));
  expect(await two).toMatchObject({ first: 2n });

  const three = connection?.request("reserve", reserve);
  const refused = expect(three).rejects.toMatchObject({ code: "bus.closed" });
  await until(() => requests.length === 3, "the third request");
  sockets[0]?.write(encodeFrames([answer(3, 2, 2)]));
  await refused;
  expect(counters.get("bus.sequenceGap")).toBe(1);
  client.close();
});

test("the client dials again, and says hello again; what was under way fails", async () => {
  const { server, connections } = await listen({ requests: { reserve: () => new Promise(() => {}) } });
  let hellos = 0;
  const connection = await open(server.port, {
    onOpen: () => {
      hellos++;
      return hellos === 2 ? Promise.reject(new Error("not yet")) : Promise.resolve();
    },
  });
  // The server may see the end of the handshake later than the client.
  await until(() => connections.length === 1, "the server's side");
  const request = connection.request("reserve", reserve);
  connections[0]?.close("test");
  await expect(request).rejects.toMatchObject({ code: "bus.closed" });
  await until(() => hellos >= 3, "three hellos");
});

test("silence on the other side is noticed, half a frame does not count as life", async () => {
  const { server, counters, connections } = await listen({});
  const socket = await raw(server.port);
  socket.write(Buffer.from([0, 0, 1, 0, 0x7b]));
  await until(() => counters.get("bus.peerSilent") === 1, "silence");
  expect(connections[0]?.isOpen).toBe(false);
});

test.each([
  ["garbage", Buffer.from("GET / HTTP/1.1\r\n\r\n"), "bus.frameLength"],
  ["a giant length", Buffer.from([0xff, 0xff, 0xff, 0xff]), "bus.frameLength"],
  ["no JSON", encodeFrames(["{"]), "bus.frameMalformed"],
  ["no envelope", encodeFrames(['{"n":1,"f":"t1"}']), "bus.frameMalformed"],
  ["another sender", encodeFrames(['{"n":1,"f":"t2","h":1}']), "bus.senderMismatch"],
  ["a gap", encodeFrames(['{"n":1,"f":"t1","h":1}', '{"n":3,"f":"t1","h":1}']), "bus.sequenceGap"],
  ["a repeat", encodeFrames(['{"n":1,"f":"t1","h":1}', '{"n":1,"f":"t1","h":1}']), "bus.sequenceGap"],
  ["an unknown type", encodeFrames(['{"n":1,"f":"t1","q":1,"t":"__proto__","b":{}}']), "bus.messageUnknown"],
  ["a type without a handler", encodeFrames(['{"n":1,"f":"t1","q":1,"t":"snapshot","b":{}}']), "bus.messageUnexpected"],
  ["a wrong body", encodeFrames(['{"n":1,"f":"t1","q":1,"t":"own","b":{"dvipa":5}}']), "bus.messageInvalid"],
  ["a batch of another version", batchFrames((out) => out.request(1, reserve), 1, 2), "bus.frameVersion"],
  ["a batch with a wrong length", batchFrames((out) => out.request(1, reserve), 9, 2), "bus.frameMalformed"],
  ["a batch of another sender", batchFrames((out) => out.request(1, reserve), 11, 0x78), "bus.senderMismatch"],
  ["a batch after a gap", batchFrames((out) => out.request(1, reserve), 7, 2), "bus.sequenceGap"],
  ["a wrong record", batchFrames((out) => out.request(1, reserve), 46, 0), "bus.messageInvalid"],
  ["a batch without a handler", batchFrames((out) => out.request(1, reserve)), "bus.messageUnexpected"],
  ["a wrong notice", encodeFrames(['{"n":1,"f":"t1","t":"recall","b":{}}']), "bus.messageUnexpected"],
])("%s closes the connection and is counted", async (_name, bytes, counter) => {
  const { server, counters } = await listen({ requests: { own: () => ({ epoch: 1n }) } });
  const socket = await raw(server.port);
  socket.write(bytes);
  await ended(socket);
  expect(counters.get(counter)).toBe(1);
  const connection = await open(server.port);
  expect(await connection.request("own", { dvipa: "192.0.2.1" })).toEqual({ epoch: 1n });
});

test("answers to reservations: each caller gets its own, errors among them; JSON is understood too", async () => {
  const { server } = await listen({
    requests: {
      own: () => ({ epoch: 1n }),
      reserve: ({ count }) => {
        if (count % 3 === 0) throw new EsplexError("cluster.exhausted", `no ${count}`);
        const grant = { ...GRANT, first: BigInt(count), end: BigInt(count + 1) };
        return count % 3 === 1 ? grant : new Promise((resolve) => setTimeout(() => resolve(grant), count % 7));
      },
    },
  });
  const connection = await open(server.port, { limits: { requestMs: 10_000 } });
  const outcomes = Array.from({ length: 600 }, async (_, i) => {
    if (i % 100 === 99) await connection.request("own", { dvipa: "192.0.2.1" });
    const answer = connection.request("reserve", { ...reserve, count: i + 1 });
    return answer.then(
      ({ first }) => Number(first),
      (error: unknown) => (error as EsplexError).message,
    );
  });
  expect(await Promise.all(outcomes)).toEqual(outcomes.map((_, i) => ((i + 1) % 3 === 0 ? `no ${i + 1}` : i + 1)));

  const socket = await raw(server.port);
  const body = `{"sa":"${SA}","epoch":"1","count":1,"nextUnsent":"0"}`;
  socket.write(encodeFrames([`{"n":1,"f":"t1","q":1,"t":"reserve","b":${body}}`]));
  const [answer] = (await once(socket, "data")) as [Buffer];
  expect(answer.toString("utf8", 4)).toContain('"b":{"first":"1"');
});

test("a reservation that cannot be sent is refused here, the connection stays", async () => {
  const { server } = await listen({ requests: { reserve: () => GRANT } });
  const connection = await open(server.port);
  await expect(connection.request("reserve", { ...reserve, count: 0 })).rejects.toMatchObject({ code: "bus.protocol" });
  expect(await connection.request("reserve", reserve)).toEqual(GRANT);
});

test("a grant that cannot be sent is an error for its caller alone", async () => {
  const { server } = await listen({
    requests: { reserve: ({ count }) => ({ ...GRANT, end: count === 1 ? 1n << 64n : 2n }) },
  });
  const connection = await open(server.port);
  const [broken, good] = await Promise.allSettled([
    connection.request("reserve", reserve),
    connection.request("reserve", { ...reserve, count: 2 }),
  ]);
  expect(broken).toMatchObject({ status: "rejected", reason: { code: "bus.protocol" } });
  expect(good).toEqual({ status: "fulfilled", value: GRANT });
});

test.each([
  ["a grant for a request of another type", (out: Outgoing) => out.grant(1, GRANT), "bus.messageInvalid"],
  ["requests, where nobody grants", (out: Outgoing) => out.request(1, reserve), "bus.messageUnexpected"],
])("%s closes the connection and is counted", async (_name, write, counter) => {
  const counters = new Counters();
  const [near, far] = duplexPair();
  const connection = new BusConnection(near, {
    ...{ self: "t1", peer: { kind: "coupling", cluster: "lab" } as const },
    ...{ clock: systemClock, counters, log: silentLog },
  });
  connection.start({});
  const answer = connection.request("own", { dvipa: "192.0.2.1" });
  const out = new Outgoing("coupling", new EnvelopeWriter("coupling"), MAX_FRAME_BYTES);
  write(out);
  far.write(out.take());
  await expect(answer).rejects.toBeInstanceOf(EsplexError);
  expect(counters.get(counter)).toBe(1);
  expect(connection.isOpen).toBe(false);
});

test("a reader that does not read is cut off, others go on", async () => {
  const { server, counters, connections } = await listen({}, { ...fast, silenceMs: 60_000, maxSendBytes: 256 * 1024 });
  const socket = await raw(server.port);
  socket.pause();
  await until(() => connections.length === 1, "the server's end");
  const [connection] = connections;
  const members = Array.from({ length: 200 }, (_, i) => ({
    name: `n${i}`,
    listen: null,
    distributes: [],
    connected: true,
  }));
  for (let i = 0; i < 5000 && connection?.isOpen === true; i++) {
    connection.notify("members", { members });
    if (i % 10 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  expect(counters.get("bus.slowReader")).toBe(1);
});

test("more messages than handlers can take stop the reading, and nothing is lost", async () => {
  let running = 0;
  let most = 0;
  const { server } = await listen(
    {
      requests: {
        reserve: async () => {
          most = Math.max(most, ++running);
          await new Promise((resolve) => setTimeout(resolve, 5));
          running--;
          return GRANT;
        },
      },
    },
    { maxInbox: 16 },
  );
  const connection = await open(server.port, { limits: { requestMs: 10_000 } });
  // In several writes: one TLS record is always handled as a whole.
  const answers = [];
  for (let i = 0; i < 40; i++) {
    for (let k = 0; k < 50; k++) answers.push(connection.request("reserve", reserve));
    await new Promise((resolve) => setImmediate(resolve));
  }
  expect(await Promise.all(answers)).toHaveLength(2000);
  expect(most).toBeLessThan(1000);
});

test("other CAs, other clusters, other names and no certificate get nowhere", async () => {
  const { server, counters, connections } = await listen({ requests: { own: () => ({ epoch: 1n }) } });
  const stranger = await Authority.create();
  const other = await Authority.create("other");
  closers.push(
    () => stranger.remove(),
    () => other.remove(),
  );

  // Neither side trusts the other's CA.
  const { counters: dialled } = await dial(server.port, { credentials: await stranger.credentials("t1") });
  await until(() => dialled.get("bus.dialFailed") >= 1, "a failed dial");

  // A client that trusts anybody, with a wrong certificate or none.
  for (const context of [tlsOptions(await stranger.credentials("t1")), tlsOptions(await other.credentials("t1")), {}]) {
    const socket = connect({ host: "127.0.0.1", port: server.port, rejectUnauthorized: false, ...context });
    await ended(socket);
  }
  await until(() => counters.get("bus.tlsRefused") >= 4, "refused handshakes");

  // The right CA, but the client expects somebody else.
  const { counters: wrong } = await dial(server.port, { expect: { kind: "node", cluster: "lab", name: "d1" } });
  await until(() => wrong.get("bus.dialFailed") >= 1, "a refused server");
  expect(connections.filter((connection) => connection.isOpen && connection.peer.kind !== "node")).toEqual([]);
});

test("a certificate of our CA for another cluster is refused by its name", async () => {
  const { server, counters } = await listen({});
  // Same CA, wrong URI: issued by hand, past the checks of `esplex pki`.
  const foreign = await lab.foreign("esplex://elsewhere/node/t1");
  const socket = connect({
    host: "127.0.0.1",
    port: server.port,
    ...tlsOptions(foreign),
    checkServerIdentity: () => undefined,
  });
  await ended(socket);
  expect(counters.get("bus.identityRefused")).toBe(1);
});

test("TLS 1.2 is refused", async () => {
  const { server, counters } = await listen({});
  const socket = connect({ host: "127.0.0.1", port: server.port, rejectUnauthorized: false, maxVersion: "TLSv1.2" });
  await ended(socket);
  await until(() => counters.get("bus.tlsRefused") === 1, "a refused handshake");
});

test("a server that closes waits for nobody whose handshake was under way", async () => {
  const { server, connections } = await listen({ requests: {} });
  const socket = connectPlain({ host: "127.0.0.1", port: server.port });
  await once(socket, "connect");
  // Until the server has taken it: what is only in its backlog is reset.
  await new Promise((resolve) => setTimeout(resolve, 50));
  const closed = server.close();
  const secure = connect({ ...tlsOptions(await lab.credentials("t1")), socket, checkServerIdentity: () => undefined });
  secure.on("error", () => {});
  await once(secure, "close");
  await closed;
  expect(connections).toHaveLength(0);
});
