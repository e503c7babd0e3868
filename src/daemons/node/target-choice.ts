import { Chooser, type Candidate, type Distribution } from "../../steer/choose.ts";
import type { ConnectionKey } from "../../steer/connection-table.ts";

export interface TargetChoiceContext {
  /** Targets that the DVIPA's packets can be sent on to now, sorted by name. */
  readonly reachable: (dvipa: string) => readonly string[];
  /** The target's load for the port, 0 to 1; null when nothing listens there. */
  readonly loadOf: (target: string, dvipa: string, port: number) => number | null;
  readonly connectionsOf: (target: string) => number;
}

/** Which target gets a new connection: one that is reachable, does not drain and whose application listens (R13, R23). */
export class TargetChoice {
  readonly #context: TargetChoiceContext;
  readonly #choosers: ReadonlyMap<string, Chooser>;
  readonly #draining = new Set<string>();

  constructor(distributions: ReadonlyMap<string, Distribution>, context: TargetChoiceContext) {
    this.#context = context;
    this.#choosers = new Map([...distributions].map(([dvipa, distribution]) => [dvipa, new Chooser(distribution)]));
  }

  /** A target that drains keeps its connections and gets no new ones, until `isDraining` is false again. */
  drain(target: string, isDraining: boolean): void {
    if (isDraining) this.#draining.add(target);
    else this.#draining.delete(target);
  }

  isDraining(target: string): boolean {
    return this.#draining.has(target);
  }

  choose(
    { client, dvipa, port }: ConnectionKey,
    nowMs: number,
  ): { readonly target: string } | "noTarget" | "noListener" {
    const { reachable, loadOf, connectionsOf } = this.#context;
    const names = reachable(dvipa).filter((name) => !this.#draining.has(name));
    if (names.length === 0) return "noTarget";
    const candidates = names.flatMap((name): Candidate[] => {
      const load = loadOf(name, dvipa, port);
      return load === null ? [] : [{ name, connections: connectionsOf(name), load }];
    });
    const target = this.#choosers.get(dvipa)?.choose(client, candidates, nowMs) ?? null;
    return target === null ? "noListener" : { target };
  }
}
