/**
 * A stock strongSwan that shows a certificate to the DVIPA, and is shown one. Certificates and CRL come from the `openssl`
 * command. Topology: `netns/layout.ts`, one target.
 */
import { readFile, writeFile } from "node:fs/promises";
import { execa } from "execa";
import { afterEach, describe, expect, it } from "vitest";
import { IkePki, type IkeCertificateWish, type IkeKeyKind } from "../../netns/ike-pki.ts";
import { CLIENT_ADDRESS, CLIENT_IDENTITY, DVIPA } from "../../netns/layout.ts";
import type { ClientCertificate, ClientSettings, StrongSwan } from "../../netns/strongswan.ts";
import { ping, requestName } from "../../netns/traffic.ts";
import { until } from "../../netns/until.ts";
import { close, negotiate, stateCount, statesOnEveryNode } from "../support/cluster-probes.ts";
import { useLab } from "../support/lab-fixture.ts";

let client: StrongSwan;
const lab = useLab({ targets: 1, cluster: { authentication: "certificate" } }, async (up) => {
  await up.startCluster();
  for (const key of ["ecdsa", "rsa", "ed25519"] as const) await issue(up.ikePki, key, { key });
  client = await up.startClient();
});

// A test that fails leaves its IKE SA: the next one must not use it.
afterEach(async () => {
  await client.terminate();
});

/** A certificate for the client's own identity, but for what is changed. */
async function issue(pki: IkePki, name: string, changes: Partial<IkeCertificateWish> = {}): Promise<void> {
  const subject = `/C=CH/O=Lab/CN=client ${name}`;
  await pki.issue(name, { key: "ecdsa", subject, names: `DNS:${CLIENT_IDENTITY},IP:${CLIENT_ADDRESS}`, ...changes });
}

/** Settings of a client that shows the certificate `name`. */
function showing(name: string, method = "pubkey", pki = lab().ikePki): Partial<ClientSettings> {
  const certificate = {
    certificate: pki.path(`${name}.pem`),
    key: pki.path(`${name}.key`),
    authority: lab().ikePki.path("ca.pem"),
  };
  return { certificate: { ...certificate, method } };
}

const METHODS: readonly [IkeKeyKind, string, string][] = [
  ["ecdsa", "pubkey", "ECDSA_WITH_SHA256_DER"],
  ["rsa", "pubkey", "RSA_EMSA_PKCS1_SHA2_256"],
  ["rsa", "rsa/pss-sha256", "RSA_EMSA_PSS_SHA2_256_SALT_32"],
  ["ed25519", "pubkey", "ED25519"],
];
for (const mode of ["transport", "tunnel"] as const) {
  describe(`${mode} mode`, () => {
    it.each(METHODS)("authenticates both sides with %s, the client set to %s", async (key, method, signature) => {
      const said = await negotiate(lab(), client, mode, showing(key, method));
      // strongSwan's own words for our signature and for its own.
      expect(said).toContain(`authentication of 'dvipa.lab.example' with ${signature} successful`);
      expect(said).toContain(`authentication of 'client.lab.example' (myself) with ${signature} successful`);
      await statesOnEveryNode(lab(), 2);
      expect(await ping(lab(), 2)).toEqual({ sent: 2, received: 2 });
      expect(await requestName(lab())).toEqual({ ok: true, node: "t1", problem: undefined });
      await close(lab(), client);
    });
  });
}

describe("chains and fragments", () => {
  it("sends its own intermediate, and fragments go both ways", async () => {
    const said = await negotiate(lab(), client, "transport", showing("rsa"));
    expect(said).toContain("generating IKE_AUTH request 1 [ EF(2/2) ]");
    expect(said).toContain("parsed IKE_AUTH response 1 [ EF(2/2) ]");
    expect(said).toContain('using untrusted intermediate certificate "C=CH, O=Lab, CN=IKE intermediate"');
    expect(said).toContain("reached self-signed root ca with a path length of 1");
    expect((await lab().distributor.status()).counters["ike.fragmentTaken"]).toBeGreaterThan(0);
    await close(lab(), client);
  });

  it("takes the client's intermediate", async () => {
    await issue(lab().ikePki, "chained", { issuer: "intermediate" });
    const settings = showing("chained");
    const certificate = {
      ...settings.certificate,
      intermediate: lab().ikePki.path("intermediate.pem"),
    } as ClientCertificate;
    const said = await negotiate(lab(), client, "transport", { certificate });
    expect(said).toContain('sending issuer cert "C=CH, O=Lab, CN=IKE intermediate"');
    expect(await ping(lab(), 2)).toEqual({ sent: 2, received: 2 });
    await close(lab(), client);
  });
});

