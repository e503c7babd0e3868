/** Runs src/xfrm inside a namespace for the tests. */
import { tunnelReqid } from "../../../src/net/ids.ts";
import { isError } from "../../../src/core/errors.ts";
import { silentLog } from "../../../src/core/log.ts";
import { NETLINK_XFRM, NetlinkSocket } from "../../../src/net/netlink-socket.ts";
import { openEvents, type EventOptions } from "../../../src/xfrm/events.ts";
import { Leases, type LeasedState } from "../../../src/xfrm/leases.ts";
import { addPolicy, deletePolicy, listPolicies, updatePolicy, type PolicySpec } from "../../../src/xfrm/policies.ts";
import { requireSuite } from "../../../src/xfrm/probe.ts";
import { openXfrm, XfrmReconciler } from "../../../src/xfrm/reconciler.ts";
import { dvipaGuard, shadowOf, type NodeRole, type ShadowOptions, type Wanted } from "../../../src/xfrm/shadow.ts";
import {
  addState,
  deleteState,
  getState,
  listStates,
  type SequenceRange,
  type StateId,
  type StateSpec,
} from "../../../src/xfrm/states.ts";
import { WantedParts } from "../../../src/xfrm/wanted-parts.ts";
import type { ChildSuite } from "../../../src/sa/suite.ts";
import { push, serve } from "../support/serve.ts";
import { secretKeys, sharedSa, type PlainSa, type PlainState } from "./plain.ts";

/** What a node should have. */
export interface PlainWish {
  readonly sas: readonly { readonly sa: PlainSa; readonly options: ShadowOptions }[];
  readonly guards: readonly { readonly dvipa: string; readonly role: NodeRole }[];
}

interface Race {
  readonly state: LeasedState;
  readonly block: bigint;
  readonly refillAt: bigint;
  readonly end: bigint;
}

const xfrm = openXfrm();
const leases = new Leases(xfrm);
/** Another program that writes to the same states. */
const foreign = new Leases(openXfrm());
/** What the reconciler has said to the kernel, in messages. */
const said = { asked: 0, ordered: 0, dumps: 0 };
const reconciler = new XfrmReconciler(counted(xfrm), silentLog);

