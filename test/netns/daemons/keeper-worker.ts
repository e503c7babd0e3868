/** Runs an `SaKeeper` inside a namespace, with a coupling service that always has numbers. */
import type { RequestBody, RequestType, ResponseBody } from "../../../src/bus/messages.ts";
import { systemClock } from "../../../src/core/clock.ts";
import { Counters } from "../../../src/core/counters.ts";
import { silentLog } from "../../../src/core/log.ts";
import { SaKeeper } from "../../../src/daemons/node/sa-keeper.ts";
import { OWN_IKE } from "../../../src/daemons/node/sa-table.ts";
import { serve } from "../support/serve.ts";
import { sharedSa, type PlainSa } from "../xfrm/plain.ts";

const LEASE_NUMBERS = 100n;

/** SAs that numbers were asked for, in order. */
const reserved: string[] = [];
let next = 1n;

function answer<T extends RequestType>(type: T, body: RequestBody<T>): ResponseBody<RequestType> {
  if (type !== "reserve") return {};
  reserved.push((body as RequestBody<"reserve">).sa);
  const first = next;
  next += LEASE_NUMBERS;
  return { first, end: next, highWater: next, holders: 1, rekeySoon: false };
}

const keeper = new SaKeeper({
  coupling: () => ({ request: (type, body) => Promise.resolve(answer(type, body) as never) }),
  mayPark: () => Promise.resolve(false),
  reportUse: () => Promise.resolve(null),
  onAcquire: () => {},
  clock: systemClock,
  counters: new Counters(),
  log: silentLog,
});

// It is the only source: what it does not tell of goes.
await keeper.settle();

const handlers = {
  install: async ({ sa, outbound }: { sa: PlainSa; outbound: "now" | "hold" }) => {
    await keeper.setDvipas(OWN_IKE, [sa.dvipa], "target");
    await keeper.install(OWN_IKE, { sa: sharedSa(sa), epoch: 1n, outbound });
  },
  /** Hands a tunnel over while somebody wants to send on it; SAs that numbers were asked for until that one could. */
  useAndWant: async ({ id, reqid }: PlainSa) => {
    const handedOver = keeper.useOutbound(id);
    await keeper.wantLease(reqid);
    const asked = [...reserved];
    await handedOver;
    return asked;
  },
  /** Resolves once the tunnel's packets can leave. */
  wantLease: ({ reqid }: PlainSa) => keeper.wantLease(reqid),
  remove: ({ id }: PlainSa) => keeper.remove(OWN_IKE, id),
  /** Makes the SAs of this node exactly these. */
  replaceAll: (kept: readonly { sa: PlainSa; outbound: "now" | "hold" }[]) =>
    keeper.replaceAll(
      OWN_IKE,
      kept.map(({ sa, outbound }) => ({ sa: sharedSa(sa), epoch: 1n, outbound })),
    ),
  /** Of each SA, by its id: how many kernel states it had, what has left on it, and whether new packets do. */
  status: async () =>
    (await keeper.status()).map(({ id, outbound, lease, use }) => ({
      ...{ id, outbound },
      instances: lease.kernelInstances,
      outPackets: use?.outPackets ?? null,
    })),
};

export type KeeperHandlers = typeof handlers;
serve(handlers);
