/**
 * ICMP errors about what the cluster sends: a router between client and cluster has a smaller MTU, and says so to the DVIPA. Topology:
 * `netns/layout.ts`, with a router or a NAT, two targets.
 */
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { readCleartext, readClientDrops, readXfrmStat } from "../../netns/counters.ts";
import type { Lab } from "../../netns/lab.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { download, onEveryTarget, ping } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { concatBytes, u16be, u32be } from "../../src/core/bytes.ts";
import { ipToBytes } from "../../src/core/ip.ts";
import { close, counter, negotiate, statesOnEveryNode, throughGateway } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const SEND_RAW = fileURLToPath(new URL("../support/send-raw.main.ts", import.meta.url));
const NARROW_BYTES = 1300;
/** Does not hold what a target sends back through a gateway, 1360 bytes, with its ESP; what fits is more than IPv6's least MTU, 1280. */
const GATEWAY_NARROW_BYTES = 1400;
const RETURN_BYTES = 1360;
const TRANSFER_BYTES = 500_000;
/** Fits into 1500 with its ESP, and not into `NARROW_BYTES`. */
const WIDE_PING_BYTES = 1380;
const TEST_LIMIT_MS = 300_000;
const LEARN_LIMIT_MS = 20_000;

describe.each([
  [4, "router"],
  [6, "router"],
  [4, "nat"],
] as const)("IPv%i: a narrow link on the way to the client behind a %s", (ipVersion, router) => {
  let client: StrongSwan;
  const lab = useLab({ router, targets: 2, versions: { service: ipVersion } }, async (up) => {
    await up.startCluster();
    const family = ipVersion === 4 ? [] : ["-6"];
    const route = [up.network.clientAddress, "dev", "prv0", "mtu", "lock", String(NARROW_BYTES)];
    await up.network.run(router, ["ip", ...family, "route", "replace", ...route]);
    client = await up.startClient();
  });

  // Behind a NAT there is no transport mode.
  const modes = router === "nat" ? (["tunnel"] as const) : (["transport", "tunnel"] as const);
  it.each(modes)(
    "each target learns the path's MTU from the error about its own packet, in %s mode",
    async (mode) => {
      await forgetPaths(lab());
      await negotiate(lab(), client, mode);
      await statesOnEveryNode(lab(), 2);
      const before = await counter(lab(), "icmp.forwarded");
      const first = await download(lab(), TRANSFER_BYTES);
      expect(first).toMatchObject({ ok: true });
      const [sender = "", other = ""] = first.node === "t1" ? ["t1", "t2"] : ["t2", "t1"];
      expect([await pathMtu(lab(), sender), await pathMtu(lab(), other)]).toEqual([NARROW_BYTES, null]);
      const results = await onEveryTarget(lab(), () => download(lab(), TRANSFER_BYTES));
      expect(results.filter(({ ok }) => !ok)).toEqual([]);
      expect([await pathMtu(lab(), sender), await pathMtu(lab(), other)]).toEqual([NARROW_BYTES, NARROW_BYTES]);
      expect((await counter(lab(), "icmp.forwarded")) - before).toBeGreaterThanOrEqual(2);
      await close(lab(), client);
      expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
      expect(await readCleartext(lab().network)).toMatchObject({ fromDvipa: 0 });
    },
    TEST_LIMIT_MS,
  );

  if (ipVersion === 6) {
    // A router does not fragment IPv6: the distributor, who answers pings, must learn too.
    it("the distributor learns it from the errors about its own packets", async () => {
      await negotiate(lab(), client, "transport");
      await statesOnEveryNode(lab(), 2);
      expect((await ping(lab(), 1, { bytes: WIDE_PING_BYTES })).received).toBe(0);
      expect(await pathMtu(lab(), "d1")).toBe(NARROW_BYTES);
      expect(await counter(lab(), "icmp.local")).toBeGreaterThanOrEqual(1);
      expect(await ping(lab(), 3, { bytes: WIDE_PING_BYTES })).toEqual({ sent: 3, received: 3 });
      await close(lab(), client);
    });
  }
  if (ipVersion === 6 || router === "nat") return;

  it("what a stranger makes up changes nothing", { timeout: TEST_LIMIT_MS }, async () => {
    await negotiate(lab(), client, "transport");
    await statesOnEveryNode(lab(), 2);
    await onEveryTarget(lab(), () => download(lab(), 10_000));
    await forgetPaths(lab());
    const spi = Number((await lab().distributor.status()).sas[0]?.spiOut);
    const granted = Number((await lab().coupling.status()).sas[0]?.next) - 1;
    const drops = async (reason: string): Promise<number> => counter(lab(), `icmp.drop.${reason}`);
    const [unknownSa, unknownNumber, other, shortQuote] = [
      ...[await drops("unknownSa"), await drops("unknownNumber")],
      ...[await drops("other"), await drops("shortQuote")],
    ];
    await sendRaw(lab(), [
      tooBig(lab(), 50, concatBytes(u32be(spi ^ 1), u32be(granted))),
      tooBig(lab(), 50, concatBytes(u32be(spi), u32be(granted + 100_000))),
      tooBig(lab(), 6, concatBytes(u16be(80), u16be(40_000), u32be(1))),
      tooBig(lab(), 50, u32be(spi)),
    ]);
    await until("all are counted", LEARN_LIMIT_MS, async () => (await drops("shortQuote")) === (shortQuote ?? 0) + 1);
    expect([await drops("unknownSa"), await drops("unknownNumber"), await drops("other")]).toEqual([
      (unknownSa ?? 0) + 1,
      (unknownNumber ?? 0) + 1,
      (other ?? 0) + 1,
    ]);
    // Past the distributor, straight to a target: one that is true is not believed either.
    const blocked = async (): Promise<number> => (await readXfrmStat(lab().network, "t1")).get("XfrmInPolBlock") ?? 0;
    const before = await blocked();
    const { address } = lab().network.interfaceOf("t1", "client");
    await lab().network.run("router", ["ip", "route", "replace", lab().network.dvipa, "via", address]);
    await sendRaw(lab(), [tooBig(lab(), 50, concatBytes(u32be(spi), u32be(granted)))]);
    await until("the target has dropped it", LEARN_LIMIT_MS, async () => (await blocked()) === before + 1);
    await lab().network.run("router", ["ip", "route", "delete", lab().network.dvipa]);
    for (const node of ["d1", "t1", "t2"]) expect(await pathMtu(lab(), node)).toBeNull();
    await close(lab(), client);
  });
});

