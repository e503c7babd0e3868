import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { type Credentials, loadCredentials } from "../../../src/bus/credentials.ts";
import type { Identity } from "../../../src/bus/identity.ts";
import { identityName } from "../../../src/bus/identity.ts";
import { initPki, issueCertificate } from "../../../src/cli/pki.ts";

/** A CA in a directory of its own, for the length of a test file. */
export class Authority {
  readonly directory: string;
  readonly cluster: string;

  private constructor(directory: string, cluster: string) {
    this.directory = directory;
    this.cluster = cluster;
  }

  static async create(cluster = "lab"): Promise<Authority> {
    const directory = await mkdtemp(join(tmpdir(), "esplex-pki-"));
    await initPki(directory, cluster);
    return new Authority(directory, cluster);
  }

  /** Credentials of a node, or of the coupling service for null. */
  async credentials(node: string | null): Promise<Credentials> {
    const identity: Identity =
      node === null ? { kind: "coupling", cluster: this.cluster } : { kind: "node", cluster: this.cluster, name: node };
    await issueCertificate(this.directory, identity);
    return loadCredentials(this.files(identityName(identity)));
  }

  /** Credentials of this CA with any URI in the certificate: `esplex pki` would not issue that. */
  async foreign(uri: string): Promise<Credentials> {
    const { key, certificate, ca } = this.files("foreign");
    const caKey = join(this.directory, "ca.key");
    await execa("openssl", [
      ...["req", "-x509", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"],
      ...["-CA", ca, "-CAkey", caKey, "-keyout", key, "-out", certificate, "-subj", "/CN=foreign", "-days", "1"],
      ...["-addext", `subjectAltName=URI:${uri}`, "-addext", "basicConstraints=critical,CA:FALSE"],
    ]);
    return loadCredentials({ key, certificate, ca });
  }

  files(name: string): { certificate: string; key: string; ca: string } {
    const at = (file: string): string => join(this.directory, file);
    return { certificate: at(`${name}.crt`), key: at(`${name}.key`), ca: at("ca.crt") };
  }

  remove(): Promise<void> {
    return rm(this.directory, { recursive: true, force: true });
  }
}

/** Polls until `condition` holds. */
export async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const limitMs = performance.now() + 15_000;
  while (!(await condition())) {
    if (performance.now() > limitMs) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
