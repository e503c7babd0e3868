/**
 * SAs that traffic brings up, against a stock strongSwan that only waits, and the connections that targets open with them.
 * Topology: `netns/layout.ts`, two targets; a server runs beside the client. Nothing of the DVIPA is ever in clear.
 */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createHash, randomBytes } from "node:crypto";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Capture } from "../../netns/capture.ts";
import type { CommandResult } from "../../netns/command.ts";
import { readClientDrops } from "../../netns/counters.ts";
import { examineCapture, type WireEvidence } from "../../netns/evidence.ts";
import type { Lab } from "../../netns/lab.ts";
import { Program } from "../../netns/program.ts";
import { residue, snapshotKernel } from "../../netns/residue.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { until } from "../../netns/until.ts";
import { TRAP_REQID } from "../../src/net/ids.ts";
import {
  activeChildren,
  children,
  counter,
  muteClient,
  reloadWith,
  stateCount,
  statesOnEveryNode,
  unmuteClient,
} from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const APPLICATION = fileURLToPath(new URL("../../netns/app.ts", import.meta.url));
const SERVER_PORT = 8080;
const LIMIT_MS = 60_000;
const TEST_LIMIT_MS = 300_000;
const UPLOAD_LIMIT_SECONDS = 240;
const WINDOW_PACKETS = 4096;
const ON_DEMAND = { initiate: { start: "onDemand" } };
/** Exit status of curl, curl(1). */
const CURL_TIMED_OUT = 28;
const NODES = ["d1", "t1", "t2"];
/** What goes out of an upload every so often, until the test has seen enough. */
const PIECE = { bytes: 10_000, everyMs: 100 };

let client: StrongSwan;
let unused: readonly string[];
let capture: Capture;

async function start(lab: Lab): Promise<void> {
  unused = await snapshotKernel(lab.network, "t2");
  await lab.startCluster();
  client = await lab.startClient({ replayWindowPackets: WINDOW_PACKETS });
  const logFile = join(lab.directory, "log", "server.log");
  const command = [process.execPath, APPLICATION, "client", String(SERVER_PORT)];
  Program.start({ network: lab.network, node: "client", label: "server of the client", command, logFile });
  await until("the client's server listens", LIMIT_MS, async () => {
    const { stdout } = await lab.network.try("client", ["ss", "-Hltn", `sport = :${SERVER_PORT}`]);
    return stdout.trim() !== "";
  });
}

/** An HTTP request from the DVIPA to the client's server, by a program on `node`. */
async function request(
  lab: Lab,
  node: string,
  path: string,
  options: readonly string[] = [],
  limitSeconds = 60,
): Promise<CommandResult> {
  const { dvipa, clientAddress } = lab.network;
  const host = clientAddress.includes(":") ? `[${clientAddress}]` : clientAddress;
  const url = `http://${host}:${SERVER_PORT}${path}`;
  const limit = ["--max-time", String(limitSeconds)];
  return lab.network.try(node, ["curl", "-sS", "--http1.1", ...limit, "--interface", dvipa, ...options, url]);
}

/** Writes into a pipe until it is enough, and ends it: what is read from it goes on as long. */
async function writePieces(path: string, isEnough: () => boolean): Promise<{ bytes: number; sha256: string }> {
  const pipe = await open(path, "w");
  const hash = createHash("sha256");
  let bytes = 0;
  try {
    while (!isEnough()) {
      const piece = randomBytes(PIECE.bytes);
      await pipe.write(piece);
      hash.update(piece);
      bytes += piece.length;
      await delay(PIECE.everyMs);
    }
  } finally {
    await pipe.close();
  }
  return { bytes, sha256: hash.digest("hex") };
}

/** A connection from that port which stays until its program is stopped. */
function hold(lab: Lab, node: string, port: number): Program {
  const { dvipa, clientAddress } = lab.network;
  const url = `http://${clientAddress}:${SERVER_PORT}/download?bytes=50000000&rate=50000`;
  const ends = ["--interface", dvipa, "--local-port", String(port)];
  return Program.start({
    ...{ network: lab.network, node, label: `download of ${node}` },
    command: ["curl", "-sS", ...ends, "--output", "/dev/null", url],
    logFile: join(lab.directory, "log", `held-${node}.log`),
  });
}

async function fetchName(lab: Lab, node: string): Promise<void> {
  const { exitCode, stdout, stderr } = await request(lab, node, "/name");
  expect({ node, exitCode, stdout: stdout.trim(), stderr }).toEqual({
    node,
    exitCode: 0,
    stdout: "client",
    stderr: "",
  });
}

/** Out-policies of a node that wait for an SA. One that is there stands in their place. */
async function traps(lab: Lab, node: string): Promise<number> {
  const text = await lab.network.run(node, ["ip", "xfrm", "policy", "list"]);
  return text.split(`reqid ${TRAP_REQID} `).length - 1;
}

async function trapsStand(lab: Lab): Promise<void> {
  await until("every node has its trap", LIMIT_MS, async () => {
    const counts = await Promise.all(NODES.map((node) => traps(lab, node)));
    return counts.every((count) => count === 1);
  });
}

