/**
 * Bad input from the client network and on the bus: counted with its reason, refused, survived. Topology:
 * `netns/layout.ts` with one target, and a stranger 192.0.2.66 on the client network's bridge.
 */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { createCertificates } from "../../netns/certificates.ts";
import { readXfrmStat } from "../../netns/counters.ts";
import { BUS_PORT, CLIENT_ADDRESS, DVIPA } from "../../netns/layout.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { ping, requestName } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import { dialBus, hostileIke, noise, sendDatagrams, type BusCall } from "../support/hostile.ts";
import { useLab } from "../support/lab-fixture.ts";
import { addStranger, sendForgedEsp, STRANGER, type ForgedEsp } from "../support/stranger.ts";

const COUNT_LIMIT_MS = 15_000;
const FORGED_PACKETS = 50;
const UNKNOWN_SPI = 0x1234_5678;

let client: StrongSwan;
const lab = useLab({ targets: 1 }, async (up) => {
  await addStranger(up.network);
  await up.startCluster();
  client = await up.startClient();
  await negotiate(up, client, "transport");
  await statesOnEveryNode(up, 2);
});

async function counter(name: string): Promise<number> {
  return (await lab().distributor.status()).counters[name] ?? 0;
}

async function countsOneMore(name: string, action: () => Promise<void>): Promise<void> {
  const before = await counter(name);
  await action();
  await until(`d1 counts ${name}`, COUNT_LIMIT_MS, async () => (await counter(name)) > before);
}

/** Counted by a timer, whatever comes in. */
const TIMER_COUNTERS = new Set(["ike.dpdSent", "ike.requestRetransmitted", "ike.halfOpenExpired", "ike.peerDead"]);

/** Whether a counter is about a received message. */
function speaksOfMessage(counter: string): boolean {
  return counter.startsWith("ike.") && !TIMER_COUNTERS.has(counter);
}

async function stillServes(): Promise<void> {
  expect(await ping(lab(), 3)).toEqual({ sent: 3, received: 3 });
  expect(await requestName(lab())).toMatchObject({ ok: true, node: "t1" });
}

describe("IKE", () => {
  it.each([
    ["a stranger", "net"],
    ["the client's own address", "client"],
  ])("drops and counts every kind of broken message from %s", async (_, node) => {
    const total = async (): Promise<number> => {
      const { counters } = await lab().distributor.status();
      const counted = Object.entries(counters).filter(([name]) => speaksOfMessage(name));
      return counted.reduce((sum, [, value]) => sum + value, 0);
    };
    for (const [index, datagrams] of hostileIke().entries()) {
      const before = await total();
      await sendDatagrams(lab().network, node, datagrams);
      await until(`d1 has counted message ${index}`, COUNT_LIMIT_MS, async () => (await total()) > before);
    }
    expect((await lab().distributor.status()).sas).toHaveLength(1);
    await stillServes();
  });
});

