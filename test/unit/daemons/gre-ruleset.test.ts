import { describe, expect, it } from "vitest";
import { greName } from "../../../src/daemons/node/gre-links.ts";
import { greRuleset } from "../../../src/daemons/node/gre-ruleset.ts";

const TRUSTED = { name: "trust0", address: "198.51.100.11" };
const FROM_D1 = { dvipa: "192.0.2.100", interfaceName: "esplexg1" };
const FROM_D2 = { dvipa: "2001:db8::100", interfaceName: "esplexg2" };
const D1 = "198.51.100.1";
const D2 = "198.51.100.2";

describe("greRuleset", () => {
  const handedOver = [FROM_D1, { ...FROM_D1, dvipa: "192.0.2.101" }, FROM_D2];
  const text = greRuleset("g", TRUSTED, { peers: [D1, D2], handedOver, returned: [] });

  it("takes GRE from its peers over the trusted link, and drops it with our key from anybody else", () => {
    const trusted = 'iifname "trust0" ip saddr { 198.51.100.1, 198.51.100.2 } ip daddr 198.51.100.11 accept';
    const dropped = '@th,0,16 0x2000 @th,32,32 0x45500001 counter name "spoofed" drop';
    expect(text.indexOf(trusted)).toBeGreaterThan(0);
    expect(text.indexOf(dropped)).toBeGreaterThan(text.indexOf(trusted));
  });

  it("marks TCP to each distributor's own DVIPAs, and drops what else comes out", () => {
    for (const match of [
      'iifname "esplexg1" ip daddr 192.0.2.100 meta l4proto tcp meta mark set 0x4553ffff accept',
      'iifname "esplexg1" ip daddr 192.0.2.101 meta l4proto tcp meta mark set 0x4553ffff accept',
      'iifname "esplexg2" ip6 daddr 2001:db8::100 meta l4proto tcp meta mark set 0x4553ffff accept',
    ]) {
      expect(text).toContain(match);
    }
    expect(text.match(/meta mark set/g)).toHaveLength(3);
    expect(text).toMatch(/iifname "esplexg\*" counter name "unasked" drop\s+}/);
  });

  it("marks TCP from a distributor's own DVIPAs otherwise", () => {
    const back = greRuleset("g", TRUSTED, { peers: [D1], handedOver: [], returned: [FROM_D1, FROM_D2] });
    expect(back).toContain('iifname "esplexg1" ip saddr 192.0.2.100 meta l4proto tcp meta mark set 0x4553fffd accept');
    expect(back).toContain(
      'iifname "esplexg2" ip6 saddr 2001:db8::100 meta l4proto tcp meta mark set 0x4553fffd accept',
    );
    expect(back.match(/meta mark set/g)).toHaveLength(2);
    expect(back).not.toContain("rt ipsec");
  });

  it("lets nothing of a target's leave in clear but through GRE and on the host itself", () => {
    for (const header of ["ip saddr 192.0.2.100", "ip saddr 192.0.2.101", "ip6 saddr 2001:db8::100"]) {
      const stray = 'rt ipsec missing oifname != "lo" oifname != "esplexg*" counter name "stray_clear" drop';
      expect(text).toContain(`${header} meta l4proto tcp ${stray}\n`);
    }
  });

  it("speaks of IPv6 where the trusted link does", () => {
    const trusted = { name: "t", address: "2001:db8:2::b" };
    const v6 = greRuleset("g", trusted, { peers: ["2001:db8:2::1"], handedOver: [FROM_D1], returned: [] });
    expect(v6).toContain('iifname "t" ip6 saddr { 2001:db8:2::1 } ip6 daddr 2001:db8:2::b accept');
  });
});

describe("greName", () => {
  it("fits the kernel, and is another one for each pair of nodes", () => {
    const names = ["198.51.100.1", "198.51.100.2", "2001:db8:2::1"].map((remote) => greName("198.51.100.11", remote));
    expect(new Set(names).size).toBe(3);
    for (const name of names) expect(name).toMatch(/^esplexg[0-9a-f]{8}$/);
  });
});
