import { rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { MAX_STREAM_BYTES } from "../../netns/app-stream.ts";
import { Lab } from "../../netns/lab.ts";
import { CLIENT2_IDENTITY } from "../../netns/layout.ts";
import { Program } from "../../netns/program.ts";
import { describeLab } from "../../netns/report.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { download } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";

const SYN_FLOOD = fileURLToPath(new URL("../support/syn-flood.ts", import.meta.url));
const LIMIT_MS = 90_000;
const DOWNLOAD_BYTES = 200_000;
/** A connection has its rate by then, and a flood its effect. */
const RAMP_MS = 2_000;

/** What a flood of SYNs through an SA did. */
export interface FloodResult {
  readonly sent: number;
  /** Of another peer: downloads, each over a connection of its own, with the flood and without. */
  readonly throughputRatio: number;
  /** Of the flooding peer: a download over a connection that was there before. */
  readonly ownRatio: number;
  /** Of the flooding peer: downloads over new connections. */
  readonly ownNewRatio: number;
  readonly connections: number;
  /** SYNs that the distributor dropped because of those before them. */
  readonly refused: number;
}

interface Throughput {
  readonly others: number;
  readonly own: number;
  readonly ownNew: number;
}

/**
 * Two clients, each with an SA of its own; one of them sends SYNs through its SA, `rate` in a second for `seconds`, as an authenticated
 * peer can. Measures what the other one, and an old connection of the same, still get.
 */
export async function floodThroughSa(seconds: number, rate: number, peerWindowPackets: number): Promise<FloodResult> {
  await using lab = await Lab.create({ router: "router", cluster: { peerWindowPackets } });
  try {
    await lab.startCluster();
    await negotiate(await lab.startClient());
    await negotiate(await lab.startClient({ localIdentity: CLIENT2_IDENTITY }, "client2"));
    const before = await throughput(lab, seconds, () => Promise.resolve());
    let sent = 0;
    const during = await throughput(lab, seconds, async () => {
      const ends = [lab.network.addressOfClient("client"), lab.network.dvipa];
      const order = [process.execPath, SYN_FLOOD, ...ends, "80", String(rate), String(seconds + RAMP_MS / 1000)];
      sent = Number(await lab.network.run("client", order, { limitMs: LIMIT_MS }));
    });
    const { connections, counters } = await lab.distributor.status();
    return {
      sent,
      throughputRatio: ratio(during.others, before.others),
      ownRatio: ratio(during.own, before.own),
      ownNewRatio: ratio(during.ownNew, before.ownNew),
      connections: connections.length,
      refused: counters["steer.drop.tooManyHalfOpen"] ?? 0,
    };
  } catch (error) {
    process.stderr.write(`${await describeLab(lab)}\n`);
    throw error;
  }
}

async function negotiate(client: StrongSwan): Promise<void> {
  await until("a client negotiates", LIMIT_MS, async () => (await client.initiate("transport")).exitCode === 0);
}

/** Bytes per second of both kinds of traffic for some seconds, which begin when `load` has taken effect. */
async function throughput(lab: Lab, seconds: number, load: () => Promise<void>): Promise<Throughput> {
  const path = join(lab.directory, "endless");
  const url = `http://${lab.network.dvipa}/download?bytes=${MAX_STREAM_BYTES}`;
  const endless = Program.start({
    network: lab.network,
    node: "client",
    label: "the old connection",
    command: ["curl", "-sS", "--fail", "--http1.1", "--output", path, url],
    logFile: join(lab.directory, "log", "endless.log"),
  });
  const size = async (): Promise<number> => (await stat(path).catch(() => ({ size: 0 }))).size;
  await until("the old connection carries data", LIMIT_MS, async () => (await size()) > 0);
  await delay(RAMP_MS);
  const loading = load();
  const requesting = new AbortController();
  const requests = downloadUntil(lab, requesting.signal);
  await delay(RAMP_MS);
  const startMs = performance.now();
  const startBytes = await size();
  let downloads = 0;
  while (performance.now() - startMs < seconds * 1000) {
    if ((await download(lab, DOWNLOAD_BYTES, undefined, "client2")).ok) downloads += 1;
  }
  const elapsedSeconds = (performance.now() - startMs) / 1000;
  const own = ((await size()) - startBytes) / elapsedSeconds;
  requesting.abort();
  const ownNew = ((await requests) * DOWNLOAD_BYTES * 1000) / (performance.now() - startMs + RAMP_MS);
  await loading;
  await endless.stop("SIGKILL");
  await rm(path);
  return { others: (downloads * DOWNLOAD_BYTES) / elapsedSeconds, own, ownNew };
}

/** How many were done. With them every target sends on the SA, with the flood and without: who is alone on one has longer leases. */
async function downloadUntil(lab: Lab, signal: AbortSignal): Promise<number> {
  let downloads = 0;
  while (!signal.aborted) if ((await download(lab, DOWNLOAD_BYTES)).ok) downloads += 1;
  return downloads;
}

function ratio(during: number, before: number): number {
  return Math.round((100 * during) / before) / 100;
}
