// runs: anywhere
/**
 * Reservations of the coupling service beside Redis' INCRBY, in one run.
 *
 * - Three servers, each a process of its own on loopback: `esplex coupling` (mutual TLS 1.3, ceilings in a journal with
 *   fdatasync), `redis-server` without persistence, `redis-server` with `appendfsync always` (both plain TCP). All files
 *   are in one directory on this project's disk.
 * - One client process, this one. A caller has one call outstanding; it takes 128 numbers from its share of 64 lines (SAs
 *   or keys). In `oneConnection`, the cells at the top of the JSON, all callers share one connection on either side, and
 *   Redis is pipelined: that is how a node talks to the coupling service, and a Redis client library to Redis. In
 *   `connectionEach` every caller has its own, as in `redis-benchmark`; ours are as many nodes. `sharedVsEach` has
 *   ours from the first and Redis' from the second.
 * - Rounds of short cells, the three servers one after the other in each and in turning order; medians over the rounds.
 * - A number given twice makes the run a failure.
 */
import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, open, rm } from "node:fs/promises";
import { availableParallelism, loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Cell, measure, median, round, spread } from "./closed-loop.ts";
import { CouplingSubject } from "./coupling-subject.ts";
import { startRedis } from "./redis-subject.ts";
import type { Subject } from "./subject.ts";

const CALLERS = [1, 8, 64] as const;
const ROUNDS = 5;
const WARM_UP_MS = 200;
const CELL_MS = 800;
const CACHE = new URL("../../node_modules/.cache/", import.meta.url).pathname;
const TMPFS = "tmpfs";

interface Sample extends Cell {
  /** Processor time for one call, at the server and at the client (this process), in microseconds. */
  readonly serverUs: number;
  readonly clientUs: number;
}

type Name = Subject["name"];
type Mode = "oneConnection" | "connectionEach";
const NAMES: readonly Name[] = ["ours", "redis", "redisAlways"];
const MODES: readonly Mode[] = ["oneConnection", "connectionEach"];

/** Samples of one cell of the table, one a round. */
const samples = new Map<string, Sample[]>();
const cellName = (mode: Mode, name: Name, callers: number): string => `${mode} ${name} c${callers}`;

async function sample(subject: Subject, mode: Mode, callers: number): Promise<void> {
  const session = await subject.open(callers, mode === "oneConnection");
  const serverBeforeUs = await subject.program.cpuUs();
  const clientBefore = process.cpuUsage();
  let calls = 0;
  const counted = (caller: number): Promise<void> => {
    calls++;
    return session.call(caller);
  };
  const cell = await measure(counted, callers, WARM_UP_MS, CELL_MS);
  const client = process.cpuUsage(clientBefore);
  const serverUs = round(((await subject.program.cpuUs()) - serverBeforeUs) / calls);
  const clientUs = round((client.user + client.system) / calls);
  await session.close();
  const key = cellName(mode, subject.name, callers);
  samples.set(key, [...(samples.get(key) ?? []), { ...cell, serverUs, clientUs }]);
}

function summary(mode: Mode, name: Name, callers: number): Sample & { spread: number } {
  const all = samples.get(cellName(mode, name, callers)) ?? [];
  const middle = (field: keyof Sample): number => median(all.map((one) => one[field]));
  return {
    ...{ ops: middle("ops"), p50us: middle("p50us"), p99us: middle("p99us") },
    ...{ serverUs: middle("serverUs"), clientUs: middle("clientUs"), spread: spread(all.map(({ ops }) => ops)) },
  };
}

/** One caller has one connection in either mode: it is measured once. */
const modeOf = (mode: Mode, callers: number): Mode => (callers === 1 ? "oneConnection" : mode);

function cells(mode: Mode, name: Name): Record<string, Cell> {
  return Object.fromEntries(
    CALLERS.map((callers) => {
      const { ops, p50us, p99us } = summary(modeOf(mode, callers), name, callers);
      return [`c${callers}`, { ops, p50us, p99us }];
    }),
  );
}