describe("ESP", () => {
  const forge = async (source: ForgedEsp["source"], spi: number, form: ForgedEsp["form"] = "whole"): Promise<void> =>
    sendForgedEsp(lab().network, { source, destination: DVIPA, spi, form });

  it("drops an unknown SPI", async () => {
    await countsOneMore("steer.drop.unknownSpi", () => forge(CLIENT_ADDRESS, UNKNOWN_SPI));
  });

  it("drops a known SPI from the wrong source", async () => {
    await countsOneMore("steer.drop.wrongSource", async () => forge(STRANGER, await inboundSpi()));
  });

  it("drops a packet that is too short", async () => {
    await countsOneMore("steer.drop.tooShort", async () => forge(CLIENT_ADDRESS, await inboundSpi(), "short"));
  });

  it("drops a known SPI in UDP: its SA was negotiated without", async () => {
    const hex = `${(await inboundSpi()).toString(16).padStart(8, "0")}${noise("in UDP", 60).toString("hex")}`;
    const datagram = { sourceAddress: CLIENT_ADDRESS, address: DVIPA, port: 4500, hex };
    await countsOneMore("steer.drop.unexpectedUdp", () => sendDatagrams(lab().network, "net", [datagram]));
  });

  it("refuses forged packets of a known SPI, whatever the peek makes of them", async () => {
    // Decrypted with the right key a forged packet is noise: the peek drops it, or leaves it to a kernel, which checks
    // first whether the number is new and then the ICV.
    const refused = async (): Promise<number> => {
      const byKernels = ["d1", "t1"].flatMap((node) => [
        xfrmErrors("XfrmInStateSeqError", node),
        xfrmErrors("XfrmInStateProtoError", node),
      ]);
      const counts = await Promise.all([counter("steer.drop.tooShort"), ...byKernels]);
      return counts.reduce((sum, count) => sum + count, 0);
    };
    const before = await refused();
    const packet = { source: CLIENT_ADDRESS, destination: DVIPA, spi: await inboundSpi(), form: "whole" } as const;
    await sendForgedEsp(lab().network, packet, FORGED_PACKETS);
    await until("all of them are refused", COUNT_LIMIT_MS, async () => (await refused()) === before + FORGED_PACKETS);
    await stillServes();
  });

  it("does not steer ESP to another address of d1", async () => {
    const before = await xfrmErrors("XfrmInNoStates");
    const steered = (await lab().distributor.status()).counters;
    await sendForgedEsp(lab().network, { source: STRANGER, destination: "192.0.2.1", spi: UNKNOWN_SPI, form: "whole" });
    await until("d1's kernel counts it", COUNT_LIMIT_MS, async () => (await xfrmErrors("XfrmInNoStates")) > before);
    expect(await counter("steer.drop.unknownSpi")).toBe(steered["steer.drop.unknownSpi"]);
    await stillServes();
  });
});

describe("packets in clear", () => {
  it("get no answer from a target, and none leaves the client", async () => {
    const command = ["curl", "--silent", "--max-time", "2", "--interface", STRANGER, `http://${DVIPA}/name`];
    expect((await lab().network.try("net", command)).exitCode).not.toBe(0);
    await stillServes();
  });
});

describe("the bus", () => {
  const frame = (text: string): string => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(Buffer.byteLength(text));
    return Buffer.concat([length, Buffer.from(text)]).toString("hex");
  };
  const calls: readonly [string, Pick<BusCall, "hex" | "thenEnd">, "none" | "foreign" | "own"][] = [
    ["garbage instead of TLS", { hex: noise("bus", 2000).toString("hex"), thenEnd: false }, "none"],
    ["a certificate of another CA", { hex: frame("{}"), thenEnd: false }, "foreign"],
    ["a frame that claims 4 GB", { hex: "ffffffff00", thenEnd: false }, "own"],
    ["an empty frame", { hex: "00000000", thenEnd: false }, "own"],
    ["a frame that is no JSON", { hex: frame("garbage"), thenEnd: false }, "own"],
    ["a frame of the wrong shape", { hex: frame('{"n":1,"f":"t1","q":[]}'), thenEnd: false }, "own"],
    ["a frame from somebody else", { hex: frame('{"n":1,"f":"d1","h":1}'), thenEnd: false }, "own"],
    ["half a frame and then nothing", { hex: "0000006400", thenEnd: true }, "own"],
  ];

  it.each(calls)("hangs up on %s", async (_, call, credentials) => {
    const directory = join(lab().directory, credentials === "foreign" ? "foreign-pki" : "pki");
    if (credentials === "foreign") await createCertificates(directory, lab().network.nodes);
    const result = await dialBus(lab().network, "t1", {
      host: lab().network.interfaceOf("cf", "trust").address,
      port: BUS_PORT,
      credentials: credentials === "none" ? null : [join(directory, "t1.crt"), join(directory, "t1.key")],
      ...call,
    });
    expect(result.closedByPeer).toBe(true);
    await Promise.all([lab().coupling.ready(), ...lab().nodes.map((daemon) => daemon.ready())]);
    await lab().targetsConnected();
    await stillServes();
  });
});

async function inboundSpi(): Promise<number> {
  const [sa] = (await lab().distributor.status()).sas;
  if (sa === undefined) throw new Error("d1 has no SA");
  return Number(sa.spiIn);
}

async function xfrmErrors(name: string, node = "d1"): Promise<number> {
  return (await readXfrmStat(lab().network, node)).get(name) ?? 0;
}
