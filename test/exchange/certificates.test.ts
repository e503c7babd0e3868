import { constants, createHash, createPrivateKey, sign, verify, type KeyObject } from "node:crypto";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { concatBytes, fromHex, toHex, u16be } from "../../src/core/bytes.ts";
import type { IkeCredential, IkePeerConfig } from "../../src/ike/environment.ts";
import type { IkeLimits } from "../../src/ike/settings.ts";
import { identityPayload } from "../../src/ike/identity.ts";
import { AUTH_METHOD, NOTIFY, notifyName } from "../../src/ike/wire/constants.ts";
import { decodeMessage } from "../../src/ike/wire/message.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import { findNotify, findPayload, requirePayload, type Payload } from "../../src/ike/wire/payload.ts";
import { CertificateCache } from "../../src/x509/certificate-cache.ts";
import { keyHash } from "../../src/x509/certificate.ts";
import type { TrustStore } from "../../src/x509/chain.ts";
import { NOW_MS, TestCertificate, trustIn, type CertificateWish } from "../support/certificates.ts";
import { childWish, type Initiator, type InitiatorOptions } from "./initiator.ts";
import { CLIENT, DVIPA, initiator, Lab, peerConfig } from "./lab.ts";

/** AlgorithmIdentifiers, RFC 7427 appendix A and RFC 8420 appendix A. */
const ALGORITHM = {
  ecdsaSha1: "300906072a8648ce3d0401",
  ecdsaSha256: "300a06082a8648ce3d040302",
  ecdsaSha384: "300a06082a8648ce3d040303",
  rsaSha1: "300d06092a864886f70d0101050500",
  rsaSha256: "300d06092a864886f70d01010b0500",
  pssSha256:
    "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120",
  ed25519: "300506032b6570",
} as const;
const HASHES = notify(NOTIFY.SIGNATURE_HASH_ALGORITHMS, concatBytes(...[2, 3, 4, 5].map(u16be)));
const USAGE_SERVER = "1.3.6.1.5.5.7.3.1";

const root = TestCertificate.root("C=CH, O=Lab, CN=Root");
const sun = root.leaf("C=CH, O=Lab, CN=sun", { dns: ["sun.lab"] });
const sunRsa = root.leaf("C=CH, O=Lab, CN=sun", { dns: ["sun.lab"], key: "rsa" });
const sunEd = root.leaf("C=CH, O=Lab, CN=sun", { dns: ["sun.lab"], key: "ed25519" });
const MOON: Partial<CertificateWish> = { dns: ["moon.lab"], emails: ["moon@lab.example"], ips: [CLIENT] };

interface LabWish {
  readonly trust?: Partial<TrustStore>;
  readonly peer?: Partial<IkePeerConfig>;
  readonly credentials?: readonly IkeCredential[];
  readonly limits?: Partial<IkeLimits>;
}

function certificateLab({ trust = {}, peer = {}, credentials = [sun.credential], limits = {} }: LabWish = {}): Lab {
  const auth = { kind: "certificate", trust: trustIn([root], trust) } as const;
  return new Lab({ peers: [peerConfig({ auth, ...peer })], credentials, limits, wallClockMs: NOW_MS });
}

const keyOf = (certificate: TestCertificate): KeyObject => createPrivateKey(certificate.privatePem);
const cert = (certificate: TestCertificate): Payload => ({
  kind: "cert",
  encoding: 4,
  data: certificate.certificate.der,
});

/** AUTH of method 14, made without the code under test. */
function digitalSignature(algorithm: string, signature: Uint8Array): Payload {
  const der = fromHex(algorithm);
  const data = concatBytes(new Uint8Array([der.length]), der, signature);
  return { kind: "auth", method: AUTH_METHOD.DIGITAL_SIGNATURE, data };
}

const ecdsaAuth = (key: KeyObject, octets: Uint8Array, digest = "sha256", algorithm: string = ALGORITHM.ecdsaSha256) =>
  digitalSignature(algorithm, new Uint8Array(sign(digest, octets, key)));

