import { ByteReader, concatBytes, u16be } from "../../core/bytes.ts";
import { EsplexError, unreachable } from "../../core/errors.ts";
import {
  decodeAuth,
  decodeCert,
  decodeCertRequest,
  encodeAuth,
  encodeCert,
  encodeCertRequest,
  type AuthPayload,
  type CertPayload,
  type CertRequestPayload,
} from "./authentication.ts";
import { FIRST_STATUS_NOTIFY, PAYLOAD, PAYLOAD_HEADER_BYTES } from "./constants.ts";
import { decodeDelete, encodeDelete, type DeletePayload } from "./delete.ts";
import { decodeIdentification, encodeIdentification, type IdentificationPayload } from "./identification.ts";
import { decodeKe, decodeNonce, encodeKe, encodeNonce, type KePayload, type NoncePayload } from "./key-exchange.ts";
import { WIRE_LIMITS } from "./limits.ts";
import { decodeNotify, encodeNotify, type NotifyPayload } from "./notify.ts";
import { decodeSa, encodeSa, type SaPayload } from "./security-association.ts";
import { decodeTrafficSelectors, encodeTrafficSelectors, type TrafficSelectorPayload } from "./traffic-selectors.ts";

/** Vendor ID, RFC 7296 §3.12: free text of the peer's making. */
export interface VendorPayload {
  readonly kind: "vendor";
  readonly data: Uint8Array;
}

/** SK (RFC 7296 §3.14): still sealed. It is the last payload; `innerType` is the type of the first one inside. */
export interface EncryptedPayload {
  readonly kind: "encrypted";
  readonly innerType: number;
  readonly body: Uint8Array;
}

/** SKF (RFC 7383 §2.5): a part of an encrypted message; also the last payload. `body` begins with the IV. */
export interface EncryptedFragmentPayload {
  readonly kind: "encryptedFragment";
  readonly innerType: number;
  /** From 1. */
  readonly number: number;
  readonly total: number;
  readonly body: Uint8Array;
}

/** A payload that we do not read: unknown, or known but of no use to us (CP, EAP). */
export interface UnknownPayload {
  readonly kind: "unknown";
  readonly type: number;
  readonly critical: boolean;
  readonly body: Uint8Array;
}

/** The payload that has this kind. */
export type PayloadOf<K extends Payload["kind"]> = Payload extends infer P
  ? P extends { readonly kind: infer Kinds }
    ? K extends Kinds
      ? P & { readonly kind: K }
      : never
    : never
  : never;

export type Payload =
  | SaPayload
  | KePayload
  | NoncePayload
  | IdentificationPayload
  | CertPayload
  | CertRequestPayload
  | AuthPayload
  | NotifyPayload
  | DeletePayload
  | VendorPayload
  | TrafficSelectorPayload
  | EncryptedPayload
  | EncryptedFragmentPayload
  | UnknownPayload;

const CRITICAL = 0x80;

/** Types whose critical bit means nothing to us, because RFC 7296 §3.2 defines them: we know them and skip them. */
const KNOWN_AND_SKIPPED: readonly number[] = [PAYLOAD.CONFIGURATION, PAYLOAD.EAP];

/**
 * Reads a chain of payloads that fills `bytes`. Throws `wire.*` when one is malformed, and
 * `peer.unsupportedCriticalPayload` (with `details.type`) for an unknown one that must not be skipped (RFC 7296 §2.5).
 */
export function decodePayloads(firstType: number, bytes: Uint8Array): Payload[] {
  const reader = new ByteReader(bytes, "payload chain");
  const payloads: Payload[] = [];
  let type = firstType;
  while (type !== PAYLOAD.NONE) {
    if (payloads.length === WIRE_LIMITS.payloads) throw new EsplexError("wire.malformed", "too many payloads");
    const next = reader.u8();
    const critical = (reader.u8() & CRITICAL) !== 0;
    const body = reader.bytes(reader.u16() - PAYLOAD_HEADER_BYTES);
    if (type === PAYLOAD.ENCRYPTED) {
      payloads.push({ kind: "encrypted", innerType: next, body });
      break;
    }
    if (type === PAYLOAD.ENCRYPTED_FRAGMENT) {
      payloads.push(decodeFragment(next, body));
      break;
    }
    payloads.push(decodeBody(type, critical, body));
    type = next;
  }
  reader.end();
  return payloads;
}

function decodeFragment(innerType: number, body: Uint8Array): EncryptedFragmentPayload {
  const reader = new ByteReader(body, "SKF payload");
  return { kind: "encryptedFragment", innerType, number: reader.u16(), total: reader.u16(), body: reader.rest() };
}

