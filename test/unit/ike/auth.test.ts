import { describe, expect, test } from "vitest";
import { toHex } from "../../../src/core/bytes.ts";
import { algorithmOfScheme, isSha1Algorithm, schemeOfAlgorithm } from "../../../src/crypto/signature-algorithm.ts";
import { schemeName, SigningKey } from "../../../src/crypto/signature.ts";
import { fromHex } from "../../../src/core/bytes.ts";
import { readHashNotify } from "../../../src/ike/auth/signature-hashes.ts";
import type { AuthContext, Side } from "../../../src/ike/auth/octets.ts";
import { proveOurselves } from "../../../src/ike/auth/prove.ts";
import { verifyPeer } from "../../../src/ike/auth/verify.ts";
import type { PeerAuth } from "../../../src/ike/environment.ts";
import { certRequests, requestedAuthorities } from "../../../src/ike/auth/cert-requests.ts";
import { identityPattern, identityPayload, isIdentityOf } from "../../../src/ike/identity.ts";
import { Reassembly } from "../../../src/ike/reassembly.ts";
import { EXCHANGE, ID_TYPE, PAYLOAD } from "../../../src/ike/wire/constants.ts";
import { decodeMessage } from "../../../src/ike/wire/message.ts";
import type { Payload } from "../../../src/ike/wire/payload.ts";
import { Secret } from "../../../src/core/secret.ts";
import { NOW_MS, TestCertificate, trustIn } from "../../support/certificates.ts";
import { inspect } from "node:util";
import { capturedMessages } from "./vectors.ts";

describe("AlgorithmIdentifier", () => {
  /** RFC 7427 appendix A, RFC 8420 appendix A. */
  const GOLDEN: readonly [string, string][] = [
    ["rsa-pkcs1 sha256", "300d06092a864886f70d01010b0500"],
    ["rsa-pkcs1 sha384", "300d06092a864886f70d01010c0500"],
    ["rsa-pkcs1 sha512", "300d06092a864886f70d01010d0500"],
    ["ecdsa sha256", "300a06082a8648ce3d040302"],
    ["ecdsa sha384", "300a06082a8648ce3d040303"],
    ["ecdsa sha512", "300a06082a8648ce3d040304"],
    [
      "rsa-pss sha256",
      "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120",
    ],
    ["ed25519", "300506032b6570"],
  ];
  test.each(GOLDEN)("%s is that of the RFC", (name, hex) => {
    const scheme = schemeOfAlgorithm(fromHex(hex));
    expect(scheme === undefined ? null : schemeName(scheme)).toBe(name);
    if (scheme !== undefined) expect(toHex(algorithmOfScheme(scheme))).toBe(hex);
  });

  test("PSS with the default trailer field, as the RFC prints it", () => {
    const hex =
      "304606092a864886f70d01010a3039a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120a303020101";
    expect(schemeOfAlgorithm(fromHex(hex))).toEqual({ kind: "rsa-pss", hash: "sha256" });
  });

  test("SHA-1, PSS with its defaults (SHA-1), DSA, another salt and junk are none of ours", () => {
    const SHA1 = [
      "300d06092a864886f70d0101050500",
      "300906072a8648ce3d0401",
      "303e06092a864886f70d01010a3031a00b300906052b0e03021a0500a118301606092a864886f70d010108300906052b0e03021a0500a203020114a303020101",
    ];
    for (const hex of SHA1) expect(isSha1Algorithm(fromHex(hex))).toBe(true);
    const others = ["300d06092a864886f70d01010a3000", "300906072a8648ce380403", "", "3000"];
    const pss = GOLDEN[6]?.[1] ?? "";
    for (const hex of [...SHA1, ...others, pss.replace("a203020120", "a203020100"), `${pss}00`]) {
      expect(schemeOfAlgorithm(fromHex(hex))).toBeUndefined();
    }
  });
});

