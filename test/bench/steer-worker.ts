/** Run in the distributor's namespace of `steer-lab.ts`: gives the packets of the steering queue their verdicts. */
import { systemClock } from "../../src/core/clock.ts";
import { Counters } from "../../src/core/counters.ts";
import { silentLog } from "../../src/core/log.ts";
import { STEERING_QUEUE } from "../../src/daemons/node/host-network.ts";
import { ReplayWatch } from "../../src/daemons/node/replay-watch.ts";
import { Steering } from "../../src/daemons/node/steering.ts";
import { openQueue, readQueueCounters, type PacketQueue } from "../../src/net/nfqueue.ts";
import { ConnectionTable } from "../../src/steer/connection-table.ts";
import { LeaseGate } from "../../src/steer/lease-gate.ts";
import { decide, InboundSas, type SteeringTables } from "../../src/steer/verdict.ts";
import { serve } from "../netns/support/serve.ts";
import { benchPacket, benchSa, CONNECTIONS_PER_SA, PORT, SAS, type Shape } from "./steer-traffic.ts";

/** As steering has it. */
const COPY_RANGE_BYTES = 65_535;
const QUEUE_LENGTH_PACKETS = 10_000;
const NODE = "distributor";

export type WorkerKind = "plain" | "steered";

export interface OpenOrder {
  readonly kind: WorkerKind;
  readonly shape: Shape;
  /** Target number i, from 1, is the i-th. */
  readonly targets: readonly string[];
}

export interface CloseResult {
  /** Processor time of all threads since the last `mark`, in microseconds. */
  readonly cpuUs: number;
  /** Packets given a verdict since then. */
  readonly verdicts: number;
  /** Dropped by the kernel because nobody took them in time; over the whole run. */
  readonly droppedByQueue: number;
  readonly counters: Record<string, number>;
}

let close: (() => Promise<void>) | null = null;
let counters = new Counters();
let verdicts = (): number => 0;
let marked = { cpu: process.cpuUsage(), verdicts: 0 };

const handlers = {
  open: async ({ kind, shape, targets }: OpenOrder): Promise<void> => {
    counters = new Counters();
    close = kind === "plain" ? await openPlain() : await openSteered(shape, targets);
  },
  /** The measurement begins here. */
  mark: (): void => {
    marked = { cpu: process.cpuUsage(), verdicts: verdicts() };
  },
  read: (): CloseResult => {
    const { user, system } = process.cpuUsage(marked.cpu);
    const { droppedFull, droppedOverrun } = readQueueCounters(STEERING_QUEUE);
    return {
      cpuUs: user + system,
      verdicts: verdicts() - marked.verdicts,
      droppedByQueue: droppedFull + droppedOverrun,
      counters: counters.snapshot(),
    };
  },
  close: async (): Promise<void> => {
    await close?.();
    close = null;
  },
};

export type SteerWorkerHandlers = typeof handlers;
serve(handlers);

/** The baseline: every packet is accepted unread. */
async function openPlain(): Promise<() => Promise<void>> {
  let accepted = 0;
  const queue: PacketQueue = await openQueue({
    number: STEERING_QUEUE,
    copyRangeBytes: COPY_RANGE_BYTES,
    maxLength: QUEUE_LENGTH_PACKETS,
    onPacket: ({ id }) => {
      accepted += 1;
      queue.verdict(id, "accept");
    },
    onOverrun: () => counters.add("overrun"),
  });
  verdicts = () => accepted;
  return () => queue.close();
}

/** The production's own class, with tables that know every SA and connection of the sender. */
async function openSteered(shape: Shape, targets: readonly string[]): Promise<() => Promise<void>> {
  const tables = tablesFor(shape, targets);
  const gate = new LeaseGate(() => Promise.resolve(), counters);
  // Every node has received nothing so far: what comes back is the cost of asking.
  const nothing = { highest: 0n, bits: new Uint8Array(), bornSeconds: 1n };
  const replay = new ReplayWatch({
    sas: tables.sas,
    isReachable: () => true,
    ask: (_node, saIds) => Promise.resolve(saIds.map(() => nothing)),
    ...{ clock: systemClock, counters, log: silentLog },
  });
  replay.start();
  const steering = new Steering({
    nodeName: NODE,
    tables,
    gate,
    // As when no SA is being made.
    sas: { untilInstalled: () => null, isUnsent: () => false, heard: () => Promise.resolve() },
    targetIndex: (target) => targets.indexOf(target) + 1,
    onUnknownSpi: () => {},
    clock: systemClock,
    counters,
    log: silentLog,
  });
  await steering.start();
  verdicts = () => counters.get("steer.forwarded");
  return () => {
    replay.stop();
    return steering.stop();
  };
}

function tablesFor(shape: Shape, targets: readonly string[]): SteeringTables {
  let turn = 0;
  const tables: SteeringTables = {
    sas: new InboundSas(),
    connections: new ConnectionTable(),
    isDistributed: (_dvipa, port) => port === PORT,
    chooseTarget: () => ({ target: targets[turn++ % targets.length] ?? "" }),
  };
  for (let index = 0; index < SAS; index++) {
    const sa = benchSa(shape, index);
    tables.sas.add(sa);
    for (let connection = 0; connection < CONNECTIONS_PER_SA; connection++) {
      decide(benchPacket(sa, connection, { syn: true }, shape.plainBytes), tables, systemClock.nowMs());
    }
  }
  return tables;
}
