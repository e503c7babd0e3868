import { ByteReader, concatBytes, u16be } from "../../core/bytes.ts";
import { EsplexError } from "../../core/errors.ts";
import { WIRE_LIMITS } from "./limits.ts";

/** RFC 7296 §3.4. */
export interface KePayload {
  readonly kind: "ke";
  readonly group: number;
  readonly value: Uint8Array;
}

/** RFC 7296 §3.9. */
export interface NoncePayload {
  readonly kind: "nonce";
  readonly nonce: Uint8Array;
}

export function decodeKe(body: Uint8Array): KePayload {
  const reader = new ByteReader(body, "KE payload");
  const group = reader.u16();
  reader.skip(2);
  return { kind: "ke", group, value: reader.rest().slice() };
}

export function encodeKe(payload: KePayload): Uint8Array {
  return concatBytes(u16be(payload.group), u16be(0), payload.value);
}

export function decodeNonce(body: Uint8Array): NoncePayload {
  if (body.length < WIRE_LIMITS.nonceMinBytes || body.length > WIRE_LIMITS.nonceMaxBytes) {
    throw new EsplexError("wire.malformed", `Nonce payload: ${body.length} bytes`);
  }
  return { kind: "nonce", nonce: body.slice() };
}

export function encodeNonce(payload: NoncePayload): Uint8Array {
  return payload.nonce;
}
