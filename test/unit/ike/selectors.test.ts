import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  hostSelector,
  intersect,
  narrow,
  sameSelectors,
  selectorPayload,
  subnetSelector,
} from "../../../src/ike/selectors.ts";
import type { TrafficSelector } from "../../../src/sa/spec.ts";

const narrowed = (offer: readonly TrafficSelector[], policy: readonly TrafficSelector[]) =>
  narrow(selectorPayload("tsi", offer), policy);

const everything: TrafficSelector = {
  startAddress: "0.0.0.0",
  endAddress: "255.255.255.255",
  protocol: 0,
  startPort: 0,
  endPort: 65_535,
};

describe("subnets", () => {
  const CASES: readonly [string, string, string][] = [
    ["192.0.2.77/24", "192.0.2.0", "192.0.2.255"],
    ["192.0.2.130/25", "192.0.2.128", "192.0.2.255"],
    ["0.0.0.0/0", "0.0.0.0", "255.255.255.255"],
    ["192.0.2.1", "192.0.2.1", "192.0.2.1"],
    ["2001:db8:1::5/33", "2001:db8::", "2001:db8:7fff:ffff:ffff:ffff:ffff:ffff"],
  ];
  for (const [subnet, startAddress, endAddress] of CASES) {
    test(subnet, () => expect(subnetSelector(subnet)).toMatchObject({ startAddress, endAddress, protocol: 0 }));
  }
  test("what is none is refused", () => {
    for (const text of ["192.0.2.0/33", "192.0.2.0/x", "example.org/24", "192.0.2.0/-1"]) {
      expect(() => subnetSelector(text)).toThrow("not a");
    }
  });
});

describe("narrowing (RFC 7296 §2.9)", () => {
  const host = hostSelector("192.0.2.1");

  test("everything becomes the host", () => expect(narrowed([everything], [host])).toEqual([host]));
  test("a host that is not allowed leaves nothing", () => {
    expect(narrowed([hostSelector("192.0.2.2")], [host])).toEqual([]);
    expect(narrowed([hostSelector("2001:db8::1")], [host])).toEqual([]);
  });
  test("ports and protocol stay as narrow as they were asked for", () => {
    const http: TrafficSelector = { ...everything, protocol: 6, startPort: 80, endPort: 80 };
    expect(narrowed([http], [host])).toEqual([{ ...host, protocol: 6, startPort: 80, endPort: 80 }]);
  });
  test("the triggering packet's selector is swallowed by the wider one", () => {
    const packet: TrafficSelector = { ...host, protocol: 6, startPort: 1234, endPort: 1234 };
    expect(narrowed([packet, everything], [host])).toEqual([host]);
    expect(narrowed([everything, everything], [host])).toEqual([host]);
  });
  test("OPAQUE ports match nothing", () => {
    expect(narrowed([{ ...everything, startPort: 65_535, endPort: 0 }], [host])).toEqual([]);
  });
  test("unknown selector types match nothing", () => {
    expect(narrow({ kind: "tsi", selectors: [{ kind: "unknown", type: 9, body: new Uint8Array(9) }] }, [host])).toEqual(
      [],
    );
  });
  test("host and subnets of a tunnel", () => {
    const net = subnetSelector("203.0.113.0/24");
    const offer = [subnetSelector("192.0.2.0/24"), subnetSelector("203.0.113.0/25"), subnetSelector("198.51.100.0/24")];
    expect(narrowed(offer, [host, net])).toEqual([host, subnetSelector("203.0.113.0/25")]);
  });
});

test("an intersection lies in both, and is the same from both sides", () => {
  const port = fc.integer({ min: 0, max: 9 });
  const address = fc.integer({ min: 0, max: 9 }).map((n) => `192.0.2.${n}`);
  const selector: fc.Arbitrary<TrafficSelector> = fc.record({
    startAddress: address,
    endAddress: address,
    protocol: fc.constantFrom(0, 6, 17),
    startPort: port,
    endPort: port,
  });
  const last = (text: string): number => Number(text.split(".")[3]);
  const matches = (s: TrafficSelector, a: number, p: number, proto: number): boolean =>
    last(s.startAddress) <= a &&
    a <= last(s.endAddress) &&
    s.startPort <= p &&
    p <= s.endPort &&
    (s.protocol === 0 || s.protocol === proto);
  fc.assert(
    fc.property(selector, selector, port, port, fc.constantFrom(6, 17), (a, b, address4, port4, protocol) => {
      const both = intersect(a, b);
      expect(sameSelectors(both ? [both] : [], intersect(b, a) ? [intersect(b, a) ?? a] : [])).toBe(true);
      const wanted = matches(a, address4, port4, protocol) && matches(b, address4, port4, protocol);
      expect(both !== null && matches(both, address4, port4, protocol)).toBe(wanted);
    }),
  );
});
