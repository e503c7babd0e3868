/**
 * Run inside the sending namespace: the production's classes, wired as a node wires them (SaKeeper with LeaseRunner, Leases
 * and the event socket; CouplingLink over mutual TLS), around one SA at a time. What a node has besides is left out: IKE,
 * steering, other nodes.
 */
import { randomBytes } from "node:crypto";
import { loadCredentials, type CredentialFiles } from "../../src/bus/credentials.ts";
import { systemClock } from "../../src/core/clock.ts";
import { Counters } from "../../src/core/counters.ts";
import { LatencyHistogram } from "../../src/core/latency-histogram.ts";
import { silentLog } from "../../src/core/log.ts";
import { Secret } from "../../src/core/secret.ts";
import { CouplingLink } from "../../src/daemons/node/coupling-link.ts";
import { SaKeeper } from "../../src/daemons/node/sa-keeper.ts";
import { OWN_IKE } from "../../src/daemons/node/sa-table.ts";
import type { SaStatus } from "../../src/daemons/node/status.ts";
import { tunnelReqid } from "../../src/net/ids.ts";
import type { SaHalf, SharedSa, TrafficSelector } from "../../src/sa/spec.ts";
import type { SoleLease } from "../../src/sequence/size.ts";
import { Leases } from "../../src/xfrm/leases.ts";
import { openXfrm, XfrmReconciler } from "../../src/xfrm/reconciler.ts";
import { outboundId, shadowOf } from "../../src/xfrm/shadow.ts";
import { serve } from "../netns/support/serve.ts";

const SUITE = { kind: "aes-gcm-16", keyBits: 128 } as const;
/** AES key and salt. */
const KEY_BYTES = 20;
const TUNNEL = tunnelReqid(1);
const PEER_WINDOW_PACKETS = 1024;
const US_PER_MS = 1000;
const IDLE_SAMPLES = 500;

export interface AgentSetup {
  readonly cluster: string;
  readonly node: string;
  readonly host: string;
  readonly port: number;
  readonly credentials: CredentialFiles;
  readonly dvipa: string;
}

/** An SA to be made, with keys of its own. */
export interface SaOrder {
  readonly source: string;
  readonly peer: string;
  readonly spi: number;
}

/** What the node says of itself, and what the bench measured around it. */
export interface Observation {
  readonly sa: SaStatus;
  readonly counters: Readonly<Record<string, number>>;
  /** How long the coupling service's answers took, seen from here. */
  readonly reserve: Quantiles;
  /** Processor time of this process since the first lease was there, microseconds. */
  readonly cpuUs: number;
}

export interface Quantiles {
  readonly samples: number;
  readonly p50us: number | null;
  readonly p99us: number | null;
}

interface Running {
  readonly keeper: SaKeeper;
  readonly counters: Counters;
  readonly reserve: LatencyHistogram;
  readonly cpuBefore: NodeJS.CpuUsage;
}

let link: CouplingLink | null = null;
let epoch = 0n;
let running: Running | null = null;
const plain = new XfrmReconciler(openXfrm(), silentLog);

