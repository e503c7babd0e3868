/**
 * The reconciler's thinking, pure: what the kernel has, what it should have, which steps lead there.
 *
 * Order of the steps, so that no moment lets anything out in clear and none breaks what works:
 * blocks and exemptions added → states added → SA policies added or replaced → SA policies removed → states removed →
 * exemptions and blocks removed.
 */
import { invariant } from "../core/errors.ts";
import { hasOurPrefix } from "../net/ids.ts";
import { sameKeys } from "./algorithms.ts";
import { isOurPolicy, policyKey, samePolicy, type KernelPolicy, type PolicySpec } from "./policies.ts";
import type { Wanted } from "./shadow.ts";
import { stateKey, type KernelState, type KeyedKernelState, type StateSpec } from "./states.ts";

/** What the kernel has, everybody's: all of it, or what it has of some names. */
export interface Current {
  readonly states: readonly KeyedKernelState[];
  readonly policies: readonly KernelPolicy[];
}

export type Step =
  | { readonly kind: "addPolicy"; readonly policy: PolicySpec }
  | { readonly kind: "updatePolicy"; readonly policy: PolicySpec }
  | { readonly kind: "deletePolicy"; readonly policy: PolicySpec }
  | { readonly kind: "addState"; readonly state: StateSpec }
  /** The peer's UDP port has changed. */
  | { readonly kind: "movePorts"; readonly state: StateSpec }
  | { readonly kind: "deleteState"; readonly id: KernelState["id"] }
  /** A state that waits for a negotiation, SPI 0. */
  | { readonly kind: "deleteLarval"; readonly state: KernelState };

/** Something that is not ours, or a live key that must not be added a second time, stands in the way. */
export interface Conflict {
  readonly what: string;
  readonly why: string;
}

export interface Plan {
  readonly steps: readonly Step[];
  readonly conflicts: readonly Conflict[];
}

export interface PlanOptions {
  /** Leave what nobody wants (yet): for a restarted daemon that has not heard everybody who may want something. */
  readonly keepUnwanted?: boolean;
  /** Names (`stateKey`) of wanted states that are kept but never added: making one is a new kernel instance of its key. */
  readonly neverAdd?: Pick<ReadonlySet<string>, "has">;
}

/** Wanting this removes everything of ours: for SIGTERM. */
export const NOTHING: Wanted = { states: [], policies: [] };

/**
 * A state with the wanted name and keys is adopted as it is, whatever it has sent: adding a live key a second time
 * would give it a second salt, and its lease would start again (RFC 6054, nonce reuse).
 */
export function plan(current: Current, wanted: Wanted, { keepUnwanted = false, neverAdd }: PlanOptions = {}): Plan {
  const states = planStates(current.states, wanted.states, neverAdd ?? new Set());
  const policies = planPolicies(current.policies, wanted.policies);
  if (keepUnwanted) {
    states.remove = [];
    policies.remove = [];
  }
  return {
    steps: [
      ...policies.changes.filter((step) => isGuard(step.policy)),
      ...states.add,
      ...policies.changes.filter((step) => !isGuard(step.policy)),
      ...policies.remove.filter((step) => !isGuard(step.policy)),
      ...states.remove,
      ...policies.remove.filter((step) => isGuard(step.policy)),
    ],
    conflicts: [...states.conflicts, ...policies.conflicts],
  };
}

type PolicyStep = Extract<Step, { policy: PolicySpec }>;

function planPolicies(
  current: readonly KernelPolicy[],
  wanted: readonly PolicySpec[],
): { changes: PolicyStep[]; remove: PolicyStep[]; conflicts: Conflict[] } {
  const wantedByKey = highestPrecedence(wanted);
  const currentKeys = current.map(policyKey);
  const currentByKey = new Map(current.map((policy, at) => [currentKeys[at], policy]));
  const changes: PolicyStep[] = [];
  const conflicts: Conflict[] = [];
  for (const [key, policy] of wantedByKey) {
    const there = currentByKey.get(key);
    if (there === undefined) changes.push({ kind: "addPolicy", policy });
    else if (!isOurPolicy(there))
      conflicts.push({ what: `policy ${key}`, why: "one that is not ours is in its place" });
    else if (!samePolicy(there, policy)) changes.push({ kind: "updatePolicy", policy });
  }
  const remove = current
    .filter((policy, at) => isOurPolicy(policy) && !wantedByKey.has(currentKeys[at] ?? ""))
    .map((policy): PolicyStep => ({ kind: "deletePolicy", policy }));
  return { changes, remove, conflicts };
}

