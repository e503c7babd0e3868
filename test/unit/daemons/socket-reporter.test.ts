/** What a target tells of its sockets, with sockets that the test makes up. */
import { beforeEach, describe, expect, it } from "vitest";
import type { BusConnection } from "../../../src/bus/connection.ts";
import { Counters } from "../../../src/core/counters.ts";
import { SocketReporter } from "../../../src/daemons/node/socket-reporter.ts";
import { SocketWatch } from "../../../src/daemons/node/socket-watch.ts";
import type { DestroyedOptions, TcpEnds, TcpListener, TcpPresence } from "../../../src/net/socket-diagnostics.ts";
import { FakeClock, settle } from "./fake-clock.ts";

const V4 = "192.0.2.100";
const V6 = "2001:db8::100";
const DVIPAS = [
  { address: V4, ports: [80] },
  { address: V6, ports: "ALL" },
] as const;
const ends = (remotePort: number, local: string = V4, localPort = 80): TcpEnds => ({
  local,
  localPort,
  remote: "192.0.2.10",
  remotePort,
});
const listener = (changes: Partial<TcpListener> = {}): TcpListener => ({
  address: null,
  port: 80,
  versions: [4],
  queued: 0,
  queueLimit: 10,
  ...changes,
});

let clock: FakeClock;
let counters: Counters;
let reporter: SocketReporter;
let watch: SocketWatch;
let kernel: { listeners: TcpListener[]; connections: TcpEnds[]; present: TcpPresence; cpu: number; broken: boolean };
let looks: number;
/** The local addresses of what the kernel was last asked to find. */
let sought: string[];
let destroyed: DestroyedOptions;
let told: { readonly type: string; readonly body: Record<string, unknown> }[];
let link: Pick<BusConnection, "request" | "notify" | "isOpen">;
/** What a request waits for. */
let answered: Promise<unknown>;

function newLink(): typeof link {
  const tell = (type: string, body: object): void => void told.push({ type, body: { ...body } });
  return {
    isOpen: true,
    notify: tell,
    request: async (type: string, body: object) => {
      tell(type, body);
      await answered;
      return {} as never;
    },
  } as typeof link;
}

beforeEach(() => {
  clock = new FakeClock();
  counters = new Counters();
  told = [];
  looks = 0;
  answered = Promise.resolve();
  kernel = { listeners: [], connections: [], present: "absent", cpu: 0, broken: false };
  const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
  watch = new SocketWatch({
    clock,
    counters,
    log,
    open: (options) => {
      destroyed = options;
      return {
        listeners: () => {
          looks += 1;
          return kernel.broken ? Promise.reject(new Error("broken")) : Promise.resolve(kernel.listeners);
        },
        connections: (locals) => Promise.resolve(kernel.connections.filter(({ local }) => locals.has(local))),
        find: (connections) => {
          sought = connections.map(({ local }) => local);
          return Promise.resolve(connections.map(() => kernel.present));
        },
        cpuLoad: () => kernel.cpu,
        close: () => {},
      };
    },
  });
  reporter = new SocketReporter({ watch, clock, counters, log });
  link = newLink();
});

const toldOf = (type: string): Record<string, unknown>[] =>
  told.filter((one) => one.type === type).map(({ body }) => body);
const begin = async (): Promise<void> => {
  reporter.begin(link, DVIPAS);
  await settle();
};

describe("listeners", () => {
  it("are told whole on a new link, and at once when one begins; not again while nothing changes", async () => {
    await begin();
    expect(toldOf("listeners")).toEqual([{ listeners: [], cpuLoad: 0 }]);
    kernel.listeners = [listener()];
    await clock.advance(250);
    expect(toldOf("listeners")[1]).toEqual({ listeners: [{ dvipa: V4, port: 80, load: 0 }], cpuLoad: 0 });
    await clock.advance(5000);
    expect(toldOf("listeners")).toHaveLength(2);
    reporter.end();
    link = newLink();
    await begin();
    expect(toldOf("listeners")).toHaveLength(3);
  });

  it("are looked at as soon as one ends", async () => {
    kernel.listeners = [listener()];
    await begin();
    kernel.listeners = [];
    destroyed.onOther();
    await settle();
    expect(toldOf("listeners").at(-1)).toMatchObject({ listeners: [] });
  });

  it.each([
    ["an IPv4 wildcard", listener(), [[V4, 80]]],
    ["an IPv6 wildcard", listener({ versions: [6], port: 81 }), [[V6, 81]]],
    ["a dual-stack wildcard", listener({ versions: [4, 6] }), [[V4, 80], [V6, 80]]], // prettier-ignore
    ["a DVIPA", listener({ address: V6, versions: [6] }), [[V6, 80]]],
    ["another address", listener({ address: "192.0.2.11" }), []],
    ["a port that is not distributed", listener({ port: 22 }), []],
  ])("on %s are those of the DVIPAs that it takes", async (_what, one, expected) => {
    kernel.listeners = [one];
    await begin();
    const [{ listeners } = {}] = toldOf("listeners");
    expect((listeners as { dvipa: string; port: number }[]).map(({ dvipa, port }) => [dvipa, port])).toEqual(expected);
  });

  it("come with their load, the fuller socket's, once a second at most", async () => {
    kernel.listeners = [listener({ queued: 5 }), listener({ queued: 2 })];
    kernel.cpu = 0.33;
    await begin();
    expect(toldOf("listeners")).toEqual([{ listeners: [{ dvipa: V4, port: 80, load: 0.5 }], cpuLoad: 0.35 }]);
    kernel.listeners = [listener({ queued: 20 })];
    await clock.advance(900);
    expect(toldOf("listeners")).toHaveLength(1);
    await clock.advance(350);
    expect(toldOf("listeners")[1]).toMatchObject({ listeners: [{ load: 1 }] });
  });

  it("that cannot be read are looked for again", async () => {
    kernel.broken = true;
    await begin();
    expect(counters.get("sockets.unreadable")).toBe(1);
    kernel.broken = false;
    await clock.advance(250);
    expect(toldOf("listeners")).toHaveLength(1);
  });

  it("are not looked at for nobody", async () => {
    await begin();
    reporter.end();
    const before = looks;
    await clock.advance(5000);
    expect(looks - before).toBeLessThanOrEqual(1);
  });
});

