import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { TcpEnds } from "../../../src/net/socket-diagnostics.ts";
import { eventually } from "../support/eventually.ts";
import { Namespace } from "../support/namespace.ts";
import type { Worker } from "../support/worker.ts";
import type { SocketHandlers } from "./socket-worker.ts";

//  One namespace: 192.0.2.100 and 2001:db8::100 on lo, as a target has its DVIPAs; client and server in one process.

const V4 = "192.0.2.100";
const V6 = "2001:db8::100";
const MANY = 1000;

let n: Namespace;
let sockets: Worker<SocketHandlers>;

beforeAll(async () => {
  n = await Namespace.create("sockets");
  await n.ip(`address add ${V4}/32 dev lo`);
  await n.ip(`address add ${V6}/128 dev lo nodad`);
  sockets = await n.worker<SocketHandlers>("test/netns/net/socket-worker.ts");
});

afterAll(async () => {
  for (const part of [sockets, n]) await part[Symbol.asyncDispose]();
});

/** As text, so that sets of connections compare. */
const textOf = (all: readonly TcpEnds[]): string[] =>
  all.map(({ local, localPort, remote, remotePort }) => `${local} ${localPort} ${remote} ${remotePort}`).sort();

async function listenersOn(port: number): Promise<unknown[]> {
  const all = await sockets.call("listeners", undefined);
  return all.filter((entry) => entry.port === port).map(({ address, versions }) => ({ address, versions }));
}

/** Dials, and waits until the other side has accepted. */
async function dial(host: string, port: number, count: number): Promise<TcpEnds[]> {
  const before = await sockets.call("accepted", undefined);
  const ends = await sockets.call("dial", { host, port, count });
  await eventually("all are accepted", async () => (await sockets.call("accepted", undefined)) === before + count);
  return ends;
}

describe("listeners", () => {
  it.each([
    ["a wildcard of IPv4", 1001, { host: "0.0.0.0" }, { address: null, versions: [4] }],
    ["a dual-stack wildcard", 1002, { host: "::" }, { address: null, versions: [4, 6] }],
    ["a wildcard of IPv6 only", 1003, { host: "::", ipv6Only: true }, { address: null, versions: [6] }],
    ["an IPv4 address", 1004, { host: V4 }, { address: V4, versions: [4] }],
    ["an IPv6 address", 1005, { host: V6 }, { address: V6 }],
  ])("%s is listed while it listens, and its end is told", async (_what, port, options, expected) => {
    expect(await listenersOn(port)).toEqual([]);
    await sockets.call("listen", { port, ...options });
    expect(await listenersOn(port)).toMatchObject([expected]);
    const before = await sockets.call("others", undefined);
    await sockets.call("stopListening", port);
    await eventually("the end", async () => (await sockets.call("others", undefined)) > before);
    expect(await listenersOn(port)).toEqual([]);
  });

  it("tell the limit of their queue", async () => {
    await sockets.call("listen", { host: V4, port: 1010, backlog: 7 });
    const found = (await sockets.call("listeners", undefined)).find(({ port }) => port === 1010);
    expect(found).toMatchObject({ queued: 0, queueLimit: 7 });
  });
});

describe("connections", () => {
  it.each([
    ["IPv4", V4, "0.0.0.0", 2001],
    ["IPv4 to a dual-stack socket", V4, "::", 2002],
    ["IPv6 to a dual-stack socket", V6, "::", 2003],
  ])("of %s are found and listed, and their ends told", async (_what, dvipa, host, port) => {
    await sockets.call("listen", { host, port });
    const [ends] = await dial(dvipa, port, 1);
    if (ends === undefined) throw new Error("no connection");
    const stranger = { ...ends, remotePort: ends.remotePort ^ 1 };
    expect(await sockets.call("find", [stranger, ends, stranger])).toEqual(["absent", "open", "absent"]);
    // The listed one has the DVIPA as its local address: its other end is the client's socket, not listed for V6 or V4 alone.
    expect(textOf(await sockets.call("connections", [dvipa]))).toContain(textOf([ends])[0]);
    expect(await sockets.call("connections", ["192.0.2.1"])).toEqual([]);
    await sockets.call("closeAccepted", undefined);
    // FIN-WAIT-2 without a program, then, once the client has closed as well, TIME_WAIT.
    await eventually("it closes", async () => (await sockets.call("find", [ends]))[0] === "closing");
    await sockets.call("closeDialled", undefined);
    await eventually("its end", async () =>
      textOf(await sockets.call("destroyed", undefined)).includes(textOf([ends])[0] ?? ""),
    );
    expect(await sockets.call("find", [ends])).toEqual(["closing"]);
    expect(textOf(await sockets.call("connections", [dvipa]))).not.toContain(textOf([ends])[0]);
  });

  it(`${MANY} at once: all listed, all found, the end of each told`, async () => {
    await sockets.call("listen", { host: V4, port: 3000, backlog: 2000 });
    const all = await dial(V4, 3000, MANY);
    const listed = (await sockets.call("connections", [V4])).filter(({ localPort }) => localPort === 3000);
    expect(textOf(listed)).toEqual(textOf(all));
    const strangers = all.map((ends) => ({ ...ends, localPort: 3001 }));
    expect(new Set(await sockets.call("find", all))).toEqual(new Set(["open"]));
    expect(new Set(await sockets.call("find", strangers))).toEqual(new Set(["absent"]));
    await sockets.call("closeDialled", undefined);
    await sockets.call("closeAccepted", undefined);
    await eventually("all ends", async () => {
      const told = new Set(textOf(await sockets.call("destroyed", undefined)));
      return textOf(all).every((text) => told.has(text));
    });
    expect((await sockets.call("connections", [V4])).filter(({ localPort }) => localPort === 3000)).toEqual([]);
  });
});
