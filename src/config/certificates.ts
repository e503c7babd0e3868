import { dirname, resolve } from "node:path";
import { EsplexError, messageOf } from "../core/errors.ts";
import { SigningKey } from "../crypto/signature.ts";
import { CertificateCache } from "../x509/certificate-cache.ts";
import { parseCertificate, type Certificate } from "../x509/certificate.ts";
import type { TrustStore } from "../x509/chain.ts";
import { pemBlocks } from "../x509/pem.ts";
import { parseRevocationList, type RevocationList } from "../x509/revocation-list.ts";
import type { CertificatesConfig, CredentialConfig } from "./cluster-schema.ts";
import { readGuarded } from "./private-file.ts";

/** Our choices: certificates have 0.5 to 3 kB, a list about 40 bytes for each revoked certificate. */
const MAX_CERTIFICATE_FILE_BYTES = 256 * 1024;
const MAX_KEY_FILE_BYTES = 64 * 1024;
const MAX_LIST_FILE_BYTES = 4 * 1024 * 1024;

/** extendedKeyUsage by the names of the cluster file: RFC 5280 §4.2.1.12, and one that never left a draft but is in use. */
const USAGE_OIDS = {
  serverAuth: "1.3.6.1.5.5.7.3.1",
  clientAuth: "1.3.6.1.5.5.7.3.2",
  ikeIntermediate: "1.3.6.1.5.5.8.2.2",
} as const;

/** A certificate chain with its private key. */
export interface Credential {
  /** Our own certificate first; each one is issued by the next. */
  readonly chain: readonly [Certificate, ...Certificate[]];
  readonly key: SigningKey;
}

/**
 * Reads one of a DVIPA's certificates with its key; paths are relative to the cluster file. Throws `config.unreadable` or
 * `config.invalid` naming the file: also when key and certificate do not belong together.
 */
export async function readCredential(
  { chain: chainFile, key: keyFile }: CredentialConfig,
  clusterFilePath: string,
): Promise<Credential> {
  const chain = await readCertificates(chainFile, clusterFilePath);
  const [own, ...others] = chain;
  const what = `certificate file ${chainFile}`;
  if (own === undefined) throw new EsplexError("config.invalid", `${what}: no certificate in it`);
  for (const [i, issuer] of others.entries()) {
    if (chain[i]?.isSignedBy(issuer) === true) continue;
    throw new EsplexError("config.invalid", `${what}: certificate ${i + 2} has not issued certificate ${i + 1}`);
  }
  const key = await readKey(keyFile, clusterFilePath);
  if (!key.matches(own.publicKey)) {
    throw new EsplexError(
      "config.invalid",
      `key file ${keyFile}: not the key of the first certificate in ${chainFile}`,
    );
  }
  return { chain: [own, ...others], key };
}

/** Reads authorities and revocation lists. Errors as in {@link readCredential}. `own` replaces the section's authorities. */
export async function readTrust(
  section: CertificatesConfig,
  own: readonly string[],
  clusterFilePath: string,
): Promise<TrustStore> {
  const files = own.length > 0 ? own : section.authorities;
  const anchors = (await Promise.all(files.map((file) => readAuthorities(file, clusterFilePath)))).flat();
  const revocationLists = (
    await Promise.all(section.revocationLists.map((file) => readRevocationLists(file, clusterFilePath)))
  ).flat();
  return {
    anchors,
    revocationLists,
    revocation: section.revocation,
    otherUsages: section.extendedKeyUsages.map((name) => USAGE_OIDS[name]),
    known: new CertificateCache(),
  };
}

async function readKey(file: string, clusterFilePath: string): Promise<SigningKey> {
  const path = resolve(dirname(clusterFilePath), file);
  const pem = await readGuarded(path, `key file ${path}`, "secret", MAX_KEY_FILE_BYTES);
  try {
    return naming(`key file ${path}`, () => SigningKey.fromPem(pem));
  } finally {
    pem.fill(0);
  }
}

async function readCertificates(file: string, clusterFilePath: string): Promise<Certificate[]> {
  const path = resolve(dirname(clusterFilePath), file);
  const what = `certificate file ${path}`;
  const content = await readGuarded(path, what, "trusted", MAX_CERTIFICATE_FILE_BYTES);
  return naming(what, () => pemBlocks(content, "CERTIFICATE").map(parseCertificate));
}

async function readAuthorities(file: string, clusterFilePath: string): Promise<Certificate[]> {
  const authorities = await readCertificates(file, clusterFilePath);
  if (authorities.length === 0)
    throw new EsplexError("config.invalid", `certificate file ${file}: no certificate in it`);
  const other = authorities.find(({ authority }) => authority?.isAuthority !== true);
  if (other === undefined) return authorities;
  throw new EsplexError("config.invalid", `certificate file ${file}: ${other.subject.toString()} is no authority`);
}

async function readRevocationLists(file: string, clusterFilePath: string): Promise<RevocationList[]> {
  const path = resolve(dirname(clusterFilePath), file);
  const what = `revocation list ${path}`;
  const content = await readGuarded(path, what, "trusted", MAX_LIST_FILE_BYTES);
  const lists = naming(what, () => pemBlocks(content, "X509 CRL").map(parseRevocationList));
  if (lists.length === 0) throw new EsplexError("config.invalid", `${what}: no list in it`);
  return lists;
}

/** Whatever is wrong with a file of ours is wrong with the configuration. */
function naming<T>(what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new EsplexError("config.invalid", `${what}: ${messageOf(error)}`);
  }
}
