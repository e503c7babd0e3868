import { beforeEach, describe, expect, it } from "vitest";
import { Counters } from "../../../src/core/counters.ts";
import { EsplexError } from "../../../src/core/errors.ts";
import { silentLog } from "../../../src/core/log.ts";
import { filterTable, programName, type FilteredSa } from "../../../src/daemons/node/filter-ruleset.ts";
import { PacketFilter, type FilterKernel } from "../../../src/daemons/node/packet-filter.ts";
import { OWN_IKE } from "../../../src/daemons/node/sa-table.ts";
import { Secret } from "../../../src/core/secret.ts";
import type { DvipaFilter, FilterRule } from "../../../src/sa/filter.ts";
import type { TrafficSelector } from "../../../src/sa/spec.ts";

const DVIPA = "192.0.2.100";
const TABLE = filterTable(DVIPA);
const LATER = { removeOthers: true, doubtful: false };

const rule = (name: string, changes: Partial<FilterRule> = {}): FilterRule => ({
  ...{ name, sources: [], protocol: null, sourcePorts: [], ports: [], action: "accept", log: false },
  ...changes,
});
const WEB = rule("web", { protocol: 6, ports: [{ first: 80, last: 80 }] });
const FILTER: DvipaFilter = { at: "target", rules: [WEB, rule("rest")], policy: "drop", log: false };

const host = (address: string): TrafficSelector => ({
  ...{ startAddress: address, endAddress: address, protocol: 0, startPort: 0, endPort: 65_535 },
});
const sa = (spi: number, filterRules: readonly number[] | undefined, dvipa = DVIPA): FilteredSa => ({
  dvipa,
  filterRules,
  inbound: { spi, encryptionKey: new Secret(new Uint8Array(1)), integrityKey: null },
  localSelectors: [host(dvipa)],
  remoteSelectors: [host("192.0.2.10")],
});
const element = (spi: number, rules?: readonly number[]): string =>
  `0x${spi.toString(16)} . 192.0.2.10 . ${DVIPA}${rules === undefined ? "" : ` : goto ${programName(rules)}`}`;

let applied: string[];
let tables: string[];
let refusals: number;
let counters: Counters;
let filter: PacketFilter;

