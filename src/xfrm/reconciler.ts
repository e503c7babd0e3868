import { EsplexError, unreachable } from "../core/errors.ts";
import type { Log } from "../core/log.ts";
import { isErrno, type ErrnoName } from "../net/kernel-error.ts";
import type { NetlinkMessage, NetlinkRequest } from "../net/netlink-message.ts";
import { NETLINK_XFRM, NetlinkSocket } from "../net/netlink-socket.ts";
import {
  decodePolicy,
  deletePolicyRequest,
  getPolicyRequest,
  listPolicies,
  policyKey,
  policyRequest,
  type KernelPolicy,
  type PolicySpec,
} from "./policies.ts";
import { NOTHING, plan, type Conflict, type Current, type Plan, type PlanOptions, type Step } from "./plan.ts";
import { refuseEspOffload } from "./probe.ts";
import type { Wanted } from "./shadow.ts";
import {
  decodeKeyedState,
  deleteStateRequest,
  getStateRequest,
  listKeyedStates,
  movePortsRequest,
  nameLarvalRequest,
  newStateRequest,
  stateKey,
  type KernelState,
  type KeyedKernelState,
  wipeKeys,
} from "./states.ts";
import type { Change } from "./wanted-parts.ts";

/** Times that the kernel may change under our hands before we give up. Our choice. */
const ROUNDS_MAX = 5;
/** Larval states get an SPI from here on for the moment of their deletion. */
const LARVAL_SPI_FIRST = 0x4550_0000;

/** What a change came to. */
export interface ReconcileReport {
  /** Steps that the kernel took, by kind. */
  readonly taken: Readonly<Partial<Record<Step["kind"], number>>>;
  readonly rounds: number;
  /** What stands in the way and was left alone. */
  readonly conflicts: readonly Conflict[];
}

/** Names of what is not as it is wanted. */
export type Suspects = Change["gone"];

/** The socket for states, policies and leases: wipes what it sends and receives. */
export function openXfrm(): NetlinkSocket {
  return NetlinkSocket.open(NETLINK_XFRM, { wipe: true });
}

/**
 * Makes the kernel have the wanted states and policies: dumps, plans, applies, and again until the plan is empty or the
 * kernel has acknowledged each of its steps. Touches only what is recognisably ours. Calls run one after the other. Expired
 * states are not told from missing ones: they are added anew, so the caller counts instances per key.
 */
export class XfrmReconciler {
  readonly #xfrm: NetlinkSocket;
  readonly #log: Log;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(xfrm: NetlinkSocket, log: Log) {
    this.#xfrm = xfrm;
    this.#log = log;
  }

  /**
   * `kernel.offload` when states would be added beside ESP offload; `kernel.refused` with the first refusal that is not
   * explained by the kernel having changed meanwhile.
   */
  async apply(wanted: Wanted, options: PlanOptions = {}): Promise<ReconcileReport> {
    return this.#inTurn(() => this.#converge(() => lookAtAll(this.#xfrm), wanted, options));
  }

  /**
   * The same for what `change` names, and nothing else is looked at or touched: a few messages for each name, however much
   * the kernel holds. What nobody wants any more is removed, unless it is kept or not ours. Throws as `apply` does.
   */
  async change(change: Change, options: PlanOptions = {}): Promise<ReconcileReport> {
    return this.#inTurn(() => this.#converge(() => this.#lookAt(change), change.wanted, options));
  }

  /**
   * What `apply` would change, seen through a socket of its own beside the calls that take turns: thousands of states take
   * seconds to look at. What changes meanwhile may be named or missed, so nothing is touched: `change` looks at each name
   * again. Null when names do not tell it (conflicts, states that wait for a negotiation): that is work for `apply`.
   */
  async suspects(socket: NetlinkSocket, wanted: () => Wanted, options: PlanOptions = {}): Promise<Suspects | null> {
    const current = await lookAtAll(socket);
    const { steps, conflicts } = planAndWipe(current, wanted(), options);
    if (conflicts.length > 0 || steps.some(({ kind }) => kind === "deleteLarval")) return null;
    return {
      states: steps.flatMap((step) => ("state" in step ? [step.state.id] : "id" in step ? [step.id] : [])),
      policies: steps.flatMap((step) => ("policy" in step ? [step.policy] : [])),
    };
  }

  /** Removes everything of ours. */
  async clear(): Promise<ReconcileReport> {
    return this.apply(NOTHING);
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const run = this.#tail.then(work);
    this.#tail = run.catch(() => {});
    return run;
  }

  async #converge(look: () => Promise<Current>, wanted: Wanted, options: PlanOptions): Promise<ReconcileReport> {
    const taken: Partial<Record<Step["kind"], number>> = {};
    let conflicts: readonly Conflict[] = [];
    for (let round = 1; round <= ROUNDS_MAX; round++) {
      const next = planAndWipe(await look(), wanted, options);
      conflicts = next.conflicts;
      const isDone = next.steps.length === 0 || (await this.#take(next.steps, taken));
      if (isDone) return { taken, rounds: round, conflicts };
    }
    throw new EsplexError("kernel.refused", `states and policies still change after ${ROUNDS_MAX} rounds`, {
      conflicts,
    });
  }

  async #lookAt({ wanted, gone }: Change): Promise<Current> {
    const policyNames = new Map<string, PolicySpec>();
    for (const policy of [...wanted.policies, ...gone.policies]) policyNames.set(policyKey(policy), policy);
    const stateIds = new Map<string, KernelState["id"]>();
    for (const id of [...wanted.states.map((state) => state.id), ...gone.states]) stateIds.set(stateKey(id), id);
    const policies = await this.#getThose(policyNames.values(), getPolicyRequest, decodePolicy);
    const states = await this.#getThose(stateIds.values(), getStateRequest, ({ body }) => decodeKeyedState(body));
    return { policies, states };
  }

  /** Those of them that are there. */
  async #getThose<N, T extends KernelPolicy | KeyedKernelState>(
    names: Iterable<N>,
    ask: (name: N) => NetlinkRequest,
    decode: (message: NetlinkMessage) => T | null,
  ): Promise<T[]> {
    const requests = (function* () {
      for (const name of names) yield ask(name);
    })();
    const found: T[] = [];
    for (const answer of await this.#xfrm.getEach(requests, decode)) {
      if (answer instanceof EsplexError) {
        if (!isErrno(answer, "ESRCH", "ENOENT")) throw answer;
      } else if (answer !== null) {
        found.push(answer);
      }
    }
    return found;
  }

  /**
   * One batch for each run of steps of a kind: when one is refused, the kinds that build on it do not follow. True when
   * the kernel has acknowledged every step, so that there is nothing to look for; false when it was not as the plan saw it.
   */
  async #take(steps: readonly Step[], taken: Partial<Record<Step["kind"], number>>): Promise<boolean> {
    if (steps.some((step) => step.kind === "addState")) refuseEspOffload();
    let isDone = true;
    for (const run of runsOfAKind(steps)) isDone = (await this.#takeRun(run.flatMap(jobsOf), taken)) && isDone;
    return isDone;
  }

  async #takeRun(work: readonly Job[], taken: Partial<Record<Step["kind"], number>>): Promise<boolean> {
    const results = await this.#xfrm.batch(built(work));
    let isDone = true;
    results.forEach((error, index) => {
      const job = work[index];
      if (job === undefined) return;
      if (error === null) {
        if (job.isWhole) taken[job.kind] = (taken[job.kind] ?? 0) + 1;
      } else if (isErrno(error, ...job.tolerated)) {
        isDone = false;
        this.#log.debug("the kernel changed under the plan", { step: job.kind, why: error.message });
      } else {
        throw error;
      }
    });
    return isDone;
  }
}

