import type { Counters } from "../../core/counters.ts";
import { EsplexError, messageOf } from "../../core/errors.ts";
import type { Log } from "../../core/log.ts";
import { applyRuleset, deleteTable, listCounters, listTables } from "../../net/nftables.ts";
import type { DvipaFilter } from "../../sa/filter.ts";
import {
  FILTER_TABLE_PREFIX,
  filterKeys,
  filterProgram,
  filterSkeleton,
  filterTable,
  programName,
  type FilteredSa,
} from "./filter-ruleset.ts";
import { OWN_IKE } from "./sa-table.ts";
import type { FilterStatus, RuleStatus } from "./status.ts";

/** Elements of one `nft` input line; a line of some kilobytes. Our choice. */
const ELEMENTS_A_LINE = 64;
/** Chains that no SA leads to any more are left until there are so many; our choice. */
const UNUSED_PROGRAMS_MAX = 64;

/** The kernel's nftables; tests have their own. */
export interface FilterKernel {
  apply(ruleset: string): Promise<void>;
  remove(table: string): Promise<void>;
  /** The tables whose names begin so. */
  tables(prefix: string): Promise<readonly string[]>;
  /** Packets and bytes by the counter's name; null when the table is not there. */
  counters(table: string): Promise<ReadonlyMap<string, RuleCount> | null>;
}

/** What a rule has decided about. */
export interface RuleCount {
  readonly packets: number;
  readonly bytes: number;
}

const KERNEL: FilterKernel = {
  apply: applyRuleset,
  remove: (table) => deleteTable("inet", table),
  tables: async (prefix) => (await listTables("inet")).filter((name) => name.startsWith(prefix)),
  counters: (table) => listCounters("inet", table),
};

/** What stands in the kernel for one DVIPA, as far as we know. */
interface Applied {
  readonly filter: DvipaFilter;
  readonly programs: Set<string>;
  /** Elements of the map, by key: the program that they lead to. */
  readonly elements: Map<string, string>;
}

export interface PacketFilterContext {
  readonly counters: Counters;
  readonly log: Log;
  readonly kernel?: FilterKernel;
}

/**
 * The filters of this node's DVIPAs in its kernel (R17): a table of nftables for each, whose map follows the SAs. Fail closed:
 * an SA is in its table's map before the kernel may have its states, and what is not in the map is dropped there.
 *
 * Callers take turns: `cover` and `clear` never run beside each other.
 */
export class PacketFilter {
  readonly #kernel: FilterKernel;
  readonly #counters: Counters;
  readonly #log: Log;
  /** By source, then by DVIPA. */
  readonly #wanted = new Map<string, ReadonlyMap<string, DvipaFilter>>();
  readonly #applied = new Map<string, Applied>();
  /** What the map needs for an SA is worked out once. */
  readonly #keys = new WeakMap<FilteredSa, readonly string[]>();
  #isLitterGone = false;

  constructor({ counters, log, kernel = KERNEL }: PacketFilterContext) {
    this.#kernel = kernel;
    this.#counters = counters;
    this.#log = log;
  }

  /** The filters of the DVIPAs that a source speaks for, in place of what it said before. Changes nothing by itself. */
  want(source: string, filters: ReadonlyMap<string, DvipaFilter>): void {
    this.#wanted.set(source, filters);
  }

  /** The filter of a DVIPA as it stands in the kernel. */
  filterOf(dvipa: string): DvipaFilter | undefined {
    return this.#applied.get(dvipa)?.filter;
  }

  /** Whether this node filters what it hands over to the DVIPA's targets. */
  handsOver(dvipa: string): boolean {
    return this.#wanted.get(OWN_IKE)?.get(dvipa)?.at === "distributor";
  }