/** CERT… AUTH of a client with this certificate. */
const showing =
  (leaf: TestCertificate, ...others: readonly TestCertificate[]) =>
  (octets: Uint8Array): Payload[] => [cert(leaf), ...others.map(cert), ecdsaAuth(keyOf(leaf), octets)];

interface Said {
  readonly said: string;
  readonly payloads: readonly Payload[];
  readonly client: Initiator;
}

/** IKE_SA_INIT and IKE_AUTH; what the responder said. */
function authenticate(
  lab: Lab,
  proof: (octets: Uint8Array) => readonly Payload[],
  changes: Partial<InitiatorOptions> = {},
  extra: { readonly before?: readonly Payload[]; readonly payloads?: readonly Payload[] } = {},
): Said {
  const client = initiator(changes);
  client.readInit(lab.answer(client.initRequest({ before: extra.before ?? [HASHES] })));
  const { bytes } = client.authRequest(childWish(CLIENT, DVIPA), { proof, payloads: extra.payloads ?? [] });
  const payloads = client.open(lab.answer(bytes));
  const said = payloads.map((payload) => (payload.kind === "notify" ? notifyName(payload.type) : payload.kind));
  return { said: said.join(" "), payloads, client };
}

const GOOD = "idr cert auth USE_TRANSPORT_MODE sa tsi tsr";

/** Checks the responder's signature with node:crypto alone. */
function checkResponder(
  { payloads, client }: Said,
  certificate: TestCertificate,
  algorithm: string,
  digest: string | null,
) {
  expect(toHex(requirePayload(payloads, "cert").data)).toBe(toHex(certificate.certificate.der));
  const { method, data } = requirePayload(payloads, "auth");
  expect(method).toBe(AUTH_METHOD.DIGITAL_SIGNATURE);
  const length = data[0] ?? 0;
  expect(toHex(data.subarray(1, 1 + length))).toBe(algorithm);
  const octets = client.octets("responder", requirePayload(payloads, "idr"));
  const padding = algorithm === ALGORITHM.pssSha256 ? { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 } : {};
  const key = { key: certificate.certificate.publicKey, ...padding };
  expect(verify(digest, octets, key, data.subarray(1 + length))).toBe(true);
}