const handlers = {
  /** Resolves when the coupling service has made us the DVIPA's owner. */
  connect: async ({ cluster, node, host, port, credentials, dvipa }: AgentSetup): Promise<void> => {
    const bus = { cluster, self: node, credentials: await loadCredentials(credentials) };
    const owned = Promise.withResolvers<null>();
    const opened: CouplingLink = new CouplingLink({
      bus: { ...bus, clock: systemClock, counters: new Counters(), log: silentLog },
      ...{ host, port, instance: `bench-${process.pid}`, listen: null, distributes: [dvipa] },
      onOpen: async () => {
        // Once: after a lost connection the SA goes on under the epoch that it was registered with.
        if (epoch === 0n) ({ epoch } = await opened.request("own", { dvipa }));
        owned.resolve(null);
      },
      onMembers: () => {},
      onRecall: ({ sa, holders }) => running?.keeper.recalled(sa, holders),
      onFenced: () => {},
      onRekeySoon: () => {},
    });
    link = opened;
    await owned.promise;
  },

  /** A shared SA whose outbound half runs on leases. Resolves when its first lease is in the kernel. */
  lease: async ({ order, soleLease }: { order: SaOrder; soleLease: SoleLease | null }): Promise<void> => {
    const coupling = linked();
    const reserve = new LatencyHistogram();
    const counters = new Counters();
    const timed: Pick<CouplingLink, "request"> = {
      request: async (type, body) => {
        const beforeMs = performance.now();
        const answer = await coupling.request(type, body);
        if (type === "reserve") reserve.record((performance.now() - beforeMs) * US_PER_MS);
        return answer;
      },
    };
    const keeper = new SaKeeper({
      coupling: () => timed,
      // As with a connection that is open: a lease is kept through a pause.
      mayPark: () => Promise.resolve(false),
      reportUse: () => Promise.resolve(null),
      onAcquire: () => {},
      ...{ clock: systemClock, counters, log: silentLog },
      ...(soleLease && { soleLease }),
    });
    await keeper.setDvipas(OWN_IKE, [order.source], "target");
    const sa = sharedSa(order);
    await registered(sa);
    await keeper.install(OWN_IKE, { sa, epoch, outbound: "now" });
    await keeper.wantLease(TUNNEL);
    running = { keeper, counters, reserve, cpuBefore: process.cpuUsage() };
  },

  observe: async (): Promise<Observation> => {
    const { keeper, counters, reserve, cpuBefore } = runningNow();
    const { user, system } = process.cpuUsage(cpuBefore);
    const [sa] = await keeper.status();
    if (sa === undefined) throw new Error("the SA is gone");
    return { sa, counters: counters.snapshot(), reserve: quantiles(reserve), cpuUs: user + system };
  },

  /** Takes the SA out of the kernel. */
  end: async (): Promise<void> => {
    const { keeper } = runningNow();
    running = null;
    await keeper.stop();
  },

  /** The same state and policies without a limit: the baseline. */
  unlimited: async (order: SaOrder): Promise<void> => {
    const { states, policies } = shadowOf(sharedSa(order), {
      outbound: { allowance: { kind: "parked" }, eventThresholdPackets: 0 },
    });
    const free = states.map((state) => ({ ...state, allowance: { kind: "unlimited" as const } }));
    await plain.apply({ states: free, policies });
  },

  endUnlimited: async (): Promise<void> => {
    await plain.clear();
  },

  /** The parts of a refill while nothing else runs: one request to the service; one GETAE. Needs the `lease` SA. */
  idle: async (order: SaOrder): Promise<{ readonly reserve: Quantiles; readonly read: Quantiles }> => {
    const spare = sharedSa({ ...order, spi: order.spi + 1 });
    await registered(spare);
    const reserve = new LatencyHistogram();
    let nextUnsent = 0n;
    for (let i = 0; i < IDLE_SAMPLES; i++) {
      const beforeMs = performance.now();
      const { end } = await linked().request("reserve", { sa: spare.id, epoch, count: 64, nextUnsent });
      reserve.record((performance.now() - beforeMs) * US_PER_MS);
      nextUnsent = end;
    }
    await linked().request("release", { sa: spare.id, epoch, nextUnsent: 0n });
    const leases = new Leases(openXfrm());
    const read = new LatencyHistogram();
    for (let i = 0; i < IDLE_SAMPLES; i++) {
      const beforeMs = performance.now();
      await leases.read(outboundId(sharedSa(order)));
      read.record((performance.now() - beforeMs) * US_PER_MS);
    }
    return { reserve: quantiles(reserve), read: quantiles(read) };
  },
};

export type AgentHandlers = typeof handlers;
serve(handlers);

async function registered({ id, dvipa, peer, outbound, peerWindowPackets, esn }: SharedSa): Promise<void> {
  await linked().request("registerSa", {
    ...{ sa: id, dvipa, epoch, firstNumber: 1n, windowPackets: peerWindowPackets, esn },
    ...{ counterNonce: true, spi: outbound.spi, peer },
  });
}

function linked(): CouplingLink {
  if (link === null) throw new Error("not connected");
  return link;
}

function runningNow(): Running {
  if (running === null) throw new Error("no SA");
  return running;
}

function quantiles(histogram: LatencyHistogram): Quantiles {
  const { samples } = histogram;
  return { samples, p50us: histogram.quantileUs(0.5), p99us: histogram.quantileUs(0.99) };
}

function sharedSa({ source, peer, spi }: SaOrder): SharedSa {
  const half = (number: number): SaHalf => ({
    spi: number,
    encryptionKey: new Secret(new Uint8Array(randomBytes(KEY_BYTES))),
    integrityKey: null,
  });
  return {
    ...{ id: randomBytes(16).toString("hex"), dvipa: source, peer, peerName: "receiver" },
    ...{ mode: "transport", suite: SUITE, reqid: TUNNEL, inbound: half(spi), outbound: half(spi) },
    ...{ localSelectors: [everything(source)], remoteSelectors: [everything(peer)] },
    ...{
      peerWindowPackets: PEER_WINDOW_PACKETS,
      inboundWindowPackets: PEER_WINDOW_PACKETS,
      esn: false,
      peerUdpPort: null,
    },
  };
}

function everything(address: string): TrafficSelector {
  return { startAddress: address, endAddress: address, protocol: 0, startPort: 0, endPort: 65535 };
}
