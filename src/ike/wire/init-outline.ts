import { ByteReader } from "../../core/bytes.ts";
import { EsplexError } from "../../core/errors.ts";
import { IKE_HEADER_BYTES, NOTIFY, PAYLOAD, PAYLOAD_HEADER_BYTES } from "./constants.ts";
import type { IkeHeader } from "./header.ts";
import { decodeNonce } from "./key-exchange.ts";
import { WIRE_LIMITS } from "./limits.ts";
import { decodeNotify } from "./notify.ts";

/** What an IKE_SA_INIT request is judged by while many are half open; its proposals, which cost most, are not looked at. */
export interface InitOutline {
  readonly nonce: Uint8Array;
  /** Data of the COOKIE notify, which must be the first payload (RFC 7296 §2.6); null without one. */
  readonly cookie: Uint8Array | null;
}

/** Reads the nonce and the cookie and steps over all else. Throws `wire.*`. */
export function outlineInit(header: IkeHeader, bytes: Uint8Array): InitOutline {
  if (header.lengthBytes !== bytes.length)
    throw new EsplexError("wire.malformed", "IKE_SA_INIT: not as long as it says");
  const reader = new ByteReader(bytes, "IKE_SA_INIT");
  reader.skip(IKE_HEADER_BYTES);
  let cookie: Uint8Array | null = null;
  let type = header.nextPayload;
  for (let count = 0; type !== PAYLOAD.NONE && count < WIRE_LIMITS.payloads; count++) {
    const next = reader.u8();
    reader.skip(1);
    const bodyBytes = reader.u16() - PAYLOAD_HEADER_BYTES;
    if (type === PAYLOAD.NONCE) return { nonce: decodeNonce(reader.bytes(bodyBytes)).nonce, cookie };
    if (type === PAYLOAD.NOTIFY && count === 0) cookie = cookieIn(reader.bytes(bodyBytes));
    else reader.skip(bodyBytes);
    type = next;
  }
  throw new EsplexError("wire.malformed", "IKE_SA_INIT: no nonce");
}

function cookieIn(body: Uint8Array): Uint8Array | null {
  const { type, data } = decodeNotify(body);
  return type === NOTIFY.COOKIE && data.length <= WIRE_LIMITS.cookieMaxBytes ? data : null;
}
