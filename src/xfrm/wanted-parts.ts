import { policyKey, type PolicySpec } from "./policies.ts";
import type { Wanted } from "./shadow.ts";
import { stateKey, type KernelState, type StateSpec } from "./states.ts";

/** What has changed: names, and what is wanted of each of them now. */
export interface Change {
  /** Everything that is wanted under these names, by whomever: several parts may want one policy. */
  readonly wanted: Wanted;
  /** Names under which nothing is wanted any more. */
  readonly gone: { readonly states: readonly KernelState["id"][]; readonly policies: readonly PolicySpec[] };
}

/**
 * What a node wants in the kernel, by part (an SA, the guards of a source): knows which names have changed since they were
 * last taken, so that a change of one part costs nothing for the others. Pure.
 */
export class WantedParts {
  readonly #parts = new Map<string, Wanted>();
  readonly #states = new Map<string, StateSpec>();
  /** By policy key, then by part: SAs that replace each other want the same policies. */
  readonly #policies = new Map<string, Map<string, PolicySpec>>();
  readonly #changedStates = new Map<string, KernelState["id"]>();
  readonly #changedPolicies = new Map<string, PolicySpec>();

  /** Names that something is wanted under. */
  get size(): number {
    return this.#states.size + this.#policies.size;
  }

  /** Names that have changed. */
  get changes(): number {
    return this.#changedStates.size + this.#changedPolicies.size;
  }

  /** Replaces what a part wants; null for nothing. No two parts want the same state: their owner sees to that. */
  set(part: string, wanted: Wanted | null): void {
    const before = this.#parts.get(part);
    for (const { id } of before?.states ?? []) {
      const key = stateKey(id);
      this.#states.delete(key);
      this.#changedStates.set(key, id);
    }
    for (const policy of before?.policies ?? []) this.#removePolicy(part, policy);
    if (wanted === null) {
      this.#parts.delete(part);
      return;
    }
    this.#parts.set(part, wanted);
    for (const state of wanted.states) {
      const key = stateKey(state.id);
      this.#states.set(key, state);
      this.#changedStates.set(key, state.id);
    }
    for (const policy of wanted.policies) this.#addPolicy(part, policy);
  }

  clear(): void {
    for (const part of [...this.#parts.keys()]) this.set(part, null);
  }

  /** Everything that is wanted. */
  all(): Wanted {
    const parts = [...this.#parts.values()];
    return { states: parts.flatMap(({ states }) => states), policies: parts.flatMap(({ policies }) => policies) };
  }

  /** Everything that is wanted; what has changed counts as taken. */
  takeAll(): Wanted {
    this.#changedStates.clear();
    this.#changedPolicies.clear();
    return this.all();
  }

  /** What has changed since it was last taken. */
  takeChange(): Change {
    const wanted: { states: StateSpec[]; policies: PolicySpec[] } = { states: [], policies: [] };
    const gone: { states: KernelState["id"][]; policies: PolicySpec[] } = { states: [], policies: [] };
    for (const [key, id] of this.#changedStates) {
      const state = this.#states.get(key);
      if (state === undefined) gone.states.push(id);
      else wanted.states.push(state);
    }
    for (const [key, policy] of this.#changedPolicies) {
      const wishes = this.#policies.get(key);
      if (wishes === undefined) gone.policies.push(policy);
      else wanted.policies.push(...wishes.values());
    }
    this.#changedStates.clear();
    this.#changedPolicies.clear();
    return { wanted, gone };
  }

  /** Puts a change back that could not be made: the next one takes its names along. */
  putBack({ wanted, gone }: Change): void {
    this.doubt({ states: wanted.states.map(({ id }) => id), policies: wanted.policies });
    this.doubt(gone);
  }

  /** The kernel may not have what is wanted under these names: they count as changed. */
  doubt({ states, policies }: Change["gone"]): void {
    for (const id of states) this.#changedStates.set(stateKey(id), id);
    for (const policy of policies) this.#changedPolicies.set(policyKey(policy), policy);
  }

  #addPolicy(part: string, policy: PolicySpec): void {
    const key = policyKey(policy);
    const wishes = this.#policies.get(key) ?? new Map<string, PolicySpec>();
    const other = wishes.get(part);
    // One part may want a policy twice (an allowing one where it blocks as well): the lower priority number wins.
    if (other === undefined || policy.priority < other.priority) wishes.set(part, policy);
    this.#policies.set(key, wishes);
    this.#changedPolicies.set(key, policy);
  }

  #removePolicy(part: string, policy: PolicySpec): void {
    const key = policyKey(policy);
    const wishes = this.#policies.get(key);
    wishes?.delete(part);
    if (wishes?.size === 0) this.#policies.delete(key);
    this.#changedPolicies.set(key, policy);
  }
}
