/** What targets, honest and hostile ones, can make of the distributor's tables. */
import fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import { decodeNotice, decodeRequest } from "../../../src/bus/messages.ts";
import { Counters } from "../../../src/core/counters.ts";
import { TargetSockets } from "../../../src/daemons/node/target-sockets.ts";
import { ConnectionTable, type ConnectionKey, type Presence } from "../../../src/steer/connection-table.ts";
import { FakeClock, settle } from "./fake-clock.ts";

const DVIPA = "192.0.2.100";
const REPEATED_SYN = { sourcePort: 1, destinationPort: 80, syn: true, ack: false, fin: false, rst: false };
const key = (clientPort: number, dvipa = DVIPA, port = 80): ConnectionKey => ({
  client: "192.0.2.10",
  clientPort,
  dvipa,
  port,
});

let table: ConnectionTable;
let clock: FakeClock;
let counters: Counters;
let sockets: TargetSockets;
let asked: { target: string; ports: number[] }[];
let answer: (connections: readonly ConnectionKey[]) => Promise<readonly Presence[]>;
let connected: Set<string>;
let complete: string[];
let entered: string[];

beforeEach(() => {
  table = new ConnectionTable();
  clock = new FakeClock();
  counters = new Counters();
  asked = [];
  complete = [];
  entered = [];
  connected = new Set(["t1", "t2"]);
  answer = (connections) => Promise.resolve(connections.map(() => "open"));
  sockets = new TargetSockets({
    connections: table,
    // t2 serves another DVIPA alone.
    serves: (target, dvipa) => dvipa === (target === "t1" ? DVIPA : "192.0.2.101"),
    isDistributed: (_dvipa, port) => port === 80,
    enterOpened: (target, connections) => {
      for (const { clientPort, port } of connections) entered.push(`${target} ${clientPort} from ${port}`);
      return Promise.resolve(connections.map(({ port }) => port !== 22));
    },
    isConnected: (target) => connected.has(target),
    ask: (target, connections) => {
      asked.push({ target, ports: connections.map(({ clientPort }) => clientPort) });
      return answer(connections);
    },
    onConnections: (target) => void complete.push(target),
    clock,
    counters,
  });
  for (const target of connected) sockets.joined(target);
});

const from = (target: string, isCurrent = true): ReturnType<TargetSockets["handlers"]> =>
  sockets.handlers(target, () => isCurrent);
const listen = (target: string, dvipa: string, port: number, load = 0, isCurrent = true): void =>
  from(target, isCurrent).notices.listeners?.({ listeners: [{ dvipa, port, load }], cpuLoad: 0.25 });
const closed = (target: string, connections: ConnectionKey[]): void => from(target).notices.closed?.({ connections });
const tell = async (
  target: string,
  part: number,
  last: boolean,
  connections: ConnectionKey[],
  isCurrent = true,
): Promise<unknown> => from(target, isCurrent).requests.connections?.({ part, last, connections });
const states = (): string[] =>
  table
    .list()
    .map((c) => `${c.target} ${c.clientPort} ${c.state}`)
    .sort();

describe("listeners", () => {
  it("are what the target said last, with the larger of its loads", () => {
    expect(sockets.loadOf("t1", DVIPA, 80)).toBeNull();
    listen("t1", DVIPA, 80);
    expect(sockets.loadOf("t1", DVIPA, 80)).toBe(0.25);
    listen("t1", DVIPA, 80, 0.75);
    expect(sockets.loadOf("t1", DVIPA, 80)).toBe(0.75);
    expect(sockets.listenersOf("t1")).toEqual([{ dvipa: DVIPA, port: 80 }]);
    from("t1").notices.listeners?.({ listeners: [], cpuLoad: 0 });
    expect(sockets.loadOf("t1", DVIPA, 80)).toBeNull();
  });

  it("are forgotten when the target leaves or joins anew", () => {
    listen("t1", DVIPA, 80);
    sockets.joined("t1");
    expect(sockets.loadOf("t1", DVIPA, 80)).toBeNull();
    listen("t1", DVIPA, 80);
    sockets.left("t1");
    expect(sockets.loadOf("t1", DVIPA, 80)).toBeNull();
  });

  it("of a DVIPA that is not its own, of another port, or from an old connection, do not count", () => {
    listen("t2", DVIPA, 80);
    listen("t1", DVIPA, 22);
    listen("t1", DVIPA, 80, 0, false);
    for (const target of ["t1", "t2"]) expect(sockets.listenersOf(target)).toEqual([]);
    expect(counters.get("targets.reportRefused")).toBe(2);
  });

  it("are heard so often a second and no more", async () => {
    for (let i = 0; i < 100; i++) listen("t1", DVIPA, 80, i / 100);
    expect(counters.get("targets.reportsTooOften")).toBe(80);
    expect(sockets.loadOf("t1", DVIPA, 80)).toBe(0.25);
    await clock.advance(1000);
    listen("t1", DVIPA, 80, 1);
    expect(sockets.loadOf("t1", DVIPA, 80)).toBe(1);
  });
});

