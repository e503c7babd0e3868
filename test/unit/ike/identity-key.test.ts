import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { identityKeyMatcher } from "../../../src/ike/identity-key.ts";
import { ID_TYPE } from "../../../src/ike/wire/constants.ts";
import { identityKey, identityPattern, identityPayload } from "../../../src/ike/identity.ts";

const IDENTITIES = [
  "client.lab.example",
  "lab.example",
  "CLIENT.LAB.EXAMPLE",
  "user@lab.example",
  "a@b@lab.example",
  "192.0.2.10",
  "2001:db8::10",
  "keyid:0102",
  "C=CH, O=Lab, CN=client",
  "C=CH, O=Lab, CN=other, OU=x",
  'C=CH, O=Lab, CN=quoted "\\, CN\\=x" name',
  "O=Lab, CN=client",
];
const PATTERNS = [
  ...IDENTITIES,
  "*",
  "*.lab.example",
  "*@lab.example",
  "*.example",
  "C=CH, O=Lab, CN=*",
  "C=CH, O=*, CN=client",
  "C=CH, O=*, CN=*",
  "O=*, CN=*",
];

describe("identityKeyMatcher", () => {
  it("says of a key what identityPattern says of its payload", () => {
    for (const text of PATTERNS) {
      for (const identity of IDENTITIES) {
        const payload = identityPayload("idi", identity);
        const wanted = identityPattern(text).matches(payload);
        expect([text, identity, identityKeyMatcher(text)(identityKey(payload))]).toEqual([text, identity, wanted]);
      }
    }
  });

  it("tells apart types with the same text, which a peer may choose", () => {
    const text = (value: string): Uint8Array => new TextEncoder().encode(value);
    for (const payload of [
      { type: ID_TYPE.RFC822_ADDR, data: text("x.lab.example") },
      { type: ID_TYPE.FQDN, data: text("user@lab.example") },
      { type: ID_TYPE.FQDN, data: text("email:user@lab.example") },
      { type: ID_TYPE.KEY_ID, data: text("x.lab.example") },
      { type: 200, data: text("x.lab.example") },
    ]) {
      for (const pattern of PATTERNS) {
        const wanted = identityPattern(pattern).matches(payload);
        expect([pattern, identityKeyMatcher(pattern)(identityKey(payload))]).toEqual([pattern, wanted]);
      }
    }
  });

  it("holds for names of any characters", () => {
    const value = fc.string({ minLength: 1, maxLength: 12, unit: "grapheme" }).filter((text) => text.trim() !== "");
    fc.assert(
      fc.property(value, value, (organisation, name) => {
        const escaped = (text: string): string => text.replaceAll(/[\\,]/g, "\\$&");
        const payload = identityPayload("idi", `O=${escaped(organisation)}, CN=${escaped(name)}`);
        for (const text of ["O=Lab, CN=*", `O=*, CN=${escaped(name)}`, "O=*, CN=*", "O=*"]) {
          expect(identityKeyMatcher(text)(identityKey(payload))).toBe(identityPattern(text).matches(payload));
        }
      }),
    );
  });

  it("refuses what is no pattern", () => {
    expect(() => identityKeyMatcher("a*b")).toThrow(expect.objectContaining({ code: "config.invalid" }));
  });
});
