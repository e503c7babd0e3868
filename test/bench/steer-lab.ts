/**
 * Where `peek.main.ts` counts packets:
 *
 *   outside                               distributor
 *   esp-flood.ts ── c0 ═══════════ c1 ── prerouting: NFQUEUE ── steer-worker.ts
 *        targets ── t0 ═══════════ t1 ── forwarded by mark (steered) or by the main table (plain)
 *
 * The DVIPA is no address of the distributor here: what is accepted without a mark goes to a target too, so that both kinds have
 * the same way. Rules count what leaves, by mark; what arrives at t0 is counted by the device and dropped.
 */
import { STEERING_QUEUE } from "../../src/daemons/node/host-network.ts";
import { steeringMark, steeringTable } from "../../src/net/ids.ts";
import { Namespace, veth } from "../netns/support/namespace.ts";
import { Worker } from "../netns/support/worker.ts";
import type { FloodHandlers, FloodResult } from "./esp-flood.ts";
import type { CloseResult, SteerWorkerHandlers, WorkerKind } from "./steer-worker.ts";
import { DVIPA, type Shape } from "./steer-traffic.ts";

const WORKER = "test/bench/steer-worker.ts";
const SENDER = "test/bench/esp-flood.ts";
const CLIENT_SIDE = { name: "c0", addresses: ["198.51.100.250/24"] };
const TARGET_SIDE = { name: "t0", addresses: ["203.0.113.11/24", "203.0.113.12/24", "203.0.113.13/24"] };
const DISTRIBUTOR_CLIENT_SIDE = { name: "c1", addresses: ["198.51.100.251/24"] };
const DISTRIBUTOR_TARGET_SIDE = { name: "t1", addresses: ["203.0.113.1/24"] };
const TARGETS = ["t1", "t2", "t3"];
const TARGET_ADDRESSES = ["203.0.113.11", "203.0.113.12", "203.0.113.13"];

/** One flood. */
export interface SteerRun extends FloodResult, CloseResult {
  readonly cpuUsPerPacket: number;
  /** Packets that left for the targets, by the kernel's rules: without a mark, then for each target. */
  readonly leftByMark: readonly number[];
}

export interface SteerLabOptions {
  /** Each process is bound to a processor: the sender to the first, steering to the second. */
  readonly processors: readonly [number, number];
  readonly profileTo: string | null;
}

export class SteerLab implements AsyncDisposable {
  readonly #parts: AsyncDisposableStack;
  readonly #distributor: Namespace;
  readonly #sender: Worker<FloodHandlers>;
  readonly #workers: Readonly<Record<WorkerKind, Worker<SteerWorkerHandlers>>>;
  #ended: Promise<void> | null = null;
  readonly #macs: { readonly sourceMac: string; readonly destinationMac: string };

  private constructor(
    parts: AsyncDisposableStack,
    distributor: Namespace,
    sender: Worker<FloodHandlers>,
    workers: Readonly<Record<WorkerKind, Worker<SteerWorkerHandlers>>>,
    macs: { readonly sourceMac: string; readonly destinationMac: string },
  ) {
    this.#parts = parts;
    this.#distributor = distributor;
    this.#sender = sender;
    this.#workers = workers;
    this.#macs = macs;
  }

  static async start({ processors, profileTo }: SteerLabOptions): Promise<SteerLab> {
    await using parts = new AsyncDisposableStack();
    const outside = parts.use(await Namespace.create("outside"));
    const distributor = parts.use(await Namespace.create("steer"));
    for (const namespace of [outside, distributor]) await namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
    await veth({ namespace: outside, ...CLIENT_SIDE }, { namespace: distributor, ...DISTRIBUTOR_CLIENT_SIDE });
    await veth({ namespace: outside, ...TARGET_SIDE }, { namespace: distributor, ...DISTRIBUTOR_TARGET_SIDE });
    await outside.exec("nft", ["-f", "-"], DROP_AT_TARGETS);
    await forward(distributor, await macOf(outside, TARGET_SIDE.name));
    const start = async (namespace: Namespace, processor: number, args: readonly string[]): Promise<Worker<never>> => {
      const pinned = ["-c", String(processor), process.execPath, ...args];
      const worker = parts.use(new Worker<never>(namespace.spawn("taskset", pinned)));
      await worker.ready();
      return worker;
    };
    const profile = profileTo === null ? [] : ["--cpu-prof", `--cpu-prof-dir=${profileTo}`];
    const [senderCpu, steeringCpu] = processors;
    const sender: Worker<FloodHandlers> = await start(outside, senderCpu, [SENDER]);
    const plain: Worker<SteerWorkerHandlers> = await start(distributor, steeringCpu, [WORKER]);
    const steered: Worker<SteerWorkerHandlers> = await start(distributor, steeringCpu, [...profile, WORKER]);
    const macs = { sourceMac: await macOf(outside, "c0"), destinationMac: await macOf(distributor, "c1") };
    return new SteerLab(parts.move(), distributor, sender, { plain, steered }, macs);
  }

