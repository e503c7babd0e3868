/**
 * `npm run bench -- fleet [--sas N] [--rest SECONDS]`: a real cluster (coupling service, distributor, target t1) that holds N IKE SAs
 * with one Child SA each, every peer with an address and a certificate of its own, and a target t2 that joins late. On a kernel with
 * ESP; all of it shares that kernel's processors, the peers too.
 *
 * - `cpuMsEach`: processor time of each daemon for one negotiation, of the first and of the last ones; the ratio says how it grows.
 * - `kbPerSa`: growth of the resident memory for each, with whatever the garbage collector has left.
 * - `rest`: processor time while nothing but liveness checks goes on.
 * - `lateJoiner`: `seconds` from the start of t2's process to the last state in its kernel; `emptySeconds`: with no SA, to the end of its
 *   snapshot; `restartSeconds`: likewise after SIGKILL, over the states that it had.
 */
import { readFile, writeFile } from "node:fs/promises";
import { availableParallelism, loadavg } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { parse, stringify } from "yaml";
import { Lab } from "../../netns/lab.ts";
import { DVIPA_IDENTITY } from "../../netns/layout.ts";
import { until } from "../../netns/until.ts";
import { AskedProgram } from "./asked-program.ts";
import { round } from "./closed-loop.ts";
import { FLEET_DOMAIN, FLEET_PREFIX, type FleetOrder } from "./ike-lab.ts";
import { processCpuUs, processRssKb } from "./programs.ts";

const CLIENT = fileURLToPath(new URL("fleet-client.ts", import.meta.url));
const SAS = 10_000;
const REST_SECONDS = 60;
/** Negotiations of each measurement, at the start and at the end. */
const SAMPLE = 500;
const JOIN_LIMIT_MS = 600_000;
const AUTHORITY_FILE = "fleet-ca.pem";
const SNAPSHOT_APPLIED = "shadow SAs are those of the distributor";
/** Each Child SA is two states of the kernel. */
const STATES_PER_SA = 2;

const { values } = parseArgs({
  options: { sas: { type: "string" }, rest: { type: "string" }, help: { type: "boolean" } },
});
const sas = Number(values.sas ?? SAS);
const restSeconds = Number(values.rest ?? REST_SECONDS);
if (values.help === true || !(sas >= 3 * SAMPLE) || !(restSeconds >= 0)) {
  process.stdout.write(`Usage: scripts/bench fleet [--sas N] [--rest SECONDS]

  --sas N         IKE SAs (default ${SAS}, at least ${3 * SAMPLE})
  --rest SECONDS  how long it is looked at rest (default ${REST_SECONDS})
`);
  process.exit(values.help === true ? 0 : 2);
}

const DAEMONS = ["distributor", "target", "coupling"] as const;
type Daemon = (typeof DAEMONS)[number];
type PerDaemon = Record<Daemon, number>;

await using lab = await Lab.create({
  targets: 2,
  cluster: { authentication: "certificate" },
  versions: { service: 6 },
});
const late = lab.target("t2");
const daemons = { distributor: () => lab.distributor, target: () => lab.target("t1"), coupling: () => lab.coupling };
await routeFleet();
const order: FleetOrder = { responder: lab.network.dvipa, responderIdentity: DVIPA_IDENTITY };
const [file, ...args] = lab.network.inside("client", [process.execPath, CLIENT, JSON.stringify(order)]);
await using fleet = await AskedProgram.start(file, args);
await trustFleet(((await fleet.ask("authority")) as { pem: string }).pem);

say("starting the cluster");
await lab.startCluster();
const emptySeconds = await secondsOfEmptyJoin();

await negotiateTo(SAMPLE); // Until the code is compiled.
const before = await memory();
const startMs = performance.now();
const first = await costOf(2 * SAMPLE);
await negotiateTo(sas - SAMPLE);
const last = await costOf(sas);
const seconds = (performance.now() - startMs) / 1000;
await statesOf(["d1", "t1"]);
const after = await memory();

const checksBefore = await livenessChecks();
const rest = await cpuDuring(() => delay(restSeconds * 1000));
const livenessAnswers = (await livenessChecks()) - checksBefore;

const joinSeconds = await secondsOf(async () => {
  await late.start();
  await statesOf(["t2"]);
});
say(`t2 has all states after ${joinSeconds} s`);
const restartSeconds = await secondsOfRestart();
await statesOf(["d1", "t1", "t2"]);

console.log(
  JSON.stringify({
    sas,
    negotiation: {
      perSecond: round((sas - SAMPLE) / seconds),
      cpuMsEach: perDaemon((name) => ({
        first: first[name],
        last: last[name],
        ratio: round(last[name] / first[name], 100),
      })),
    },
    kbPerSa: perDaemon((name) => round((after[name] - before[name]) / (sas - SAMPLE))),
    rssMb: perDaemon((name) => round(after[name] / 1024)),
    rest: {
      seconds: restSeconds,
      cpuSeconds: perDaemon((name) => round(rest[name] / 1_000_000, 100)),
      livenessAnswers,
    },
    lateJoiner: { seconds: joinSeconds, emptySeconds, restartSeconds },
    machine: { processors: availableParallelism(), load: loadavg()[0] },
  }),
);

