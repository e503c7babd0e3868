import { prf } from "../crypto/prf.ts";
import { concatBytes, u16be } from "../core/bytes.ts";
import { ipToBytes } from "../core/ip.ts";
import { Secret } from "../core/secret.ts";
import type { Endpoint } from "./events.ts";

const SECRET_BYTES = 32;

/** What a cookie is bound to (RFC 7296 §2.6). */
export interface CookieSubject {
  readonly nonceI: Uint8Array;
  readonly spiI: Uint8Array;
  readonly remote: Endpoint;
}

/**
 * Stateless cookies: version | HMAC-SHA256(secret of that version, Ni | address | port | SPIi), RFC 7296 §2.6. The secret
 * changes with time; the one before still counts, so a cookie lives one to two periods.
 */
export class CookieJar {
  readonly #randomBytes: (lengthBytes: number) => Uint8Array;
  readonly #periodMs: number;
  #version = 0;
  #current: Secret;
  #previous: Secret | null = null;
  #changeAtMs: number | null = null;

  constructor(randomBytes: (lengthBytes: number) => Uint8Array, periodMs: number) {
    this.#randomBytes = randomBytes;
    this.#periodMs = periodMs;
    this.#current = new Secret(randomBytes(SECRET_BYTES));
  }

  issue(nowMs: number, subject: CookieSubject): Uint8Array {
    this.#rotate(nowMs);
    return cookie(this.#version, this.#current, subject);
  }

  verify(nowMs: number, subject: CookieSubject, received: Uint8Array): boolean {
    this.#rotate(nowMs);
    const [version] = received;
    const secret = version === this.#version ? this.#current : this.#previous;
    if (version === undefined || secret === null) return false;
    if (version !== this.#version && version !== ((this.#version + 255) & 0xff)) return false;
    return new Secret(cookie(version, secret, subject)).equals(new Secret(received));
  }

  #rotate(nowMs: number): void {
    this.#changeAtMs ??= nowMs + this.#periodMs;
    if (nowMs < this.#changeAtMs) return;
    const idle = nowMs >= this.#changeAtMs + this.#periodMs;
    this.#previous?.wipe();
    this.#previous = idle ? null : this.#current;
    if (idle) this.#current.wipe();
    this.#current = new Secret(this.#randomBytes(SECRET_BYTES));
    this.#version = (this.#version + 1) & 0xff;
    this.#changeAtMs = nowMs + this.#periodMs;
  }
}

function cookie(version: number, secret: Secret, subject: CookieSubject): Uint8Array {
  const { nonceI, spiI, remote } = subject;
  const mac = prf("hmac-sha2-256", secret.expose(), nonceI, ipToBytes(remote.address), u16be(remote.port), spiI);
  return concatBytes(new Uint8Array([version]), mac);
}
