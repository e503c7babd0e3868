import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readCredential, readTrust } from "../../../src/config/certificates.ts";
import type { CertificatesConfig } from "../../../src/config/cluster-schema.ts";
import { parseCluster } from "../../../src/config/cluster-file.ts";
import { loadIkeConfiguration } from "../../../src/daemons/node/ike-configuration.ts";
import { NOW_MS, TestCertificate } from "../../support/certificates.ts";

let directory = "";
beforeAll(async () => void (directory = await mkdtemp(join(tmpdir(), "esplex-certificates-"))));
afterAll(() => rm(directory, { recursive: true, force: true }));

const root = TestCertificate.root("CN=Root");
const between = root.intermediate("CN=Between");
const sun = between.leaf("CN=sun", { dns: ["sun.lab"] });
const clusterFile = (): string => join(directory, "lab.yaml");

async function file(name: string, content: string | Uint8Array, mode = 0o644): Promise<string> {
  await writeFile(join(directory, name), content);
  await chmod(join(directory, name), mode);
  return name;
}

const pemList = (der: Uint8Array): string =>
  `-----BEGIN X509 CRL-----\n${Buffer.from(der).toString("base64")}\n-----END X509 CRL-----\n`;

const section = (changes: Partial<CertificatesConfig>): CertificatesConfig => ({
  authorities: [],
  revocationLists: [],
  revocation: "relaxed",
  extendedKeyUsages: [],
  ...changes,
});

describe("a certificate of ours", () => {
  const load = async (chain: string, key: string) =>
    readCredential({ chain: await file("chain", chain), key: await file("key", key, 0o600) }, clusterFile());

  test("with its chain and key, for every kind of key, and text around the blocks", async () => {
    const credential = await load(`sun:\n${sun.pem}\nits issuer:\r\n${between.pem}`, sun.privatePem);
    expect(credential.chain.map(({ subject }) => subject.toString())).toEqual(["CN=sun", "CN=Between"]);
    for (const key of ["rsa", "ec384", "ec521", "ed25519"] as const) {
      const own = root.leaf("CN=own", { key });
      expect((await load(own.pem, own.privatePem)).key.kind).toMatchObject({
        kind: key.startsWith("ec") ? "ecdsa" : key,
      });
    }
  });

  const WRONG: readonly [string, () => Promise<unknown>, RegExp][] = [
    ["the key of another", () => load(sun.pem, root.privatePem), /key file key: not the key of the first certificate/],
    [
      "a chain in the wrong order",
      () => load(between.pem + sun.pem, between.privatePem),
      /certificate 2 has not issued/,
    ],
    [
      "a certificate where the key belongs",
      () => load(sun.pem, sun.pem),
      /key file .*: not an unencrypted private key/,
    ],
    ["a key where the certificate belongs", () => load(sun.privatePem, sun.privatePem), /no certificate in it/],
    ["a cut block", () => load(sun.pem.slice(0, 200), sun.privatePem), /not closed, or not base64/],
    ["damaged DER", () => load(sun.pem.replace(/MI/, "AA"), sun.privatePem), /OpenSSL cannot read it/],
  ];
  test.each(WRONG)("%s is refused", async (_, read, text) => {
    const error: unknown = await read().catch((caught: unknown) => caught);
    expect(error).toMatchObject({ code: "config.invalid" });
    expect(String(error)).toMatch(text);
    for (const line of sun.privatePem.split("\n").slice(1, -2)) expect(String(error)).not.toContain(line);
  });

  test("a key that others may read, and a certificate that others may write, are refused", async () => {
    const key = await file("open.key", sun.privatePem, 0o640);
    const chain = await file("good.pem", sun.pem);
    await expect(readCredential({ chain, key }, clusterFile())).rejects.toThrow(/chmod 600/);
    const open = await file("open.pem", sun.pem, 0o664);
    await expect(readCredential({ chain: open, key }, clusterFile())).rejects.toThrow(/chmod 644/);
  });
});