  /** Whether anybody is filtered here. */
  get isNeeded(): boolean {
    return [...this.#wanted.values()].some((filters) => filters.size > 0);
  }

  /**
   * Resolves once the kernel filters these SAs. `removeOthers`: tables of ours that nobody wants are a dead run's litter.
   * `doubtful`: another program may have touched the tables. Throws when an SA could not be covered.
   */
  async cover(
    sas: Iterable<FilteredSa>,
    { removeOthers, doubtful }: { readonly removeOthers: boolean; readonly doubtful: boolean },
  ): Promise<void> {
    const wanted = new Map([...this.#wanted.values()].flatMap((filters) => [...filters]));
    if (doubtful) await this.#lookForChanges();
    const byDvipa = wanted.size === 0 ? new Map<string, FilteredSa[]>() : Map.groupBy(sas, ({ dvipa }) => dvipa);
    for (const [dvipa, filter] of wanted) {
      // What the distributor decrypts comes in GRE: a target takes none of it out of IPsec itself.
      const isElsewhere = filter.at === "distributor" && this.#wanted.get(OWN_IKE)?.has(dvipa) !== true;
      await this.#coverDvipa(dvipa, filter, isElsewhere ? [] : (byDvipa.get(dvipa) ?? []));
    }
    await this.#removeUnwanted(wanted, removeOthers);
  }

  /** Removes every table of ours. */
  async clear(): Promise<void> {
    this.#wanted.clear();
    await this.#removeUnwanted(new Map(), true);
  }

  async status(): Promise<FilterStatus[]> {
    return Promise.all(
      [...this.#applied].map(async ([dvipa, { filter }]) => {
        const counts = await this.#kernel.counters(filterTable(dvipa));
        const of = (place: string): RuleCount => counts?.get(place) ?? { packets: 0, bytes: 0 };
        const rules: RuleStatus[] = filter.rules.map(({ name, action, log }, i) => ({
          ...{ name, action, log },
          ...of(`r${i}`),
        }));
        return {
          dvipa,
          rules,
          unmatched: { action: filter.policy, ...of("unmatched") },
          wrongTunnel: of("wrong_tunnel"),
        };
      }),
    );
  }

  async #coverDvipa(dvipa: string, filter: DvipaFilter, sas: readonly FilteredSa[]): Promise<void> {
    const elements = new Map<string, string>();
    const programs = new Map<string, readonly number[]>();
    for (const sa of sas) {
      if (sa.filterRules === undefined) continue;
      const program = programName(sa.filterRules);
      programs.set(program, sa.filterRules);
      for (const key of this.#keysOf(sa)) elements.set(key, program);
    }
    const applied = this.#applied.get(dvipa);
    const isSame = applied !== undefined && JSON.stringify(applied.filter) === JSON.stringify(filter);
    const isFresh = !isSame || applied.programs.size > programs.size + UNUSED_PROGRAMS_MAX;
    const before = isFresh ? { programs: new Set<string>(), elements: new Map<string, string>() } : applied;
    const text = [
      ...(isFresh ? [filterSkeleton(dvipa, filter)] : []),
      ...[...programs].flatMap(([name, numbers]) =>
        before.programs.has(name) ? [] : [filterProgram(dvipa, filter, numbers)],
      ),
      ...mapChanges(filterTable(dvipa), before.elements, elements),
    ].join("");
    if (text === "") return;
    try {
      await this.#kernel.apply(text);
    } catch (error) {
      // All of it or nothing: but what is there is not known any more.
      this.#applied.delete(dvipa);
      if (isFresh) throw error;
      this.#foreignChange(dvipa, messageOf(error));
      return this.#coverDvipa(dvipa, filter, sas);
    }
    this.#applied.set(dvipa, { filter, programs: new Set([...before.programs, ...programs.keys()]), elements });
  }

  #keysOf(sa: FilteredSa): readonly string[] {
    const known = this.#keys.get(sa);
    if (known !== undefined) return known;
    const keys = filterKeys(sa);
    this.#keys.set(sa, keys);
    return keys;
  }

  async #removeUnwanted(wanted: ReadonlyMap<string, DvipaFilter>, removeOthers: boolean): Promise<void> {
    for (const dvipa of [...this.#applied.keys()]) {
      if (wanted.has(dvipa)) continue;
      await this.#kernel.remove(filterTable(dvipa));
      this.#applied.delete(dvipa);
    }
    if (!removeOthers || this.#isLitterGone) return;
    const ours = new Set([...wanted.keys()].map(filterTable));
    try {
      for (const table of await this.#kernel.tables(FILTER_TABLE_PREFIX)) {
        if (!ours.has(table)) await this.#kernel.remove(table);
      }
    } catch (error) {
      // Where nobody filters there need not be an `nft`, nor an nftables that answers.
      if (!(error instanceof EsplexError) || wanted.size > 0) throw error;
      this.#log.debug("no filter tables could be looked for", { reason: error.message });
    }
    this.#isLitterGone = true;
  }

  /** `nft flush ruleset` is what a restart of the host's own firewall may begin with: without the table everything passes. */
  async #lookForChanges(): Promise<void> {
    for (const dvipa of [...this.#applied.keys()]) {
      if ((await this.#kernel.counters(filterTable(dvipa))) !== null) continue;
      this.#applied.delete(dvipa);
      this.#foreignChange(dvipa, "the table is gone");
    }
  }

  #foreignChange(dvipa: string, what: string): void {
    this.#counters.add("filter.foreignChange");
    this.#log.warn("another program changed a DVIPA's filter: it is put back", { dvipa, what });
  }
}

/** Commands that make one map of the other. */
function mapChanges(table: string, before: ReadonlyMap<string, string>, wanted: ReadonlyMap<string, string>): string[] {
  const gone = [...before].filter(([key, program]) => wanted.get(key) !== program).map(([key]) => key);
  const added = [...wanted].filter(([key, program]) => before.get(key) !== program);
  return [
    ...inLines(gone, (part) => `delete element inet ${table} sas { ${part} }\n`),
    ...inLines(
      added.map(([key, program]) => `${key} : goto ${program}`),
      (part) => `add element inet ${table} sas { ${part} }\n`,
    ),
  ];
}

function inLines(elements: readonly string[], line: (part: string) => string): string[] {
  const parts: string[] = [];
  for (let i = 0; i < elements.length; i += ELEMENTS_A_LINE) {
    parts.push(line(elements.slice(i, i + ELEMENTS_A_LINE).join(", ")));
  }
  return parts;
}