  async run(kind: WorkerKind, shape: Shape, warmUp: number, packets: number): Promise<SteerRun> {
    const worker = this.#workers[kind];
    await this.#distributor.exec("nft", ["reset", "counters"]);
    await worker.call("open", { kind, shape, targets: TARGETS });
    try {
      const path = { device: "c0", returnDevice: "t0", ...this.#macs };
      await this.#sender.call("flood", { ...path, shape, packets: warmUp });
      await worker.call("mark", undefined);
      const flood = await this.#sender.call("flood", { ...path, shape, packets });
      const result = await worker.call("read", undefined);
      const leftByMark = await this.#leftByMark();
      const run = { ...flood, ...result, cpuUsPerPacket: result.cpuUs / result.verdicts, leftByMark };
      check(kind, run, warmUp + packets);
      return run;
    } finally {
      await worker.call("close", undefined);
    }
  }

  /** May be called again while it goes on: a signal ends a run in the middle. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended ??= this.#parts.disposeAsync();
    await this.#ended;
  }

  async #leftByMark(): Promise<readonly number[]> {
    const listed = JSON.parse(await this.#distributor.exec("nft", ["-j", "list", "counters"])) as {
      nftables: { counter?: { name: string; packets: number } }[];
    };
    const packets = (name: string): number =>
      listed.nftables.find(({ counter }) => counter?.name === name)?.counter?.packets ?? 0;
    return ["unmarked", ...TARGETS].map(packets);
  }
}

/** A run with wrong results is a failure, whatever its speed. */
function check(kind: WorkerKind, run: SteerRun, packets: number): void {
  const { sent, returned, verdicts, droppedByQueue, leftByMark } = run;
  const [unmarked = 0, ...marked] = leftByMark;
  const left = marked.reduce((sum, packets) => sum + packets, unmarked);
  const wrong =
    returned !== sent ||
    verdicts !== sent ||
    droppedByQueue !== 0 ||
    left !== packets ||
    (kind === "plain" ? unmarked !== left : unmarked !== 0 || marked.includes(0));
  if (wrong) throw new Error(`${kind}: not every packet went where it should: ${JSON.stringify(run)}`);
}

/** With neighbours that are known already: nothing but the sender's packets arrives at the targets. */
async function forward(distributor: Namespace, targetMac: string): Promise<void> {
  await distributor.sysctl("net/ipv4/ip_forward", "1");
  await distributor.sysctl("net/ipv4/conf/all/rp_filter", "0");
  await distributor.ip(`route add ${DVIPA} via ${TARGET_ADDRESSES[0]}`);
  for (const [at, address] of TARGET_ADDRESSES.entries()) {
    await distributor.ip(`neighbour replace ${address} lladdr ${targetMac} dev t1 nud permanent`);
    await distributor.ip(`route add default via ${address} table ${steeringTable(at + 1)}`);
    await distributor.ip(`rule add priority 90 fwmark ${steeringMark(at + 1)} lookup ${steeringTable(at + 1)}`);
  }
  // Not nftables' own `queue`: some kernels have only this one.
  const match = ["-t", "mangle", "-A", "PREROUTING", "-d", DVIPA, "-p", "esp"];
  await distributor.exec("iptables", [...match, "-j", "NFQUEUE", "--queue-num", String(STEERING_QUEUE)]);
  await distributor.exec("nft", ["-f", "-"], countersByMark());
}

function countersByMark(): string {
  const names = ["unmarked", ...TARGETS];
  const elements = TARGETS.map((target, at) => `meta mark ${steeringMark(at + 1)} counter name ${target}`);
  return `
    table inet bench {
      ${names.map((name) => `counter ${name} {}`).join("\n")}
      chain leaving {
        type filter hook postrouting priority mangle; policy accept;
        oifname != "t1" accept
        ip daddr != ${DVIPA} accept
        meta mark 0 counter name unmarked
        ${elements.join("\n")}
      }
    }
  `;
}

const DROP_AT_TARGETS = `
  table inet bench {
    chain arriving {
      type filter hook prerouting priority raw; policy accept;
      ip daddr ${DVIPA} drop
    }
  }
`;

async function macOf(namespace: Namespace, device: string): Promise<string> {
  const [link] = JSON.parse(await namespace.ip(`-j link show ${device}`)) as { address: string }[];
  if (link === undefined) throw new Error(`${device} is not there`);
  return link.address;
}
