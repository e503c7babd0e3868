import { sign } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { toHex } from "../../src/core/bytes.ts";
import { identityPayload } from "../../src/ike/identity.ts";
import { AUTH_METHOD } from "../../src/ike/wire/constants.ts";
import { requirePayload, type Payload } from "../../src/ike/wire/payload.ts";
import { CertificateCache } from "../../src/x509/certificate-cache.ts";
import { NOW_MS, TestCertificate } from "../support/certificates.ts";
import { childWish } from "./initiator.ts";
import { CLIENT, DVIPA, initiator, Lab } from "./lab.ts";
import {
  ALGORITHM,
  authenticate,
  cert,
  certificateLab,
  digitalSignature,
  ecdsaAuth,
  GOOD,
  HASHES,
  keyOf,
  MOON,
  root,
  showing,
  sun,
  type LabWish,
} from "./certificate-lab.ts";

/** Properties on a machine that is busy with other things. */
const SLOW_MACHINE_MS = 60_000;

const USAGE_SERVER = "1.3.6.1.5.5.7.3.1";

describe("refused with AUTHENTICATION_FAILED and nothing else", () => {
  const DAY_MS = 86_400_000;
  const moon = root.leaf("CN=moon", MOON);
  const rsaMoon = root.leaf("CN=moon", { ...MOON, key: "rsa" });
  const stranger = TestCertificate.root("C=CH, O=Lab, CN=Root");
  type Proof = (octets: Uint8Array) => readonly Payload[];

  const CASES: readonly [string, string, Proof, (LabWish & { before?: readonly Payload[] })?][] = [
    ["expired", "certificateExpired", showing(root.leaf("CN=moon", { ...MOON, notAfterMs: NOW_MS - 1 }))],
    [
      "not yet valid",
      "certificateNotYetValid",
      showing(root.leaf("CN=moon", { ...MOON, notBeforeMs: NOW_MS + DAY_MS })),
    ],
    ["revoked", "certificateRevoked", showing(moon), { trust: { revocationLists: [root.revocationList([moon])] } }],
    ["no CRL, though they are wanted", "revocationUnknown", showing(moon), { trust: { revocation: "strict" } }],
    ["wrong keyUsage", "certificateWrongUsage", showing(root.leaf("CN=moon", { ...MOON, keyUsage: ["keyAgreement"] }))],
    [
      "wrong extendedKeyUsage",
      "certificateWrongUsage",
      showing(root.leaf("CN=moon", { ...MOON, extendedKeyUsage: [USAGE_SERVER] })),
    ],
    ["another name", "wrongName", showing(root.leaf("CN=moon.lab", { dns: ["mars.lab"] }))],
    ["the name as common name alone", "wrongName", showing(root.leaf("CN=moon.lab"))],
    ["another authority of the same name", "certificateUntrusted", showing(stranger.leaf("CN=moon", MOON))],
    ["its authority sent along", "certificateUntrusted", showing(stranger.leaf("CN=moon", MOON), stranger)],
    ["self-signed", "certificateUntrusted", showing(TestCertificate.root("CN=moon", { ...MOON, keyUsage: null }))],
    ["signature of another key", "wrongSignature", (octets) => [cert(moon), ecdsaAuth(keyOf(sun), octets)]],
    ["signature of other octets", "wrongSignature", () => [cert(moon), ecdsaAuth(keyOf(moon), new Uint8Array(99))]],
    [
      "no signature at all",
      "wrongSignature",
      () => [cert(moon), digitalSignature(ALGORITHM.ecdsaSha256, new Uint8Array(0))],
    ],
    [
      "another hash than the signature says",
      "wrongSignature",
      (octets) => [cert(moon), ecdsaAuth(keyOf(moon), octets, "sha256", ALGORITHM.ecdsaSha384)],
    ],
    [
      "downgraded to SHA-1 (ECDSA)",
      "weakSignature",
      (octets) => [cert(moon), ecdsaAuth(keyOf(moon), octets, "sha1", ALGORITHM.ecdsaSha1)],
    ],
    [
      "downgraded to SHA-1 (RSA)",
      "weakSignature",
      (octets) => [
        cert(rsaMoon),
        digitalSignature(ALGORITHM.rsaSha1, new Uint8Array(sign("sha1", octets, keyOf(rsaMoon)))),
      ],
    ],
    [
      "method 1: RSA with SHA-1",
      "weakSignature",
      (octets) => [
        cert(rsaMoon),
        { kind: "auth", method: AUTH_METHOD.RSA_SIGNATURE, data: new Uint8Array(sign("sha1", octets, keyOf(rsaMoon))) },
      ],
    ],
    [
      "an algorithm of another kind of key",
      "wrongSignature",
      (octets) => [cert(moon), ecdsaAuth(keyOf(moon), octets, "sha256", ALGORITHM.rsaSha256)],
    ],
    [
      "an algorithm that nobody knows",
      "weakSignature",
      (octets) => [cert(moon), ecdsaAuth(keyOf(moon), octets, "sha256", "30030601ff")],
    ],
    [
      "method 9 with P-384",
      "methodNotAllowed",
      () => [
        cert(root.leaf("CN=moon", { ...MOON, key: "ec384" })),
        { kind: "auth", method: 9, data: new Uint8Array(64) },
      ],
    ],
    [
      "an algorithm longer than the payload",
      "malformed",
      () => [cert(moon), { kind: "auth", method: 14, data: new Uint8Array([99, 0]) }],
    ],
    ["an empty AUTH", "malformed", () => [cert(moon), { kind: "auth", method: 14, data: new Uint8Array(0) }]],
    ["no certificate", "noCertificate", (octets) => [ecdsaAuth(keyOf(moon), octets)]],
    [
      "a certificate in another encoding",
      "noCertificate",
      (octets) => [{ kind: "cert", encoding: 12, data: new Uint8Array(40) }, ecdsaAuth(keyOf(moon), octets)],
    ],
    [
      "a certificate that is none",
      "certificateMalformed",
      (octets) => [{ kind: "cert", encoding: 4, data: new Uint8Array(40) }, ecdsaAuth(keyOf(moon), octets)],
    ],
    ["RFC 7427 without its notify", "methodNotAllowed", showing(moon), { before: [] }],
    [
      "NULL authentication",
      "methodNotAllowed",
      () => [{ kind: "auth", method: AUTH_METHOD.NULL, data: new Uint8Array(0) }],
    ],
    ["an identity that nobody has", "unknownPeer", showing(moon), { peer: { remoteIdentity: "pluto.lab" } }],
  ];
  for (const [what, problem, proof, wish = {}] of CASES) {
    test(`${what}: counted as ${problem}`, () => {
      const lab = certificateLab(wish);
      const before = wish.before === undefined ? {} : { before: wish.before };
      expect(authenticate(lab, proof, {}, before).said).toBe("AUTHENTICATION_FAILED");
      expect(lab.states).toEqual(["closed"]);
      expect(lab.installed).toEqual([]);
      expect(lab.count(`auth.${problem}`)).toBe(1);
      expect(lab.count("authenticationFailed")).toBe(1);
      const logged = lab.effects.flatMap((effect) => (effect.kind === "log" ? [effect.fields["problem"]] : []));
      expect(logged).toContain(problem);
    });
  }

  test("a shared key from a peer that must show a certificate, and the other way round", () => {
    const lab = certificateLab();
    const client = initiator();
    client.readInit(lab.answer(client.initRequest()));
    const { bytes } = client.authRequest(childWish(CLIENT, DVIPA));
    expect(client.open(lab.answer(bytes)).map(({ kind }) => kind)).toEqual(["notify"]);
    expect(lab.count("auth.methodNotAllowed")).toBe(1);
    const keys = new Lab({ credentials: [sun.credential], wallClockMs: NOW_MS });
    expect(authenticate(keys, showing(moon)).said).toBe("AUTHENTICATION_FAILED");
    expect(keys.count("auth.methodNotAllowed")).toBe(1);
  });

  test("what the peer sees of the reason is always the same", () => {
    const lengths = CASES.filter(([, , , wish]) => wish?.before === undefined).map(([, , proof, wish = {}]) => {
      const { said, payloads } = authenticate(certificateLab(wish), proof);
      return `${said} ${payloads.length} ${toHex(requirePayload(payloads, "notify").data)}`;
    });
    expect(new Set(lengths).size).toBe(1);
  });
});