describe.each([4, 6] as const)("IPv%i: a narrow link behind an SA to the distributor's own address", (service) => {
  let client: StrongSwan;
  const options = { router: "router", targets: 2, versions: { service }, cluster: { gateway: true } } as const;
  const lab = useLab(options, async (up) => {
    await up.startCluster();
    const family = service === 4 ? [] : ["-6"];
    const route = [up.network.clientAddress, "dev", "prv0", "mtu", "lock", String(GATEWAY_NARROW_BYTES)];
    await up.network.run("router", ["ip", ...family, "route", "replace", ...route]);
    client = await up.startClient();
    await negotiate(up, client, "tunnel", throughGateway(up));
  });

  it("the distributor learns it, and tells each target of the packets that do not fit", async () => {
    const returnMtu = async (node: string): Promise<number> => {
      const { clientAddress, dvipa } = lab().network;
      const way = ["ip", "route", "get", clientAddress, "from", dvipa, "ipproto", "tcp"];
      return Number(/ mtu (\d+)/.exec(await lab().network.run(node, way))?.[1]);
    };
    expect([await returnMtu("t1"), await returnMtu("t2")]).toEqual([RETURN_BYTES, RETURN_BYTES]);
    const results = await onEveryTarget(lab(), () => download(lab(), TRANSFER_BYTES));
    expect(results.filter(({ ok }) => !ok)).toEqual([]);
    for (const node of ["t1", "t2"]) {
      expect(await returnMtu(node)).toBeLessThan(RETURN_BYTES);
      expect(await returnMtu(node)).toBeGreaterThan(GATEWAY_NARROW_BYTES - 100);
    }
    expect(await counter(lab(), "icmp.forwarded")).toBeGreaterThanOrEqual(2);
    expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
    expect(await readCleartext(lab().network)).toMatchObject({ fromDvipa: 0 });
  });
});

/** What the node's kernel has learnt of the way from the DVIPA to the client, or its NAT; null: nothing. */
async function pathMtu({ network }: Lab, node: string): Promise<number | null> {
  const peer = network.natAddress ?? network.clientAddress;
  const route = await network.run(node, ["ip", "route", "get", peer, "from", network.dvipa]);
  const [, mtu] = / mtu (\d+)/.exec(route) ?? [];
  return mtu === undefined ? null : Number(mtu);
}

async function forgetPaths({ network, nodes }: Lab): Promise<void> {
  const family = network.ipVersion === 4 ? [] : ["-6"];
  for (const { node } of nodes) await network.run(node, ["ip", ...family, "route", "flush", "cache"]);
}

/** Fragmentation needed (RFC 792, RFC 1191 §4) from the router, about a packet of the DVIPA. */
function tooBig({ network }: Lab, protocol: number, quote: Uint8Array): Uint8Array {
  const quoted = ipv4(network.dvipa, network.clientAddress, protocol, quote);
  const head = concatBytes(Uint8Array.of(3, 4), u16be(0), u16be(0), u16be(600));
  const message = concatBytes(head, quoted);
  message.set(u16be(checksum(message)), 2);
  return ipv4(network.interfaceOf("router", "client").address, network.dvipa, 1, message);
}

function ipv4(source: string, destination: string, protocol: number, body: Uint8Array): Uint8Array {
  const fixed = concatBytes(Uint8Array.of(0x45, 0), u16be(20 + body.length), u16be(1), u16be(0));
  const rest = concatBytes(Uint8Array.of(64, protocol), u16be(0), ipToBytes(source), ipToBytes(destination));
  return concatBytes(fixed, rest, body);
}

/** RFC 1071. */
function checksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += ((bytes[at] ?? 0) << 8) | (bytes[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** Sends packets from the router; the kernel fills in their header's checksum. */
async function sendRaw({ network }: Lab, packets: readonly Uint8Array[]): Promise<void> {
  const list = packets.map((packet) => ({ destination: network.dvipa, hex: Buffer.from(packet).toString("hex") }));
  await network.run("router", [process.execPath, SEND_RAW], { input: JSON.stringify(list) });
}