function decodeBody(type: number, critical: boolean, body: Uint8Array): Payload {
  switch (type) {
    case PAYLOAD.SA:
      return decodeSa(body);
    case PAYLOAD.KE:
      return decodeKe(body);
    case PAYLOAD.IDI:
      return decodeIdentification("idi", body);
    case PAYLOAD.IDR:
      return decodeIdentification("idr", body);
    case PAYLOAD.CERT:
      return decodeCert(body);
    case PAYLOAD.CERTREQ:
      return decodeCertRequest(body);
    case PAYLOAD.AUTH:
      return decodeAuth(body);
    case PAYLOAD.NONCE:
      return decodeNonce(body);
    case PAYLOAD.NOTIFY:
      return decodeNotify(body);
    case PAYLOAD.DELETE:
      return decodeDelete(body);
    case PAYLOAD.VENDOR:
      return { kind: "vendor", data: body.slice() };
    case PAYLOAD.TSI:
      return decodeTrafficSelectors("tsi", body);
    case PAYLOAD.TSR:
      return decodeTrafficSelectors("tsr", body);
    default:
      if (critical && !KNOWN_AND_SKIPPED.includes(type)) {
        throw new EsplexError("peer.unsupportedCriticalPayload", `critical payload of unknown type ${type}`, { type });
      }
      return { kind: "unknown", type, critical, body: body.slice() };
  }
}

/** Encodes a chain of payloads; `firstType` belongs in the header (or SK payload) that stands before it. */
export function encodePayloads(payloads: readonly Payload[]): { firstType: number; bytes: Uint8Array } {
  const types = payloads.map(typeOf);
  const parts = payloads.map((payload, i) => {
    const body = encodeBody(payload);
    const next = "innerType" in payload ? payload.innerType : (types[i + 1] ?? PAYLOAD.NONE);
    const flags = payload.kind === "unknown" && payload.critical ? CRITICAL : 0;
    return concatBytes(new Uint8Array([next, flags]), u16be(body.length + PAYLOAD_HEADER_BYTES), body);
  });
  return { firstType: types[0] ?? PAYLOAD.NONE, bytes: concatBytes(...parts) };
}

function encodeBody(payload: Payload): Uint8Array {
  switch (payload.kind) {
    case "sa":
      return encodeSa(payload);
    case "ke":
      return encodeKe(payload);
    case "idi":
    case "idr":
      return encodeIdentification(payload);
    case "cert":
      return encodeCert(payload);
    case "certreq":
      return encodeCertRequest(payload);
    case "auth":
      return encodeAuth(payload);
    case "nonce":
      return encodeNonce(payload);
    case "notify":
      return encodeNotify(payload);
    case "delete":
      return encodeDelete(payload);
    case "vendor":
      return payload.data;
    case "tsi":
    case "tsr":
      return encodeTrafficSelectors(payload);
    case "encryptedFragment":
      return concatBytes(u16be(payload.number), u16be(payload.total), payload.body);
    case "encrypted":
    case "unknown":
      return payload.body;
    default:
      return unreachable(payload);
  }
}

const TYPE_OF_KIND = {
  sa: PAYLOAD.SA,
  ke: PAYLOAD.KE,
  idi: PAYLOAD.IDI,
  idr: PAYLOAD.IDR,
  cert: PAYLOAD.CERT,
  certreq: PAYLOAD.CERTREQ,
  auth: PAYLOAD.AUTH,
  nonce: PAYLOAD.NONCE,
  notify: PAYLOAD.NOTIFY,
  delete: PAYLOAD.DELETE,
  vendor: PAYLOAD.VENDOR,
  tsi: PAYLOAD.TSI,
  tsr: PAYLOAD.TSR,
  encrypted: PAYLOAD.ENCRYPTED,
  encryptedFragment: PAYLOAD.ENCRYPTED_FRAGMENT,
} as const;

/** The payload's type number on the wire. */
function typeOf(payload: Payload): number {
  return payload.kind === "unknown" ? payload.type : TYPE_OF_KIND[payload.kind];
}

/** The first payload of this kind. */
export function findPayload<K extends Payload["kind"]>(
  payloads: readonly Payload[],
  kind: K,
): PayloadOf<K> | undefined {
  return payloads.find((payload): payload is PayloadOf<K> => payload.kind === kind);
}

/** The only payload of this kind. Throws `peer.invalidSyntax` when it is missing or stands there twice. */
export function requirePayload<K extends Payload["kind"]>(payloads: readonly Payload[], kind: K): PayloadOf<K> {
  const found = payloads.filter((payload): payload is PayloadOf<K> => payload.kind === kind);
  const [first] = found;
  if (first === undefined || found.length > 1) {
    throw new EsplexError("peer.invalidSyntax", `${found.length} ${kind} payloads where one is needed`);
  }
  return first;
}

/** The first notify that is an error (RFC 7296 §3.10.1); null for none. */
export function findError(payloads: readonly Payload[]): NotifyPayload | null {
  const isNotifiedError = (payload: Payload): payload is NotifyPayload =>
    payload.kind === "notify" && payload.type < FIRST_STATUS_NOTIFY;
  return payloads.find(isNotifiedError) ?? null;
}

/** The first notify of this type. */
export function findNotify(payloads: readonly Payload[], type: number): NotifyPayload | undefined {
  return payloads.find((payload): payload is NotifyPayload => payload.kind === "notify" && payload.type === type);
}
