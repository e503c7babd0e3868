import { sha256Hex } from "../crypto/hash.ts";
import { parseCertificate, type Certificate } from "./certificate.ts";

/** Certificates kept at most, about 10 kB each. Our choice. */
const LIMIT = 1024;

/**
 * Certificates that were read before: reading one costs ten times what checking its signature does (measured), and peers come
 * back. Only what a chain was valid with is remembered, so that strangers push nothing out. Every check is made anew.
 */
export class CertificateCache {
  readonly #known = new Map<string, Certificate>();
  readonly #limit: number;

  constructor(limit = LIMIT) {
    this.#limit = limit;
  }

  get size(): number {
    return this.#known.size;
  }

  /** Throws `wire.malformed`. */
  read(der: Uint8Array): Certificate {
    return this.#known.get(sha256Hex(der)) ?? parseCertificate(der);
  }

  /** The least recently used ones go when there are too many. */
  remember(certificates: readonly Certificate[]): void {
    for (const certificate of certificates) {
      this.#known.delete(certificate.fingerprint);
      this.#known.set(certificate.fingerprint, certificate);
    }
    for (const fingerprint of this.#known.keys()) {
      if (this.#known.size <= this.#limit) return;
      this.#known.delete(fingerprint);
    }
  }
}
