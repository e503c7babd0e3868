import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { steeringRuleset } from "../../../src/daemons/node/steering-ruleset.ts";
import { eventually } from "../support/eventually.ts";
import { Namespace, veth } from "../support/namespace.ts";
import type { UdpHandlers } from "../support/udp-worker.ts";
import type { Worker } from "../support/worker.ts";
import type { NetHandlers } from "./net-worker.ts";

//  c 192.0.2.1, 2001:db8::1 ── veth0 ── 192.0.2.100, 2001:db8::100 n
//
// The ruleset of a distributor, with limits that do not grow again while the test runs: 3 new requests, 2 with a cookie, 4 that
// come again; of one request 2, or only 1. It is new for each test.

const V4 = "192.0.2.100";
const V6 = "2001:db8::100";
const LIMITS = {
  first: "1/day burst 3 packets",
  cookies: "1/day burst 2 packets",
  again: "1/day burst 4 packets",
  each: "1/day burst 2 packets",
};
/** None comes again late enough. */
const AT_ONCE = { ...LIMITS, each: "1/day burst 1 packets" };
const IKE_SA_INIT = 34;
const IKE_AUTH = 35;
const SA = 33;
const NOTIFY = 41;
const COOKIE = 16390;
const NAT_DETECTION_SOURCE_IP = 16388;
const REQUEST = 0x08;
const RESPONSE = 0x20;
let parts: AsyncDisposable[] = [];
let sender: Worker<UdpHandlers>;
let receiver: Worker<UdpHandlers>;
let net: Worker<NetHandlers>;
let lastSpi = 1000;

beforeAll(async () => {
  const [c, n] = await Promise.all([Namespace.create("ic"), Namespace.create("in")]);
  await veth(
    { namespace: c, name: "veth0", addresses: ["192.0.2.1/24", "2001:db8::1/64"] },
    { namespace: n, name: "veth0", addresses: [`${V4}/24`, `${V6}/64`] },
  );
  net = await n.worker<NetHandlers>("test/netns/net/net-worker.ts");
  const udp = "test/netns/support/udp-worker.ts";
  [sender, receiver] = await Promise.all([c.worker<UdpHandlers>(udp), n.worker<UdpHandlers>(udp)]);
  for (const address of [V4, V6]) for (const port of [500, 4500]) await receiver.call("listen", { address, port });
  parts = [net, sender, receiver, c, n];
});

afterAll(async () => {
  for (const part of parts) await part[Symbol.asyncDispose]();
});

/** The header of an IKE message (RFC 7296 §3.1), and a notify's if it is one's (§3.10), in hexadecimal digits. */
function message({
  spiI = 0,
  spiR = 0,
  notifyType = null,
  exchange = IKE_SA_INIT,
  flags = REQUEST,
}: {
  spiI?: number;
  spiR?: number;
  notifyType?: number | null;
  exchange?: number;
  flags?: number;
}): string {
  const bytes = Buffer.alloc(notifyType === null ? 28 : 36);
  bytes.writeBigUInt64BE(BigInt(spiI), 0);
  bytes.writeBigUInt64BE(BigInt(spiR), 8);
  bytes.set([notifyType === null ? SA : NOTIFY, 0x20, exchange, flags], 16);
  if (notifyType !== null) bytes.writeUInt16BE(notifyType, 34);
  return bytes.toString("hex");
}

function requests(from: number, count: number, notifyType: number | null = null): string[] {
  return Array.from({ length: count }, (_, i) => message({ spiI: from + i, notifyType }));
}

describe.each([
  { address: V4, port: 500 },
  { address: V4, port: 4500 },
  { address: V6, port: 500 },
  { address: V6, port: 4500 },
])("IKE to $address port $port", ({ address, port }) => {
  const marker = port === 4500 ? "00000000" : "";

  /** How many of these come up to the socket. A message that always does follows them: when it has come, they are decided about. */
  async function passed(messages: readonly string[]): Promise<number> {
    const before = await receiver.call("received", undefined);
    const last = message({ spiI: ++lastSpi, spiR: 1, exchange: IKE_AUTH });
    const payloads = [...messages, last].map((text) => marker + text);
    await sender.call("sendEach", { address, port, payloads });
    await eventually(
      "the last message",
      async () => (await receiver.call("lastReceived", undefined)) === payloads.at(-1),
    );
    return (await receiver.call("received", undefined)) - before - 1;
  }

  async function fresh(limits = LIMITS): Promise<void> {
    const ends = { dvipas: [V4, V6], gateways: [] };
    await net.call("applyRuleset", steeringRuleset("s", ends, { ipsec: "accept", icmpErrors: "accept" }, limits));
  }

  it("lets in so many new requests, and who comes again, once in a while", async () => {
    await fresh();
    expect(await passed(requests(1, 10))).toBe(3);
    expect(await passed(requests(11, 5))).toBe(0);
    expect(await passed(requests(4, 2))).toBe(2);
    expect(await passed(requests(4, 2))).toBe(0);
    expect(await passed(requests(15, 1))).toBe(1);
  });

  it("lets in so many that come again", async () => {
    await fresh();
    expect(await passed(requests(1, 10))).toBe(3);
    expect(await passed(requests(4, 7))).toBe(4);
  });

  it("does not take a request that is sent twice at once for one that comes again", async () => {
    await fresh(AT_ONCE);
    expect(await passed(requests(1, 3))).toBe(3);
    expect(await passed(requests(4, 5).flatMap((text) => [text, text]))).toBe(0);
  });

  it("lets in so many more that bring a cookie", async () => {
    await fresh();
    expect(await passed(requests(1, 3))).toBe(3);
    expect(await passed(requests(101, 4, NAT_DETECTION_SOURCE_IP))).toBe(0);
    expect(await passed(requests(201, 4, COOKIE))).toBe(2);
    expect(await passed(requests(204, 1, COOKIE))).toBe(1);
  });

  it("leaves everything else alone", async () => {
    await fresh();
    expect(await passed(requests(1, 5))).toBe(3);
    expect(await passed([message({ spiI: 6, flags: RESPONSE }), message({ spiI: 7, spiR: 1 })])).toBe(2);
    expect(await passed([message({ spiI: 8, exchange: IKE_AUTH, spiR: 1 }), "ff", ""])).toBe(3);
  });
});
