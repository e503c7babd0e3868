import type { ClusterConfig, DvipaConfig } from "../../config/cluster-schema.ts";
import { EsplexError } from "../../core/errors.ts";

/** Who may do what, from the cluster file alone: what a node says about itself is not asked. Addresses are canonical text. */
export class Rights {
  readonly #dvipas: ReadonlyMap<string, DvipaConfig>;

  constructor(config: ClusterConfig) {
    this.#dvipas = new Map(config.dvipas.map((dvipa) => [dvipa.address, dvipa]));
  }

  /** DVIPAs that `node` may distribute. */
  distributed(node: string): string[] {
    return [...this.#dvipas.values()].filter(({ distributor }) => distributor === node).map(({ address }) => address);
  }

  /** True for a distributor or target of any DVIPA: nobody else has business here. */
  isMember(node: string): boolean {
    return [...this.#dvipas.values()].some((dvipa) => takesPart(dvipa, node));
  }

  /** Throws `cluster.notOwner` unless the file makes `node` the distributor of `dvipa`. */
  checkDistributor(node: string, dvipa: string): void {
    if (this.#dvipas.get(dvipa)?.distributor !== node) {
      throw new EsplexError("cluster.notOwner", `${node} is not the distributor of ${dvipa} in the cluster file`);
    }
  }

  /** True when `node` may send on SAs of `dvipa`. */
  maySend(node: string, dvipa: string): boolean {
    const config = this.#dvipas.get(dvipa);
    return config !== undefined && takesPart(config, node);
  }
}

function takesPart({ distributor, targets }: DvipaConfig, node: string): boolean {
  return distributor === node || targets === "ALL" || targets.includes(node);
}