describe("connections", () => {
  it("are asked for in batches, and confirmed by the answer", async () => {
    sockets.start();
    for (let port = 1; port <= 600; port++) table.add(key(port), "t1", "peer", 0);
    await clock.advance(100);
    expect(asked.map(({ target, ports }) => [target, ports.length])).toEqual([
      ["t1", 512],
      ["t1", 88],
    ]);
    expect(new Set(table.list().map(({ state }) => state))).toEqual(new Set(["confirmed"]));
    await clock.advance(10_000);
    expect(asked).toHaveLength(2);
    sockets.stop();
  });

  it("of a target that is away, does not answer or answers nonsense are asked for again", async () => {
    sockets.start();
    table.add(key(1), "t1", "peer", 0);
    connected.delete("t1");
    await clock.advance(100);
    expect(asked).toEqual([]);
    connected.add("t1");
    answer = () => Promise.reject(new Error("no answer"));
    await clock.advance(400);
    answer = () => Promise.resolve(["open", "open"]);
    await clock.advance(1_600);
    expect(counters.get("targets.questionFailed")).toBe(2);
    expect(states()).toEqual(["t1 1 provisional"]);
    answer = () => Promise.resolve(["open"]);
    await clock.advance(5_000);
    expect(states()).toEqual(["t1 1 confirmed"]);
    sockets.stop();
  });

  it("are not ended by an answer that comes after their repeated SYN, to a question from before it", async () => {
    const answers: ((presences: readonly Presence[]) => void)[] = [];
    answer = () => new Promise((resolve) => answers.push(resolve));
    sockets.start();
    table.add(key(1), "t1", "192.0.2.10", 0);
    await clock.advance(18_000);
    table.follow(key(1), REPEATED_SYN, clock.nowMs());
    await clock.advance(4_000);
    expect(answers.length).toBeGreaterThan(0);
    for (const resolve of answers.splice(0)) resolve(["absent"]);
    await settle();
    expect(states()).toEqual(["t1 1 provisional"]);
    await clock.advance(5_000);
    for (const resolve of answers) resolve(["absent"]);
    await settle();
    expect(states()).toEqual([]);
    sockets.stop();
  });

  it("of a target that never answers do not pile up questions", async () => {
    sockets.start();
    answer = () => new Promise(() => {});
    for (let port = 1; port <= 40_000; port++) table.add(key(port), "t1", `peer ${port % 100}`, 0);
    await clock.advance(20_000);
    expect(asked.length).toBe(8);
    sockets.stop();
  });

  it("end by the word of their own target alone, for DVIPAs that it serves", () => {
    table.reported(key(1), "t1", 0);
    table.reported(key(2, "192.0.2.101"), "t2", 0);
    closed("t2", [key(1), key(2)]);
    closed("t1", [key(2, "192.0.2.101")]);
    expect(states()).toEqual(["t1 1 confirmed", "t2 2 confirmed"]);
    expect(counters.get("targets.reportRefused")).toBe(3);
    closed("t1", [key(1)]);
    expect(states()).toEqual(["t1 1 closing", "t2 2 confirmed"]);
  });

  it("are rebuilt from a target's snapshot; what it does not name, it is asked for", async () => {
    sockets.start();
    table.reported(key(1), "t1", 0);
    table.reported(key(2), "t1", 0);
    await clock.advance(1000);
    await tell("t1", 0, false, [key(2)]);
    expect(complete).toEqual([]);
    await tell("t1", 1, true, [key(3), key(4, "192.0.2.101")]);
    expect(complete).toEqual(["t1"]);
    expect(states()).toEqual([1, 2, 3].map((port) => `t1 ${port} confirmed`));
    answer = () => Promise.resolve(["absent"]);
    await clock.advance(200);
    expect(asked).toEqual([{ target: "t1", ports: [1] }]);
    expect(states()).toEqual(["t1 1 closing", "t1 2 confirmed", "t1 3 confirmed"]);
    sockets.stop();
  });

  it("that the target has opened, from other ports, are entered as such, where it serves the DVIPA", async () => {
    await tell("t1", 0, true, [key(1), key(2, DVIPA, 40_000), key(3, "192.0.2.101", 40_000), key(4, DVIPA, 22)]);
    expect(entered).toEqual(["t1 2 from 40000", "t1 4 from 22"]);
    expect(states()).toEqual(["t1 1 confirmed"]);
    expect(counters.get("steer.connectionsReported")).toBe(2);
    expect(counters.get("targets.connectionRefused")).toBe(1);
    expect(counters.get("targets.reportRefused")).toBe(1);
  });

  it("that the target has opened end by its word", () => {
    table.opened(key(1, DVIPA, 40_000), "t1", 0);
    table.opened(key(2, DVIPA, 40_000), "t1", 0);
    closed("t2", [key(1, DVIPA, 40_000)]);
    closed("t1", [key(2, DVIPA, 40_000)]);
    expect(states()).toEqual(["t1 1 confirmed", "t1 2 closing"]);
  });

  it("of a snapshot do not take another target's", async () => {
    table.add(key(1, "192.0.2.101"), "t1", "peer", 0);
    await tell("t2", 0, true, [key(1, "192.0.2.101")]);
    expect(states()).toEqual(["t1 1 provisional"]);
    expect(counters.get("targets.connectionRefused")).toBe(1);
  });

  it("of a snapshot with a gap, without an end, or from an old connection are refused", async () => {
    await expect(tell("t1", 1, true, [])).rejects.toThrow("a part");
    await expect(tell("t1", 0, true, [], false)).rejects.toThrow("has not joined");
    const part = Array.from({ length: 2048 }, (_, at) => key(1 + at));
    for (let at = 0; at < 32; at++) await tell("t1", at, false, part);
    await expect(tell("t1", 32, false, part)).rejects.toThrow("more connections");
  });
});