async function lookAtAll(xfrm: NetlinkSocket): Promise<Current> {
  const policies = await listPolicies(xfrm);
  return { policies, states: await listKeyedStates(xfrm) };
}

function planAndWipe(current: Current, wanted: Wanted, options: PlanOptions): Plan {
  try {
    return plan(current, wanted, options);
  } finally {
    wipeKeys(current.states);
  }
}

/** One request of a step; built when it is sent, so that key bytes do not wait in memory. */
interface Job {
  readonly kind: Step["kind"];
  readonly build: () => NetlinkRequest;
  /** Refusals that mean "somebody was faster": the next round looks again. */
  readonly tolerated: readonly ErrnoName[];
  readonly isWhole: boolean;
}

function jobsOf(step: Step, index: number): Job[] {
  const { kind } = step;
  const job = (build: Job["build"], ...tolerated: ErrnoName[]): Job => ({ kind, build, tolerated, isWhole: true });
  switch (step.kind) {
    case "addPolicy":
      return [job(() => policyRequest("add", step.policy), "EEXIST")];
    case "updatePolicy":
      return [job(() => policyRequest("update", step.policy))];
    case "deletePolicy":
      return [job(() => deletePolicyRequest(step.policy), "ENOENT")];
    case "addState":
      return [job(() => newStateRequest(step.state), "EEXIST")];
    case "movePorts":
      return [job(() => movePortsRequest(step.state), "ESRCH", "EINVAL")];
    case "deleteState":
      return [job(() => deleteStateRequest(step.id), "ESRCH")];
    case "deleteLarval":
      return larvalJobs(step.state, LARVAL_SPI_FIRST + index);
    default:
      return unreachable(step);
  }
}

function runsOfAKind(steps: readonly Step[]): Step[][] {
  const runs: Step[][] = [];
  for (const step of steps) {
    const run = runs.at(-1);
    if (run?.[0]?.kind === step.kind) run.push(step);
    else runs.push([step]);
  }
  return runs;
}

function larvalJobs(state: KernelState, spi: number): Job[] {
  const kind = "deleteLarval";
  const name: Job = { kind, build: () => nameLarvalRequest(state, spi), tolerated: ["ENOENT"], isWhole: false };
  const id = { ...state.id, spi };
  return [name, { kind, build: () => deleteStateRequest(id), tolerated: ["ESRCH"], isWhole: true }];
}

function* built(jobs: readonly Job[]): Generator<NetlinkRequest> {
  for (const job of jobs) yield job.build();
}
