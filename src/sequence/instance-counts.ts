/** What one node's running process has reported of an SA. */
interface NodeCount {
  readonly node: string;
  /** New with every start of the node's process. */
  readonly incarnation: string;
  readonly count: number;
}

/** The counts of one SA as they survive a crash. */
export interface StoredInstances {
  /** Reported by processes that have been followed by another one on their node. */
  readonly past: number;
  readonly nodes: readonly NodeCount[];
}

/** An SA of which no kernel has made a state that may send. */
export const NO_INSTANCES: StoredInstances = { past: 0, nodes: [] };

/**
 * Kernel states made for one outbound key, all over the cluster. Each process of a node reports its own total, which only
 * grows, so a report that comes twice counts once. The total of a process that is no more stays in the sum; should a message
 * of it come after all, it counts again: too many is safe, too few is not.
 */
export class InstanceCounts {
  #past: number;
  readonly #nodes: Map<string, NodeCount>;
  /** `#past` and all of `#nodes`: asked for with every grant. */
  #total: number;

  constructor({ past, nodes }: StoredInstances) {
    this.#past = past;
    this.#nodes = new Map(nodes.map((entry) => [entry.node, entry]));
    this.#total = this.#sum();
  }

  get total(): number {
    return this.#total;
  }

  /** By how much a report raises the total. */
  growth({ node, incarnation, count }: NodeCount): number {
    const known = this.#nodes.get(node);
    return known?.incarnation === incarnation ? Math.max(0, count - known.count) : count;
  }

  keep(report: NodeCount): void {
    const known = this.#nodes.get(report.node);
    if (known !== undefined && known.incarnation !== report.incarnation) this.#past += known.count;
    else if (known !== undefined && known.count >= report.count) return;
    this.#nodes.set(report.node, { ...report });
    this.#total = this.#sum();
  }

  stored(): StoredInstances {
    return { past: this.#past, nodes: [...this.#nodes.values()] };
  }

  #sum(): number {
    return [...this.#nodes.values()].reduce((sum, { count }) => sum + count, this.#past);
  }
}
