/**
 * The loop in which a node keeps its lease of sequence numbers filled: the kernel's threshold event, a reservation over the bus with
 * mutual TLS, NEWAE. On a kernel with ESP.
 *
 * - Two namespaces with a veth. In the sending one: `esplex coupling`, an agent of the production's classes
 *   (`lease-agent.ts`), a program that sends UDP at a pace (`lease-sender.ts`). The receiver only captures.
 * - `maxPps`: the highest packet rate at which no state was stopped at its limit, with leases fixed at so many numbers;
 *   `sole` with the production's own, that follow the rate. Each rate on an SA of its own. The median of the rounds.
 * - `unleasedPps`: the same sender on the same state without a limit, as fast as it goes, in the same rounds. `ratio`: beside it.
 * - `p50us`, `p99us`: a refill, from the event that the agent heard to numbers in the kernel, as `esplex status` shows it, with leases
 *   of 128 numbers at half of their highest rate. Medians over the rounds.
 *   `idleUs` has two of its parts while nothing is sent; each part's quantiles under load are in `atMax` and `loaded`.
 * - `burntPerUsed`: numbers given up per number used, for one sender at half of its highest rate on the production's own leases.
 * - The run fails when a number came twice, outside of a grant, in clear, or when a packet of a run without a stop did not come.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, loadavg, release, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { median, round, spread } from "./closed-loop.ts";
import { LeaseLab } from "./lease-lab.ts";
import { LeaseRuns, type LeaseLength, type LeaseRun } from "./lease-runs.ts";
import { highestRate } from "./rate-search.ts";

const LENGTHS: readonly LeaseLength[] = [32, 128, 512, "sole"];
/** The length at which the latency is told. */
const LATENCY_LENGTH = 128;
const FIRST_PPS = 500;
const PRECISION = 0.1;
const DEFAULT_ROUNDS = 3;
const DEFAULT_SECONDS = 2;
/** The runs for latency and `burntPerUsed` take so many times as long as a step. */
const STEADY_STEPS = 5;
/** A 99th percentile of fewer samples is little more than the largest. */
const FEW_SAMPLES = 500;
const NAME_COLUMNS = 2;

const USAGE = `Usage: scripts/bench lease-loop [--rounds N] [--seconds N] [--profile DIR]

  --rounds N     searches for each length of lease (default ${DEFAULT_ROUNDS})
  --seconds N    how long each rate is held (default ${DEFAULT_SECONDS})
  --profile DIR  leave processor profiles of agent and coupling service there
`;

interface Options {
  readonly rounds: number;
  readonly seconds: number;
  readonly profileTo: string | null;
}

/** What the rounds found. */
class Findings {
  readonly unleasedPps: number[] = [];
  readonly best = new Map<LeaseLength, LeaseRun[]>(LENGTHS.map((length) => [length, []]));
  readonly loaded: LeaseRun[] = [];
  readonly steady: LeaseRun[] = [];

  bestOf(length: LeaseLength): readonly LeaseRun[] {
    return this.best.get(length) ?? [];
  }

  maxPps(length: LeaseLength): number {
    return median(this.bestOf(length).map(({ pps }) => pps));
  }
}

const options = optionsOf(process.argv.slice(2));
const loadBefore = loadavg()[0];
const directory = await mkdtemp(join(tmpdir(), "esplex-lease-loop-"));
try {
  await using lab = await LeaseLab.start(directory, options.profileTo);
  const runs = new LeaseRuns(lab, options.seconds);
  const findings = new Findings();
  await runs.lease(LATENCY_LENGTH, FIRST_PPS); // warms up what is compiled at run time
  const idle = await runs.idle();
  for (let at = 0; at < options.rounds; at++) await oneRound(runs, findings, at);
  const { wire, ledger } = await lab.evidence();
  const failures = runs.failuresOf({ wire, ledger });
  for (const failure of failures) console.error(`FAILED ${failure}`);
  table(findings);
  console.log(
    JSON.stringify({
      ...resultOf(findings),
      idleUs: idle,
      evidence: {
        packets: wire.espFromDvipa,
        duplicates: wire.duplicateCount,
        outsideLease: ledger.outsideLease,
        proven: ledger.proven,
        ...{ granted: ledger.granted, used: ledger.used, burnt: ledger.burnt },
        failures,
      },
      held: { rounds: options.rounds, seconds: options.seconds, precision: PRECISION },
      machine: {
        kernel: `${process.env["ESPLEX_GUEST_KERNEL"] ?? "native"} ${release()}`,
        processors: availableParallelism(),
        loadBefore,
        loadAfter: loadavg()[0],
      },
    }),
  );
  if (failures.length > 0) process.exitCode = 1;
} finally {
  await rm(directory, { recursive: true, force: true });
}