describe("whom we believe", () => {
  test("authorities and lists in PEM and DER", async () => {
    const authorities = [await file("a.pem", root.pem), await file("b.der", between.certificate.der)];
    const lists = [
      await file("a.crl", pemList(root.revocationListDer([]))),
      await file("b.crl", between.revocationListDer([sun])),
    ];
    const trust = await readTrust(
      section({ authorities, revocationLists: lists, extendedKeyUsages: ["serverAuth"] }),
      [],
      clusterFile(),
    );
    expect(trust.anchors.map(({ subject }) => subject.toString())).toEqual(["CN=Root", "CN=Between"]);
    expect(trust.revocationLists.map(({ revoked }) => revoked.size)).toEqual([0, 1]);
    expect(trust.otherUsages).toEqual(["1.3.6.1.5.5.7.3.1"]);
    const own = await readTrust(section({ authorities }), [await file("b.pem", between.pem)], clusterFile());
    expect(own.anchors.map(({ subject }) => subject.toString())).toEqual(["CN=Between"]);
  });

  test("a certificate that is no authority, an empty file and a broken list are refused", async () => {
    const wrong: readonly [Partial<CertificatesConfig>, RegExp][] = [
      [{ authorities: [await file("leaf.pem", sun.pem)] }, /CN=sun is no authority/],
      [{ authorities: [await file("empty.pem", "")] }, /no certificate in it/],
      [{ authorities: ["missing.pem"] }, /ENOENT/],
      [{ revocationLists: [await file("empty.crl", "")] }, /no list in it/],
      [
        { revocationLists: [await file("broken.crl", pemList(new Uint8Array([0x30, 1, 0])))] },
        /revocation list .*broken/,
      ],
    ];
    for (const [changes, text] of wrong)
      await expect(readTrust(section(changes), [], clusterFile())).rejects.toThrow(text);
  });
});

describe("a node's peers and credentials", () => {
  interface Changes {
    readonly identity?: string;
    readonly localIdentity?: string;
    readonly dvipa?: TestCertificate;
    readonly revocation?: string;
  }

  async function load(changes: Changes = {}) {
    const own = changes.dvipa ?? sun;
    await file("root.pem", root.pem);
    await file("sun.pem", own.pem);
    await file("sun.key", own.privatePem, 0o600);
    const config = parseCluster(
      `cluster: lab
bus: { coupling: 198.51.100.9:7700 }
certificates: { authorities: [root.pem] ${changes.revocation ?? ""} }
dvipas: [{ address: 192.0.2.100, distributor: d1, targets: ALL, ports: ALL, certificates: [{ chain: sun.pem, key: sun.key }] }]
peers: [{ name: a, address: ANY, identity: "${changes.identity ?? "moon.lab"}", localIdentity: "${changes.localIdentity ?? "sun.lab"}", certificate: {} }]
`,
      "lab.yaml",
    );
    return loadIkeConfiguration(config, clusterFile(), "d1", NOW_MS);
  }

  test("everything is there", async () => {
    const { peers, credentials, warnings } = await load();
    expect(peers).toMatchObject([{ name: "a", auth: { kind: "certificate" }, remoteIdentity: "moon.lab" }]);
    expect(credentials.get("192.0.2.100")).toHaveLength(1);
    expect(warnings).toEqual([]);
  });

  test("an expired certificate of ours, and none for an identity of ours, are warnings", async () => {
    const old = root.leaf("CN=old", { dns: ["sun.lab"], notAfterMs: NOW_MS - 1 });
    expect((await load({ dvipa: old })).warnings).toEqual([
      "the certificate of CN=old has expired: peers will refuse it",
    ]);
    expect((await load({ localIdentity: "pluto.lab" })).warnings).toEqual([
      "peer a: no certificate of ours is for pluto.lab",
    ]);
  });

  test("a list that is out of date, and strict revocation without a list, are warnings", async () => {
    await file("old.crl", pemList(root.revocationListDer([], { nextUpdateMs: NOW_MS - 1 })));
    await file("new.crl", pemList(root.revocationListDer([])));
    const warnings = async (revocation: string) => (await load({ revocation })).warnings;
    expect(await warnings(", revocationLists: [old.crl]")).toEqual(["the revocation list of CN=Root is out of date"]);
    expect(await warnings(", revocation: strict")).toEqual([
      "revocation is strict, and CN=Root has no list: its certificates are refused",
    ]);
    expect(await warnings(", revocationLists: [new.crl], revocation: strict")).toEqual([]);
  });

  test("an identity that cannot be read names its peer", async () => {
    await expect(load({ identity: "moon*lab" })).rejects.toThrow(/peer a: moon\*lab/);
    await expect(load({ identity: "X9=a" })).rejects.toThrow(/peer a: X9=a/);
  });
});
