import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ipFromBytes, ipToBytes } from "../../../src/core/ip.ts";
import { policySelectors, reversed, selectorKey, type Prefix } from "../../../src/xfrm/selectors.ts";
import type { TrafficSelector } from "../../../src/sa/spec.ts";

const HOST = selector("192.0.2.100", "192.0.2.100");

describe("traffic selectors as kernel selectors", () => {
  it("a host pair is one selector", () => {
    const [only, ...more] = policySelectors([HOST], [selector("198.51.100.7", "198.51.100.7")]);
    expect(more).toEqual([]);
    expect(only && selectorKey(only)).toBe("192.0.2.100/32 → 198.51.100.7/32 proto 0");
    expect(only && selectorKey(reversed(only))).toBe("198.51.100.7/32 → 192.0.2.100/32 proto 0");
  });

  it("everything is one selector in both versions, and versions are not mixed", () => {
    const all4 = selector("0.0.0.0", "255.255.255.255");
    const all6 = selector("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    const keys = policySelectors([all4, all6], [all4, all6]).map(selectorKey);
    expect(keys).toEqual(["0.0.0.0/0 → 0.0.0.0/0 proto 0", "::/0 → ::/0 proto 0"]);
  });

  it("ports and protocols narrow", () => {
    const web = { ...HOST, protocol: 6, startPort: 80, endPort: 80 };
    const [only] = policySelectors([web], [selector("192.0.2.1", "192.0.2.1")]);
    expect(only).toMatchObject({
      protocol: 6,
      sourcePort: { port: 80, mask: 0xffff },
      destinationPort: { port: 0, mask: 0 },
    });
    expect(() => policySelectors([web], [{ ...HOST, protocol: 17 }])).toThrow("nothing in common");
  });

  it.each([
    [{ ...HOST, protocol: 1, startPort: 8 << 8, endPort: 8 << 8 }, "ICMP types"],
    [selector("192.0.2.9", "192.0.2.1"), "ends before it starts"],
    [selector("192.0.2.9", "2001:db8::1"), "two IP versions"],
    [selector("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"), "more than 64"],
  ])("refuses what cannot be expressed: %j", (bad, why) => {
    const remote = bad.startAddress.includes(":") ? selector("::", "::") : HOST;
    expect(() => policySelectors([bad], [remote])).toThrow(why);
  });

  it("a range becomes prefixes that hold exactly its addresses", () => {
    const last = fc.integer({ min: 0, max: 255 });
    fc.assert(
      fc.property(last, last, (a, b) => {
        const [low, high] = [Math.min(a, b), Math.max(a, b)];
        const pairs = policySelectors([selector(`192.0.2.${low}`, `192.0.2.${high}`)], [HOST]);
        const covered = pairs.flatMap(({ source }) => addressesOf(source));
        expect(covered.sort()).toEqual(Array.from({ length: high - low + 1 }, (_, i) => `192.0.2.${low + i}`).sort());
      }),
    );
  });

  it("a port range becomes masks that match exactly its ports", () => {
    const port = fc.integer({ min: 0, max: 0xffff });
    fc.assert(
      fc.property(port, port, port, (a, b, probe) => {
        const [startPort, endPort] = [Math.min(a, b), Math.max(a, b)];
        const pairs = policySelectors([{ ...HOST, protocol: 6, startPort, endPort }], [HOST]);
        for (const value of [probe, startPort, endPort, startPort - 1, endPort + 1]) {
          const matches = pairs.filter(
            ({ sourcePort: { port: p, mask } }) => (value & mask) === p && value >= 0 && value <= 0xffff,
          );
          expect(matches.length).toBe(value >= startPort && value <= endPort ? 1 : 0);
        }
      }),
    );
  });
});

function selector(startAddress: string, endAddress: string): TrafficSelector {
  return { startAddress, endAddress, protocol: 0, startPort: 0, endPort: 65535 };
}

function addressesOf({ address, prefixBits }: Prefix): string[] {
  const bytes = ipToBytes(address);
  return Array.from({ length: 2 ** (32 - prefixBits) }, (_, i) => {
    return ipFromBytes(Uint8Array.of(...bytes.subarray(0, 3), (bytes[3] ?? 0) + i));
  });
}