/** The kernel holds one policy per key: where an SA's covers exactly what a block does, the SA's stands for both. */
function highestPrecedence(policies: readonly PolicySpec[]): Map<string, PolicySpec> {
  const byKey = new Map<string, PolicySpec>();
  for (const policy of policies) {
    const key = policyKey(policy);
    const other = byKey.get(key);
    if (other === undefined || policy.priority < other.priority) byKey.set(key, policy);
  }
  return byKey;
}

function planStates(
  current: readonly KeyedKernelState[],
  wanted: readonly StateSpec[],
  neverAdd: Pick<ReadonlySet<string>, "has">,
): { add: Step[]; remove: Step[]; conflicts: Conflict[] } {
  const currentKeys = current.map(({ id }) => stateKey(id));
  const currentByKey = new Map(current.map((state, at) => [currentKeys[at], state]));
  const wantedKeys = new Set(wanted.map((state) => stateKey(state.id)));
  invariant(wantedKeys.size === wanted.length, "two wanted states have the same name");
  const add: Step[] = [];
  const conflicts: Conflict[] = [];
  for (const state of inboundFirst(wanted)) {
    const key = stateKey(state.id);
    const mayAdd = !neverAdd.has(key);
    const there = currentByKey.get(key);
    const obstacle = there === undefined ? null : obstacleTo(there, state);
    if (obstacle !== null) {
      conflicts.push({ what: `state ${key}`, why: obstacle });
    } else if (there === undefined) {
      if (mayAdd) add.push({ kind: "addState", state });
    } else if (!hasSameKeys(there, state)) {
      // Another SA that got the same SPI: it is over.
      add.push({ kind: "deleteState", id: there.id });
      if (mayAdd) add.push({ kind: "addState", state });
    } else if (!hasSamePorts(there, state)) {
      add.push({ kind: "movePorts", state });
    }
  }
  const remove = current
    .filter((state, at) => hasOurPrefix(state.reqid) && !wantedKeys.has(currentKeys[at] ?? ""))
    .map((state): Step =>
      state.id.spi === 0 ? { kind: "deleteLarval", state } : { kind: "deleteState", id: state.id },
    );
  return { add, remove, conflicts };
}

/** Why a state that is there can be neither adopted nor replaced; null when it can. */
function obstacleTo(there: KeyedKernelState, wanted: StateSpec): string | null {
  if (!hasOurPrefix(there.reqid)) return "one that is not ours has its name";
  if (!hasSameKeys(there, wanted)) return null;
  const isSame = there.reqid === wanted.reqid && there.mode === wanted.mode && there.esn === wanted.esn;
  // The kernel changes ports, never whether there is a UDP header.
  const isSameKind =
    there.encapsulation !== "other" && (there.encapsulation === null) === (wanted.encapsulation === null);
  return isSame && isSameKind
    ? null
    : "it has these keys already, but another reqid, mode, number length or encapsulation";
}

function hasSamePorts({ encapsulation: there }: KeyedKernelState, { encapsulation: wanted }: StateSpec): boolean {
  if (there === null || there === "other" || wanted === null) return true;
  return there.sourcePort === wanted.sourcePort && there.destinationPort === wanted.destinationPort;
}

function hasSameKeys(there: KeyedKernelState, wanted: StateSpec): boolean {
  return there.keyed !== null && sameKeys(there.keyed, wanted);
}

/** An outbound state may send the moment it exists; the answer needs the inbound one. */
function inboundFirst(states: readonly StateSpec[]): StateSpec[] {
  const isInbound = (state: StateSpec): boolean => state.allowance.kind === "unlimited";
  return [...states.filter(isInbound), ...states.filter((state) => !isInbound(state))];
}

function isGuard(policy: PolicySpec): boolean {
  return policy.template === null;
}