describe("what the three peers sent", () => {
  const messages = capturedMessages().map(({ name, bytes, from }) => ({ name, from, ...decodeMessage(bytes) }));
  const ofInit = messages.filter(({ header }) => header.exchange === EXCHANGE.IKE_SA_INIT);

  test("SIGNATURE_HASH_ALGORITHMS", () => {
    const hashes = (name: string): readonly number[] | null =>
      readHashNotify(ofInit.find((message) => message.name === name)?.payloads ?? []);
    expect(hashes("ss-ec-transport #0")).toEqual([2, 3, 4, 5]);
    expect(hashes("ls-rsa-transport #0")).toEqual([2, 3, 4]);
    expect(hashes("ls-psk-transport #0")).toBeNull();
    expect(hashes("oi-ec-tunnel #0")).toEqual([2, 3, 4]);
  });

  test("CERTREQ: strongSwan's responder names one authority", () => {
    const answers = ofInit.filter(({ payloads }) => payloads.some(({ kind }) => kind === "certreq"));
    expect(answers.length).toBeGreaterThan(2);
    for (const { payloads } of answers) {
      expect([...(requestedAuthorities(payloads) ?? [])]).toEqual([expect.stringMatching(/^[0-9a-f]{40}$/)]);
    }
  });

  test("fragments of IKE_AUTH: each set is taken as a whole", () => {
    const fragments = messages.flatMap(({ name, from, header, payloads: [first] }) =>
      first?.kind === "encryptedFragment"
        ? [{ set: `${name.split(" ")[0] ?? ""} ${from} ${header.messageId}`, first, header }]
        : [],
    );
    const sets = Map.groupBy(fragments, ({ set }) => set);
    expect(sets.size).toBeGreaterThan(1);
    for (const parts of sets.values()) {
      const reassembly = new Reassembly();
      const seen: string[] = [];
      for (const { first, header } of parts) {
        expect(first.innerType === PAYLOAD.NONE).toBe(first.number > 1);
        const refusal = reassembly.refusal(header.messageId, first);
        if (refusal !== null) seen.push(refusal);
        else {
          const added = reassembly.add(0, header.messageId, first, { innerType: first.innerType, content: first.body });
          seen.push(typeof added === "object" ? "whole" : added);
        }
      }
      expect(seen).toContain("whole");
    }
  });
});

describe("patterns of identities", () => {
  const CASES: readonly [string, string, boolean][] = [
    ["moon.lab", "MOON.lab", true],
    ["moon.lab", "sun.lab", false],
    ["*@example.com", "a@example.com", true],
    ["*@example.com", "a@EXAMPLE.com", true],
    ["*@example.com", "a@x.example.com", false],
    ["*@example.com", "a@evil@example.com", false],
    ["*@example.com", "@example.com", false],
    ["*@example.com", "example.com", false],
    ["*.example.com", "moon.example.com", true],
    ["*.example.com", "a.b.example.com", true],
    ["*.example.com", "example.com", false],
    ["*.example.com", "a@moon.example.com", false],
    ["*.example.com", "badexample.com", false],
    ["C=CH, O=x, CN=*", "C=CH, O=X, CN=anybody", true],
    ["C=CH, O=x, CN=*", "C=CH, O=y, CN=anybody", false],
    ["C=CH, O=x, CN=*", "C=CH, CN=anybody, O=x", false],
    ["C=CH, O=x, CN=*", "C=CH, O=x, OU=z, CN=anybody", false],
    ["C=CH, O=x, CN=*", "C=CH, O=x", false],
    ["C=CH, O=x, CN=moon", "c=ch,o=X,cn=MOON", true],
    ["CN=a\\, b", "CN=a\\, b", true],
    ["10.0.0.1", "10.0.0.1", true],
    ["10.0.0.1", "10.0.0.2", false],
    ["*", "anything.example", true],
    ["%any", "C=CH, O=x", true],
  ];
  test.each(CASES)("%s takes %s: %s", (pattern, identity, expected) => {
    expect(identityPattern(pattern).matches(identityPayload("idi", identity))).toBe(expected);
  });

  test("a mail address in a domain's type, and a name in text, match nothing of their kind", () => {
    const data = new TextEncoder().encode("a@example.com");
    expect(identityPattern("*@example.com").matches({ type: ID_TYPE.FQDN, data })).toBe(false);
    expect(identityPattern("C=CH, O=x, CN=*").matches({ type: ID_TYPE.FQDN, data })).toBe(false);
    expect(identityPattern("C=CH, O=x, CN=*").matches({ type: ID_TYPE.DER_ASN1_DN, data })).toBe(false);
  });

  test("a star elsewhere, an unknown attribute and an empty value are mistakes", () => {
    for (const text of ["a*b", "moon.*", "X9=a", "CN=", "CN=a, b"]) expect(() => identityPattern(text)).toThrow();
  });
});

