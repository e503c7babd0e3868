import { constants, createHash, sign, verify } from "node:crypto";
import { describe, expect, test } from "vitest";
import { concatBytes, toHex, u16be } from "../../src/core/bytes.ts";
import { AUTH_METHOD, NOTIFY } from "../../src/ike/wire/constants.ts";
import { decodeMessage } from "../../src/ike/wire/message.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import { findNotify, findPayload, requirePayload, type Payload } from "../../src/ike/wire/payload.ts";
import { keyHash } from "../../src/x509/certificate.ts";
import { TestCertificate } from "../support/certificates.ts";
import { CLIENT, initiator, Lab } from "./lab.ts";
import {
  ALGORITHM,
  authenticate,
  cert,
  certificateLab,
  digitalSignature,
  GOOD,
  HASHES,
  keyOf,
  MOON,
  root,
  showing,
  sun,
  sunEd,
  sunRsa,
  type Said,
} from "./certificate-lab.ts";
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