/** Connections of targets that are not closing, as `TARGET PORT`. */
async function opened(lab: Lab): Promise<string[]> {
  const { connections } = await lab.distributor.status();
  const open = connections.filter(({ state, clientPort }) => state === "confirmed" && clientPort === SERVER_PORT);
  return open.map(({ target, port }) => `${target} ${port}`);
}

/** The peer ends everything; the traps are back, and nobody begins anew by itself. */
async function endSas(lab: Lab): Promise<void> {
  await client.terminate();
  await until("no SA is left", LIMIT_MS, async () => (await children(lab)).length === 0);
  await trapsStand(lab);
}

/** What was on the wire since the test began. */
async function wire(lab: Lab): Promise<WireEvidence> {
  expect(await capture.stop()).toEqual({ droppedByKernel: 0 });
  return examineCapture(capture.path, lab.network.dvipa);
}

function sendersOf(lab: Lab, { espFromDvipaByMac }: WireEvidence): string[] {
  return [...espFromDvipaByMac.keys()].map((mac) => lab.ownerOfMac(mac)).sort();
}

describe("an SA on demand, IPv4", () => {
  const options = { targets: 2, cluster: { peerWindowPackets: WINDOW_PACKETS, peer: ON_DEMAND } };
  const lab = useLab(options, start);

  beforeEach(async () => {
    await trapsStand(lab());
    expect(await children(lab())).toEqual([]);
    capture = await lab().startCapture();
  });

  afterEach(async () => {
    await unmuteClient(lab());
    await endSas(lab());
  });

  it(
    "comes up once for connections that two targets open at once, and these go on, protected",
    async () => {
      const before = await Promise.all(["ike.initiated", "ike.demanded"].map((name) => counter(lab(), name)));
      await Promise.all(["t1", "t2"].map((node) => fetchName(lab(), node)));
      expect(await activeChildren(lab())).toMatchObject([{ mode: "transport" }]);
      const after = await Promise.all(["ike.initiated", "ike.demanded"].map((name) => counter(lab(), name)));
      expect(after.map((count, at) => count - (before[at] ?? 0))).toEqual([1, 1]);
      // The sockets are gone, and with them the entries of the table.
      await until("nothing is opened any more", LIMIT_MS, async () => (await opened(lab())).length === 0);
      const seen = await wire(lab());
      expect(seen).toMatchObject({ duplicates: [], cleartextPackets: 0 });
      expect(sendersOf(lab(), seen)).toEqual(expect.arrayContaining(["t1", "t2"]));
      expect(await readClientDrops(lab().network)).toEqual({ replay: 0, integrity: 0 });
    },
    TEST_LIMIT_MS,
  );

  it(
    "that is there is used at once, by a target without a lease and by the distributor, and asked for again after its end",
    async () => {
      await fetchName(lab(), "t1");
      // No packet of t2 has met its parked state: the first one waited for the lease.
      const outran = await counter(lab(), "lease.ranOut", lab().target("t2"));
      await fetchName(lab(), "t2");
      expect(await counter(lab(), "lease.ranOut", lab().target("t2"))).toBe(outran);
      await fetchName(lab(), "d1");
      const demanded = await counter(lab(), "ike.demanded");
      await endSas(lab());
      await fetchName(lab(), "t2");
      expect((await counter(lab(), "ike.demanded")) - demanded).toBe(1);
      expect(await wire(lab())).toMatchObject({ duplicates: [], cleartextPackets: 0 });
    },
    TEST_LIMIT_MS,
  );

  it(
    "gives no target a connection that another one or the distributor has",
    async () => {
      const refused = await counter(lab(), "steer.openRefused.taken");
      const held = [hold(lab(), "t1", 45_001), hold(lab(), "d1", 45_002)];
      const isHeld = async (): Promise<boolean> => {
        const { stdout } = await lab().network.try("client", ["ss", "-Htn", "state", "established"]);
        return [45_001, 45_002].every((port) => stdout.includes(`${lab().network.dvipa}]:${port}`));
      };
      await until("t1 and d1 have their connections", LIMIT_MS, isHeld);
      expect(await opened(lab())).toEqual(["t1 45001"]);
      for (const port of [45_001, 45_002]) {
        const { exitCode, stdout } = await request(lab(), "t2", "/name", ["--local-port", String(port)], 3);
        expect({ port, exitCode, stdout }).toEqual({ port, exitCode: CURL_TIMED_OUT, stdout: "" });
      }
      expect((await counter(lab(), "steer.openRefused.taken")) - refused).toBeGreaterThanOrEqual(2);
      expect(await isHeld()).toBe(true);
      expect(await opened(lab())).toEqual(["t1 45001"]);
      for (const one of held) await one.stop("SIGTERM");
      await until("t1's is over", LIMIT_MS, async () => (await opened(lab())).length === 0);
      expect(await wire(lab())).toMatchObject({ duplicates: [], cleartextPackets: 0 });
    },
    TEST_LIMIT_MS,
  );

  it(
    "of a peer that does not answer is asked for once, however much there is to send, and all of it stays here",
    async () => {
      await muteClient(lab());
      const before = await Promise.all(["ike.initiated", "acquire.taken"].map((name) => counter(lab(), name)));
      const { clientAddress, dvipa } = lab().network;
      const flood = ["ping", "-n", "-q", "-c", "300", "-i", "0.01", "-W", "1", "-I", dvipa, clientAddress];
      const [{ stdout }] = await Promise.all([
        lab().network.try("t1", flood),
        lab().network.try("t2", flood),
        request(lab(), "t2", "/name", [], 3),
      ]);
      expect(stdout).toContain(" 0 received");
      const [initiated = 0, taken = 0] = await Promise.all(
        ["ike.initiated", "acquire.taken"].map((name) => counter(lab(), name)),
      );
      expect(initiated - (before[0] ?? 0)).toBe(1);
      expect(taken - (before[1] ?? 0)).toBeLessThanOrEqual(10);
      await trapsStand(lab());
      expect(await wire(lab())).toMatchObject({ espFromDvipa: 0, cleartextPackets: 0 });
      // What waits for the peer goes on as soon as that answers.
      await unmuteClient(lab());
      await until("the SA is there after all", LIMIT_MS, async () => (await children(lab()))[0]?.state === "active");
    },
    TEST_LIMIT_MS,
  );

  it(
    "is asked for by a target that was killed and started again; one that stops leaves nothing",
    async () => {
      expect(await lab().target("t2").stop("SIGKILL")).toMatchObject({ signal: "SIGKILL" });
      // Nobody hears the kernel ask, and nothing goes out.
      expect((await request(lab(), "t2", "/name", [], 2)).exitCode).not.toBe(0);
      await lab().startTarget("t2");
      await trapsStand(lab());
      await fetchName(lab(), "t2");
      expect(await wire(lab())).toMatchObject({ duplicates: [], cleartextPackets: 0 });
      // With an SA, that stands where the trap was; without, the trap does.
      await lab().target("t2").stop("SIGKILL");
      await lab().startTarget("t2");
      await statesOnEveryNode(lab(), 2);
      expect(await traps(lab(), "t2")).toBe(0);
      await fetchName(lab(), "t2");
      expect(await lab().target("t2").stop("SIGTERM")).toEqual({ exitCode: 0, signal: null });
      expect(residue(unused, await snapshotKernel(lab().network, "t2"))).toEqual([]);
      await lab().startTarget("t2");
    },
    TEST_LIMIT_MS,
  );

  it(
    "carries a target's connection on when the distributor was killed and started again",
    async () => {
      const pipe = join(lab().directory, "upload");
      await lab().network.run("t1", ["mkfifo", pipe]);
      const uploading = request(lab(), "t1", "/upload", ["--upload-file", pipe], UPLOAD_LIMIT_SECONDS);
      let isEnough = false;
      const writing = writePieces(pipe, () => isEnough);
      await until("the upload goes on", LIMIT_MS, async () => (await opened(lab())).length === 1);
      const before = await opened(lab());
      await lab().distributor.stop("SIGKILL");
      await lab().distributor.start();
      await lab().distributor.ready();
      await until("the connection is known again", LIMIT_MS, async () => {
        return JSON.stringify(await opened(lab())) === JSON.stringify(before);
      });
      isEnough = true;
      const written = await writing;
      const { exitCode, stdout, stderr } = await uploading;
      expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
      expect(JSON.parse(stdout)).toEqual({ node: "client", ...written });
      expect(await counter(lab(), "ike.demanded")).toBe(1);
      expect(await wire(lab())).toMatchObject({ duplicates: [], cleartextPackets: 0 });
    },
    TEST_LIMIT_MS,
  );

  it(
    "is a tunnel where the cluster file says so",
    async () => {
      await reloadWith(lab(), { initiate: { start: "onDemand", mode: "tunnel" } });
      await fetchName(lab(), "t1");
      expect(await activeChildren(lab())).toMatchObject([{ mode: "tunnel" }]);
      await fetchName(lab(), "t2");
      expect(await wire(lab())).toMatchObject({ duplicates: [], cleartextPackets: 0 });
    },
    TEST_LIMIT_MS,
  );
});

describe("an SA on demand, IPv6", () => {
  const cluster = { peerWindowPackets: WINDOW_PACKETS, peer: ON_DEMAND };
  const lab = useLab({ targets: 2, cluster, versions: { service: 6 } }, start);

  it(
    "comes up for a connection that a target opens, which goes on, protected",
    async () => {
      await trapsStand(lab());
      capture = await lab().startCapture();
      await fetchName(lab(), "t1");
      expect(await activeChildren(lab())).toMatchObject([{ mode: "transport" }]);
      await fetchName(lab(), "t2");
      const seen = await wire(lab());
      expect(seen).toMatchObject({ duplicates: [], cleartextPackets: 0 });
      expect(sendersOf(lab(), seen)).toEqual(expect.arrayContaining(["t1", "t2"]));
      expect((await client.terminate()).exitCode).toBe(0);
      await trapsStand(lab());
      expect(await stateCount(lab(), "t1")).toBe(0);
    },
    TEST_LIMIT_MS,
  );
});
