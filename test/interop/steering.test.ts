/**
 * Which target gets a connection, and what the distributor knows of it. Topology: `netns/layout.ts` with two targets, t1 with
 * three times the weight of t2.
 */
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { APPLICATION_PORT } from "../../netns/layout.ts";
import type { Lab } from "../../netns/lab.ts";
import { download, requestName, type RequestResult } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import type { ConnectionStatus, NodeStatus } from "../../src/daemons/node/status.ts";
import { negotiate, statesOnEveryNode } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

const ESPLEX = fileURLToPath(new URL("../../bin/esplex", import.meta.url));
const SETTLE_LIMIT_MS = 60_000;
const TRANSFER_BYTES = 4_000_000;
/** Some seconds, so that things happen meanwhile; the client gives up after forty. */
const PACE = { bytesPerSecond: 1_000_000, limitSeconds: 40 };

const distribution = { method: "weighted", weights: { t1: 3 } };
const lab = useLab({ targets: 2, cluster: { distribution } }, async (up) => {
  await up.startCluster();
  const client = await up.startClient();
  await negotiate(up, client, "transport");
  await statesOnEveryNode(up, 2);
});

/** Who answers `count` requests, one after the other. */
async function answers(count: number): Promise<string[]> {
  const names: string[] = [];
  while (names.length < count) names.push((await requestName(lab())).node ?? "nobody");
  return names.sort();
}

async function listens(up: Lab, name: string, wanted: boolean): Promise<void> {
  await up.distributor.waitFor(
    `knows that ${name} ${wanted ? "listens" : "does not listen"}`,
    SETTLE_LIMIT_MS,
    ({ targets }) =>
      targets.some(
        (target) => target.name === name && target.listening.some(({ port }) => port === APPLICATION_PORT) === wanted,
      ),
  );
}

/** d1's only connection that is not over. */
function onlyOpen({ connections }: NodeStatus): ConnectionStatus | undefined {
  const open = connections.filter(({ state }) => state !== "closing");
  return open.length === 1 ? open[0] : undefined;
}

/** Starts a download and waits until its target has confirmed it; the promise is in an object, so that it is not awaited. */
async function downloadUnderWay(limitSeconds = PACE.limitSeconds): Promise<{
  readonly entry: ConnectionStatus;
  readonly result: Promise<RequestResult>;
}> {
  const result = download(lab(), TRANSFER_BYTES, { ...PACE, limitSeconds });
  const status = await lab().distributor.waitFor(
    "has the download confirmed by its target",
    SETTLE_LIMIT_MS,
    (now) => onlyOpen(now)?.state === "confirmed",
  );
  const entry = onlyOpen(status);
  if (entry === undefined) throw new Error("no connection");
  return { entry, result };
}

describe("the choice", () => {
  it("follows the weights", async () => {
    expect(await answers(8)).toEqual(["t1", "t1", "t1", "t1", "t1", "t1", "t2", "t2"]);
  });

  it("leaves out a target whose application stopped, and takes it again once it listens", async () => {
    await lab().stopApplication("t2");
    await listens(lab(), "t2", false);
    expect(await answers(5)).toEqual(["t1", "t1", "t1", "t1", "t1"]);
    await lab().startApplication("t2");
    await listens(lab(), "t2", true);
    expect(await answers(4)).toEqual(["t1", "t1", "t1", "t2"]);
  });

  it("is not made while no application listens: the client's SYN waits for one", async () => {
    for (const name of ["t1", "t2"]) await lab().stopApplication(name);
    for (const name of ["t1", "t2"]) await listens(lab(), name, false);
    const waiting = requestName(lab());
    await until("d1 has dropped a SYN", SETTLE_LIMIT_MS, async () => {
      const { counters } = await lab().distributor.status();
      return (counters["steer.drop.noListener"] ?? 0) > 0;
    });
    await lab().startApplication("t2");
    expect(await waiting).toMatchObject({ ok: true, node: "t2" });
    await lab().startApplication("t1");
    await listens(lab(), "t1", true);
  });
});

describe("esplex drain", () => {
  const drain = async (...args: readonly string[]): Promise<{ exitCode: number; stderr: string }> =>
    lab().network.try("d1", [ESPLEX, "drain", ...args, "--run", lab().distributor.runDirectory]);

  it("gives a target no new connections, and leaves it those that it has", async () => {
    const { entry, result } = await downloadUnderWay();
    const other = entry.target === "t1" ? "t2" : "t1";
    expect(await drain(entry.target)).toMatchObject({ exitCode: 0 });
    const { targets } = await lab().distributor.status();
    expect(targets.map(({ name, draining }) => [name, draining])).toContainEqual([entry.target, true]);
    expect(await answers(4)).toEqual([other, other, other, other]);
    expect(await result).toMatchObject({ ok: true, node: entry.target });
    expect(await drain(entry.target, "--undo")).toMatchObject({ exitCode: 0 });
    expect(new Set(await answers(5))).toEqual(new Set(["t1", "t2"]));
  });

  it("refuses a name that is no target's", async () => {
    const { exitCode, stderr } = await drain("d1");
    expect(exitCode).toBe(1);
    expect(stderr).toContain("t1, t2");
  });
});

describe("the connection table", () => {
  it("has every connection that is over as closing, by its target's word", async () => {
    await answers(2);
    const { connections, counters } = await lab().distributor.waitFor(
      "knows that all are over",
      SETTLE_LIMIT_MS,
      (status) => status.connections.every(({ state }) => state === "closing"),
    );
    expect(connections.length).toBeGreaterThan(0);
    expect(counters["steer.connectionsClosed"]).toBeGreaterThan(0);
    expect(counters["targets.reportRefused"] ?? 0).toBe(0);
  });

  it("is rebuilt from the targets' sockets by a distributor that was killed", async () => {
    // Without its SA the client is not heard, so it may give up meanwhile: its target cannot know.
    const { entry, result } = await downloadUnderWay(10);
    await lab().distributor.stop("SIGKILL");
    await lab().distributor.start();
    await lab().distributor.ready();
    await lab().targetsConnected();
    const status = await lab().distributor.waitFor(
      "has the connection again",
      SETTLE_LIMIT_MS,
      (now) => onlyOpen(now) !== undefined,
    );
    expect(onlyOpen(status)).toEqual(entry);
    await result;
  });
});
