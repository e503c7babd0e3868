import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ICMP_DROPS, OTHER_DROPS, RULESET_DROPS, STEERING_DROPS } from "../../../src/daemons/node/drop-reasons.ts";
import { explainDrops, type DropSources } from "../../../src/daemons/node/drops.ts";
import { greRuleset } from "../../../src/daemons/node/gre-ruleset.ts";
import { steeringRuleset, targetRuleset } from "../../../src/daemons/node/steering-ruleset.ts";
import { readXfrmStatistics } from "../../../src/xfrm/statistics.ts";

const SOURCE = new URL("../../../src/", import.meta.url);
const NOTHING: DropSources = { counters: {}, queue: null, filters: [], rulesets: new Map(), xfrm: new Map() };

/** Names of drop counters as the code writes them; reasons of a verdict are held to the table by their type. */
function countersInCode(): string[] {
  const files = readdirSync(SOURCE, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"));
  const texts = files.map((file) => readFileSync(new URL(file, SOURCE), "utf8"));
  return [...new Set(texts.flatMap((text) => text.match(/(?<=")[a-z]+\.drop\.[A-Za-z]+(?=")/g) ?? []))];
}

describe("the explanation of drops", () => {
  it("knows every counter of the code", () => {
    const known = new Set([
      ...Object.keys(STEERING_DROPS).map((name) => `steer.drop.${name}`),
      ...Object.keys(ICMP_DROPS).map((name) => `icmp.drop.${name}`),
      ...Object.keys(OTHER_DROPS),
    ]);
    const found = countersInCode();
    expect(found).toContain("steer.drop.noLease");
    expect(found.filter((name) => !known.has(name))).toEqual([]);
  });

  it("tells what was dropped, most first, and nothing of what was not", () => {
    const rule = { name: "web", log: false, packets: 7, bytes: 700 };
    const drops = explainDrops({
      counters: { "steer.drop.replayed": 3, "steer.forwarded": 9000, "steer.drop.forged": 0, "steer.earlyFull": 1 },
      queue: { waiting: 5, droppedFull: 12, droppedOverrun: 0 },
      filters: [
        {
          dvipa: "192.0.2.100",
          rules: [
            { ...rule, action: "drop" },
            { ...rule, name: "ssh", action: "accept" },
          ],
          unmatched: { action: "accept", packets: 50, bytes: 1 },
          wrongTunnel: { packets: 2, bytes: 1 },
        },
      ],
      rulesets: new Map([
        ["esplex-target.stray_ipsec", 6],
        ["esplex-gre.spoofed", 0],
      ]),
      xfrm: new Map([["XfrmInStateSeqError", 4]]),
    });
    expect(drops.map(({ counter, packets }) => [counter, packets])).toEqual([
      ["steeringQueue.droppedFull", 12],
      ["filter.192.0.2.100.web", 7],
      ["esplex-target.stray_ipsec", 6],
      ["XfrmInStateSeqError", 4],
      ["steer.drop.replayed", 3],
      ["filter.192.0.2.100.tunnelCheck", 2],
      ["steer.earlyFull", 1],
    ]);
    for (const { why, advice } of drops) expect([why, advice].every((text) => text.length > 10)).toBe(true);
  });

  it("knows every counter of the rulesets", () => {
    const rulesets = [
      steeringRuleset("esplex", { dvipas: ["192.0.2.100"], gateways: [] }, { ipsec: "accept", icmpErrors: "accept" }),
      targetRuleset("esplex-target", ["192.0.2.100"], "trust0", "queue num 1"),
      greRuleset("esplex-gre", { name: "trust0", address: "203.0.113.2" }, { peers: [], handedOver: [], returned: [] }),
    ];
    const counters = rulesets.flatMap((text) => {
      const [, table = ""] = /table inet (\S+) \{/.exec(text) ?? [];
      return [...text.matchAll(/^\s*counter (\w+) \{/gm)].map(([, name = ""]) => `${table}.${name}`);
    });
    expect(counters.sort()).toEqual(Object.keys(RULESET_DROPS).sort());
  });

  it("shows a counter that it does not know all the same", () => {
    const drops = explainDrops({
      ...NOTHING,
      counters: { "steer.drop.newReason": 1 },
      xfrm: new Map([["XfrmNew", 2]]),
    });
    expect(drops.map(({ counter }) => counter)).toEqual(["XfrmNew", "steer.drop.newReason"]);
    expect(drops[0]?.why).toContain("no words");
    expect(explainDrops(NOTHING)).toEqual([]);
  });
});

describe("the kernel's statistics", () => {
  it("are read as the kernel writes them, without zeros; empty where there are none", async () => {
    const directory = await mkdtemp(join(tmpdir(), "esplex-xfrm-"));
    try {
      const path = join(directory, "xfrm_stat");
      await writeFile(path, "XfrmInError             \t0\nXfrmInNoStates          \t17\n");
      expect([...(await readXfrmStatistics(path))]).toEqual([["XfrmInNoStates", 17]]);
      expect((await readXfrmStatistics(join(directory, "absent"))).size).toBe(0);
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});
