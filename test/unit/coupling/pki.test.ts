import { X509Certificate } from "node:crypto";
import { chmod, mkdtemp, readFile, readdir, rename, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { loadCredentials } from "../../../src/bus/credentials.ts";
import { initPki, issueCertificate } from "../../../src/cli/pki.ts";

let directory = "";
beforeAll(async () => void (directory = await mkdtemp(join(tmpdir(), "esplex-pki-"))));
afterAll(() => rm(directory, { recursive: true, force: true }));

const t1 = { kind: "node", cluster: "lab", name: "t1" } as const;
const at = (file: string): string => join(directory, file);
const certificate = async (file: string): Promise<X509Certificate> => new X509Certificate(await readFile(at(file)));

test("certificates need a CA first", async () => {
  await expect(issueCertificate(directory, t1)).rejects.toThrow(/run: esplex pki init/);
});

test("init and issue make what the bus wants, and keep it when run again", async () => {
  await initPki(directory, "lab");
  await issueCertificate(directory, t1);
  await issueCertificate(directory, { kind: "coupling", cluster: "lab" });
  const before = await certificate("t1.crt");
  expect(await initPki(directory, "lab")).toContain("already");
  expect(await issueCertificate(directory, t1)).toContain("already");

  const [ca, leaf, coupling] = [
    await certificate("ca.crt"),
    await certificate("t1.crt"),
    await certificate("coupling.crt"),
  ];
  expect(leaf.fingerprint256).toBe(before.fingerprint256);
  expect(ca.ca).toBe(true);
  expect(leaf.ca).toBe(false);
  expect(leaf.verify(ca.publicKey)).toBe(true);
  expect(leaf.subjectAltName).toBe("URI:esplex://lab/node/t1");
  expect(coupling.subjectAltName).toBe("URI:esplex://lab/coupling");
  expect(leaf.keyUsage).toEqual(["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]);
  expect(leaf.publicKey.asymmetricKeyDetails).toMatchObject({ namedCurve: "prime256v1" });
  for (const key of ["ca.key", "t1.key", "coupling.key"]) expect((await stat(at(key))).mode & 0o777).toBe(0o600);
  expect((await readdir(directory)).sort()).toEqual([
    "ca.crt",
    "ca.key",
    "coupling.crt",
    "coupling.key",
    "t1.crt",
    "t1.key",
  ]);
  await loadCredentials({ certificate: at("t1.crt"), key: at("t1.key"), ca: at("ca.crt") });
});

test("what does not fit is named", async () => {
  await expect(initPki(directory, "other")).rejects.toThrow(/not the CA of cluster other/);
  await expect(issueCertificate(directory, { ...t1, name: "T 1" })).rejects.toThrow(/--node T 1/);
  await expect(issueCertificate(directory, { ...t1, name: "../x" })).rejects.toThrow(/--node/);
  await expect(issueCertificate(directory, { ...t1, name: "coupling" })).rejects.toThrow(/use --coupling/);
  await rename(at("t1.key"), at("elsewhere"));
  await expect(issueCertificate(directory, t1)).rejects.toThrow(/has t1.crt but no t1.key/);
  await rename(at("elsewhere"), at("t1.key"));
});

test("credentials that others may read, or that do not match, are refused", async () => {
  const files = { certificate: at("t1.crt"), key: at("t1.key"), ca: at("ca.crt") };
  await expect(loadCredentials({ ...files, key: at("coupling.key") })).rejects.toMatchObject({
    code: "config.invalid",
  });
  await expect(loadCredentials({ ...files, certificate: at("nothing") })).rejects.toMatchObject({
    code: "config.unreadable",
  });
  await chmod(at("t1.key"), 0o644);
  await expect(loadCredentials(files)).rejects.toThrow(/chmod 600/);
});
