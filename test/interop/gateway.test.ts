/**
 * SAs that end at d1's own address and protect the DVIPA (R6: distributable, but not with their cryptography): d1 decrypts, the
 * connections live on the targets, and what these send goes back to d1 in GRE. Topology: `netns/layout.ts` with two targets.
 */
import { fileURLToPath } from "node:url";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { Capture } from "../../netns/capture.ts";
import { readCleartext, readClientDrops, readXfrmStat } from "../../netns/counters.ts";
import { examineCapture } from "../../netns/evidence.ts";
import type { Lab } from "../../netns/lab.ts";
import { Program } from "../../netns/program.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { download, onEveryTarget, ping, requestName, upload } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { children, close, counter, negotiate, stateCount, throughGateway } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const APPLICATION = fileURLToPath(new URL("../../netns/app.ts", import.meta.url));
const LIMIT_MS = 60_000;
const TRANSFER_BYTES = 3_000_000;
const SERVER_PORT = 8080;
const TARGETS = ["t1", "t2"];

/** What a node's kernel knows of ways back to d1. */
async function waysBack(lab: Lab, node: string): Promise<string> {
  const flag = lab.network.ipVersion === 4 ? "-4" : "-6";
  const rules = await lab.network.run(node, ["ip", flag, "rule"]);
  const routes = await lab.network.run(node, ["ip", flag, "route", "show", "table", "all", "proto", "155"]);
  return [...rules.split("\n").filter((line) => line.includes(`from ${lab.network.dvipa}`)), routes.trim()].join("\n");
}

async function waysBackOfAll(lab: Lab): Promise<string> {
  return (await Promise.all(TARGETS.map((node) => waysBack(lab, node)))).join("\n");
}

/** While the targets' daemons are stopped nothing is put back. Not longer than their distributor waits for them: some seconds. */
async function whileStopped({ targets }: Lab, work: () => Promise<void>): Promise<void> {
  for (const { program } of targets) process.kill(program.pid, "SIGSTOP");
  try {
    await work();
  } finally {
    for (const { program } of targets) process.kill(program.pid, "SIGCONT");
  }
}

/** The targets that have served a request. */
async function answering(lab: Lab): Promise<(string | undefined)[]> {
  const results = await onEveryTarget(lab, () => requestName(lab));
  return [...new Set(results.map(({ node }) => node))].sort();
}

/** One request with a short patience; true when it was answered. */
async function connects({ network }: Lab): Promise<boolean> {
  const host = network.ipVersion === 6 ? `[${network.dvipa}]` : network.dvipa;
  return (await network.try("client", ["curl", "-sS", "--max-time", "3", `http://${host}/name`])).exitCode === 0;
}

async function strays(lab: Lab): Promise<number> {
  const texts = await Promise.all(
    TARGETS.map((node) => lab.network.run(node, ["nft", "list", "counter", "inet", "esplex-gre", "stray_clear"])),
  );
  return texts.reduce((sum, text) => sum + Number(/packets (\d+)/.exec(text)?.[1]), 0);
}

