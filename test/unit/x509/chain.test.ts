import { execa } from "execa";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AsnConvert } from "@peculiar/asn1-schema";
import { GeneralName, Name } from "@peculiar/asn1-x509";
import { describe, expect, test } from "vitest";
import { fromHex } from "../../../src/core/bytes.ts";
import { EsplexError } from "../../../src/core/errors.ts";
import { CertificateCache } from "../../../src/x509/certificate-cache.ts";
import { parseCertificate } from "../../../src/x509/certificate.ts";
import { validateChain, type TrustStore } from "../../../src/x509/chain.ts";
import { DistinguishedName } from "../../../src/x509/name.ts";
import { parseRevocationList } from "../../../src/x509/revocation-list.ts";
import { extension, NOW_MS, TestCertificate, trustIn, type CertificateWish } from "../../support/certificates.ts";

const DAY_MS = 86_400_000;
const USAGE_SERVER = "1.3.6.1.5.5.7.3.1";
const USAGE_IKE = "1.3.6.1.5.5.7.3.17";
const USAGE_ANY = "2.5.29.37.0";
const EXT_INHIBIT_ANY_POLICY = "2.5.29.54";
const EXT_DELTA = "2.5.29.27";

const root = TestCertificate.root("C=CH, O=Lab, CN=Root");

/** The subjects of the path, or the problem. */
function verdict(
  leaf: TestCertificate,
  others: readonly TestCertificate[] = [],
  trust: TrustStore = trustIn([root]),
  nowMs = NOW_MS,
): string {
  try {
    const path = validateChain(
      leaf.certificate,
      others.map(({ certificate }) => certificate),
      trust,
      nowMs,
    );
    return path.map(({ subject }) => subject.toString()).join(" < ");
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    expect(error.code).toBe("peer.authenticationFailed");
    return String(error.details["reason"]);
  }
}

describe("a path to an authority", () => {
  test("straight below it, for every kind of key", () => {
    for (const key of ["ec256", "ec384", "ec521", "rsa", "ed25519"] as const) {
      const own = TestCertificate.root("CN=Own", { key });
      expect(verdict(own.leaf("CN=moon", { key }), [], trustIn([own]))).toBe("CN=moon < CN=Own");
    }
  });

  test("over intermediates in any order, with others between them", () => {
    const a = root.intermediate("CN=A");
    const b = a.intermediate("CN=B");
    const stranger = TestCertificate.root("CN=Stranger");
    const leaf = b.leaf("CN=moon");
    expect(verdict(leaf, [stranger, a, b])).toBe("CN=moon < CN=B < CN=A < C=CH, O=Lab, CN=Root");
    expect(verdict(leaf, [a])).toBe("certificateUntrusted");
    // An intermediate may be an anchor itself.
    expect(verdict(leaf, [b], trustIn([a]))).toBe("CN=moon < CN=B < CN=A");
  });

  test("an authority with the same name but another key does not count, and does not hide the right one", () => {
    const twin = TestCertificate.root("C=CH, O=Lab, CN=Root");
    expect(verdict(twin.leaf("CN=moon"))).toBe("certificateUntrusted");
    expect(verdict(root.leaf("CN=moon"), [], trustIn([twin, root]))).toContain("CN=moon <");
  });

  test("names are compared without case and runs of blanks", () => {
    const spaced = TestCertificate.root("C=CH, O=Lab  X, CN=Root");
    const other = TestCertificate.root("C=ch, O=lab x, CN=ROOT");
    expect(spaced.certificate.subject.key).toBe(other.certificate.subject.key);
  });

  test("the self-signed certificate of a stranger, and a root that the peer sends along, prove nothing", () => {
    const stranger = TestCertificate.root("CN=Stranger");
    expect(verdict(stranger.leaf("CN=moon"), [stranger])).toBe("certificateUntrusted");
    expect(verdict(stranger, [stranger])).toBe("certificateUntrusted");
  });

  test("a long path and a heap of certificates of the same name end soon", () => {
    let last = root;
    const chain: TestCertificate[] = [];
    for (let i = 0; i < 8; i++) chain.push((last = last.intermediate(`CN=${i}`)));
    expect(verdict(last.leaf("CN=moon"), chain)).toBe("certificateUntrusted");
    expect(verdict(chain[5]?.leaf("CN=moon") ?? last, chain)).toContain("CN=moon");
    const twins = Array.from({ length: 40 }, () => TestCertificate.root("C=CH, O=Lab, CN=Root"));
    // Sixteen signatures are checked, then it is enough.
    expect(verdict(root.leaf("CN=moon"), [], trustIn([...twins, root]))).toBe("certificateUntrusted");
    expect(verdict(root.leaf("CN=moon"), [], trustIn([...twins.slice(0, 15), root]))).toContain("CN=moon");
  });
});

