import { describe, expect, it } from "vitest";
import { isLinkLocal, otherAddressOnLink } from "../../../src/daemons/node/trusted-link.ts";
import type { InterfaceAddress } from "../../../src/net/addresses.ts";

const TRUSTED = "198.51.100.1";

function on(interfaceIndex: number, address: string, changes: Partial<InterfaceAddress> = {}): InterfaceAddress {
  const prefixBits = address.includes(":") ? 64 : 24;
  return { address, prefixBits, interfaceIndex, protocol: 0, isPreferred: true, ...changes };
}

describe("the address of the other IP version on the trusted link", () => {
  it.each<[string, readonly InterfaceAddress[], string | null]>([
    ["none", [], null],
    ["one of another interface", [on(3, "2001:db8::1")], null],
    ["a second one of the same version", [on(2, "198.51.100.2")], null],
    ["a link-local one", [on(3, "2001:db8::1"), on(2, "fe80::1")], "fe80::1"],
    ["rather a global one", [on(2, "fe80::1"), on(2, "2001:db8::1")], "2001:db8::1"],
    ["none that changes by itself", [on(2, "2001:db8::2", { isPreferred: false }), on(2, "fe80::1")], "fe80::1"],
    ["no DVIPA", [on(2, "2001:db8::100", { protocol: 155 }), on(2, "fe80::1")], "fe80::1"],
  ])("%s", (_what, others, expected) => {
    expect(otherAddressOnLink([on(2, TRUSTED), ...others], TRUSTED)).toBe(expected);
  });

  it("is IPv4 where the bus uses IPv6", () => {
    const addresses = [on(2, "fe80::1"), on(2, "2001:db8::1"), on(2, TRUSTED)];
    expect(otherAddressOnLink(addresses, "2001:db8::1")).toBe(TRUSTED);
  });

  it("is none where nothing has the trusted address", () => {
    expect(otherAddressOnLink([on(2, "fe80::1")], TRUSTED)).toBeNull();
  });
});

describe("isLinkLocal", () => {
  it.each([
    ["fe80::1", true],
    ["febf::1", true],
    ["fec0::1", false],
    ["2001:db8::1", false],
    ["254.128.0.1", false],
  ])("%s: %s", (address, expected) => expect(isLinkLocal(address)).toBe(expected));
});
