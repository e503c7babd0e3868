// runs: anywhere, as root
/**
 * What steering costs for each packet: its parts in this process, and packets a second through a netfilter queue.
 *
 * - Parts (`peekUs`): parse, SA look-up, peek, DCT, and the whole verdict (`decide`), over packets of established connections; beside
 *   them a full decrypt of the same packets with their ICV, by node:crypto. Four suites, both modes, two lengths; what stands ahead is
 *   one of these cells, the others are in `cells`. Microseconds per packet; the fastest of some passes over the packets in each round.
 * - `nfqueuePps`: packets a second of a process on one processor, bound to it, with the sender bound to another: `plain` accepts
 *   every packet unread, `steered` is the production's class with tables and marks. `cpuUsPerPacket` is the processor time of that
 *   process, its helper threads and what the kernel does on its account (the packet's way on to the target among it): on a machine
 *   that does other things too, that is the number to look at. `perCpuSecond` is its inverse.
 * - Medians over the rounds; in each round everything is measured once, in turning order. No ESP is needed in the kernel.
 * - The run fails when a packet is missing at the end, or went without its mark, or when peek and full decrypt do not agree.
 */
import { mkdir } from "node:fs/promises";
import { availableParallelism, loadavg, release } from "node:os";
import { parseArgs } from "node:util";
import type { EspSuite } from "../../src/sa/suite.ts";
import { suiteName } from "../../src/sa/suite.ts";
import { median, round, spread } from "./closed-loop.ts";
import { PeekStages, STAGES, type Stage } from "./peek-stages.ts";
import { selfTimes } from "./profile.ts";
import { SteerLab, type SteerRun } from "./steer-lab.ts";
import { CONNECTIONS_PER_SA, SAS, type Shape } from "./steer-traffic.ts";
import type { WorkerKind } from "./steer-worker.ts";

const DEFAULT_ROUNDS = 5;
const DEFAULT_PACKETS = 100_000;
/** What is compiled at run time has been compiled by then. */
const WARM_UP_PACKETS = 30_000;
/** Over all packets of a cell, before the rounds; each round measures so often and takes the fastest. */
const WARM_UP_PASSES = 10;
const PASSES = 7;
const SUITES: readonly EspSuite[] = [
  { kind: "aes-gcm-16", keyBits: 128 },
  { kind: "aes-gcm-16", keyBits: 256 },
  { kind: "aes-cbc", keyBits: 256, integrity: "hmac-sha2-256" },
  { kind: "chacha20-poly1305" },
];
const LENGTHS_BYTES = [60, 1400];
const KINDS: readonly WorkerKind[] = ["plain", "steered"];
/** The cell that stands ahead, and the suite and mode of what goes through the queue. */
const AHEAD = { suite: { kind: "aes-gcm-16", keyBits: 128 }, mode: "transport" } as const;
const AHEAD_BYTES = 1400;
const HUNDREDTH = 100;
const US_PER_SECOND = 1_000_000;
/** Functions that the profile names. */
const PROFILE_LINES = 25;

const USAGE = `Usage: scripts/bench peek [--rounds N] [--packets N] [--only parts|queue] [--profile DIR]

  --rounds N     how often everything is measured (default ${DEFAULT_ROUNDS})
  --packets N    packets through the queue in each measurement (default ${DEFAULT_PACKETS})
  --only PART    measure the parts of a verdict only, or the queue only; what is not measured is null
  --profile DIR  leave a processor profile of steering there, and print where its time goes
`;

interface Cell {
  readonly name: string;
  readonly stages: PeekStages;
  readonly us: Readonly<Record<Stage, number[]>>;
}

/** What went through the queue, by kind and length. */
interface Stream {
  readonly kind: WorkerKind;
  readonly shape: Shape;
  readonly runs: SteerRun[];
}

const { values } = parseArgs({
  options: {
    rounds: { type: "string" },
    packets: { type: "string" },
    only: { type: "string" },
    profile: { type: "string" },
    help: { type: "boolean" },
  },
});
const rounds = Number(values.rounds ?? DEFAULT_ROUNDS);
const packets = Number(values.packets ?? DEFAULT_PACKETS);
const isCount = (value: number): boolean => Number.isInteger(value) && value >= 1;
const isPart = [undefined, "parts", "queue"].includes(values.only);
if (values.help === true || !isCount(rounds) || !isCount(packets) || !isPart) {
  process.stdout.write(USAGE);
  process.exit(values.help === true ? 0 : 2);
}
const profileTo = values.profile ?? null;
if (profileTo !== null) await mkdir(profileTo, { recursive: true });

const loadBefore = loadavg()[0];
const cells = (values.only === "queue" ? [] : SUITES).flatMap((suite) =>
  (["transport", "tunnel"] as const).flatMap((mode) =>
    LENGTHS_BYTES.map((plainBytes) => cellOf({ suite, mode, plainBytes })),
  ),
);
const streams = (values.only === "parts" ? [] : LENGTHS_BYTES).flatMap((plainBytes) =>
  KINDS.map((kind): Stream => ({ kind, shape: { ...AHEAD, plainBytes }, runs: [] })),
);

