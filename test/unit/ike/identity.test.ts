import { describe, expect, test } from "vitest";
import { psk } from "../../exchange/lab.ts";
import { peerConfig, CBC_SUITE, GCM_SUITE } from "../../exchange/lab.ts";
import { identityKey, identityPayload } from "../../../src/ike/identity.ts";
import { findPeer, ikeSuitesFor } from "../../../src/ike/peers.ts";
import { ID_TYPE } from "../../../src/ike/wire/constants.ts";

const text = (value: string) => new TextEncoder().encode(value);

describe("identities", () => {
  const CASES: readonly [string, number, string][] = [
    ["moon.lab", ID_TYPE.FQDN, "moon.lab"],
    ["@Moon.Lab", ID_TYPE.FQDN, "moon.lab"],
    ["user@moon.lab", ID_TYPE.RFC822_ADDR, "email:user@moon.lab"],
    ["192.0.2.1", ID_TYPE.IPV4_ADDR, "ip:192.0.2.1"],
    ["2001:db8:0::1", ID_TYPE.IPV6_ADDR, "ip:2001:db8::1"],
    ["keyid:00ff", ID_TYPE.KEY_ID, "keyid:00ff"],
  ];
  for (const [name, type, key] of CASES) {
    test(name, () => {
      const payload = identityPayload("idi", name);
      expect(payload.type).toBe(type);
      expect(identityKey(payload)).toBe(key);
    });
  }

  test("what a peer makes up never looks like another identity", () => {
    const forged = [
      { type: ID_TYPE.FQDN, data: text("ip:192.0.2.1") },
      { type: ID_TYPE.FQDN, data: text("keyid:00ff") },
      { type: ID_TYPE.FQDN, data: text("moon.lab\n") },
      { type: ID_TYPE.FQDN, data: new Uint8Array(0) },
      { type: ID_TYPE.IPV4_ADDR, data: new Uint8Array(16) },
      { type: ID_TYPE.IPV6_ADDR, data: new Uint8Array(4) },
      { type: ID_TYPE.DER_ASN1_DN, data: text("moon.lab") },
    ];
    for (const id of forged) expect(identityKey(id)).toMatch(/^id\d+:[0-9a-f]*$/);
  });

  test("an empty name is a mistake in the configuration", () => {
    expect(() => identityPayload("idi", "@")).toThrow("empty IKE identity");
  });
});

describe("peers", () => {
  const named = peerConfig({ name: "named", address: "192.0.2.1", ikeSuites: [CBC_SUITE] });
  const roaming = peerConfig({
    name: "roaming",
    address: "any",
    auth: { kind: "psk", psk: psk("other") },
    ikeSuites: [GCM_SUITE],
  });
  const moon = identityPayload("idi", "moon.lab");

  test("one that names the address is found before one that takes any", () => {
    expect(findPeer([roaming, named], "192.0.2.1", moon, undefined)?.name).toBe("named");
    expect(findPeer([roaming, named], "192.0.2.9", moon, undefined)?.name).toBe("roaming");
    expect(findPeer([named], "192.0.2.9", moon, undefined)).toBeUndefined();
    expect(findPeer([named], "192.0.2.1", identityPayload("idi", "mars.lab"), undefined)).toBeUndefined();
  });

  test("the identity that it wants of us must be ours", () => {
    expect(findPeer([named], "192.0.2.1", moon, identityPayload("idr", "sun.lab"))?.name).toBe("named");
    expect(findPeer([named], "192.0.2.1", moon, identityPayload("idr", "pluto.lab"))).toBeUndefined();
  });

  test("suites before authentication: those of everyone who may speak from there", () => {
    expect(ikeSuitesFor([named, roaming], "192.0.2.1")).toEqual([CBC_SUITE, GCM_SUITE]);
    expect(ikeSuitesFor([named, roaming], "192.0.2.9")).toEqual([GCM_SUITE]);
    expect(ikeSuitesFor([named], "192.0.2.9")).toBeNull();
    expect(ikeSuitesFor([named, peerConfig({ address: "any" })], "192.0.2.1")).toBeNull();
  });
});