describe("whatever passes the schema", () => {
  it("changes nothing of another target's, and is bounded", async () => {
    const anyKey = fc.record({
      client: fc.constantFrom("192.0.2.10", "2001:db8::1"),
      clientPort: fc.integer({ min: 0, max: 3 }),
      dvipa: fc.constantFrom(DVIPA, "192.0.2.101", "::1"),
      port: fc.constantFrom(80, 22, 0),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(anyKey, { maxLength: 20 }),
        fc.array(anyKey, { maxLength: 20 }),
        async (told, ended) => {
          const before = [key(1), key(2), key(3)];
          for (const one of before) table.reported(one, "t1", 0);
          await tell("t2", 0, true, told);
          closed("t2", ended);
          expect(table.list().filter(({ target, state }) => target === "t1" && state === "confirmed")).toHaveLength(3);
          for (const { target, dvipa } of table.list()) if (target === "t2") expect(dvipa).toBe("192.0.2.101");
        },
      ),
    );
  });

  it("is what the schema says", () => {
    const good = { ...key(1) };
    expect(decodeNotice("closed", { connections: [good] })).toEqual({ connections: [good] });
    for (const bad of [{ ...good, port: -1 }, { ...good, client: "x" }, { ...good, more: 1 }, "x", null]) {
      expect(decodeNotice("closed", { connections: [bad] })).toBeNull();
      expect(decodeRequest("connections", { part: 0, last: true, connections: [bad] })).toBeNull();
      expect(decodeRequest("haveConnections", { connections: [bad] })).toBeNull();
    }
    expect(decodeNotice("closed", { connections: Array(2049).fill(good) })).toBeNull();
    expect(decodeRequest("haveConnections", { connections: Array(513).fill(good) })).toBeNull();
    const listener = { dvipa: DVIPA, port: 80, load: 0.5 };
    expect(decodeNotice("listeners", { listeners: [listener], cpuLoad: 1 })).not.toBeNull();
    for (const cpuLoad of [-0.1, 1.1, null, "1"])
      expect(decodeNotice("listeners", { listeners: [], cpuLoad })).toBeNull();
    expect(decodeNotice("listeners", { listeners: Array(8193).fill(listener), cpuLoad: 0 })).toBeNull();
  });
});
