import { ByteReader, concatBytes } from "../../core/bytes.ts";

/** RFC 7296 §3.8. */
export interface AuthPayload {
  readonly kind: "auth";
  readonly method: number;
  readonly data: Uint8Array;
}

/** CERT, RFC 7296 §3.6. */
export interface CertPayload {
  readonly kind: "cert";
  readonly encoding: number;
  readonly data: Uint8Array;
}

/** CERTREQ, RFC 7296 §3.7. */
export interface CertRequestPayload {
  readonly kind: "certreq";
  readonly encoding: number;
  readonly authorities: Uint8Array;
}

export function decodeAuth(body: Uint8Array): AuthPayload {
  const reader = new ByteReader(body, "AUTH payload");
  const method = reader.u8();
  reader.skip(3);
  return { kind: "auth", method, data: reader.rest().slice() };
}

export function encodeAuth(payload: AuthPayload): Uint8Array {
  return concatBytes(new Uint8Array([payload.method, 0, 0, 0]), payload.data);
}

export function decodeCert(body: Uint8Array): CertPayload {
  const reader = new ByteReader(body, "CERT payload");
  return { kind: "cert", encoding: reader.u8(), data: reader.rest().slice() };
}

export function encodeCert(payload: CertPayload): Uint8Array {
  return concatBytes(new Uint8Array([payload.encoding]), payload.data);
}

export function decodeCertRequest(body: Uint8Array): CertRequestPayload {
  const reader = new ByteReader(body, "CERTREQ payload");
  return { kind: "certreq", encoding: reader.u8(), authorities: reader.rest().slice() };
}

export function encodeCertRequest(payload: CertRequestPayload): Uint8Array {
  return concatBytes(new Uint8Array([payload.encoding]), payload.authorities);
}