test("only certificates of a valid chain are remembered, and a remembered one is checked again", () => {
  const moon = root.leaf("CN=moon", MOON);
  const known = new CertificateCache();
  const stranger = TestCertificate.root("CN=Stranger").leaf("CN=moon", MOON);
  expect(authenticate(certificateLab({ trust: { known } }), showing(stranger)).said).toBe("AUTHENTICATION_FAILED");
  expect(known.size).toBe(0);
  expect(authenticate(certificateLab({ trust: { known } }), showing(moon)).said).toBe(GOOD);
  expect(known.size).toBe(2);
  expect(authenticate(certificateLab({ trust: { known } }), showing(moon)).said).toBe(GOOD);
  const revocationLists = [root.revocationList([moon])];
  const revoked = certificateLab({ trust: { known, revocationLists } });
  expect(authenticate(revoked, showing(moon)).said).toBe("AUTHENTICATION_FAILED");
  const forged = certificateLab({ trust: { known } });
  const wrong = (octets: Uint8Array): Payload[] => [cert(moon), ecdsaAuth(keyOf(sun), octets)];
  expect(authenticate(forged, wrong).said).toBe("AUTHENTICATION_FAILED");
});

describe("hostile CERT, CERTREQ and AUTH", () => {
  const moon = root.leaf("CN=moon", MOON);
  const change = fc.record({ at: fc.nat(4000), value: fc.integer({ min: 0, max: 255 }) });

  test(
    "changed bytes in any of them never throw, and never let anybody in",
    () => {
      const { der } = moon.certificate;
      fc.assert(
        fc.property(
          fc.array(change, { minLength: 1, maxLength: 3 }),
          fc.integer({ min: 0, max: 2 }),
          (changes, which) => {
            const lab = certificateLab();
            const edited = (bytes: Uint8Array): Uint8Array => {
              const copy = bytes.slice();
              for (const { at, value } of changes) copy[at % copy.length] = value;
              return copy;
            };
            // A change may put the same byte there, and CERTREQ may ask for anything.
            let isChanged = false;
            const perhaps = (here: number, bytes: Uint8Array): Uint8Array => {
              if (which !== here) return bytes;
              isChanged = here !== 2 && toHex(edited(bytes)) !== toHex(bytes);
              return edited(bytes);
            };
            const proof = (octets: Uint8Array): Payload[] => {
              const auth = ecdsaAuth(keyOf(moon), octets);
              if (auth.kind !== "auth") throw new Error("AUTH");
              return [
                { kind: "cert", encoding: 4, data: perhaps(0, der) },
                { ...auth, data: perhaps(1, auth.data) },
                { kind: "certreq", encoding: 4, authorities: perhaps(2, der) },
              ];
            };
            const { said, payloads } = authenticate(lab, proof);
            expect(said).toBe(isChanged ? "AUTHENTICATION_FAILED" : GOOD);
            expect(payloads.length).toBeGreaterThan(0);
          },
        ),
        { numRuns: 150 },
      );
    },
    SLOW_MACHINE_MS,
  );

  test("a heap of certificates is not looked at beyond a bound", () => {
    const between = root.intermediate("CN=Between");
    const leaf = between.leaf("CN=moon", MOON);
    const filler = Array.from({ length: 12 }, () => sun);
    expect(authenticate(certificateLab(), showing(leaf, ...filler, between)).said).toBe("AUTHENTICATION_FAILED");
    expect(authenticate(certificateLab(), showing(leaf, sun, between)).said).toBe(GOOD);
  });

  test(
    "identities of any type and content never throw",
    () => {
      fc.assert(
        fc.property(fc.integer({ min: 0, max: 20 }), fc.uint8Array({ maxLength: 64 }), (type, data) => {
          const lab = certificateLab({ peer: { remoteIdentity: "*" } });
          const client = initiator();
          client.readInit(lab.answer(client.initRequest({ before: [HASHES] })));
          const idI = { ...identityPayload("idi", "x"), type, data };
          const { payloads } = client.authPayloads(childWish(CLIENT, DVIPA));
          const proof = showing(moon)(client.octets("initiator", idI));
          const request = client.request(35, [
            idI,
            ...proof,
            ...payloads.filter(({ kind }) => !["idi", "auth"].includes(kind)),
          ]);
          const answer = client.open(lab.answer(request));
          expect(answer.map(({ kind }) => kind)).toEqual(["notify"]);
        }),
        { numRuns: 100 },
      );
    },
    SLOW_MACHINE_MS,
  );
});