describe("connections", () => {
  it("are told in parts on a new link, those of the DVIPAs alone, opened ones too", async () => {
    kernel.connections = [
      ...Array.from({ length: 3000 }, (_, at) => ends(at + 1)),
      ends(1, V4, 22),
      ends(1, "192.0.2.11"),
      ends(1, V6, 22),
    ];
    await begin();
    const parts = toldOf("connections");
    expect(parts.map(({ part, last }) => [part, last])).toEqual([
      [0, false],
      [1, true],
    ]);
    const all = parts.flatMap(({ connections }) => connections as { dvipa: string; port: number }[]);
    expect(all).toHaveLength(3002);
    expect(all.at(-2)).toMatchObject({ dvipa: V4, port: 22 });
    expect(all.at(-1)).toMatchObject({ dvipa: V6, port: 22 });
  });

  it("are told once where the distributor repeats its snapshot", async () => {
    await begin();
    await begin();
    expect(toldOf("connections")).toHaveLength(1);
  });

  it("that end are told together, not those that are there again", async () => {
    await begin();
    destroyed.onConnection(ends(1));
    destroyed.onConnection(ends(2));
    destroyed.onConnection(ends(3, V4, 40_000));
    destroyed.onConnection(ends(4, "192.0.2.11"));
    await clock.advance(50);
    expect(toldOf("closed")).toMatchObject([{ connections: [1, 2, 3].map((clientPort) => ({ clientPort })) }]);
    kernel.present = "halfOpen";
    destroyed.onConnection(ends(1));
    await clock.advance(50);
    expect(toldOf("closed")).toHaveLength(1);
    kernel.present = "closing";
    destroyed.onConnection(ends(1));
    await clock.advance(50);
    expect(toldOf("closed")).toHaveLength(2);
  });

  it("that end while the snapshot is told are told behind it", async () => {
    const gate = Promise.withResolvers<null>();
    answered = gate.promise;
    kernel.connections = [ends(1)];
    await begin();
    destroyed.onConnection(ends(1));
    await clock.advance(1000);
    expect(toldOf("closed")).toEqual([]);
    gate.resolve(null);
    await clock.advance(50);
    expect(told.map(({ type }) => type).filter((type) => type !== "listeners")).toEqual(["connections", "closed"]);
  });

  it("are told anew when ends were missed, or too many came at once", async () => {
    await begin();
    destroyed.onOverrun();
    await clock.advance(5000);
    expect(toldOf("connections")).toHaveLength(2);
    for (let port = 1; port <= 20_000; port++) destroyed.onConnection(ends(port));
    await clock.advance(5000);
    expect(toldOf("connections")).toHaveLength(3);
    expect(toldOf("closed").flatMap(({ connections }) => connections as unknown[]).length).toBeLessThan(16_384);
  });

  it("are not told on a link that is gone", async () => {
    await begin();
    destroyed.onConnection(ends(1));
    reporter.end();
    await clock.advance(5000);
    expect(toldOf("closed")).toEqual([]);
  });

  it("are looked up for the distributor, of its own DVIPAs alone", async () => {
    await begin();
    kernel.present = "open";
    const connections = [V4, "192.0.2.11", V6].map((dvipa) => ({ client: "::1", clientPort: 1, dvipa, port: 80 }));
    expect(await reporter.presences(connections)).toEqual({ presences: ["open", "absent", "open"] });
    expect(sought).toEqual([V4, V6]);
  });

  it("are not called absent while no snapshot has told which DVIPAs are its own", async () => {
    const connections = [{ client: "::1", clientPort: 1, dvipa: V4, port: 80 }];
    await expect(reporter.presences(connections)).rejects.toMatchObject({ code: "cluster.notServing" });
    await begin();
    expect(await reporter.presences(connections)).toEqual({ presences: ["absent"] });
    reporter.end();
    await expect(reporter.presences(connections)).rejects.toMatchObject({ code: "cluster.notServing" });
  });
});
