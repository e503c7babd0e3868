import { expect, it } from "vitest";
import { Capture, espSequences } from "../support/capture.ts";
import { eventually } from "../support/eventually.ts";
import { describeWithEsp } from "../support/kernel.ts";
import { Namespace, veth } from "../support/namespace.ts";
import type { UdpHandlers } from "../support/udp-worker.ts";
import type { Worker } from "../support/worker.ts";
import { testSa } from "../xfrm/fixtures.ts";
import type { KeeperHandlers } from "./keeper-worker.ts";

//   s 192.0.2.100 (the DVIPA) ───── veth ───── 192.0.2.2 r
//   runs the keeper                           captures what arrives

const DVIPA = "192.0.2.100";
const PEER = "192.0.2.2";
const PORT = 9999;
const PACKETS = 5;

/** Far away: so that what the SAs carry is counted. */
const LIFESIZE = { bytes: null, packets: 1_000_000n };

interface Lab extends AsyncDisposable {
  readonly keeper: Worker<KeeperHandlers>;
  send(): Promise<void>;
  /** The sequence numbers of what has arrived, by SPI; fails when there is anything else. */
  arrived(...spis: readonly number[]): Promise<number[][]>;
}

async function startLab(): Promise<Lab> {
  await using stack = new AsyncDisposableStack();
  const s = stack.use(await Namespace.create("ks"));
  const r = stack.use(await Namespace.create("kr"));
  await veth(
    { namespace: s, name: "veth0", addresses: [`${DVIPA}/24`] },
    { namespace: r, name: "veth0", addresses: [`${PEER}/24`] },
  );
  await s.exec("ping", ["-c", "1", "-W", "5", PEER]);
  const udp = stack.use(await s.worker<UdpHandlers>("test/netns/support/udp-worker.ts"));
  const keeper = stack.use(await s.worker<KeeperHandlers>("test/netns/daemons/keeper-worker.ts"));
  const capture = stack.use(await Capture.start(r, "veth0", `src host ${DVIPA} and not arp`));
  const owned = stack.move();
  return {
    keeper,
    send: async () => {
      await udp.call("send", { address: PEER, port: PORT, count: PACKETS });
    },
    arrived: async (...spis) => {
      const packets = await capture.stop();
      const found = spis.map((spi) => espSequences(packets, spi));
      expect(packets).toHaveLength(found.flat().length);
      return found;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

const old = testSa(DVIPA, PEER, { id: "0".repeat(32), lifesize: LIFESIZE });
const heir = testSa(DVIPA, PEER, {
  id: "1".repeat(32),
  lifesize: LIFESIZE,
  inbound: { ...old.inbound, spi: 0x1111 },
  outbound: { ...old.outbound, spi: 0x2222 },
});

function expectRising(numbers: readonly number[]): void {
  expect(numbers).toEqual([...new Set(numbers)].sort((a, b) => a - b));
}

describeWithEsp("an heir of an SA that nobody sends on", () => {
  it("has the lease of who wants to send during the hand-over, and every packet leaves on it", async () => {
    await using lab = await startLab();
    await lab.keeper.call("install", { sa: old, outbound: "now" });
    await lab.keeper.call("install", { sa: heir, outbound: "hold" });
    expect(await lab.keeper.call("useAndWant", heir)).toEqual([heir.id]);
    await lab.send();
    const firstOnes = Array.from({ length: PACKETS }, (_, i) => 1 + i);
    expect(await lab.arrived(heir.outbound.spi)).toEqual([firstOnes]);
  });
});

describeWithEsp("two SAs of a tunnel", () => {
  it("the older one is sent on again, with new numbers, in a kernel state that is counted", async () => {
    await using lab = await startLab();
    const { keeper } = lab;
    await keeper.call("install", { sa: old, outbound: "now" });
    await keeper.call("wantLease", old);
    await lab.send();
    await keeper.call("install", { sa: heir, outbound: "hold" });
    await keeper.call("useAndWant", heir);
    await lab.send();
    await keeper.call("useAndWant", old);
    await lab.send();
    await keeper.call("remove", heir);
    await lab.send();
    await eventually("the count of what has left on the older one", async () => {
      const [only, ...others] = await keeper.call("status", undefined);
      expect(others).toEqual([]);
      return only?.outPackets === String(3 * PACKETS);
    });
    expect(await keeper.call("status", undefined)).toMatchObject([{ id: old.id, outbound: "now", instances: 2 }]);
    const [onOld = [], onHeir = []] = await lab.arrived(old.outbound.spi, heir.outbound.spi);
    expect([onOld.length, onHeir.length]).toEqual([3 * PACKETS, PACKETS]);
    // The stand-in for the coupling service gives each number once, whatever the SA: in the order of the leases.
    expectRising([...onOld.slice(0, PACKETS), ...onHeir, ...onOld.slice(PACKETS)]);
  });

  it("a node that missed both the heir and the switch to it makes the switch", async () => {
    await using lab = await startLab();
    const { keeper } = lab;
    await keeper.call("install", { sa: old, outbound: "now" });
    await keeper.call("wantLease", old);
    await lab.send();
    await keeper.call("replaceAll", [
      { sa: old, outbound: "hold" },
      { sa: heir, outbound: "now" },
    ]);
    await lab.send();
    expect(await keeper.call("status", undefined)).toMatchObject([
      { id: old.id, outbound: "hold" },
      { id: heir.id, outbound: "now", instances: 1 },
    ]);
    const [onOld = [], onHeir = []] = await lab.arrived(old.outbound.spi, heir.outbound.spi);
    expect([onOld.length, onHeir.length]).toEqual([PACKETS, PACKETS]);
    expectRising([...onOld, ...onHeir]);
  });
});
