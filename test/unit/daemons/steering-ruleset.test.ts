import { describe, expect, it } from "vitest";
import { steeringRuleset, targetRuleset } from "../../../src/daemons/node/steering-ruleset.ts";

describe("steeringRuleset", () => {
  let gateways: string[] = [];
  const text = (...dvipas: string[]): string =>
    steeringRuleset("esplex", { dvipas, gateways }, { ipsec: "queue num 7", icmpErrors: "queue num 9" });

  it("queues ESP and AH to the DVIPAs of each IP version", () => {
    const both = text("192.0.2.100", "192.0.2.101", "2001:db8::100");
    expect(both).toContain("set dvipas { type ipv4_addr; elements = { 192.0.2.100, 192.0.2.101 } }");
    expect(both).toContain("set dvipas6 { type ipv6_addr; elements = { 2001:db8::100 } }");
    expect(both).toMatch(/^ *ip daddr @dvipas meta l4proto \{ esp, ah \} queue num 7$/m);
    expect(both).toMatch(/^ *ip6 daddr @dvipas6 meta l4proto \{ esp, ah \} queue num 7$/m);
  });

  it("queues ESP in UDP to port 4500, and not IKE behind its zero marker", () => {
    const both = text("192.0.2.100", "2001:db8::100");
    expect(both).toMatch(/^ *ip daddr @dvipas udp dport 4500 @th,64,32 != 0 queue num 7$/m);
    expect(both).toMatch(/^ *ip6 daddr @dvipas6 udp dport 4500 @th,64,32 != 0 queue num 7$/m);
  });

  it("queues the ICMP errors that come in clear", () => {
    const both = text("192.0.2.100", "2001:db8::100");
    const types = "{ destination-unreachable, time-exceeded, parameter-problem }";
    expect(both).toContain(`ip daddr @dvipas meta ipsec missing icmp type ${types} iifname != "lo" queue num 9\n`);
    const types6 = "{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }";
    expect(both).toContain(`ip6 daddr @dvipas6 meta ipsec missing icmpv6 type ${types6} iifname != "lo" queue num 9\n`);
    expect(both).toMatch(/chain own_errors \{\s*type filter hook output priority mangle; policy accept;\s*\}/);
  });

  it("queues the host's own errors about TCP of the DVIPAs, as a gateway's, where targets send it in clear", () => {
    gateways = ["192.0.2.1", "2001:db8::1"];
    const both = text("192.0.2.100", "2001:db8::100");
    gateways = [];
    expect(both).toMatch(
      /oifname "lo" ip saddr @dvipas ip daddr @dvipas icmp type \{[^}]*\} @th,136,8 6 ip saddr set 192\.0\.2\.1 queue num 9\n/,
    );
    expect(both).toMatch(
      /oifname "lo" ip6 saddr @dvipas6 ip6 daddr @dvipas6 icmpv6 type \{[^}]*\} @th,112,8 6 ip6 saddr set 2001:db8::1 queue num 9\n/,
    );
  });

  it("keeps ESP, AH and IKE of the DVIPAs, both ways, out of the connection table", () => {
    const both = text("192.0.2.100", "2001:db8::100");
    for (const end of ["daddr", "saddr"]) {
      const port = end === "daddr" ? "dport" : "sport";
      for (const [header, set] of [
        ["ip", "dvipas"],
        ["ip6", "dvipas6"],
      ]) {
        expect(both).toContain(`${header} ${end} @${set} meta l4proto { esp, ah } notrack`);
        expect(both).toContain(`${header} ${end} @${set} udp ${port} { 500, 4500 } notrack`);
      }
    }
  });

  it("thins IKE_SA_INIT requests alone, wherever IKE is answered", () => {
    gateways = ["192.0.2.1"];
    const both = text("192.0.2.100", "2001:db8::100");
    gateways = [];
    const plain = "udp dport 500 @th,208,8 34 @th,216,8 & 32 == 0 @th,128,64 0 goto init_500";
    const marked = "udp dport 4500 @th,64,32 0 @th,240,8 34 @th,248,8 & 32 == 0 @th,160,64 0 goto init_4500";
    for (const [header, set] of [
      ["ip", "dvipas"],
      ["ip", "gateways"],
      ["ip6", "dvipas6"],
    ]) {
      for (const match of [plain, marked]) expect(both).toContain(`${header} daddr @${set} ${match}\n`);
    }
    expect(both).not.toContain("ip6 daddr @gateways6");
  });

  it("does the same for gateways, but for ICMP errors: those are the host's own", () => {
    gateways = ["192.0.2.1", "2001:db8::1"];
    const both = text("192.0.2.100", "2001:db8::100");
    gateways = [];
    expect(both).toContain("set gateways { type ipv4_addr; elements = { 192.0.2.1 } }");
    expect(both).toContain("set gateways6 { type ipv6_addr; elements = { 2001:db8::1 } }");
    expect(both).toMatch(/^ *ip daddr @gateways meta l4proto \{ esp, ah \} queue num 7$/m);
    expect(both).toMatch(/^ *ip6 daddr @gateways6 udp dport 4500 @th,64,32 != 0 queue num 7$/m);
    expect(both).toContain("ip saddr @gateways udp sport { 500, 4500 } notrack");
    expect(both).not.toMatch(/gateways6? .*icmp/);
  });

  it("has nothing of a version that no DVIPA has: nft takes no empty set", () => {
    expect(text("192.0.2.100")).not.toMatch(/dvipas6|ip6/);
    expect(text("2001:db8::100")).not.toMatch(/@dvipas |ipv4_addr/);
  });

  it("never lets a packet past a queue without a reader", () => {
    expect(text("192.0.2.100", "2001:db8::100")).not.toContain("bypass");
  });
});

describe("targetRuleset", () => {
  const link = "trust0";
  const both = targetRuleset("esplex-target", ["192.0.2.100", "2001:db8::100"], link, "queue num 8");

  it("takes the first segments of the DVIPAs' own connections that have a way out", () => {
    const first = 'oifname != "lo" tcp flags & (syn | ack | rst) == syn queue num 8';
    expect(both).toContain(`ip saddr @dvipas ${first}\n`);
    expect(both).toContain(`ip6 saddr @dvipas6 ${first}\n`);
    expect(both).toContain("type filter hook output priority mangle; policy accept;");
  });

  it("drops ESP and AH to the DVIPAs that do not come from the trusted link, and marks ICMP errors that do", () => {
    const rules = both.split("\n").map((line) => line.trim());
    const begin = rules.indexOf("chain trusted_link_only {") + 1;
    expect(rules.slice(begin, begin + 7)).toEqual([
      "type filter hook prerouting priority raw; policy accept;",
      'ip daddr @dvipas meta ipsec missing icmp type { destination-unreachable, time-exceeded, parameter-problem } iifname "trust0" meta mark set 0x4553fffe',
      'ip6 daddr @dvipas6 meta ipsec missing icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } iifname "trust0" meta mark set 0x4553fffe',
      'iifname "trust0" accept',
      'ip daddr @dvipas meta l4proto { esp, ah } counter name "stray_ipsec" drop',
      'ip6 daddr @dvipas6 meta l4proto { esp, ah } counter name "stray_ipsec" drop',
      "}",
    ]);
    expect(targetRuleset("esplex-target", ["192.0.2.100"], link, "queue num 8")).not.toMatch(/dvipas6|ip6/);
  });
});