describe("both sides show certificates", () => {
  test("IKE_SA_INIT names our authorities and hashes, and takes fragments when the peer does", () => {
    const lab = certificateLab();
    const before = [HASHES, notify(NOTIFY.IKEV2_FRAGMENTATION_SUPPORTED)];
    const { payloads } = decodeMessage(lab.answer(initiator().initRequest({ before })));
    const spki = root.certificate.publicKey.export({ type: "spki", format: "der" });
    const sha1 = new Uint8Array(createHash("sha1").update(spki).digest());
    expect(requirePayload(payloads, "certreq")).toEqual({ kind: "certreq", encoding: 4, authorities: sha1 });
    expect(toHex(findNotify(payloads, NOTIFY.SIGNATURE_HASH_ALGORITHMS)?.data ?? new Uint8Array(0))).toBe(
      "0002000300040005",
    );
    expect(findNotify(payloads, NOTIFY.IKEV2_FRAGMENTATION_SUPPORTED)).toBeDefined();
    const old = decodeMessage(lab.answer(initiator().initRequest())).payloads;
    expect(findNotify(old, NOTIFY.SIGNATURE_HASH_ALGORITHMS)).toBeUndefined();
    expect(findNotify(old, NOTIFY.IKEV2_FRAGMENTATION_SUPPORTED)).toBeUndefined();
  });

  test("a responder with shared keys alone asks for no certificate", () => {
    const { payloads } = decodeMessage(new Lab().answer(initiator().initRequest({ before: [HASHES] })));
    expect(findPayload(payloads, "certreq")).toBeUndefined();
  });

  test("ECDSA", () => {
    const lab = certificateLab();
    const found = authenticate(lab, showing(root.leaf("CN=moon", MOON)));
    expect(found.said).toBe(GOOD);
    checkResponder(found, sun, ALGORITHM.ecdsaSha256, "sha256");
    expect(lab.saLog).toEqual(["install:0:now"]);
    expect(lab.count("ikeEstablished")).toBe(1);
  });

  test("RSA: PSS is answered with PSS, PKCS#1 v1.5 with PKCS#1 v1.5", () => {
    const moon = root.leaf("CN=moon", { ...MOON, key: "rsa" });
    const pss = { key: keyOf(moon), padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 };
    for (const [algorithm, key] of [
      [ALGORITHM.pssSha256, pss],
      [ALGORITHM.rsaSha256, keyOf(moon)],
    ] as const) {
      const proof = (octets: Uint8Array) => [
        cert(moon),
        digitalSignature(algorithm, new Uint8Array(sign("sha256", octets, key))),
      ];
      const found = authenticate(certificateLab({ credentials: [sunRsa.credential] }), proof);
      expect(found.said).toBe(GOOD);
      checkResponder(found, sunRsa, algorithm, "sha256");
    }
  });

  test("Ed25519", () => {
    const moon = root.leaf("CN=moon", { ...MOON, key: "ed25519" });
    const proof = (octets: Uint8Array) => [
      cert(moon),
      digitalSignature(ALGORITHM.ed25519, new Uint8Array(sign(null, octets, keyOf(moon)))),
    ];
    const found = authenticate(certificateLab({ credentials: [sunEd.credential] }), proof);
    expect(found.said).toBe(GOOD);
    checkResponder(found, sunEd, ALGORITHM.ed25519, null);
  });

  test("a peer older than RFC 7427: ECDSA of RFC 4754 in both directions", () => {
    const moon = root.leaf("CN=moon", MOON);
    const proof = (octets: Uint8Array): Payload[] => {
      const key = { key: keyOf(moon), dsaEncoding: "ieee-p1363" } as const;
      return [
        cert(moon),
        { kind: "auth", method: AUTH_METHOD.ECDSA_256, data: new Uint8Array(sign("sha256", octets, key)) },
      ];
    };
    const { said, payloads, client } = authenticate(certificateLab(), proof, {}, { before: [] });
    expect(said).toBe(GOOD);
    const { method, data } = requirePayload(payloads, "auth");
    expect([method, data.length]).toEqual([AUTH_METHOD.ECDSA_256, 64]);
    const octets = client.octets("responder", requirePayload(payloads, "idr"));
    expect(verify("sha256", octets, { key: sun.certificate.publicKey, dsaEncoding: "ieee-p1363" }, data)).toBe(true);
  });

  test("the chain travels: ours with its intermediate, theirs over one that they send", () => {
    const between = root.intermediate("CN=Between");
    const ours = between.leaf("CN=sun", { dns: ["sun.lab"] });
    const lab = certificateLab({ credentials: [ours.credential] });
    const found = authenticate(lab, showing(between.leaf("CN=moon", MOON), between));
    expect(found.said).toBe(`idr cert ${GOOD.slice(4)}`);
    const sent = found.payloads.flatMap((payload) => (payload.kind === "cert" ? [toHex(payload.data)] : []));
    expect(sent).toEqual([ours, between].map(({ certificate }) => toHex(certificate.der)));
  });

  const IDENTITIES: readonly [string, string][] = [
    ["a domain", "moon.lab"],
    ["a domain in capitals", "MOON.Lab"],
    ["a mail address", "moon@lab.example"],
    ["an address", CLIENT],
    ["a distinguished name", "C=CH, O=Lab, CN=moon"],
  ];
  for (const [what, identity] of IDENTITIES) {
    test(`the peer is ${what}`, () => {
      const leaf = root.leaf("C=CH, O=Lab, CN=moon", MOON);
      const lab = certificateLab({ peer: { remoteIdentity: identity.toLowerCase().replace("c=ch", "C=CH") } });
      expect(authenticate(lab, showing(leaf), { identity }).said).toBe(GOOD);
    });
  }

  test("a pattern lets many in, each with a limit of its own", () => {
    const lab = certificateLab({
      peer: { remoteIdentity: "*@lab.example", address: "any" },
      limits: { ikeSasPerPeer: 1 },
    });
    const said = (name: string): string =>
      authenticate(lab, showing(root.leaf(`CN=${name}`, { emails: [name] })), { identity: name }).said;
    expect(said("a@lab.example")).toBe(GOOD);
    expect(said("b@lab.example")).toBe(GOOD);
    expect(said("A@lab.example")).toBe("NO_ADDITIONAL_SAS");
    const outside = authenticate(lab, showing(root.leaf("CN=x", { emails: ["x@lab.other"] })), {
      identity: "x@lab.other",
    });
    expect(outside.said).toBe("AUTHENTICATION_FAILED");
    expect(lab.count("auth.unknownPeer")).toBe(1);
  });

  test("our identity is a distinguished name: its bytes are those of the certificate", () => {
    const lab = certificateLab({ peer: { localIdentity: "c=ch, o=LAB, cn=sun" } });
    const { said, payloads } = authenticate(lab, showing(root.leaf("CN=moon", MOON)), { peerIdentity: null });
    expect(said).toBe(GOOD);
    expect(toHex(requirePayload(payloads, "idr").data)).toBe(toHex(sun.certificate.subject.der));
  });
});