describe.each([4, 6] as const)("SAs of IPv%i to d1's own address", (service) => {
  let client: StrongSwan;
  let capture: Capture;
  const peer = { espProposals: ["aes256gcm16"], ahProposals: ["sha256"] };
  const lab = useLab({ targets: 2, versions: { service }, cluster: { peer, gateway: true } }, async (up) => {
    await up.startCluster();
    client = await up.startClient();
    capture = await up.startCapture();
    await negotiate(up, client, "tunnel", throughGateway(up));
  });

  it("stays at d1: targets have neither state nor key, and a way back", async () => {
    expect(await stateCount(lab(), "d1")).toBe(2);
    for (const node of TARGETS) {
      expect(await stateCount(lab(), node)).toBe(0);
      expect(await waysBack(lab(), node)).toMatch(/lookup \d+ proto 155[^]*dev esplexg[^]*mtu 1360/);
    }
    const [sa] = (await lab().distributor.status()).sas;
    expect(sa).toMatchObject({ dvipa: lab().network.dvipa, gateway: lab().network.gatewayAddress, mode: "tunnel" });
  });

  it("serves requests from each target", async () => {
    expect(await answering(lab())).toEqual(TARGETS);
  });

  it("answers ping at d1", async () => {
    expect(await ping(lab(), 5)).toEqual({ sent: 5, received: 5 });
  });

  it("carries large transfers both ways, in packets that fit into the tunnel", async () => {
    expect(await download(lab(), TRANSFER_BYTES)).toMatchObject({ ok: true });
    expect(await upload(lab(), TRANSFER_BYTES)).toMatchObject({ ok: true });
  });

  it("carries a connection that a target opens", async () => {
    const { network, directory } = lab();
    const command = [process.execPath, APPLICATION, "client", String(SERVER_PORT)];
    const logFile = join(directory, "log", "server.log");
    Program.start({ network, node: "client", label: "server of the client", command, logFile });
    await until("the client's server listens", LIMIT_MS, async () => {
      const { stdout } = await network.try("client", ["ss", "-Hltn", `sport = :${SERVER_PORT}`]);
      return stdout.trim() !== "";
    });
    const host = service === 6 ? `[${network.clientAddress}]` : network.clientAddress;
    for (const node of TARGETS) {
      const url = `http://${host}:${SERVER_PORT}/name`;
      const options = ["-sS", "--http1.1", "--max-time", "30", "--interface", network.dvipa];
      const { exitCode, stdout, stderr } = await network.try(node, ["curl", ...options, url]);
      expect(exitCode, `${node}: ${stderr}`).toBe(0);
      expect(stdout).toContain("client");
      expect(await counter(lab(), `steer.opened.${node}`)).toBe(1);
    }
  });

  it("goes on over a rekey by the client", async () => {
    const before = (await children(lab())).map(({ saId }) => saId);
    await client.rekey("tunnel");
    await until("the rekeyed SA is alone", LIMIT_MS, async () => {
      const now = await children(lab());
      return now.length === 1 && now.every(({ saId }) => !before.includes(saId));
    });
    expect(await answering(lab())).toEqual(TARGETS);
    for (const node of TARGETS) expect(await stateCount(lab(), node)).toBe(0);
  });

  it("was protected by d1 alone, each number once, and nothing was in clear or dropped", async () => {
    expect(await capture.stop()).toEqual({ droppedByKernel: 0 });
    const { path: file } = capture;
    const { gatewayAddress, dvipa } = lab().network;
    const wire = await examineCapture(file, gatewayAddress);
    expect(wire.espFromDvipa).toBeGreaterThan(TRANSFER_BYTES / 1500);
    expect([...wire.espFromDvipaByMac.keys()].map((mac) => lab().ownerOfMac(mac))).toEqual(["d1"]);
    expect(wire.duplicateCount).toBe(0);
    // No packet of the DVIPA's was on the client's link but inside those.
    expect(await examineCapture(file, dvipa)).toMatchObject({ espFromDvipa: 0, cleartextPackets: 0 });
    expect(await readCleartext(lab().network)).toEqual({ fromDvipa: 0, toDvipa: 0 });
    expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
    const d1 = await readXfrmStat(lab().network, "d1");
    expect([d1.get("XfrmInStateSeqError"), d1.get("XfrmInStateProtoError")]).toEqual([0, 0]);
  });

  it("are AH as well as ESP", async () => {
    await close(lab(), client);
    await negotiate(lab(), client, "tunnel", { ...throughGateway(lab()), ahProposals: "sha256" });
    expect(await lab().network.run("d1", ["ip", "xfrm", "state", "list", "nokeys"])).toMatch(/proto ah .*mode tunnel/);
    const before = await counter(lab(), "steer.opened");
    expect(await answering(lab())).toEqual(TARGETS);
    expect(await download(lab(), TRANSFER_BYTES)).toMatchObject({ ok: true });
    expect((await counter(lab(), "steer.opened")) - before).toBeGreaterThan(100);
    expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
  });

  it("is not answered while another program has taken the way back away, and never in clear", async () => {
    const { network } = lab();
    const flag = service === 4 ? "-4" : "-6";
    const flush = async (node: string): Promise<void> => {
      const [device = ""] = /esplexg[0-9a-f]{8}/.exec(await network.run(node, ["ip", "link"])) ?? [];
      await network.run(node, ["ip", flag, "route", "flush", "table", "all", "proto", "155", "dev", device]);
    };
    const whole = await waysBackOfAll(lab());
    await whileStopped(lab(), async () => {
      for (const node of TARGETS) await flush(node);
      expect(await connects(lab())).toBe(false);
      expect(await strays(lab())).toBe(0);
    });
    await until("the ways back are there again", LIMIT_MS, async () => (await waysBackOfAll(lab())) === whole);
    await until("requests are answered", LIMIT_MS, () => connects(lab()));
    await whileStopped(lab(), async () => {
      for (const node of TARGETS) {
        await network.run(node, ["ip", flag, "rule", "delete", "from", network.dvipa]);
        await flush(node);
      }
      expect(await connects(lab())).toBe(false);
      expect(await strays(lab())).toBeGreaterThan(0);
    });
    await until("the ways back are there again", LIMIT_MS, async () => (await waysBackOfAll(lab())) === whole);
    await until("requests are answered", LIMIT_MS, () => connects(lab()));
    expect(await readCleartext(network)).toEqual({ fromDvipa: 0, toDvipa: 0 });
  });

  it("has its GRE interfaces back where somebody deletes them, or takes them down", async () => {
    const { network } = lab();
    const whole = await waysBackOfAll(lab());
    const change = async (node: string, ...command: string[]): Promise<void> => {
      for (const [name = ""] of (await network.run(node, ["ip", "link"])).matchAll(/esplexg[0-9a-f]{8}/g))
        await network.run(node, ["ip", "link", ...command, name]);
    };
    await change("d1", "delete", "dev");
    await change("t1", "set", "down", "dev");
    await until("the ways back are there again", LIMIT_MS, async () => (await waysBackOfAll(lab())) === whole);
    await until("requests are answered", LIMIT_MS, () => connects(lab()));
    expect(await answering(lab())).toEqual(TARGETS);
    expect(await readCleartext(network)).toEqual({ fromDvipa: 0, toDvipa: 0 });
  });

  it("leaves no way back when the client goes, and nothing when the daemons stop", async () => {
    await close(lab(), client);
    for (const node of TARGETS) {
      await until(`${node} has no way back`, LIMIT_MS, async () => (await waysBack(lab(), node)) === "");
    }
    const { network, nodes } = lab();
    for (const daemon of nodes)
      expect([daemon.node, await daemon.stop("SIGTERM")]).toEqual([daemon.node, { exitCode: 0, signal: null }]);
    for (const { node } of nodes) {
      expect(await network.run(node, ["nft", "list", "tables"])).not.toMatch(/esplex(?!_lab)/);
      expect(await network.run(node, ["ip", "link"])).not.toContain("esplexg");
      expect(await waysBack(lab(), node)).toBe("");
    }
  });
});