describe("refused", () => {
  const LEAVES: readonly [string, Partial<CertificateWish>, string][] = [
    ["expired", { notAfterMs: NOW_MS - 1000 }, "certificateExpired"],
    ["not yet valid", { notBeforeMs: NOW_MS + 1000 }, "certificateNotYetValid"],
    ["keyUsage without signatures", { keyUsage: ["keyEncipherment"] }, "certificateWrongUsage"],
    ["extendedKeyUsage of a web server", { extendedKeyUsage: [USAGE_SERVER] }, "certificateWrongUsage"],
    ["a critical extension that nobody knows", { extra: [extension("1.2.3.4", new Name())] }, "certificateUnsupported"],
  ];
  for (const [what, changes, problem] of LEAVES) {
    test(`a certificate: ${what}`, () => expect(verdict(root.leaf("CN=moon", changes))).toBe(problem));
  }

  const ALLOWED: readonly [string, Partial<CertificateWish>][] = [
    ["no keyUsage", { keyUsage: null }],
    ["nonRepudiation alone", { keyUsage: ["nonRepudiation", "keyAgreement"] }],
    ["extendedKeyUsage ipsecIKE among others", { extendedKeyUsage: [USAGE_SERVER, USAGE_IKE] }],
    ["anyExtendedKeyUsage", { extendedKeyUsage: [USAGE_ANY] }],
    ["an unknown extension that is not critical", { extra: [extension("1.2.3.4", new Name(), false)] }],
  ];
  for (const [what, changes] of ALLOWED) {
    test(`not: ${what}`, () => expect(verdict(root.leaf("CN=moon", changes))).toContain("CN=moon <"));
  }

  test("not: a usage that the cluster file allows", () => {
    const leaf = root.leaf("CN=moon", { extendedKeyUsage: [USAGE_SERVER] });
    expect(verdict(leaf, [], trustIn([root], { otherUsages: [USAGE_SERVER] }))).toContain("CN=moon <");
  });

  const AUTHORITIES: readonly [string, Partial<CertificateWish>, string][] = [
    ["expired", { notAfterMs: NOW_MS - 1000 }, "certificateExpired"],
    ["not one at all", { authority: null }, "certificateWrongUsage"],
    ["keyUsage without keyCertSign", { keyUsage: ["digitalSignature"] }, "certificateWrongUsage"],
    ["a critical extension", { extra: [extension(EXT_INHIBIT_ANY_POLICY, new Name())] }, "certificateUnsupported"],
  ];
  for (const [what, changes, problem] of AUTHORITIES) {
    test(`an intermediate: ${what}`, () => {
      const between = root.intermediate("CN=A", changes);
      expect(verdict(between.leaf("CN=moon"), [between])).toBe(problem);
    });
    test(`a root: ${what}`, () => {
      const own = TestCertificate.root("CN=Own", changes);
      expect(verdict(own.leaf("CN=moon"), [], trustIn([own]))).toBe(problem);
    });
  }

  test("an end-entity certificate as authority of another", () => {
    const mallory = root.leaf("CN=mallory");
    expect(verdict(mallory.leaf("CN=moon"), [mallory])).toBe("certificateWrongUsage");
  });

  test("more intermediates than pathlen allows", () => {
    const short = TestCertificate.root("CN=Short", { authority: { pathLength: 1 } });
    const a = short.intermediate("CN=A");
    const b = a.intermediate("CN=B");
    expect(verdict(a.leaf("CN=moon"), [a], trustIn([short]))).toContain("CN=moon");
    expect(verdict(b.leaf("CN=moon"), [a, b], trustIn([short]))).toBe("certificateWrongUsage");
    const none = root.intermediate("CN=N", { authority: { pathLength: 0 } });
    expect(verdict(none.leaf("CN=moon"), [none])).toContain("CN=moon");
    const below = none.intermediate("CN=M");
    expect(verdict(below.leaf("CN=moon"), [none, below])).toBe("certificateWrongUsage");
  });

  test("signed with SHA-1, though the signature is good", () => {
    // ecdsa-with-SHA1, RFC 7427 appendix A.3.1.
    const weak = root.leaf("CN=moon", { signedWith: { algorithm: fromHex("300906072a8648ce3d0401"), digest: "sha1" } });
    expect(weak.certificate.isSignedBy(root.certificate)).toBe(true);
    expect(verdict(weak)).toBe("certificateWeak");
  });

  test("one changed byte anywhere of what is signed", () => {
    const { der } = root.leaf("CN=moon").certificate;
    let refused = 0;
    for (let at = 0; at < der.length; at++) {
      try {
        const changed = parseCertificate(der.with(at, (der[at] ?? 0) ^ 0x01));
        validateChain(changed, [], trustIn([root]), NOW_MS);
      } catch (error) {
        if (!(error instanceof EsplexError)) throw error;
        refused += 1;
      }
    }
    expect(refused).toBe(der.length);
  });
});

