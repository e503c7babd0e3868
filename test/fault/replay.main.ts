/**
 * `npm run fault -- replay [--quick] [--plant]`: an attacker on the client's link records every ESP packet to the DVIPA and sends it
 * again at every moment of a connection's and a node's life. What was accepted is read from the kernels' own counters. stdout:
 * progress, then one line of JSON; exit 1 when a packet was accepted twice beyond the stated exposure.
 */
import { parseArgs } from "node:util";
import { Lab } from "../../netns/lab.ts";
import { describeLab } from "../../netns/report.ts";
import type { StrongSwan } from "../../netns/strongswan.ts";
import { until } from "../../netns/until.ts";
import { inboundStates, Replayer } from "../support/replayer.ts";
import { ReplayMoments } from "./replay-moments.ts";

const HELP = `Usage: replay [--quick] [--plant]

  --quick  leaves out what waits for a minute
  --plant  positive control: at the end, recorded packets of one target are brought to another one past the distributor, over the
           trusted link; the run must find them and fail
`;
/** How old a packet may be, ms, and still be accepted a second time. */
const STATED_EXPOSURE_MS = 0;
const PEER_WINDOW_PACKETS = 1024;
const NEGOTIATION_LIMIT_MS = 90_000;
/** Each packet again so much later: at once, on its way to the node, around a question to it, and long after. */
const DELAYS_MS = [0, 5, 20, 60, 120, 250, 600];

const started = performance.now();
function say(line: string): void {
  process.stdout.write(`${((performance.now() - started) / 1000).toFixed(1).padStart(6)} s  ${line}\n`);
}

const { values } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    plant: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
if (values.help) {
  process.stdout.write(HELP);
  process.exit(0);
}

await using lab = await Lab.create({ cluster: { peerWindowPackets: PEER_WINDOW_PACKETS } });
try {
  process.exitCode = (await run(lab)) ? 0 : 1;
} catch (error) {
  process.stderr.write(`${await describeLab(lab)}\nreplay failed: ${String(error)}\n`);
  process.exitCode = 1;
}

/** Returns whether every claim holds. */
async function run(lab: Lab): Promise<boolean> {
  await lab.startCluster();
  const client = await lab.startClient();
  await using replayer = await Replayer.start(lab);
  await negotiate(client);
  const moments = new ReplayMoments(lab, client, replayer, say);
  await life(moments, replayer);
  const exposureMs = await exposure(moments);
  const counters = await counted(lab);
  await endings(lab, client, moments);
  if (values.plant) await plant(moments, replayer);
  const beyond = moments.results.filter(({ acceptedTwice }) => acceptedTwice > 0);
  const result = {
    replayed: sum(moments.results.map(({ replayed }) => replayed)),
    acceptedTwice: sum(moments.results.map(({ acceptedTwice }) => acceptedTwice)),
    exposureMs,
    recorded: (await replayer.recorded()).length,
    moments: Object.fromEntries(moments.results.map(({ moment, ...counts }) => [moment, counts])),
    // The distributor's own, before it is killed: for a reader.
    counters,
  };
  process.stdout.write(`${JSON.stringify(result)}\n`);
  return beyond.length === 0 && exposureMs <= STATED_EXPOSURE_MS;
}

async function counted(lab: Lab): Promise<Record<string, number>> {
  const { counters } = await lab.distributor.status();
  return Object.fromEntries(Object.entries(counters).filter(([name]) => /^(replay\.|steer\.(drop|held))/.test(name)));
}

/** Of connections and targets. */
async function life(moments: ReplayMoments, replayer: Replayer): Promise<void> {
  await moments.traffic();
  await moments.again("closed a moment ago");
  await moments.following("open, each at once and again later", DELAYS_MS, () => moments.download());
  await moments.again("closed");
  if (!values.quick) {
    await moments.forgotten();
    await moments.again("forgotten by the connection table");
  }
  await lab.distributor.ask("drain", { target: "t1", isDraining: true });
  await moments.again("its target drains");
  await lab.distributor.ask("drain", { target: "t1", isDraining: false });
  await moments.traffic();
  await lab.target("t2").stop("SIGKILL");
  await moments.again("its target's daemon was killed");
  await lab.startTarget("t2");
  await moments.again("its target's daemon is back");
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    await moments.whileOpen(async () => {
      for (const name of ["t1", "t2", "t3"]) await moments.restart(name, signal);
    });
    await moments.again(`all targets were restarted with ${signal} while a connection was open`);
  }
  await moments.traffic();
  await moments.flushStates("t3");
  await moments.again("another program flushed its target's states");
  for (const { node } of lab.targets) {
    await moments.again(`sent to ${node} itself, past the distributor`, replayer.pastDistributor(node, "client"));
  }
  say(`${(await replayer.recorded()).length} packets recorded`);
}

/** The greatest age at which a packet was accepted twice; 0 when none was. */
async function exposure(moments: ReplayMoments): Promise<number> {
  let greatest = 0;
  for (const delayMs of DELAYS_MS) {
    const name = `short connections, each packet again after ${delayMs} ms`;
    await moments.following(name, [delayMs], () => moments.traffic());
    const last = moments.results.at(-1);
    if (last !== undefined && last.acceptedTwice > 0) greatest = Math.max(greatest, delayMs, 1);
  }
  return greatest;
}

/** Of SAs and of the distributor. */
async function endings(lab: Lab, client: StrongSwan, moments: ReplayMoments): Promise<void> {
  await moments.rekey();
  await moments.again("its SA was rekeyed and is gone");
  await lab.distributor.stop("SIGKILL");
  await moments.again("the distributor was killed");
  await lab.distributor.start();
  await lab.distributor.ready();
  await lab.targetsConnected();
  await moments.again("the distributor is back");
  await client.swanctl(["--terminate", "--ike", "dvipa", "--force", "--timeout", "1"]);
  await negotiate(client);
  await moments.traffic();
  await moments.again("the client negotiated anew");
}

async function negotiate(client: StrongSwan): Promise<void> {
  await until("the client negotiates", NEGOTIATION_LIMIT_MS, async () => {
    return (await client.initiate("transport")).exitCode === 0;
  });
  await until("every node has the SA", NEGOTIATION_LIMIT_MS, async () => {
    return new Set((await inboundStates(lab)).map(({ node }) => node)).size === lab.nodes.length;
  });
}

/** What a distributor that checks nothing would do. */
async function plant(moments: ReplayMoments, replayer: Replayer): Promise<void> {
  await moments.traffic();
  for (const { node } of lab.targets) {
    await moments.again(`planted: brought to ${node} by the distributor`, replayer.pastDistributor(node, "trust"));
  }
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
