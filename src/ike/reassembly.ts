import { concatBytes } from "../core/bytes.ts";
import { WIRE_LIMITS } from "./wire/limits.ts";
import type { OpenedMessage } from "./wire/encrypted.ts";
import type { EncryptedFragmentPayload } from "./wire/payload.ts";

interface FragmentSet {
  readonly messageId: number;
  readonly total: number;
  readonly startedAtMs: number;
  readonly parts: Map<number, { readonly innerType: number; readonly content: Uint8Array }>;
  bytes: number;
}

/** The pad length that ends an opened message. */
const NO_PADDING = new Uint8Array([0]);

type Place = Pick<EncryptedFragmentPayload, "number" | "total">;

/**
 * Puts the fragments of one direction of an IKE SA together (RFC 7383 §2.6): of one message at a time, each part known to be
 * authentic, never more than a whole message may have.
 */
export class Reassembly {
  #set: FragmentSet | null = null;

  /** Why a fragment is dropped before it is decrypted; null when it is wanted. */
  refusal(
    messageId: number,
    { number, total }: Place,
  ): "fragmentMalformed" | "fragmentOld" | "fragmentRepeated" | null {
    if (number === 0 || number > total || total > WIRE_LIMITS.fragments) return "fragmentMalformed";
    const set = this.#set;
    if (set?.messageId !== messageId) return null;
    if (total < set.total) return "fragmentOld";
    return total === set.total && set.parts.has(number) ? "fragmentRepeated" : null;
  }

  /**
   * Takes an authentic fragment that {@link refusal} lets pass. More fragments than those before mean a new, finer set
   * (§2.5.2). Returns the message when it is complete, `tooLong` (and forgets it) beyond the limit.
   */
  add(
    nowMs: number,
    messageId: number,
    { number, total }: Place,
    part: { readonly innerType: number; readonly content: Uint8Array },
  ): OpenedMessage | "incomplete" | "tooLong" {
    let set = this.#set;
    if (set === null || set.messageId !== messageId || set.total !== total) {
      set = { messageId, total, startedAtMs: nowMs, parts: new Map(), bytes: 0 };
      this.#set = set;
    }
    set.parts.set(number, part);
    set.bytes += part.content.length;
    if (set.bytes > WIRE_LIMITS.messageBytes) {
      this.clear();
      return "tooLong";
    }
    if (set.parts.size < total) return "incomplete";
    this.clear();
    const parts = [...set.parts].sort(([a], [b]) => a - b).map(([, sorted]) => sorted);
    const content = parts.map((sorted) => sorted.content);
    return { firstType: parts[0]?.innerType ?? 0, bytes: concatBytes(...content, NO_PADDING) };
  }

  /** Forgets a set that is older than this. */
  expire(nowMs: number, afterMs: number): void {
    if (this.#set !== null && nowMs >= this.#set.startedAtMs + afterMs) this.clear();
  }

  clear(): void {
    this.#set = null;
  }
}
