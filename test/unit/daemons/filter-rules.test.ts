import { describe, expect, it } from "vitest";
import { parseCluster } from "../../../src/config/cluster-file.ts";
import { FilterRules } from "../../../src/daemons/node/filter-rules.ts";

const rulesOf = (filter: string): FilterRules => {
  const dvipas = `[{ address: 192.0.2.100, distributor: d1, targets: ALL, ports: ALL, filter: ${filter} },
    { address: 192.0.2.101, distributor: d1, targets: ALL, ports: ALL },
    { address: 192.0.2.102, distributor: d1, targets: ALL, ports: ALL, gateways: [192.0.2.1] }]`;
  const text = `{ cluster: lab, bus: { coupling: "198.51.100.9:7700" }, dvipas: ${dvipas} }`;
  return new FilterRules(parseCluster(text, "lab.yaml").dvipas);
};
const RULES = `{ log: true, rules: [
  { name: named, identity: client.lab, action: accept },
  { identity: "*@lab.example", action: accept },
  { identity: "C=CH, O=Lab, CN=*", action: drop, log: true },
  { action: drop, protocol: udp, ports: [53] } ] }`;

describe("FilterRules", () => {
  it.each([
    ["client.lab", [0, 3]],
    ["email:ann@lab.example", [1, 3]],
    ['dn:2.5.4.6="ch",2.5.4.10="lab",2.5.4.3="anybody"', [2, 3]],
    ["other.lab", [3]],
    [undefined, [3]],
  ])("gives %s the rules that are about it", (peerIdentity, filterRules) => {
    const sa = { dvipa: "192.0.2.100", peerIdentity };
    expect(rulesOf(RULES).applied(sa)).toEqual({ ...sa, filterRules });
  });

  it("gives an SA of a DVIPA without a filter none, also when it had some", () => {
    const sa = { dvipa: "192.0.2.101", peerIdentity: "client.lab", filterRules: [1] };
    expect(rulesOf(RULES).applied(sa).filterRules).toBeUndefined();
  });

  it("names rules that have no name by their number", () => {
    const [[dvipa, filter] = []] = [...rulesOf(RULES).filters()];
    expect(dvipa).toBe("192.0.2.100");
    expect(filter?.rules.map(({ name }) => name)).toEqual(["named", "rule 2", "rule 3", "rule 4"]);
    expect(filter).toMatchObject({ policy: "drop", log: true, rules: [{}, {}, { log: true }, { protocol: 17 }] });
  });

  it("looks at the tunnel of what a gateway hands over, also without a filter, and lets it pass", () => {
    const rules = rulesOf(RULES);
    expect(["100", "101", "102"].map((last) => rules.handsOver(`192.0.2.${last}`))).toEqual([false, false, true]);
    expect(rules.isAtDistributor("192.0.2.102")).toBe(false);
    expect(rules.filters().get("192.0.2.102")).toEqual({ at: "target", rules: [], policy: "accept", log: false });
    const sa = { dvipa: "192.0.2.102", peerIdentity: undefined };
    expect(rules.applied(sa)).toEqual({ ...sa, filterRules: [] });
  });

  it("refuses a pattern that is none, and says which", () => {
    const broken = (): FilterRules => rulesOf('{ rules: [{ action: accept, identity: "a*b" }] }');
    expect(broken).toThrow(expect.objectContaining({ code: "config.invalid" }));
    expect(broken).toThrow("192.0.2.100: filter.rules[0].identity");
  });

  it("says whether another one filters the same, identities included", () => {
    expect(rulesOf(RULES).isSame(rulesOf(RULES))).toBe(true);
    expect(rulesOf(RULES).isSame(rulesOf(RULES.replace("client.lab", "client.example")))).toBe(false);
    expect(rulesOf(RULES).isSame(rulesOf(RULES.replace("ports: [53]", "ports: [54]")))).toBe(false);
  });
});
