import type { FilterConfig } from "../../config/filter-schema.ts";
import { EsplexError, messageOf } from "../../core/errors.ts";
import { identityKeyMatcher } from "../../ike/identity-key.ts";
import type { DvipaFilter } from "../../sa/filter.ts";
import type { SharedSa } from "../../sa/spec.ts";

interface Compiled {
  readonly filter: DvipaFilter;
  /** For each rule, whether it is about this peer. */
  readonly isAbout: readonly ((identity: string | undefined) => boolean)[];
}

/** What of a DVIPA of the cluster file this is about. */
export interface FilteredDvipa {
  readonly address: string;
  readonly filter: FilterConfig | null;
  readonly gateways: readonly string[];
}

/** The tunnel check alone: what is handed over is looked at by nobody else. */
const PASS_ALL: Compiled = { filter: { at: "target", rules: [], policy: "accept", log: false }, isAbout: [] };

/** The filters of the cluster file, ready for use: which rules are about a peer is decided here, where IKE knows it. */
export class FilterRules {
  readonly #gateways: ReadonlySet<string>;
  readonly #byDvipa = new Map<string, Compiled>();
  /** All that the cluster file says of it. */
  readonly #text: string;

  /** Throws `config.invalid` for an identity that is no pattern. */
  constructor(dvipas: readonly FilteredDvipa[]) {
    this.#gateways = new Set(dvipas.flatMap(({ address, gateways }) => (gateways.length === 0 ? [] : [address])));
    for (const { address, filter } of dvipas) {
      if (filter !== null) this.#byDvipa.set(address, compiled(address, filter));
      else if (this.#gateways.has(address)) this.#byDvipa.set(address, PASS_ALL);
    }
    this.#text = JSON.stringify(dvipas.map(({ address, filter }) => [address, filter]));
  }

  /** True when nothing is filtered differently by the other one. */
  isSame(other: FilterRules): boolean {
    return this.#text === other.#text;
  }

  /** Whether this node decrypts all that goes to the DVIPA's targets. */
  isAtDistributor(dvipa: string): boolean {
    return this.#byDvipa.get(dvipa)?.filter.at === "distributor";
  }

  /** Whether it decrypts some of it. */
  handsOver(dvipa: string): boolean {
    return this.#gateways.has(dvipa) || this.isAtDistributor(dvipa);
  }

  /** By DVIPA, as the kernels of all its nodes get them. */
  filters(): ReadonlyMap<string, DvipaFilter> {
    return new Map([...this.#byDvipa].map(([dvipa, { filter }]) => [dvipa, filter]));
  }

  /** The SA with the numbers of the rules that are about its peer; none where its DVIPA has no filter. */
  applied<T extends Pick<SharedSa, "dvipa" | "peerIdentity" | "filterRules">>(sa: T): T {
    const rules = this.#byDvipa.get(sa.dvipa)?.isAbout.flatMap((isAbout, i) => (isAbout(sa.peerIdentity) ? [i] : []));
    return { ...sa, filterRules: rules };
  }
}

function compiled(dvipa: string, { at, rules, policy, log }: FilterConfig): Compiled {
  const filter: DvipaFilter = {
    rules: rules.map(({ name, source, protocol, sourcePorts, ports, action, log: logs }, i) => ({
      name: name ?? `rule ${i + 1}`,
      sources: source,
      ...{ protocol, sourcePorts, ports, action },
      log: logs,
    })),
    ...{ at, policy, log },
  };
  return { filter, isAbout: rules.map(({ identity }, i) => matcher(identity, `dvipas ${dvipa}: filter.rules[${i}]`)) };
}

function matcher(pattern: string | null, where: string): (identity: string | undefined) => boolean {
  if (pattern === null) return () => true;
  try {
    const matches = identityKeyMatcher(pattern);
    return (identity) => identity !== undefined && matches(identity);
  } catch (error) {
    throw new EsplexError("config.invalid", `${where}.identity: ${messageOf(error)}`);
  }
}