describe("an identity in a certificate", () => {
  const { certificate } = TestCertificate.root("C=CH, O=Lab, CN=moon", {
    dns: ["moon.lab"],
    emails: ["a@lab.example"],
    ips: ["10.0.0.1", "2001:db8::1"],
  });
  const CASES: readonly [string, boolean][] = [
    ["moon.lab", true],
    ["MOON.LAB", true],
    ["a.moon.lab", false],
    ["a@lab.example", true],
    ["b@lab.example", false],
    ["10.0.0.1", true],
    ["10.0.0.2", false],
    ["2001:db8:0::1", true],
    ["C=CH, O=Lab, CN=moon", true],
    ["O=Lab, C=CH, CN=moon", false],
    ["CN=moon", false],
    ["keyid:00", false],
  ];
  test.each(CASES)("%s: %s", (identity, expected) => {
    expect(isIdentityOf(certificate, identityPayload("idi", identity))).toBe(expected);
  });

  test("an address as a domain name, an empty name and an address cut short are none", () => {
    const text = new TextEncoder();
    expect(isIdentityOf(certificate, { type: ID_TYPE.FQDN, data: text.encode("10.0.0.1") })).toBe(false);
    expect(isIdentityOf(certificate, { type: ID_TYPE.FQDN, data: new Uint8Array(0) })).toBe(false);
    expect(isIdentityOf(certificate, { type: ID_TYPE.IPV4_ADDR, data: Uint8Array.from([10, 0, 0]) })).toBe(false);
    expect(isIdentityOf(certificate, { type: ID_TYPE.DER_ASN1_DN, data: Uint8Array.from([0x30, 0]) })).toBe(false);
    const wildcard = TestCertificate.root("CN=x", { dns: ["*.lab"] });
    expect(isIdentityOf(wildcard.certificate, identityPayload("idi", "moon.lab"))).toBe(false);
  });
});

describe("either role", () => {
  const root = TestCertificate.root("CN=Root");
  const other = TestCertificate.root("CN=Other");
  const sun = root.leaf("CN=sun", { dns: ["sun.lab"] });
  const otherSun = other.leaf("CN=sun", { dns: ["sun.lab"] });
  const bytes = (fill: number): Uint8Array => new Uint8Array(32).fill(fill);
  const key = (fill: number) =>
    ({ kind: "aes-gcm-16", key: new Secret(bytes(fill)), salt: new Secret(bytes(fill)) }) as const;
  const context: AuthContext = {
    suite: { cipher: { kind: "aes-gcm-16", keyBits: 128 }, prf: "hmac-sha2-256", group: 31 },
    keys: {
      d: new Secret(bytes(1)),
      initiator: key(2),
      responder: key(3),
      pi: new Secret(bytes(4)),
      pr: new Secret(bytes(5)),
    },
    init: { request: bytes(6), response: bytes(7), nonceI: bytes(8), nonceR: bytes(9), peerHashes: [2, 5] },
  };
  const trust = trustIn([root, other]);
  const decoy = { psk: new Secret(bytes(0)), trust };
  const prove = (side: Side, auth: PeerAuth, requests: readonly Payload[] = []) => {
    const peer = { auth, localIdentity: "sun.lab" };
    const credentials = [sun.credential, otherSun.credential];
    return proveOurselves(context, { side, peer, credentials, requests, likePeer: null });
  };
  const AUTHS: readonly [string, PeerAuth][] = [
    ["a shared key", { kind: "psk", psk: new Secret(bytes(10)) }],
    ["a certificate", { kind: "certificate", trust }],
  ];

  for (const [what, auth] of AUTHS) {
    for (const side of ["initiator", "responder"] as const) {
      test(`${what} of the ${side} proves it to the other side, and only as that side`, () => {
        const { identity, payloads } = prove(side, auth);
        expect(identity.kind).toBe(side === "initiator" ? "idi" : "idr");
        verifyPeer(context, { side, identity, payloads }, auth, decoy, NOW_MS);
        const mirrored = side === "initiator" ? "responder" : "initiator";
        expect(() => verifyPeer(context, { side: mirrored, identity, payloads }, auth, decoy, NOW_MS)).toThrow(
          /wrong pre-shared key|not made with the certificate's key/,
        );
      });
    }
  }

  test("an initiator follows the CERTREQ of IKE_SA_INIT", () => {
    const auth = { kind: "certificate", trust } as const;
    const { payloads } = prove("initiator", auth, certRequests([other.certificate]));
    expect(payloads[0]).toMatchObject({ kind: "cert", data: otherSun.certificate.der });
  });

  test("our CERTREQ stays small, whatever the number of authorities", () => {
    expect(certRequests([])).toEqual([]);
    const [request] = certRequests(Array.from({ length: 40 }, () => root.certificate));
    expect(request?.authorities).toHaveLength(32 * 20);
  });
});

test("no way of printing shows a private key", () => {
  const { signingKey, privatePem } = TestCertificate.root("CN=x");
  const shown = [
    String(signingKey),
    JSON.stringify({ signingKey }),
    inspect(signingKey, { depth: 9, showHidden: true }),
  ];
  const secret = privatePem.split("\n")[1] ?? "";
  for (const text of shown) {
    expect(text).toContain("[private key]");
    expect(text).not.toContain(secret);
  }
  expect(() => SigningKey.fromPem(Buffer.from("s3cret"))).toThrow(/^not an unencrypted private key in PEM$/);
});
