import { EsplexError } from "../core/errors.ts";
import type { EnvelopeWriter } from "./envelope.ts";
import { FrameWriter } from "./frames.ts";
import {
  type BatchKind,
  GRANT_BYTES,
  type GrantBody,
  MAX_RECORDS,
  REQUEST_BYTES,
  type ReserveBody,
  headBytes,
  isGrant,
  isRequest,
  setCount,
  writeGrant,
  writeHead,
  writeRequest,
} from "./reserve-batch.ts";
import { SaIdCache } from "./sa-id-cache.ts";

/**
 * What leaves a connection in one turn of the event loop, in order, as the bytes of one write. Reservations that stand side by
 * side share a frame.
 */
export class Outgoing {
  readonly #name: string;
  readonly #envelopes: EnvelopeWriter;
  readonly #frames: FrameWriter;
  readonly #saIds = new SaIdCache();
  #batch: BatchKind | null = null;
  #records = 0;

  /** `name` is our own, in the head of each batch. */
  constructor(name: string, envelopes: EnvelopeWriter, maxFrameBytes: number) {
    this.#name = name;
    this.#envelopes = envelopes;
    this.#frames = new FrameWriter(maxFrameBytes);
  }

  get lengthBytes(): number {
    return this.#frames.lengthBytes;
  }

  /** A frame that `envelopes` has numbered just now. */
  text(frame: string): void {
    this.#endBatch();
    this.#frames.text(frame);
  }

  /** Throws `bus.protocol` on a body that breaks the schema; nothing of it is sent then. */
  request(id: number, body: ReserveBody): void {
    const sa = this.#saIds.find(body.sa);
    if (sa === null || !isRequest(body)) throw new EsplexError("bus.protocol", "reserve: the body breaks its schema");
    const offset = this.#record("requests", REQUEST_BYTES);
    writeRequest(this.#frames.view, offset, id, sa, body);
  }

  /** As `request`. */
  grant(id: number, body: GrantBody): void {
    if (!isGrant(body)) throw new EsplexError("bus.protocol", "reserve: the grant breaks its schema");
    const offset = this.#record("grants", GRANT_BYTES);
    writeGrant(this.#frames.view, offset, id, body);
  }

  /** All frames since the last call. Throws `bus.protocol` when one of them is too long. */
  take(): Buffer {
    this.#endBatch();
    return this.#frames.take();
  }

  /** Room for one more record, in the open batch or a new one. */
  #record(kind: BatchKind, lengthBytes: number): number {
    if (this.#batch !== kind || this.#records === MAX_RECORDS) {
      this.#endBatch();
      this.#frames.open();
      const head = this.#frames.room(headBytes(this.#name));
      writeHead(this.#frames.view, head, kind, this.#envelopes.number(), this.#name);
      this.#batch = kind;
    }
    this.#records++;
    return this.#frames.room(lengthBytes);
  }

  #endBatch(): void {
    if (this.#batch === null) return;
    setCount(this.#frames.view, this.#frames.bodyOffset, this.#records);
    this.#frames.close();
    this.#batch = null;
    this.#records = 0;
  }
}