/** Ours over theirs with 64 callers: rates (above 1 is better), and 99th percentiles (below 1 is better). */
function ratio(mode: Mode, modeOfRedis: Mode = mode): Record<string, number> {
  const ours = summary(mode, "ours", 64);
  const redis = summary(modeOfRedis, "redis", 64);
  const redisAlways = summary(modeOfRedis, "redisAlways", 64);
  return {
    c64VsRedis: round(ours.ops / redis.ops, 100),
    c64VsRedisAlways: round(ours.ops / redisAlways.ops, 100),
    p99VsRedis: round(ours.p99us / redis.p99us, 100),
  };
}

function report(): void {
  const row = (...columns: readonly (string | number)[]): void =>
    console.error(
      columns.map((column, i) => (i < 2 ? String(column).padEnd(15) : String(column).padStart(11))).join(""),
    );
  row("connections", "server", "callers", "calls/s", "spread", "p50 us", "p99 us", "server us", "client us");
  for (const mode of MODES) {
    for (const callers of CALLERS.filter((count) => modeOf(mode, count) === mode)) {
      for (const name of NAMES) {
        const { ops, p50us, p99us, serverUs, clientUs, spread: part } = summary(mode, name, callers);
        row(mode, name, callers, ops, `${Math.round(part * 100)} %`, p50us, p99us, serverUs, clientUs);
      }
    }
  }
}

/** What one small write and fdatasync take in `directory`: the least that a durable answer costs. Median, microseconds. */
async function fdatasyncUs(directory: string): Promise<number> {
  const file = await open(join(directory, "probe"), "a");
  const times: number[] = [];
  for (let i = 0; i < 200; i++) {
    const beforeMs = performance.now();
    await file.write(Buffer.alloc(200, "x"));
    await file.datasync();
    times.push((performance.now() - beforeMs) * 1000);
  }
  await file.close();
  return round(median(times));
}

const USAGE = `Usage: scripts/bench sequence [--rounds N]

  --rounds N  rounds over all cells (default ${ROUNDS}; about 16 seconds each)
`;
const { values } = parseArgs({ options: { rounds: { type: "string" }, help: { type: "boolean" } } });
if (values.help === true) {
  process.stdout.write(USAGE);
  process.exit(0);
}
const rounds = Number(values.rounds ?? ROUNDS);
if (!Number.isInteger(rounds) || rounds < 1) {
  process.stderr.write(USAGE);
  process.exit(2);
}

// The cells say little about a machine that is busy with something else.
const loadBefore = loadavg()[0];

await mkdir(CACHE, { recursive: true });
const directory = await mkdtemp(join(CACHE, "sequence-"));
try {
  const kind = execFileSync("stat", ["--file-system", "--format", "%T", directory], { encoding: "utf8" }).trim();
  if (kind === TMPFS) throw new Error(`${directory} is in memory: durability would cost nothing`);
  const syncUs = await fdatasyncUs(directory);
  await using ours = await CouplingSubject.start(join(directory, "ours"), Math.max(...CALLERS));
  await using redis = await startRedis(join(directory, "redis"), false);
  await using redisAlways = await startRedis(join(directory, "redis-always"), true);
  const subjects: readonly Subject[] = [ours, redis, redisAlways];
  for (let at = 0; at < rounds; at++) {
    for (const mode of MODES) {
      for (const callers of CALLERS.filter((count) => modeOf(mode, count) === mode)) {
        for (let i = 0; i < subjects.length; i++) {
          const subject = subjects[(at + i) % subjects.length];
          if (subject !== undefined) await sample(subject, mode, callers);
        }
      }
    }
    console.error(`round ${at + 1} of ${rounds}`);
  }
  report();
  const journal = await ours.journalCounts();
  if (journal.raises === 0) throw new Error("no ceiling was raised: durability was not in the path");
  const both = (mode: Mode): object => Object.fromEntries(NAMES.map((name) => [name, cells(mode, name)]));
  const spreads = Object.fromEntries([...samples].map(([key, all]) => [key, spread(all.map(({ ops }) => ops))]));
  console.log(
    JSON.stringify({
      ...both("oneConnection"),
      ratio: ratio("oneConnection"),
      sharedVsEach: { ratio: ratio("oneConnection", "connectionEach") },
      connectionEach: { ...both("connectionEach"), ratio: ratio("connectionEach") },
      spread: spreads,
      journal: { ...journal, fdatasyncUs: syncUs, fileSystem: kind },
      machine: { processors: availableParallelism(), loadBefore, loadAfter: loadavg()[0] },
    }),
  );
} finally {
  await rm(directory, { recursive: true, force: true });
}
