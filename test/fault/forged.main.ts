/**
 * `npm run fault -- forged [--seconds N] [--rate N]`: bad ESP from an attacker on the client's link, who knows the SA's SPI and numbers, and
 * a flood of SYNs through the SA itself, with real traffic beside them. stdout: progress, then one line of JSON; exit 1 when
 * a claim fails.
 */
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Lab } from "../../netns/lab.ts";
import { describeLab } from "../../netns/report.ts";
import { download } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { FORGERIES, type Forgery } from "../support/forged-frames.ts";
import { acceptedPackets, inboundStates, Replayer } from "../support/replayer.ts";
import { floodThroughSa } from "./flooded-sa.ts";
import { ReplayMoments } from "./replay-moments.ts";

const HELP = `Usage: forged [--seconds N] [--rate N]

  --seconds N  how long each attack goes on (default 8)
  --rate N     packets a second of each attack (default 2000)
`;
const PEER_WINDOW_PACKETS = 1024;
const DOWNLOAD_BYTES = 200_000;
const NEGOTIATION_LIMIT_MS = 90_000;
const SETTLE_MS = 1_000;
/** Connections that one peer may have unconfirmed (`maxProvisionalPerPeer`), and those of the real traffic. */
const MOST_CONNECTIONS = 4_096 + 1_000;
/** Less than this part of the traffic of before is no going on. Attack and defence share the processors here. Our choice. */
const LEAST_RATIO = 0.1;

interface Attack {
  readonly attack: Forgery;
  readonly sent: number;
  readonly accepted: number;
  readonly throughputRatio: number;
  readonly connections: number;
}

const started = performance.now();
function say(line: string): void {
  process.stdout.write(`${((performance.now() - started) / 1000).toFixed(1).padStart(6)} s  ${line}\n`);
}

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "8" },
    rate: { type: "string", default: "2000" },
    help: { type: "boolean", default: false },
  },
});
const [seconds, rate] = [Number(values.seconds), Number(values.rate)];
if (values.help || !(seconds > 0) || !(rate > 0)) {
  process.stdout.write(HELP);
  process.exit(values.help ? 0 : 2);
}

// In a lab of its own: its traffic is that of two peers.
const synFlood = await floodThroughSa(seconds, rate, PEER_WINDOW_PACKETS);
say(`synFlood: ${JSON.stringify(synFlood)}`);
await using lab = await Lab.create({ cluster: { peerWindowPackets: PEER_WINDOW_PACKETS } });
try {
  process.exitCode = (await run()) ? 0 : 1;
} catch (error) {
  process.stderr.write(`${await describeLab(lab)}\nforged failed: ${String(error)}\n`);
  process.exitCode = 1;
}

/** Returns whether every claim holds. */
async function run(): Promise<boolean> {
  await lab.startCluster();
  const client = await lab.startClient();
  await using replayer = await Replayer.start(lab);
  await until("the client negotiates", NEGOTIATION_LIMIT_MS, async () => {
    return (await client.initiate("transport")).exitCode === 0;
  });
  await until("every node has the SA", NEGOTIATION_LIMIT_MS, async () => {
    return new Set((await inboundStates(lab)).map(({ node }) => node)).size === lab.nodes.length;
  });
  const moments = new ReplayMoments(lab, client, replayer, say);
  await moments.traffic();
  const attacks: Attack[] = [];
  for (const kind of FORGERIES) {
    const before = await bytesPerSecond();
    attacks.push(
      await attacked(moments, kind, before, async () => {
        const first = await replayer.forge(kind, { perSecond: rate });
        const during = await bytesPerSecond();
        return { during, sent: (await replayer.endForging()) - first };
      }),
    );
  }
  await moments.traffic();
  return await report(attacks);
}

/** Runs an attack and judges it. What the kernels accepted beyond what the client sent is forged. */
async function attacked(
  moments: ReplayMoments,
  attack: Attack["attack"],
  before: number,
  work: () => Promise<{ readonly during: number; readonly sent: number }>,
): Promise<Attack> {
  const quietBefore = await moments.quiet();
  const { during, sent } = await work();
  const { connections } = await lab.distributor.status();
  await delay(SETTLE_MS);
  const quietAfter = await moments.quiet();
  const grown = quietAfter.accepted - quietBefore.accepted;
  const real = quietAfter.recorded - quietBefore.recorded;
  const throughputRatio = Math.round((100 * during) / before) / 100;
  const result = {
    attack,
    sent,
    accepted: Math.max(0, grown - real),
    throughputRatio,
    connections: connections.length,
  };
  say(`${attack}: ${JSON.stringify(result)}`);
  return result;
}

/** Downloads for some seconds, one after the other. */
async function bytesPerSecond(): Promise<number> {
  const startMs = performance.now();
  let downloads = 0;
  while (performance.now() - startMs < seconds * 1000) {
    const { ok, problem } = await download(lab, DOWNLOAD_BYTES);
    if (!ok) say(`a download failed: ${problem}`);
    else downloads += 1;
  }
  return (downloads * DOWNLOAD_BYTES * 1000) / (performance.now() - startMs);
}

async function report(attacks: readonly Attack[]): Promise<boolean> {
  const { counters, sas } = await lab.distributor.status();
  const result = {
    sent: attacks.reduce((sum, { sent }) => sum + sent, synFlood.sent),
    accepted: attacks.reduce((sum, { accepted }) => sum + accepted, 0),
    throughputRatio: Math.min(...[...attacks, synFlood].map(({ throughputRatio }) => throughputRatio)),
    tables: { connections: Math.max(...[...attacks, synFlood].map((one) => one.connections)), sas: sas.length },
    attacks,
    synFlood,
    acceptedByKernels: await acceptedPackets(lab),
    drops: Object.fromEntries(Object.entries(counters).filter(([name]) => name.startsWith("steer.drop."))),
  };
  const problems = [
    [result.accepted > 0, "forged packets were accepted"],
    [
      Math.min(result.throughputRatio, synFlood.ownRatio, synFlood.ownNewRatio) < LEAST_RATIO,
      "real traffic does not go on",
    ],
    [synFlood.refused === 0, "the distributor let every SYN pass"],
    [result.tables.connections > MOST_CONNECTIONS, "the connection table grows beyond its limit for one peer"],
    [result.tables.sas !== 1, "an SA was lost"],
    [[...attacks, synFlood].some(({ sent }) => sent === 0), "an attack did not take place"],
  ].flatMap(([isBad, problem]) => (isBad === true ? [String(problem)] : []));
  for (const problem of problems) say(`✗ ${problem}`);
  process.stdout.write(`${JSON.stringify(result)}\n`);
  return problems.length === 0;
}