describe("name constraints", () => {
  const dns = (dNSName: string) => new GeneralName({ dNSName });
  const email = (rfc822Name: string) => new GeneralName({ rfc822Name });
  const ip = (iPAddress: string) => new GeneralName({ iPAddress });
  const directory = (text: string) =>
    new GeneralName({ directoryName: AsnConvert.parse(DistinguishedName.fromText(text).der, Name) });
  const uri = new GeneralName({ uniformResourceIdentifier: "example.com" });

  const CASES: readonly [string, Partial<CertificateWish>, Partial<CertificateWish>, boolean][] = [
    ["a domain inside", { permitted: [dns("example.com")] }, { dns: ["moon.Example.com"] }, true],
    ["the domain itself", { permitted: [dns("example.com")] }, { dns: ["example.com"] }, true],
    ["a domain outside", { permitted: [dns("example.com")] }, { dns: ["moon.example.org"] }, false],
    ["a domain that only ends alike", { permitted: [dns("example.com")] }, { dns: ["badexample.com"] }, false],
    ["one of two outside", { permitted: [dns("example.com")] }, { dns: ["a.example.com", "b.example.org"] }, false],
    ["an excluded domain", { excluded: [dns("secret.example.com")] }, { dns: ["x.secret.example.com"] }, false],
    ["beside an excluded domain", { excluded: [dns("secret.example.com")] }, { dns: ["x.example.com"] }, true],
    ["a name of another kind", { permitted: [dns("example.com")] }, { emails: ["a@b.example"] }, true],
    ["a mailbox", { permitted: [email("a@b.example")] }, { emails: ["A@b.example"] }, true],
    ["another mailbox", { permitted: [email("a@b.example")] }, { emails: ["c@b.example"] }, false],
    ["a mail host", { permitted: [email("b.example")] }, { emails: ["c@b.example"] }, true],
    ["below a mail host", { permitted: [email("b.example")] }, { emails: ["c@x.b.example"] }, false],
    ["below a mail domain", { permitted: [email(".b.example")] }, { emails: ["c@x.b.example"] }, true],
    ["an address inside", { permitted: [ip("10.0.0.0/9")] }, { ips: ["10.127.0.1"] }, true],
    ["an address outside", { permitted: [ip("10.0.0.0/9")] }, { ips: ["10.128.0.1"] }, false],
    ["an address of the other version", { permitted: [ip("10.0.0.0/9")] }, { ips: ["2001:db8::1"] }, false],
    ["a directory inside", { permitted: [directory("C=CH, O=Lab")] }, {}, true],
    ["a directory outside", { permitted: [directory("C=CH, O=Other")] }, {}, false],
    ["an excluded directory", { excluded: [directory("C=CH")] }, {}, false],
    ["a kind that we cannot check", { permitted: [uri] }, { uris: ["https://example.com/"] }, false],
    ["a kind that does not occur", { permitted: [uri] }, { dns: ["example.com"] }, true],
  ];
  for (const [what, constraints, names, allowed] of CASES) {
    test(`${what}: ${allowed ? "allowed" : "refused"}`, () => {
      const between = root.intermediate("C=CH, O=Lab, CN=A", constraints);
      const found = verdict(between.leaf("C=CH, O=Lab, CN=moon", names), [between]);
      expect(found).toBe(
        allowed ? "C=CH, O=Lab, CN=moon < C=CH, O=Lab, CN=A < C=CH, O=Lab, CN=Root" : "certificateNameConstraint",
      );
    });
  }

  test("those of the root hold for everything below", () => {
    const own = TestCertificate.root("CN=Own", { permitted: [dns("example.com")] });
    const between = own.intermediate("CN=A");
    const outside = between.leaf("CN=moon", { dns: ["moon.example.org"] });
    expect(verdict(outside, [between], trustIn([own]))).toBe("certificateNameConstraint");
  });
});

