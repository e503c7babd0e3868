/** Choosing the target of a new connection, among those that can take it. Pure: what is known of them comes in. */
import { Affinity } from "./affinity.ts";

/** How a DVIPA's new connections are spread; see `docs/cluster-file.md`. */
export type DistributionMethod = "roundRobin" | "weighted" | "leastConnections" | "load";

export interface Distribution {
  readonly method: DistributionMethod;
  /** 1 for who is not in it. */
  readonly weights: Readonly<Record<string, number>>;
  /** A client's next connection goes where its last one went, when that was at most so long ago; 0: never. */
  readonly affinitySeconds: number;
}

/** A target that can take the connection. */
export interface Candidate {
  readonly name: string;
  /** Connections that it has of us, provisional ones too. */
  readonly connections: number;
  /** From 0, idle, to 1, full: what it reports of itself and of its listener. */
  readonly load: number;
}

/** A full target still gets this part of its weight: its report is a second old, and nobody else may be better. Our choice. */
const LEAST_SHARE = 0.05;

/** Chooses for one DVIPA. Candidates of one call are in a fixed order, that of their names. */
export class Chooser {
  readonly #distribution: Distribution;
  readonly #turn = new RoundRobin();
  readonly #weighted = new WeightedTurn();
  readonly #affinity: Affinity;

  constructor(distribution: Distribution) {
    this.#distribution = distribution;
    this.#affinity = new Affinity(1000 * distribution.affinitySeconds);
  }

  /** The target for a new connection of `client`; null when `candidates` is empty. */
  choose(client: string, candidates: readonly Candidate[], nowMs: number): string | null {
    const { affinitySeconds } = this.#distribution;
    if (affinitySeconds === 0) return this.#byMethod(candidates);
    const before = this.#affinity.of(client, nowMs);
    const kept = candidates.some(({ name }) => name === before) ? before : null;
    const chosen = kept ?? this.#byMethod(candidates);
    if (chosen !== null) this.#affinity.set(client, chosen, nowMs);
    return chosen;
  }

  #byMethod(candidates: readonly Candidate[]): string | null {
    switch (this.#distribution.method) {
      case "roundRobin":
        return this.#turn.next(candidates.map(({ name }) => name));
      case "weighted":
        return this.#weighted.next(candidates.map(({ name }) => ({ name, weight: this.#weightOf(name) })));
      case "leastConnections":
        return this.#turn.next(this.#leastUsed(candidates));
      case "load":
        // A share of the connections, not all to the idlest: reports are a second old.
        return this.#weighted.next(
          candidates.map(({ name, load }) => ({
            name,
            weight: this.#weightOf(name) * Math.max(LEAST_SHARE, 1 - load),
          })),
        );
    }
  }

  /** Those that have the fewest connections for their weight. */
  #leastUsed(candidates: readonly Candidate[]): string[] {
    const used = candidates.map(({ name, connections }) => ({ name, share: (connections + 1) / this.#weightOf(name) }));
    const least = Math.min(...used.map(({ share }) => share));
    return used.filter(({ share }) => share === least).map(({ name }) => name);
  }

  #weightOf(name: string): number {
    const { weights } = this.#distribution;
    return Object.hasOwn(weights, name) ? (weights[name] ?? 1) : 1;
  }
}

/** Chooses targets in turn, in the order of their names; who comes or goes does not disturb the turn. */
export class RoundRobin {
  #last = "";

  /** The next target after the one chosen last; null when `available` is empty. `available` is sorted. */
  next(available: readonly string[]): string | null {
    const chosen = available.find((name) => name > this.#last) ?? available[0] ?? null;
    if (chosen !== null) this.#last = chosen;
    return chosen;
  }
}

/**
 * Each target gets its share of the weights, spread as evenly as can be: all gain their weight, the richest is chosen and pays
 * the sum. Whoever is away gains nothing meanwhile.
 */
class WeightedTurn {
  readonly #credit = new Map<string, number>();

  next(candidates: readonly { readonly name: string; readonly weight: number }[]): string | null {
    let sum = 0;
    let richest: string | null = null;
    let most = Number.NEGATIVE_INFINITY;
    for (const { name, weight } of candidates) {
      const credit = (this.#credit.get(name) ?? 0) + weight;
      this.#credit.set(name, credit);
      sum += weight;
      if (credit > most) {
        most = credit;
        richest = name;
      }
    }
    if (richest !== null) this.#credit.set(richest, most - sum);
    return richest;
  }
}
