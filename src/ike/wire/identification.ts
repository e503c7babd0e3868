import { ByteReader, concatBytes } from "../../core/bytes.ts";
import { EsplexError } from "../../core/errors.ts";
import { WIRE_LIMITS } from "./limits.ts";

/** IDi or IDr, RFC 7296 §3.5. */
export interface IdentificationPayload {
  readonly kind: "idi" | "idr";
  readonly type: number;
  readonly data: Uint8Array;
}

export function decodeIdentification(kind: "idi" | "idr", body: Uint8Array): IdentificationPayload {
  const reader = new ByteReader(body, "ID payload");
  const type = reader.u8();
  reader.skip(3);
  const data = reader.rest().slice();
  if (data.length > WIRE_LIMITS.identityBytes)
    throw new EsplexError("wire.malformed", `ID payload: ${data.length} bytes`);
  return { kind, type, data };
}

/** The payload's body: also what AUTH signs as IDi' and IDr' (RFC 7296 §2.15). */
export function encodeIdentification(payload: IdentificationPayload): Uint8Array {
  return concatBytes(new Uint8Array([payload.type, 0, 0, 0]), payload.data);
}