function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** The peers' addresses are behind the client node, which answers for all of them. */
async function routeFleet(): Promise<void> {
  const { network } = lab;
  await network.run("client", ["sysctl", "-q", "-w", "net.ipv6.ip_nonlocal_bind=1"]);
  await network.run("client", ["ip", "-6", "route", "add", "local", FLEET_PREFIX, "dev", "lo"]);
  for (const { node } of lab.nodes) {
    await network.run(node, ["ip", "-6", "route", "add", FLEET_PREFIX, "via", network.clientAddress, "dev", "cli0"]);
  }
}

/** One peer section for all of them. */
async function trustFleet(pem: string): Promise<void> {
  await writeFile(join(lab.directory, AUTHORITY_FILE), pem, { mode: 0o600 });
  const path = join(lab.directory, "cluster.yaml");
  const content = parse(await readFile(path, "utf8")) as { certificates: object; peers: object[] };
  const [peer] = content.peers;
  const section = {
    ...{ name: "fleet", address: "ANY", identity: `*.${FLEET_DOMAIN}`, localIdentity: DVIPA_IDENTITY },
    certificate: { authorities: [AUTHORITY_FILE] },
  };
  const certificates = { ...content.certificates, revocation: "relaxed" };
  await writeFile(path, stringify({ ...content, certificates, peers: [{ ...peer, ...section }] }));
}

async function negotiateTo(total: number): Promise<void> {
  const { up } = (await fleet.ask(`negotiate ${total}`).catch(explained)) as { up: number };
  if (up !== total) throw new Error(`${up} of ${total} IKE SAs are up`);
  say(`${total} IKE SAs`);
}

/** With what the distributor has counted: the peers do not know why they are refused. */
async function explained(error: unknown): Promise<never> {
  const { counters } = await lab.distributor.status();
  const told = Object.entries(counters).filter(([name]) => name.startsWith("ike."));
  throw new Error(`negotiations failed; the distributor has counted ${JSON.stringify(told)}`, { cause: error });
}

async function livenessChecks(): Promise<number> {
  return ((await fleet.ask("answered")) as { answered: number }).answered;
}

/** Processor time of each daemon for each negotiation up to this many, in ms. */
async function costOf(total: number): Promise<PerDaemon> {
  const cpuUs = await cpuDuring(() => negotiateTo(total));
  return perDaemon((name) => round(cpuUs[name] / 1000 / SAMPLE, 100));
}

async function cpuDuring(work: () => Promise<void>): Promise<PerDaemon> {
  const read = (): Promise<PerDaemon> => readAll(({ program }) => processCpuUs(program.pid));
  const start = await read();
  await work();
  const end = await read();
  return perDaemon((name) => end[name] - start[name]);
}

async function memory(): Promise<PerDaemon> {
  return readAll(({ program }) => processRssKb(program.pid));
}

async function readAll(read: (daemon: ReturnType<(typeof daemons)[Daemon]>) => Promise<number>): Promise<PerDaemon> {
  const [distributor, target, coupling] = await Promise.all(DAEMONS.map((name) => read(daemons[name]())));
  return { distributor: distributor ?? NaN, target: target ?? NaN, coupling: coupling ?? NaN };
}

function perDaemon<T>(of: (name: Daemon) => T): Record<Daemon, T> {
  return { distributor: of("distributor"), target: of("target"), coupling: of("coupling") };
}

async function secondsOf(work: () => Promise<void>): Promise<number> {
  const fromMs = performance.now();
  await work();
  return round((performance.now() - fromMs) / 1000, 100);
}

/** Waits until these nodes' kernels have the states of all SAs. */
async function statesOf(nodes: readonly string[]): Promise<void> {
  const wanted = STATES_PER_SA * sas;
  for (const node of nodes) {
    await until(`${node} has ${wanted} states`, JOIN_LIMIT_MS, async () => {
      const text = await lab.network.run(node, ["ip", "xfrm", "state", "count"]);
      return text.includes(`SAD count ${wanted}`);
    });
  }
}

/** t2 joins a cluster without SAs, and leaves. */
async function secondsOfEmptyJoin(): Promise<number> {
  await late.stop("SIGTERM");
  const found = await secondsOfStart();
  await late.stop("SIGTERM");
  return found;
}

async function secondsOfRestart(): Promise<number> {
  await late.stop("SIGKILL");
  return secondsOfStart();
}

/** To the end of t2's first snapshot. Its log tells: a status with 10,000 SAs would keep it from its work. */
async function secondsOfStart(): Promise<number> {
  const before = await snapshotsOfLate();
  return secondsOf(async () => {
    await late.start();
    await until("t2 has its snapshot", JOIN_LIMIT_MS, async () => (await snapshotsOfLate()) > before);
  });
}

async function snapshotsOfLate(): Promise<number> {
  return (await readFile(late.program.logFile, "utf8")).split(SNAPSHOT_APPLIED).length - 1;
}