async function oneRound(runs: LeaseRuns, findings: Findings, at: number): Promise<void> {
  const ceilingPps = await runs.unleased();
  findings.unleasedPps.push(ceilingPps);
  for (const length of LENGTHS) {
    const search = { firstPps: FIRST_PPS, ceilingPps, precision: PRECISION };
    const best = await highestRate(search, (pps) => runs.lease(length, pps));
    if (best === null) throw new Error(`leases of ${length} numbers are used up at any rate`);
    findings.best.get(length)?.push(best);
    console.error(`round ${at + 1}, ${length} numbers: ${best.pps} of ${ceilingPps} packets/s`);
    if (length === LATENCY_LENGTH) findings.loaded.push(await runs.lease(length, best.pps / 2, STEADY_STEPS));
    if (length === "sole") findings.steady.push(await runs.lease(length, best.pps / 2, STEADY_STEPS));
  }
}

function resultOf(findings: Findings): object {
  const { unleasedPps, loaded, steady } = findings;
  const unleased = median(unleasedPps);
  const perLength = <T>(value: (length: LeaseLength) => T): Record<string, T> =>
    Object.fromEntries(LENGTHS.map((length) => [String(length), value(length)]));
  const burnt = sum(steady.map((run) => run.burnt));
  const used = sum(steady.map((run) => run.sent));
  return {
    p50us: median(loaded.map(({ refill }) => refill.p50us ?? NaN)),
    p99us: median(loaded.map(({ refill }) => refill.p99us ?? NaN)),
    samples: sum(loaded.map(({ refill }) => refill.samples)),
    maxPps: perLength((length) => findings.maxPps(length)),
    burntPerUsed: round(burnt / used, 10_000),
    unleasedPps: unleased,
    ratio: perLength((length) => round(findings.maxPps(length) / unleased, 1000)),
    spread: {
      unleasedPps: spread(unleasedPps),
      ...perLength((length) => spread(findings.bestOf(length).map(({ pps }) => pps))),
      p99us: spread(loaded.map(({ refill }) => refill.p99us ?? NaN)),
    },
    steady: {
      pps: steady.map(({ pps }) => pps),
      used,
      burnt,
      left: steady.map(({ left }) => left),
      stops: sum(steady.map((run) => run.stops)),
    },
    atMax: perLength((length) =>
      findings
        .bestOf(length)
        .map(({ pps, refill, reserve, rereads, cpuUs }) => ({ pps, refill, reserve, rereads, cpuUs })),
    ),
    loaded: loaded.map(({ pps, refill, reserve, cpuUs }) => ({ pps, refill, reserve, cpuUs })),
    rounds: { unleasedPps },
  };
}

function table(findings: Findings): void {
  const row = (...columns: readonly (string | number | null)[]): void =>
    console.error(columns.map((column, i) => String(column ?? "-").padStart(i < NAME_COLUMNS ? 9 : 13)).join(""));
  const samples = sum(findings.loaded.map(({ refill }) => refill.samples));
  if (samples < FEW_SAMPLES)
    console.error(`only ${samples} refills were measured: p99us is little more than the longest`);
  row("numbers", "round", "packets/s", "refills", "p50 us", "p99 us", "bus p50 us", "bus p99 us", "agent cpu us");
  for (const length of LENGTHS) {
    for (const [at, { pps, refill, reserve, cpuUs }] of findings.bestOf(length).entries()) {
      row(length, at + 1, pps, refill.samples, refill.p50us, refill.p99us, reserve.p50us, reserve.p99us, cpuUs);
    }
  }
  for (const [at, pps] of findings.unleasedPps.entries()) row("no limit", at + 1, pps);
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function optionsOf(args: string[]): Options {
  const text = { type: "string" } as const;
  const { values } = parseArgs({
    args,
    options: { rounds: text, seconds: text, profile: text, help: { type: "boolean" } },
  });
  if (values.help === true) {
    process.stdout.write(USAGE);
    process.exit(0);
  }
  const rounds = Number(values.rounds ?? DEFAULT_ROUNDS);
  const seconds = Number(values.seconds ?? DEFAULT_SECONDS);
  if (!Number.isInteger(rounds) || rounds < 1 || !(seconds > 0)) {
    process.stderr.write(USAGE);
    process.exit(2);
  }
  return { rounds, seconds, profileTo: values.profile ?? null };
}
