/**
 * Clients behind a NAT: ESP in UDP. Topology: `netns/layout.ts` with a NAT, two clients behind it, two targets.
 */
import { beforeAll, describe, expect, it } from "vitest";
import type { Capture } from "../../netns/capture.ts";
import { readCleartext, readClientDrops } from "../../netns/counters.ts";
import { examineCapture } from "../../netns/evidence.ts";
import { CLIENT2_IDENTITY, DVIPA } from "../../netns/layout.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { download, onEveryTarget, ping, requestName, upload } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import { noise, sendDatagrams } from "../support/hostile.ts";
import { useLab } from "../support/lab-fixture.ts";
import { sendForgedEsp } from "../support/stranger.ts";

const TRANSFER_BYTES = 2_000_000;
/** Three fragments on the wire. */
const FRAGMENTED_BYTES = 4000;
const LIMIT_MS = 30_000;
const UNKNOWN_SPI = "12345678";

let client: StrongSwan;
let second: StrongSwan;
let capture: Capture;
const lab = useLab({ router: "nat", targets: 2 }, async (up) => {
  await up.startCluster();
  [client, second] = await Promise.all([up.startClient(), up.startClient({}, "client2")]);
  await second.load(asSecond(up));
});

type LabUp = ReturnType<typeof lab>;

function asSecond(up: LabUp, localSelectors = "dynamic"): Parameters<StrongSwan["load"]>[0] {
  return up.clientSettings({ localIdentity: CLIENT2_IDENTITY, localSelectors });
}

async function counter(name: string): Promise<number> {
  return (await lab().distributor.status()).counters[name] ?? 0;
}

/** What the states of a node that sends say of UDP, as `ip xfrm state` prints it; one text per state. */
async function encapsulations(node: string): Promise<string[]> {
  const text = await lab().network.run(node, ["ip", "xfrm", "state", "list", "nokeys"]);
  const states = text.split(/^(?=src )/m).filter((state) => state !== "");
  return states.map((state) => {
    const [, port] = /encap type espinudp sport 4500 dport (\d+)/.exec(state) ?? [];
    return `${state.startsWith(`src ${DVIPA} `) ? "out" : "in"} ${port ?? "bare"}`;
  });
}

async function secondAsks(): Promise<string> {
  const curl = ["curl", "--silent", "--show-error", "--max-time", "10", `http://${DVIPA}/name`];
  return (await lab().network.run("client2", curl)).trim();
}

async function stillServes(): Promise<void> {
  expect(await ping(lab(), 2)).toEqual({ sent: 2, received: 2 });
  expect(await requestName(lab())).toMatchObject({ ok: true });
}

describe("a client behind a NAT", () => {
  beforeAll(async () => {
    capture = await lab().startCapture();
  });

  it("asks for transport mode, and has a tunnel", async () => {
    await negotiate(lab(), client, "transport");
    expect(await counter("ike.natTransportDeclined")).toBe(1);
    expect(await client.listSas()).toMatch(/TUNNEL-in-UDP/);
    expect((await lab().distributor.status()).sas).toMatchObject([{ mode: "tunnel" }]);
    expect((await client.terminate()).exitCode).toBe(0);
    await statesOnEveryNode(lab(), 0);
  });

  it("gets its SA on every node: the one that sends in UDP to the NAT's port, the one that receives bare", async () => {
    await negotiate(lab(), client, "tunnel");
    await statesOnEveryNode(lab(), 2);
    const found = await Promise.all(["d1", "t1", "t2"].map(encapsulations));
    const [, port = ""] = /out (\d+)/.exec(found.flat().join()) ?? [];
    expect(Number(port)).toBeGreaterThanOrEqual(20_000);
    for (const states of found) expect(states.sort()).toEqual(["in bare", `out ${port}`]);
  });

  it("is answered by d1, also in fragments, and by each target", async () => {
    expect(await ping(lab(), 10)).toEqual({ sent: 10, received: 10 });
    expect(await ping(lab(), 3, { bytes: FRAGMENTED_BYTES })).toEqual({ sent: 3, received: 3 });
    const nodes: (string | undefined)[] = [];
    while (nodes.length < 6) nodes.push((await requestName(lab())).node);
    expect(nodes.sort()).toEqual(["t1", "t1", "t1", "t2", "t2", "t2"]);
  });

  it("transfers much in both directions", async () => {
    const results = [
      ...(await onEveryTarget(lab(), () => download(lab(), TRANSFER_BYTES))),
      ...(await onEveryTarget(lab(), () => upload(lab(), TRANSFER_BYTES))),
    ];
    expect(results.map(({ ok, node }) => `${ok} ${node ?? ""}`).sort()).toEqual(
      ["true t1", "true t1", "true t2", "true t2"].sort(),
    );
  });

  it("rekeys while it downloads", async () => {
    const [before] = (await lab().distributor.status()).sas;
    const running = download(lab(), 3_000_000, { bytesPerSecond: 1_500_000, limitSeconds: 60 });
    await lab().distributor.waitFor("sees the download", LIMIT_MS, ({ targets }) =>
      targets.some(({ connections }) => connections > 0),
    );
    expect((await client.rekey("tunnel")).exitCode).toBe(0);
    await lab().distributor.waitFor(
      "has the new SA only",
      LIMIT_MS,
      ({ sas }) => sas.length === 1 && sas[0]?.id !== before?.id && sas[0]?.outbound === "now",
    );
    expect(await running).toMatchObject({ ok: true });
    await stillServes();
  });
});

