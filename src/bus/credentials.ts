import { type FileHandle, constants as fsConstants, open } from "node:fs/promises";
import { constants } from "node:crypto";
import { type SecureContextOptions, createSecureContext } from "node:tls";
import { EsplexError, messageOf } from "../core/errors.ts";
import { Secret } from "../core/secret.ts";

/** A private key file must be readable by its owner alone. */
const OTHERS_MODE = 0o077;
const MAX_PEM_BYTES = 64 * 1024;

/** Files of one end of the bus, PEM. */
export interface CredentialFiles {
  readonly certificate: string;
  readonly key: string;
  /** The cluster's own CA: the only one that is trusted. */
  readonly ca: string;
}

/** What one end of the bus proves itself with; the key does not show in any print. */
export interface Credentials {
  readonly certificate: Buffer;
  readonly key: Secret;
  readonly ca: Buffer;
}

/** TLS options of both ends: 1.3 only, this CA alone, no resumption. (`createServer` takes no ready-made context.) */
export function tlsOptions({ certificate, key, ca }: Credentials): SecureContextOptions {
  return {
    cert: certificate,
    key: Buffer.from(key.expose()),
    ca,
    minVersion: "TLSv1.3",
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

/** Reads certificate, key and CA. Throws `config.unreadable` or `config.invalid` naming the file. */
export async function loadCredentials(files: CredentialFiles): Promise<Credentials> {
  const [certificate, key, ca] = await Promise.all([
    readPem(files.certificate, "--certificate", false),
    readPem(files.key, "--key", true),
    readPem(files.ca, "--ca", false),
  ]);
  try {
    const credentials = { certificate, key: new Secret(key), ca };
    createSecureContext(tlsOptions(credentials));
    return credentials;
  } catch (error) {
    const paths = Object.values(files).join(", ");
    throw new EsplexError(
      "config.invalid",
      `not a matching PEM certificate, key and CA: ${paths} (${messageOf(error)})`,
    );
  }
}

async function readPem(path: string, option: string, isPrivate: boolean): Promise<Buffer> {
  let file: FileHandle;
  try {
    file = await open(path, fsConstants.O_RDONLY | fsConstants.O_NONBLOCK);
  } catch (error) {
    throw new EsplexError("config.unreadable", `${option} ${path}: ${messageOf(error)}`);
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile() || stat.size > MAX_PEM_BYTES) {
      throw new EsplexError(
        "config.invalid",
        `${option} ${path}: not a regular file of at most ${MAX_PEM_BYTES} bytes`,
      );
    }
    if (isPrivate && (stat.mode & OTHERS_MODE) !== 0) {
      throw new EsplexError("config.invalid", `${option} ${path}: others may read it; run: chmod 600 ${path}`);
    }
    return await file.readFile();
  } finally {
    await file.close();
  }
}