const kernel: FilterKernel = {
  apply: (text) => {
    if (refusals > 0) {
      refusals -= 1;
      return Promise.reject(new EsplexError("kernel.refused", "no such table"));
    }
    applied.push(text);
    const [, name] = /^table inet (\S+) \{/m.exec(text) ?? [];
    if (name !== undefined && !tables.includes(name)) tables.push(name);
    return Promise.resolve();
  },
  remove: (table) => {
    tables = tables.filter((other) => other !== table);
    return Promise.resolve();
  },
  tables: (prefix) => Promise.resolve(tables.filter((name) => name.startsWith(prefix))),
  counters: (table) => Promise.resolve(tables.includes(table) ? new Map([["r0", { packets: 3, bytes: 180 }]]) : null),
};

beforeEach(() => {
  applied = [];
  tables = [];
  refusals = 0;
  counters = new Counters();
  filter = new PacketFilter({ counters, log: silentLog, kernel });
  filter.want("d1", new Map([[DVIPA, FILTER]]));
});

/** The only ruleset since the last look. */
function only(): string {
  const texts = applied.splice(0);
  expect(texts).toHaveLength(1);
  return texts[0] ?? "";
}

describe("PacketFilter", () => {
  it("makes the table with all SAs in one transaction, then follows them", async () => {
    await filter.cover([sa(0x1001, [0, 1])], LATER);
    const first = only();
    expect(first).toContain(`table inet ${TABLE} {`);
    expect(first).toContain(`add element inet ${TABLE} sas { ${element(0x1001, [0, 1])} }`);
    await filter.cover([sa(0x1001, [0, 1]), sa(0x1002, [1])], LATER);
    const second = only();
    expect(second).not.toContain("delete");
    expect(second).toContain(`add chain inet ${TABLE} ${programName([1])}`);
    expect(second).toContain(`add element inet ${TABLE} sas { ${element(0x1002, [1])} }`);
    await filter.cover([sa(0x1002, [1])], LATER);
    expect(only()).toBe(`delete element inet ${TABLE} sas { ${element(0x1001)} }\n`);
    await filter.cover([sa(0x1002, [1])], LATER);
    expect(applied).toEqual([]);
  });

  it("leads an SA to other rules when its peer's have changed: gone and there in one transaction", async () => {
    await filter.cover([sa(0x1001, [0])], LATER);
    only();
    await filter.cover([sa(0x1001, [1])], LATER);
    expect(only()).toBe(
      `add chain inet ${TABLE} ${programName([1])}\n` +
        `add rule inet ${TABLE} ${programName([1])} counter name "r1" goto pass\n` +
        `add rule inet ${TABLE} ${programName([1])} goto otherwise\n` +
        `delete element inet ${TABLE} sas { ${element(0x1001)} }\n` +
        `add element inet ${TABLE} sas { ${element(0x1001, [1])} }\n`,
    );
  });

  it("makes the table anew with its SAs when the filter has changed", async () => {
    await filter.cover([sa(0x1001, [0])], LATER);
    only();
    filter.want("d1", new Map([[DVIPA, { ...FILTER, policy: "accept" }]]));
    await filter.cover([sa(0x1001, [0])], LATER);
    const text = only();
    expect(text).toMatch(/^add table .*\ndelete table /);
    expect(text).toContain(element(0x1001, [0]));
    expect(text).toContain('counter name "unmatched" goto pass');
  });

  it("lets nothing of an SA through whose rules nobody told, and has no table for other DVIPAs", async () => {
    await filter.cover([sa(0x1001, undefined), sa(0x1002, [0], "192.0.2.200")], LATER);
    expect(only()).not.toContain("add element");
    expect(tables).toEqual([TABLE]);
  });

  it("takes nothing out of IPsec on a target whose distributor does that, and hands over there", async () => {
    filter.want("d1", new Map([[DVIPA, { ...FILTER, at: "distributor" }]]));
    await filter.cover([sa(0x1001, [0])], LATER);
    expect(only()).not.toContain("add element");
    expect(filter.handsOver(DVIPA)).toBe(false);
    filter = new PacketFilter({ counters, log: silentLog, kernel });
    filter.want(OWN_IKE, new Map([[DVIPA, { ...FILTER, at: "distributor" }]]));
    await filter.cover([sa(0x1001, [0])], LATER);
    const text = only();
    expect(text).toContain(element(0x1001, [0]));
    expect(text).toContain('counter name "r0" goto pass');
    expect(text).toContain("meta mark & 0xfffc0000 == 0x455c0000 meta mark set meta mark & 0xfff7ffff");
    expect(filter.handsOver(DVIPA)).toBe(true);
  });

  it("fails when the SA could not be covered, and puts everything back after that", async () => {
    refusals = 1;
    await expect(filter.cover([sa(0x1001, [0])], LATER)).rejects.toMatchObject({ code: "kernel.refused" });
    await filter.cover([sa(0x1001, [0])], LATER);
    expect(only()).toContain(`table inet ${TABLE} {`);
  });

  it("puts a table back that another program has removed: at a change, and when it looks", async () => {
    await filter.cover([sa(0x1001, [0])], LATER);
    only();
    refusals = 1;
    await filter.cover([sa(0x1001, [0]), sa(0x1002, [0])], LATER);
    const text = only();
    for (const part of [`table inet ${TABLE} {`, element(0x1001, [0]), element(0x1002, [0])]) {
      expect(text).toContain(part);
    }
    tables = [];
    await filter.cover([sa(0x1001, [0])], { ...LATER, doubtful: true });
    expect(only()).toContain(`table inet ${TABLE} {`);
    expect(counters.get("filter.foreignChange")).toBe(2);
  });

  it("removes what a dead run left, but not before everybody was heard", async () => {
    const litter = filterTable("2001:db8::100");
    tables = [litter, "mine"];
    await filter.cover([], { removeOthers: false, doubtful: false });
    expect(tables).toContain(litter);
    await filter.cover([], LATER);
    expect(tables).toEqual(["mine", TABLE]);
    filter.want("d1", new Map());
    await filter.cover([], LATER);
    expect(tables).toEqual(["mine"]);
  });

  it("asks nothing of the kernel where nobody filters, and does not mind one without nftables", async () => {
    const none = new PacketFilter({
      counters,
      log: silentLog,
      kernel: { ...kernel, tables: () => Promise.reject(new EsplexError("kernel.missing", "no nft")) },
    });
    await none.cover([sa(0x1001, [0])], LATER);
    expect(applied).toEqual([]);
  });

  it("tells what each rule has decided", async () => {
    await filter.cover([sa(0x1001, [0])], LATER);
    expect(await filter.status()).toEqual([
      {
        dvipa: DVIPA,
        rules: [
          { name: "web", action: "accept", log: false, packets: 3, bytes: 180 },
          { name: "rest", action: "accept", log: false, packets: 0, bytes: 0 },
        ],
        unmatched: { action: "drop", packets: 0, bytes: 0 },
        wrongTunnel: { packets: 0, bytes: 0 },
      },
    ]);
  });
});