describe("which certificate we show", () => {
  const certreq = (...authorities: readonly TestCertificate[]): Payload => ({
    kind: "certreq",
    encoding: 4,
    authorities: concatBytes(...authorities.map(({ certificate }) => keyHash(certificate))),
  });
  const otherRoot = TestCertificate.root("CN=Other");
  const otherSun = otherRoot.leaf("CN=sun", { dns: ["sun.lab"] });
  const lab = () =>
    certificateLab({
      credentials: [sunRsa.credential, sun.credential, otherSun.credential],
      trust: { anchors: [root.certificate, otherRoot.certificate] },
    });
  const shown = (payloads: readonly Payload[]): string =>
    authenticate(lab(), showing(root.leaf("CN=moon", MOON)), {}, { payloads })
      .payloads.flatMap((payload) => (payload.kind === "cert" ? [toHex(payload.data)] : []))
      .join();

  test("one with the peer's kind of key", () => expect(shown([])).toBe(toHex(sun.certificate.der)));
  test("one below an authority that CERTREQ names", () => {
    expect(shown([certreq(otherRoot)])).toBe(toHex(otherSun.certificate.der));
    expect(shown([certreq(TestCertificate.root("CN=X")), certreq(root)])).toBe(toHex(sun.certificate.der));
  });
  test("any when CERTREQ names none of ours, or is cut short", () => {
    expect(shown([certreq(TestCertificate.root("CN=X"))])).toBe(toHex(sun.certificate.der));
    expect(shown([{ kind: "certreq", encoding: 4, authorities: new Uint8Array(19) }])).toBe(toHex(sun.certificate.der));
  });
  test("none for another identity: refused, the log says why", () => {
    const wrong = certificateLab({ credentials: [root.leaf("CN=x", { dns: ["other.lab"] }).credential] });
    expect(authenticate(wrong, showing(root.leaf("CN=moon", MOON))).said).toBe("AUTHENTICATION_FAILED");
    expect(wrong.count("auth.noCredential")).toBe(1);
  });
  test("RSA for a peer that verifies SHA-1 alone: refused", () => {
    const onlySha1 = notify(NOTIFY.SIGNATURE_HASH_ALGORITHMS, u16be(1));
    const rsa = certificateLab({ credentials: [sunRsa.credential] });
    const { said } = authenticate(rsa, showing(root.leaf("CN=moon", MOON)), {}, { before: [onlySha1] });
    expect(said).toBe("AUTHENTICATION_FAILED");
    expect(rsa.count("auth.noCredential")).toBe(1);
  });
});

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

  test("changed bytes in any of them never throw, and never let anybody in", () => {
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
  });

  test("a heap of certificates is not looked at beyond a bound", () => {
    const between = root.intermediate("CN=Between");
    const leaf = between.leaf("CN=moon", MOON);
    const filler = Array.from({ length: 12 }, () => sun);
    expect(authenticate(certificateLab(), showing(leaf, ...filler, between)).said).toBe("AUTHENTICATION_FAILED");
    expect(authenticate(certificateLab(), showing(leaf, sun, between)).said).toBe(GOOD);
  });

  test("identities of any type and content never throw", () => {
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
  });
});