describe("a second client behind the same NAT", () => {
  it("is refused the first one's inner address", async () => {
    await second.load(asSecond(lab(), `${lab().network.addressOfClient("client")}/32`));
    const { exitCode, stdout } = await second.initiate("tunnel");
    expect(exitCode).not.toBe(0);
    expect(stdout).toContain("TS_UNACCEPT");
    expect(await counter("ike.selectorsTaken")).toBe(1);
    await second.terminate();
    await stillServes();
  });

  it("has its own SA with its own, and both are served", async () => {
    await second.load(asSecond(lab()));
    expect((await second.initiate("tunnel")).exitCode).toBe(0);
    await statesOnEveryNode(lab(), 4);
    const ports = (await encapsulations("t1")).filter((state) => state.startsWith("out"));
    expect(new Set(ports).size).toBe(2);
    const answers = [await secondAsks(), await secondAsks()];
    expect(answers.sort()).toEqual(["t1", "t2"]);
    await stillServes();
    expect((await second.terminate()).exitCode).toBe(0);
    await statesOnEveryNode(lab(), 2);
  });
});

describe("what is no ESP of an SA", () => {
  const spi = async (): Promise<string> =>
    Number((await lab().distributor.status()).sas[0]?.spiIn)
      .toString(16)
      .padStart(8, "0");

  it.each([
    ["a keepalive", "ike.natKeepalive", () => "ff"],
    ["three bytes", "ike.drop.shortDatagram", () => "010203"],
    ["garbage behind the marker of IKE", "ike.malformed", () => `00000000${noise("ike", 20).toString("hex")}`],
    ["an unknown SPI", "steer.drop.unknownSpi", () => `${UNKNOWN_SPI}${noise("esp", 60).toString("hex")}`],
    ["an SPI alone", "steer.drop.tooShort", () => spi()],
    ["a packet that is too short", "steer.drop.tooShort", async () => `${await spi()}7000000000`],
  ])("%s is counted and harmless", async (_, name, hex) => {
    const before = await counter(name);
    await sendDatagrams(lab().network, "nat", [{ address: DVIPA, port: 4500, hex: await hex() }]);
    await until(`d1 counts ${name}`, LIMIT_MS, async () => (await counter(name)) > before);
    await stillServes();
  });

  it("bare ESP for an SA in UDP is dropped", async () => {
    const source = lab().network.natAddress ?? "";
    const packet = { source, destination: DVIPA, spi: Number.parseInt(await spi(), 16), form: "whole" } as const;
    const before = await counter("steer.drop.missingUdp");
    await sendForgedEsp(lab().network, packet, 1, "nat");
    await until("d1 counts it", LIMIT_MS, async () => (await counter("steer.drop.missingUdp")) === before + 1);
    await stillServes();
  });

  it("a program on a target cannot send from the DVIPA's port 4500 in clear", async () => {
    const program = `const s = require("node:dgram").createSocket({ type: "udp4", reuseAddr: true });
      s.bind({ address: "${DVIPA}", port: 4500 }, () => s.send("clear", 9999, "${lab().network.natAddress ?? ""}",
        (error) => { console.log(error?.code ?? "sent"); s.close(); }));`;
    expect((await lab().network.run("t1", [process.execPath, "-e", program])).trim()).toMatch(/^E/);
  });
});

describe("a NAT that forgets", () => {
  it("and gives the client another port: it is followed, on every node, when IKE comes from there", async () => {
    const outgoing = async (): Promise<string[]> =>
      (await Promise.all(["d1", "t1", "t2"].map(encapsulations))).flat().filter((state) => state.startsWith("out"));
    const before = new Set(await outgoing());
    const { network } = lab();
    const states = await statesOf("t1");
    // masquerade drops its entries when the interface goes down.
    await network.run("nat", ["ip", "link", "set", "dev", "cli0", "down"]);
    await network.run("nat", ["ip", "link", "set", "dev", "cli0", "up"]);
    expect((await client.swanctl(["--rekey", "--ike", "dvipa"])).exitCode).toBe(0);
    await until("every node sends to another port", LIMIT_MS, async () => {
      const now = new Set(await outgoing());
      return now.size === 1 && ![...now].some((state) => before.has(state));
    });
    // The same states: their numbers and their salt go on.
    expect(await statesOf("t1")).toEqual(states);
    await stillServes();
    expect(await counter("sa.moved")).toBe(1);
  });

  async function statesOf(node: string): Promise<string[]> {
    const text = await lab().network.run(node, ["ip", "xfrm", "state", "list", "nokeys"]);
    return (text.match(/spi 0x\w+/g) ?? []).sort();
  }
});

describe("in the end", () => {
  it("the wire shows ESP in UDP alone, no number twice, nothing in clear, and the client dropped nothing", async () => {
    expect(await capture.stop()).toEqual({ droppedByKernel: 0 });
    const wire = await examineCapture(capture.path, DVIPA);
    expect(wire).toMatchObject({ duplicates: [], cleartextPackets: 0 });
    expect(wire.espFromDvipa).toBeGreaterThan(1000);
    expect(wire.espToDvipa).toBeGreaterThan(100);
    // All but the one that was forged bare; later fragments have no UDP header.
    expect(wire.espFromDvipa + wire.espToDvipa - wire.espInUdp).toBe(1);
    const senders = [...wire.espFromDvipaByMac.keys()].map((mac) => lab().ownerOfMac(mac)).sort();
    expect(senders).toEqual(["d1", "t1", "t2"]);
    expect(await readCleartext(lab().network)).toEqual({ fromDvipa: 0, toDvipa: 0 });
    expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
  });
});