describe("revocation", () => {
  const leaf = root.leaf("CN=moon");
  const other = root.leaf("CN=sun");
  const list = root.revocationList([leaf]);

  test("a certificate on the list of its issuer is refused, another one not", () => {
    expect(verdict(leaf, [], trustIn([root], { revocationLists: [list] }))).toBe("certificateRevoked");
    expect(verdict(other, [], trustIn([root], { revocationLists: [list] }))).toContain("CN=sun");
  });

  test("also when the list is out of date", () => {
    const old = root.revocationList([leaf], { nextUpdateMs: NOW_MS - 1000 });
    expect(verdict(leaf, [], trustIn([root], { revocationLists: [old] }))).toBe("certificateRevoked");
  });

  test("a revoked intermediate takes everything below with it", () => {
    const between = root.intermediate("CN=A");
    const trust = trustIn([root], { revocationLists: [root.revocationList([between])] });
    expect(verdict(between.leaf("CN=moon"), [between], trust)).toBe("certificateRevoked");
  });

  test("a list that somebody else has signed, or of somebody else, says nothing", () => {
    const mallory = TestCertificate.root("CN=Mallory");
    const forged = root.revocationList([leaf], { signer: mallory });
    const foreign = mallory.revocationList([leaf]);
    expect(verdict(leaf, [], trustIn([root], { revocationLists: [forged, foreign] }))).toContain("CN=moon");
    const strict = { revocationLists: [forged, foreign], revocation: "strict" } as const;
    expect(verdict(leaf, [], trustIn([root], strict))).toBe("revocationUnknown");
  });

  test("strict: every issuer needs a list that is in date", () => {
    const between = root.intermediate("CN=A");
    const below = between.leaf("CN=below");
    const of = (...revocationLists: TrustStore["revocationLists"]) =>
      verdict(below, [between], trustIn([root], { revocation: "strict", revocationLists }));
    expect(of(root.revocationList([]))).toBe("revocationUnknown");
    expect(of(root.revocationList([]), between.revocationList([]))).toContain("CN=below");
    expect(of(root.revocationList([]), between.revocationList([], { nextUpdateMs: NOW_MS - 1 }))).toBe(
      "revocationUnknown",
    );
    expect(of(root.revocationList([]), between.revocationList([], { thisUpdateMs: NOW_MS + DAY_MS }))).toBe(
      "revocationUnknown",
    );
  });

  test("an authority that may not sign lists is not heard", () => {
    const own = TestCertificate.root("CN=Own", { keyUsage: ["keyCertSign"] });
    const revoked = own.leaf("CN=moon");
    const trust = trustIn([own], { revocation: "strict", revocationLists: [own.revocationList([revoked])] });
    expect(verdict(revoked, [], trust)).toBe("revocationUnknown");
  });

  test("a delta or any list with a critical extension is not read", () => {
    const der = root.revocationListDer([leaf], { extensions: [extension(EXT_DELTA, new Name())] });
    expect(() => parseRevocationList(der)).toThrow(/critical extension 2\.5\.29\.27/);
  });
});

test("the cache gives what it remembers, forgets the least recently used, and knows nothing else", () => {
  const [a, b, c] = ["CN=a", "CN=b", "CN=c"].map((subject) => root.leaf(subject).certificate);
  if (a === undefined || b === undefined || c === undefined) throw new Error("three certificates");
  const cache = new CertificateCache(2);
  expect(cache.read(a.der)).not.toBe(a);
  expect(cache.size).toBe(0);
  cache.remember([a, b]);
  expect(cache.read(a.der.slice())).toBe(a);
  cache.remember([a]);
  cache.remember([c]);
  expect(cache.size).toBe(2);
  expect([cache.read(a.der), cache.read(c.der)]).toEqual([a, c]);
  expect(cache.read(b.der)).not.toBe(b);
});

test("OpenSSL agrees on the certificates of these tests", async () => {
  const directory = await mkdtemp(join(tmpdir(), "esplex-x509-"));
  try {
    const between = root.intermediate("CN=A");
    const leaf = between.leaf("CN=moon", { dns: ["moon.example"] });
    for (const [name, { pem }] of Object.entries({ root, between, leaf })) await writeFile(join(directory, name), pem);
    const at = (name: string): string => join(directory, name);
    const time = ["-attime", String(NOW_MS / 1000)];
    const args = ["verify", ...time, "-CAfile", at("root"), "-untrusted", at("between"), at("leaf")];
    expect((await execa("openssl", args)).stdout).toContain("leaf: OK");
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});