const handlers = {
  addState: (state: PlainState) => addState(xfrm, { ...state, ...secretKeys(state) }),
  deleteState: (id: StateId) => deleteState(xfrm, id),
  getState: (id: StateId) => getState(xfrm, id),
  listStates: () => listStates(xfrm),
  addPolicy: (policy: PolicySpec) => addPolicy(xfrm, policy),
  updatePolicy: (policy: PolicySpec) => updatePolicy(xfrm, policy),
  deletePolicy: (policy: PolicySpec) => deletePolicy(xfrm, policy),
  listPolicies: () => listPolicies(xfrm),
  readLease: (id: StateId) => leases.read(id),
  /** Adds a state, born with a lease; a reading that is asked for meanwhile. */
  addAndRead: async ({ state, range }: { state: PlainState; range: SequenceRange }) => {
    const spec: StateSpec = { ...state, ...secretKeys(state), allowance: { kind: "lease", range } };
    let reading: ReturnType<typeof leases.read> | null = null;
    await leases.add(state.id, range, async () => {
      reading = leases.read(state.id);
      // A reading that did not wait for its turn would be answered before the second of these.
      for (let i = 0; i < 2; i++) await getState(xfrm, state.id);
      await addState(xfrm, spec);
    });
    return reading;
  },
  sentPackets: (id: StateId) => leases.sent(id).packets,
  install: ({ state, range }: { state: LeasedState; range: SequenceRange }) => leases.install(state, range),
  extend: ({ state, end, threshold }: { state: LeasedState; end: bigint; threshold?: number }) =>
    leases.extend(state, end, () => threshold ?? null),
  park: (id: StateId) => leases.park(id),
  foreignInstall: ({ state, range }: { state: LeasedState; range: SequenceRange }) => foreign.install(state, range),
  foreignPark: (id: StateId) => new Leases(openXfrm()).park(id),
  setThreshold: ({ id, packets }: { id: StateId; packets: number }) => leases.setThreshold(id, packets),
  apply: (wish: PlainWish) => reconciler.apply(wantedOf(wish)),
  clear: () => reconciler.clear(),
  /** What of a wish has changed; with what it took in messages. */
  change: async ({ wish, gone }: { wish: PlainWish; gone: PlainWish }) => {
    const { states, policies } = wantedOf(gone);
    Object.assign(said, { asked: 0, ordered: 0, dumps: 0 });
    const change = { wanted: wantedOf(wish), gone: { states: states.map(({ id }) => id), policies } };
    return { report: await reconciler.change(change), said: { ...said } };
  },
  /** What is not as it is wished, and what of it `change` then does. */
  suspects: async (wish: PlainWish) => {
    const wanted = new WantedParts();
    wanted.set("all", wantedOf(wish));
    const all = wanted.takeAll();
    const suspects = await reconciler.suspects(xfrm, () => all);
    if (suspects === null) return null;
    wanted.doubt(suspects);
    const named = suspects.states.length + suspects.policies.length;
    return { named, report: await reconciler.change(wanted.takeChange()) };
  },
  requireSuite: (suite: ChildSuite) => requireSuite(xfrm, suite),
  subscribe: ({ groups }: Pick<EventOptions, "groups">) => {
    openEvents({ groups, onEvent: push, onOverrun: () => push({ kind: "overrun" }) });
  },
  /** Asks for a state `count` times at once, on a socket with the smallest buffer there is. */
  burst: async ({ id, count }: { id: StateId; count: number }) => {
    const small = NetlinkSocket.open(NETLINK_XFRM, { receiveBufferBytes: 1 });
    const states = await Promise.all(Array.from({ length: count }, () => getState(small, id)));
    small.close();
    return states.filter((state) => state?.id.spi === id.spi).length;
  },
  /** Makes the kernel have `count` SAs of one DVIPA, then none: both with one `apply`. */
  applyMany: async ({ sa, count }: { sa: PlainSa; count: number }) => {
    const sas = Array.from({ length: count }, (_, i) => {
      const peer = `10.${(i >> 16) & 0xff}.${(i >> 8) & 0xff}.${i & 0xff}`;
      const remote = { startAddress: peer, endAddress: peer, protocol: 0, startPort: 0, endPort: 65535 };
      const inbound = { ...sa.inbound, spi: 0x10000 + i };
      const outbound = { ...sa.outbound, spi: 0x20000 + i };
      const options: ShadowOptions = { outbound: { allowance: { kind: "parked" }, eventThresholdPackets: 0 } };
      return { sa: { ...sa, peer, inbound, outbound, remoteSelectors: [remote], reqid: tunnelReqid(i + 1) }, options };
    });
    const wish = { sas, guards: [{ dvipa: sa.dvipa, role: "target" as const }] };
    const added = await reconciler.apply(wantedOf(wish));
    const [states, policies] = [(await listStates(xfrm)).length, (await listPolicies(xfrm)).length];
    return { added, states, policies, removed: await reconciler.clear() };
  },
  port: () => xfrm.port,
  /** Extends the lease by `block` numbers whenever `refillAt` are left, until it reaches `end`; counts ends passed. */
  extendRace: async ({ state, block, refillAt, end }: Race) => {
    let extensions = 0;
    let passed = 0;
    for (let goal = ((await leases.read(state.id))?.lastSendable ?? 0n) + 1n; goal < end;) {
      const reading = await leases.read(state.id);
      if (reading === null) return { extensions, passed, died: true };
      if (reading.lastSendable >= goal) passed++;
      if (reading.leftNumbers > refillAt) continue;
      goal = goal + block < end ? goal + block : end;
      const result = await leases.extend(state, goal).catch(gone);
      if (result === null) return { extensions, passed, died: true };
      extensions++;
    }
    return { extensions, passed, died: false };
  },
  /** Installs leases of `size` numbers one behind the other, with a gap of `gap`, as fast as it goes. */
  installRace: async (race: { state: LeasedState; first: bigint; size: bigint; gap: bigint; count: number }) => {
    const ranges: SequenceRange[] = [];
    for (let first = race.first; ranges.length < race.count; first += race.size + race.gap) {
      const range = { first, end: first + race.size };
      const result = await leases.install(race.state, range).catch(gone);
      if (result === null) return { ranges, died: true };
      ranges.push(range);
    }
    return { ranges, died: false };
  },
};

export type XfrmHandlers = typeof handlers;
serve(handlers);

/** The socket, which counts what goes through the calls of the reconciler. */
function counted(socket: NetlinkSocket): NetlinkSocket {
  const batch: NetlinkSocket["batch"] = (requests) => socket.batch(tap(requests, () => said.ordered++));
  const getEach: NetlinkSocket["getEach"] = (requests, decode) =>
    socket.getEach(
      tap(requests, () => said.asked++),
      decode,
    );
  const dump: NetlinkSocket["dump"] = (build, decode) => {
    said.dumps++;
    return socket.dump(build, decode);
  };
  // Whatever else it called would fail here: private members are not the new object's.
  return Object.assign(Object.create(NetlinkSocket.prototype) as NetlinkSocket, { batch, getEach, dump });
}

function* tap<T>(items: Iterable<T>, onItem: () => void): Generator<T> {
  for (const item of items) {
    onItem();
    yield item;
  }
}

function gone(error: unknown): null {
  if (isError(error, "kernel.refused") && ["ESRCH", "EINVAL"].includes(String(error.details["code"]))) return null;
  throw error;
}

function wantedOf({ sas, guards }: PlainWish): Wanted {
  const shadows = sas.map(({ sa, options }) => shadowOf(sharedSa(sa), options));
  return {
    states: shadows.flatMap((shadow) => shadow.states),
    policies: [
      ...shadows.flatMap((shadow) => shadow.policies),
      ...guards.flatMap(({ dvipa, role }) => dvipaGuard(dvipa, role)),
    ],
  };
}