for (const { stages } of cells) for (const stage of STAGES) passes(stages, stage, WARM_UP_PASSES);
{
  await using lab = await SteerLab.start({ processors: [0, Math.min(1, availableParallelism() - 1)], profileTo });
  for (const signal of ["SIGINT", "SIGTERM"]) {
    process.once(signal, () => void lab[Symbol.asyncDispose]().finally(() => process.exit(1)));
  }
  for (let at = 0; at < rounds; at++) await oneRound(lab, at);
}
table();
if (profileTo !== null) console.error(await selfTimes(profileTo, PROFILE_LINES));
console.log(JSON.stringify(result()));

async function oneRound(lab: SteerLab, at: number): Promise<void> {
  const turned = <T>(list: readonly T[]): readonly T[] => (at % 2 === 0 ? list : list.toReversed());
  for (const { stages, us } of turned(cells)) {
    for (const stage of turned(STAGES)) us[stage].push(Math.min(...passes(stages, stage, PASSES)));
  }
  for (const { kind, shape, runs } of turned(streams)) {
    const run = await lab.run(kind, shape, WARM_UP_PACKETS, packets);
    runs.push(run);
    const us = round(run.cpuUsPerPacket, HUNDREDTH);
    console.error(
      `round ${at + 1} of ${rounds}: ${kind}, ${shape.plainBytes} bytes: ${run.pps} packets/s, ${us} µs each`,
    );
  }
}

function passes(stages: PeekStages, stage: Stage, count: number): number[] {
  return Array.from({ length: count }, () => stages.measure(stage));
}

function cellOf(shape: Shape): Cell {
  const { suite, mode, plainBytes } = shape;
  const us = { parse: [], lookup: [], peek: [], dct: [], verdict: [], decrypt: [] };
  return { name: `${suiteName(suite)} ${mode} ${plainBytes}`, stages: new PeekStages(shape), us };
}

function result(): object {
  const name = `${suiteName(AHEAD.suite)} ${AHEAD.mode} ${AHEAD_BYTES}`;
  const ahead = cells.find((cell) => cell.name === name);
  const us = ahead === undefined ? null : mediansOf(ahead);
  const ofLength = (bytes: number): object => {
    const of = (value: (run: SteerRun) => number, steps: number): Record<WorkerKind, number> => ({
      plain: round(median(runsOf("plain", bytes).map(value)), steps),
      steered: round(median(runsOf("steered", bytes).map(value)), steps),
    });
    return {
      nfqueuePps: of(({ pps }) => pps, 1),
      cpuUsPerPacket: of(({ cpuUsPerPacket }) => cpuUsPerPacket, HUNDREDTH),
      perCpuSecond: of(({ cpuUsPerPacket }) => US_PER_SECOND / cpuUsPerPacket, 1),
      senderIdle: of(({ idle }) => idle, HUNDREDTH),
      ratio: round(median(ratios(bytes)), HUNDREDTH),
      spread: {
        plain: spread(runsOf("plain", bytes).map(({ cpuUsPerPacket }) => cpuUsPerPacket)),
        steered: spread(runsOf("steered", bytes).map(({ cpuUsPerPacket }) => cpuUsPerPacket)),
        ratio: spread(ratios(bytes)),
      },
    };
  };
  return {
    peekUs: us === null ? null : withoutDecrypt(us),
    decryptUs: us?.decrypt ?? null,
    verdictPerDecrypt: us === null ? null : round(us.verdict / us.decrypt, HUNDREDTH),
    ...ofLength(AHEAD_BYTES),
    streams: Object.fromEntries(LENGTHS_BYTES.map((bytes) => [bytes, ofLength(bytes)])),
    cells: Object.fromEntries(cells.map((cell) => [cell.name, { ...mediansOf(cell), spread: spreadsOf(cell) }])),
    held: {
      ahead: name,
      rounds,
      packets,
      warmUpPackets: WARM_UP_PACKETS,
      sas: SAS,
      connections: SAS * CONNECTIONS_PER_SA,
    },
    machine: {
      kernel: release(),
      processors: availableParallelism(),
      loadBefore,
      loadAfter: loadavg()[0],
    },
  };
}

/** Steered over plain, of the same round. */
function ratios(bytes: number): number[] {
  const plain = runsOf("plain", bytes);
  return runsOf("steered", bytes).map((run, at) => run.cpuUsPerPacket / (plain[at]?.cpuUsPerPacket ?? NaN));
}

function runsOf(kind: WorkerKind, bytes: number): readonly SteerRun[] {
  return streams.find((stream) => stream.kind === kind && stream.shape.plainBytes === bytes)?.runs ?? [];
}

function mediansOf({ us }: Cell): Record<Stage, number> {
  return perStage((stage) => round(median(us[stage]), HUNDREDTH));
}

function withoutDecrypt(us: Record<Stage, number>): object {
  return Object.fromEntries(Object.entries(us).filter(([stage]) => stage !== "decrypt"));
}

function spreadsOf({ us }: Cell): Record<Stage, number> {
  return perStage((stage) => spread(us[stage]));
}

function perStage(value: (stage: Stage) => number): Record<Stage, number> {
  return Object.fromEntries(STAGES.map((stage) => [stage, value(stage)])) as Record<Stage, number>;
}

function table(): void {
  console.error(["µs per packet".padEnd(44), ...STAGES.map((stage) => stage.padStart(9))].join(""));
  for (const cell of cells) {
    const medians = mediansOf(cell);
    console.error([cell.name.padEnd(44), ...STAGES.map((stage) => String(medians[stage]).padStart(9))].join(""));
  }
}
