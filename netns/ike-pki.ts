import { appendFile, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";

/** Kinds of keys that the lab's IKE certificates come with, in `openssl genpkey`'s words. */
const KEYS = {
  ecdsa: ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
  rsa: ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
  ed25519: ["-algorithm", "ED25519"],
} as const;

export type IkeKeyKind = keyof typeof KEYS;

/** What a certificate of the lab says. */
export interface IkeCertificateWish {
  readonly key: IkeKeyKind;
  readonly subject: string;
  /** In openssl's words: `DNS:moon.lab,IP:192.0.2.1`. */
  readonly names: string;
  /** Who issues it: `ca`, or a name given to {@link IkePki.authority}. The file then holds that certificate as well. */
  readonly issuer?: string;
  /** Further lines of an extension section. */
  readonly extensions?: readonly string[];
  /** Days from now; the past makes an expired one. Default: a month. */
  readonly fromDays?: number;
  readonly toDays?: number;
}

const DAY_MS = 86_400_000;

/**
 * A certification authority for IKE, made with the `openssl` command alone: what our own code reads was written by another.
 * Files in its directory: `ca.pem`, `ca.crl`, and for each name `NAME.pem` and `NAME.key`; an authority has its `NAME.crl` too.
 */
export class IkePki {
  readonly directory: string;

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async create(directory: string): Promise<IkePki> {
    const pki = new IkePki(directory);
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await Promise.all([
      writeFile(pki.path("index.txt"), ""),
      writeFile(pki.path("crlnumber"), "01\n"),
      writeFile(pki.path("ca.cnf"), configuration(directory)),
    ]);
    await pki.#key("ca", "ecdsa");
    const usage = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"];
    await pki.#openssl([
      ...["req", "-x509", "-new", "-sha256", "-key", pki.path("ca.key"), "-out", pki.path("ca.pem"), "-days", "30"],
      ...["-subj", "/C=CH/O=Lab/CN=IKE CA", ...usage.flatMap((extension) => ["-addext", extension])],
    ]);
    await pki.#writeRevocationList();
    return pki;
  }

  path(file: string): string {
    return join(this.directory, file);
  }

  /** Makes `NAME.key` and `NAME.pem`. */
  async issue(name: string, wish: IkeCertificateWish): Promise<void> {
    await this.#key(name, wish.key);
    const extensions = [
      "basicConstraints=critical,CA:FALSE",
      "keyUsage=critical,digitalSignature",
      `subjectAltName=${wish.names}`,
      ...(wish.extensions ?? []),
    ];
    await this.#sign(name, extensions, wish);
    if (wish.issuer === undefined) return;
    await appendFile(this.path(`${name}.pem`), await readFile(this.path(`${wish.issuer}.pem`)));
  }

  /** Makes an authority below `ca`, with an RSA key. */
  async authority(name: string, subject: string): Promise<void> {
    await this.#key(name, "rsa");
    await this.#sign(name, ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"], { subject });
    await this.#writeRevocationList(name);
  }

  async #sign(
    name: string,
    extensions: readonly string[],
    wish: Pick<IkeCertificateWish, "subject" | "issuer" | "fromDays" | "toDays">,
  ): Promise<void> {
    const issuer = wish.issuer ?? "ca";
    await writeFile(this.path(`${name}.ext`), `${extensions.join("\n")}\n`);
    await this.#openssl([
      ...["req", "-new", "-key", this.path(`${name}.key`), "-out", this.path(`${name}.csr`), "-subj", wish.subject],
    ]);
    await this.#openssl([
      ...["ca", "-config", this.path("ca.cnf"), "-batch", "-notext", "-in", this.path(`${name}.csr`)],
      ...["-cert", this.path(`${issuer}.pem`), "-keyfile", this.path(`${issuer}.key`)],
      ...["-out", this.path(`${name}.pem`), "-extfile", this.path(`${name}.ext`)],
      ...["-startdate", dateText(wish.fromDays ?? -1), "-enddate", dateText(wish.toDays ?? 30)],
    ]);
  }

  /** Puts the certificate on the revocation list. */
  async revoke(name: string): Promise<void> {
    await this.#openssl([
      ...["ca", "-config", this.path("ca.cnf"), "-revoke", this.path(`${name}.pem`)],
      ...["-cert", this.path("ca.pem"), "-keyfile", this.path("ca.key")],
    ]);
    await this.#writeRevocationList();
  }

  /** Takes everything off the revocation list again. */
  async forgive(): Promise<void> {
    await rm(this.path("index.txt"));
    await writeFile(this.path("index.txt"), "");
    await this.#writeRevocationList();
  }

  async #writeRevocationList(issuer = "ca"): Promise<void> {
    await this.#openssl([
      ...["ca", "-config", this.path("ca.cnf"), "-gencrl", "-out", this.path(`${issuer}.crl.new`)],
      ...["-cert", this.path(`${issuer}.pem`), "-keyfile", this.path(`${issuer}.key`)],
    ]);
    await rename(this.path(`${issuer}.crl.new`), this.path(`${issuer}.crl`));
  }

  async #key(name: string, kind: IkeKeyKind): Promise<void> {
    await writeFile(this.path(`${name}.key`), "", { mode: 0o600 });
    await this.#openssl(["genpkey", ...KEYS[kind], "-out", this.path(`${name}.key`)]);
  }

  async #openssl(args: readonly string[]): Promise<void> {
    await execa("openssl", args, { stdin: "ignore", stdout: "ignore" });
  }
}

function configuration(directory: string): string {
  return `[ca]
default_ca = lab
[lab]
database = ${directory}/index.txt
crlnumber = ${directory}/crlnumber
new_certs_dir = ${directory}
rand_serial = yes
default_md = default
default_days = 30
default_crl_days = 30
policy = any
email_in_dn = no
unique_subject = no
[any]
countryName = optional
organizationName = optional
commonName = supplied
`;
}

/** YYYYMMDDHHMMSSZ */
function dateText(fromNowDays: number): string {
  const text = new Date(Date.now() + fromNowDays * DAY_MS).toISOString();
  return `${text.slice(0, 19).replaceAll(/[-:T]/g, "")}Z`;
}
