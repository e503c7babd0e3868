import { describe, expect, it } from "vitest";
import { concatBytes, u16be, u32be } from "../../../src/core/bytes.ts";
import { Counters } from "../../../src/core/counters.ts";
import { silentLog } from "../../../src/core/log.ts";
import { IcmpErrors, type IcmpErrorsContext } from "../../../src/daemons/node/icmp-errors.ts";
import type { QueueOptions } from "../../../src/net/nfqueue.ts";
import type { SharedSa } from "../../../src/sa/spec.ts";
import { OutboundSas } from "../../../src/steer/outbound-sas.ts";
import { ipv4Packet, sampleSa } from "../sa/esp-builder.ts";
import { FakeClock } from "./fake-clock.ts";

const GCM = { kind: "aes-gcm-16", keyBits: 128 } as const;

/** What is in the queue, and what became of it. */
class World {
  readonly counters = new Counters();
  readonly clock = new FakeClock();
  readonly sas = new OutboundSas();
  readonly verdicts: unknown[] = [];
  #options: QueueOptions | null = null;
  #last = 0;

  async start(changes: Partial<IcmpErrorsContext> = {}): Promise<void> {
    const icmpErrors = new IcmpErrors({
      nodeName: "d1",
      sas: this.sas,
      holderOf: () => Promise.resolve("t2"),
      connections: {
        targetOf: ({ port, clientPort }) => (port === 80 ? ({ 40_000: "t2", 40_001: "t9" }[clientPort] ?? null) : null),
      },
      targetIndex: (target) => (target === "t2" ? 2 : null),
      open: (options) => {
        this.#options = options;
        return Promise.resolve({
          verdict: (id, verdict, more) =>
            void this.verdicts.push([id, verdict, ...(more === undefined ? [] : [more.mark])]),
          close: () => Promise.resolve(),
        });
      },
      clock: this.clock,
      counters: this.counters,
      log: silentLog,
      ...changes,
    });
    await icmpErrors.start();
  }

  /** An error about a packet of the SA comes in; the verdict is there when it resolves. */
  async take(sa: SharedSa, sequence = 7, spi = sa.outbound.spi): Promise<void> {
    const quote = ipv4Packet(sa.dvipa, sa.peer, 50, concatBytes(u32be(spi), u32be(sequence)));
    const message = concatBytes(Uint8Array.of(3, 4, 0, 0), u32be(1300), quote);
    await this.#arrive(ipv4Packet("192.0.2.9", sa.dvipa, 1, message), 1);
  }

  /** The own kernel's error about what a target has sent from the DVIPA comes in, or a stranger's by interface `indev`. */
  async takeAboutTcp(clientPort: number, indev = 0): Promise<void> {
    const [dvipa, client] = ["192.0.2.100", "10.0.0.10"] as const;
    const quote = ipv4Packet(dvipa, client, 6, concatBytes(u16be(80), u16be(clientPort), u32be(1)));
    const message = concatBytes(Uint8Array.of(3, 4, 0, 0), u32be(1300), quote);
    await this.#arrive(ipv4Packet(dvipa, dvipa, 1, message), indev);
  }

  async #arrive(payload: Uint8Array, indev: number): Promise<void> {
    this.#last += 1;
    this.#options?.onPacket({ id: this.#last, payload, lengthBytes: payload.length, mark: 0, indev });
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe("ICMP errors", () => {
  it("go to the target that was granted the number", async () => {
    const world = new World();
    const sa = sampleSa(GCM, "transport");
    world.sas.add(sa);
    const asked: unknown[] = [];
    await world.start({
      holderOf: ({ id }, sequence) => {
        asked.push([id, sequence]);
        return Promise.resolve("t2");
      },
    });
    await world.take(sa, 4_000_000_000);
    expect([asked, world.verdicts]).toEqual([[[sa.id, 4_000_000_000]], [[1, "accept", 0x45500002]]]);
    expect(world.counters.get("icmp.forwarded")).toBe(1);
  });

  it("stay here with the mark that policies know when this node has sent the packet", async () => {
    const world = new World();
    const sa = sampleSa(GCM, "transport");
    world.sas.add(sa);
    await world.start({ holderOf: () => Promise.resolve("d1") });
    await world.take(sa);
    expect(world.verdicts).toEqual([[1, "accept", 0x4553fffe]]);
  });

  it.each([
    ["unknownNumber", { holderOf: () => Promise.resolve(null) }],
    ["unanswered", { holderOf: () => Promise.reject(new Error("away")) }],
    ["noRoute", { holderOf: () => Promise.resolve("t9") }],
  ])("are dropped: %s", async (reason, changes) => {
    const world = new World();
    const sa = sampleSa(GCM, "transport");
    world.sas.add(sa);
    await world.start(changes);
    await world.take(sa);
    expect(world.verdicts).toEqual([[1, "drop"]]);
    expect(world.counters.get(`icmp.drop.${reason}`)).toBe(1);
  });

  it("about an SA that is not there, or no more, are dropped and nobody is asked", async () => {
    const world = new World();
    const [one, other] = [sampleSa(GCM, "transport"), sampleSa(GCM, "tunnel")];
    world.sas.add(one);
    world.sas.add(other);
    const inUdp = { ...sampleSa(GCM, "transport"), peer: "192.0.2.11", peerUdpPort: 4500 };
    world.sas.add(inUdp);
    await world.start();
    await world.take(one, 7, 0xc7654321);
    await world.take({ ...one, peer: "192.0.2.12" });
    await world.take(inUdp);
    world.sas.remove(one);
    await world.take(one);
    world.sas.remove(other);
    await world.take(one);
    expect(world.verdicts.map((verdict) => (verdict as unknown[])[1])).toEqual([
      "drop",
      "drop",
      "drop",
      "accept",
      "drop",
    ]);
    expect(world.counters.get("icmp.drop.unknownSa")).toBe(4);
  });

  it("of the own kernel about what a target has sent it in clear go to the connection's target", async () => {
    const world = new World();
    await world.start();
    await world.takeAboutTcp(40_000);
    expect([world.verdicts, world.counters.get("icmp.forwarded")]).toEqual([[[1, "accept", 0x45500002]], 1]);
  });

  it("of the own kernel about its own connections are its own", async () => {
    const world = new World();
    await world.start();
    await world.takeAboutTcp(50_000);
    expect([world.verdicts, world.counters.get("icmp.forwarded")]).toEqual([[[1, "accept"]], 0]);
  });

  it("of the own kernel are dropped where their target cannot be reached", async () => {
    const world = new World();
    await world.start();
    await world.takeAboutTcp(40_001);
    expect([world.verdicts, world.counters.get("icmp.drop.noRoute")]).toEqual([[[1, "drop"]], 1]);
  });

  it("of a stranger about a target's connection are dropped", async () => {
    const world = new World();
    await world.start();
    await world.takeAboutTcp(40_000, 3);
    expect([world.verdicts, world.counters.get("icmp.drop.other")]).toEqual([[[1, "drop"]], 1]);
  });

  it("more than a hundred in a second cost no more questions", async () => {
    const world = new World();
    const sa = sampleSa(GCM, "transport");
    world.sas.add(sa);
    let questions = 0;
    await world.start({ holderOf: () => Promise.resolve(String(questions++)) });
    for (let i = 0; i < 150; i++) await world.take(sa);
    expect([questions, world.counters.get("icmp.drop.tooMany"), world.verdicts.length]).toEqual([100, 50, 150]);
  });
});
