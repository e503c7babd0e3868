import { timingSafeEqual } from "node:crypto";
import { inspect } from "node:util";

const REDACTED = "[secret]";

/**
 * Key bytes. No way of printing shows them: `String`, template literals, `JSON.stringify`, `util.inspect` and log
 * serialisers all give `[secret]`. The bytes come out through `expose` alone, so that every use can be found by name.
 */
export class Secret {
  readonly #bytes: Uint8Array;

  /** Takes ownership of `bytes`: the caller must not keep or change them. */
  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get lengthBytes(): number {
    return this.#bytes.length;
  }

  /** The bytes themselves, for a cipher, a kernel message or the bus. Never keep the result. */
  expose(): Uint8Array {
    return this.#bytes;
  }

  /** Compares in constant time (for equal lengths). */
  equals(other: Secret): boolean {
    return this.#bytes.length === other.#bytes.length && timingSafeEqual(this.#bytes, other.#bytes);
  }

  /** Overwrites the bytes. The secret is all zeros afterwards: only for one that nobody uses any more. */
  wipe(): void {
    this.#bytes.fill(0);
  }

  toString(): string {
    return REDACTED;
  }

  toJSON(): string {
    return REDACTED;
  }

  [inspect.custom](): string {
    return REDACTED;
  }
}