describe("identities that the cluster file does not know, though the certificates have them", () => {
  it("the client's address", () => refused(showing("ecdsa"), "unknownPeer", { localIdentity: CLIENT_ADDRESS }));
  it("the DVIPA's address", () => refused(showing("ecdsa"), "unknownPeer", { remoteIdentity: DVIPA }));
});

async function refused(
  settings: Partial<ClientSettings>,
  problem: string,
  changes: Partial<ClientSettings> = {},
): Promise<void> {
  const counter = `ike.auth.${problem}`;
  const before = (await lab().distributor.status()).counters[counter] ?? 0;
  await client.load(lab().clientSettings({ ...settings, ...changes }));
  const { exitCode, stdout } = await client.initiate("transport");
  expect(exitCode).not.toBe(0);
  expect(stdout).toContain("N(AUTH_FAILED)");
  for (const node of ["d1", "t1"]) expect(await stateCount(lab(), node)).toBe(0);
  expect((await lab().distributor.status()).counters[counter]).toBe(before + 1);
  await client.terminate();
}

describe("refusals: AUTHENTICATION_FAILED, the reason counted, nothing installed", () => {
  it("an expired certificate", async () => {
    await issue(lab().ikePki, "expired", { fromDays: -3, toDays: -1 });
    await refused(showing("expired"), "certificateExpired");
  });

  it("one for another use", async () => {
    await issue(lab().ikePki, "usage", { extensions: ["extendedKeyUsage=codeSigning"] });
    await refused(showing("usage"), "certificateWrongUsage");
  });

  it("one of another authority with the same name", async () => {
    const twin = await IkePki.create(`${lab().directory}/twin`);
    await issue(twin, "twin");
    await refused(showing("twin", "pubkey", twin), "certificateUntrusted");
  });

  it("the shared key instead", async () => {
    await refused({}, "methodNotAllowed");
  });
});

describe("esplex reload", () => {
  const reload = async (): Promise<string> => {
    const run = `${lab().directory}/run/d1`;
    return (await execa(process.execPath, ["src/cli/main.ts", "reload", "--run", run])).stdout;
  };

  it("makes a new CRL count, keeps the SAs, and takes it back", async () => {
    await issue(lab().ikePki, "revoked");
    await negotiate(lab(), client, "transport", showing("revoked"));
    await statesOnEveryNode(lab(), 2);
    await lab().ikePki.revoke("revoked");
    expect(JSON.parse(await reload())).toEqual({ peers: 1, warnings: [] });
    // The SA lives on: nobody asks for its certificate again.
    expect(await ping(lab(), 2)).toEqual({ sent: 2, received: 2 });
    await close(lab(), client);
    await refused(showing("revoked"), "certificateRevoked");
    await negotiate(lab(), client, "transport", showing("ecdsa"));
    await close(lab(), client);
    await lab().ikePki.forgive();
    const reloads = async (): Promise<number> => (await lab().logTail("d1", 500)).split("read anew").length;
    const before = await reloads();
    process.kill(lab().distributor.program.pid, "SIGHUP");
    await until("the distributor has followed SIGHUP", 20_000, async () => (await reloads()) > before);
    await negotiate(lab(), client, "transport", showing("revoked"));
    await close(lab(), client);
  });

  it("changes nothing when a file is broken, and says which", async () => {
    const crl = lab().ikePki.path("ca.crl");
    const good = await readFile(crl);
    await writeFile(crl, "-----BEGIN X509 CRL-----\nbroken\n");
    await expect(reload()).rejects.toMatchObject({ stderr: expect.stringContaining("ca.crl") as string });
    await negotiate(lab(), client, "transport", showing("ecdsa"));
    await close(lab(), client);
    await writeFile(crl, good);
    await reload();
  });
});
