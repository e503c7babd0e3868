import {
  AEAD_TAG_BYTES,
  aeadOpen,
  aeadSeal,
  AES_BLOCK_BYTES,
  cbcDecrypt,
  cbcEncrypt,
  type AeadName,
} from "../../crypto/ciphers.ts";
import { integrityTag, integrityTagBytes, verifyIntegrityTag, type HmacName } from "../../crypto/prf.ts";
import { concatBytes, u16be } from "../../core/bytes.ts";
import { EsplexError, invariant } from "../../core/errors.ts";
import type { Secret } from "../../core/secret.ts";
import { IKE_HEADER_BYTES, PAYLOAD, PAYLOAD_HEADER_BYTES } from "./constants.ts";
import { headerFor, type HeaderFields } from "./message.ts";
import {
  decodePayloads,
  encodePayloads,
  type EncryptedFragmentPayload,
  type EncryptedPayload,
  type Payload,
} from "./payload.ts";

/** Keys of one direction of an IKE SA. */
export type SealingKey =
  | {
      readonly kind: AeadName;
      readonly key: Secret;
      /** 4 bytes, RFC 5282 §4, RFC 7634 §3. */
      readonly salt: Secret;
    }
  | {
      readonly kind: "aes-cbc";
      readonly key: Secret;
      readonly integrity: HmacName;
      readonly integrityKey: Secret;
    };

/** Explicit IV of an AEAD (RFC 5282 §3, RFC 7634 §3). */
const AEAD_IV_BYTES = 8;

/** Length of the IV that {@link sealMessage} wants: for an AEAD it must never repeat, for CBC nobody may foresee it. */
export function ivBytes(kind: SealingKey["kind"]): number {
  return kind === "aes-cbc" ? AES_BLOCK_BYTES : AEAD_IV_BYTES;
}

/** Encodes a message whose payloads all stand inside one SK payload (RFC 7296 §3.14, RFC 5282 §3). */
export function sealMessage(
  fields: HeaderFields,
  payloads: readonly Payload[],
  keys: SealingKey,
  iv: Uint8Array,
): Uint8Array {
  const { firstType, bytes } = encodePayloads(payloads);
  const part = { type: PAYLOAD.ENCRYPTED, innerType: firstType, place: new Uint8Array(0), content: bytes };
  return sealPart(fields, part, keys, iv);
}

/**
 * Encodes a message as SKF fragments of at most `maxBytes` each (RFC 7383 §2.5). `nextIv` gives a fresh IV for each of them.
 */
export function sealFragments(
  fields: HeaderFields,
  payloads: readonly Payload[],
  keys: SealingKey,
  nextIv: () => Uint8Array,
  maxBytes: number,
): Uint8Array[] {
  const { firstType, bytes } = encodePayloads(payloads);
  const blockBytes = keys.kind === "aes-cbc" ? AES_BLOCK_BYTES : 1;
  const overhead =
    IKE_HEADER_BYTES + PAYLOAD_HEADER_BYTES + FRAGMENT_PLACE_BYTES + ivBytes(keys.kind) + sealTagBytes(keys);
  // Whole blocks, one byte of which is the pad length.
  const chunkBytes = Math.floor((maxBytes - overhead) / blockBytes) * blockBytes - 1;
  invariant(chunkBytes > 0, "a fragment has room for content");
  const total = Math.ceil(bytes.length / chunkBytes);
  return Array.from({ length: total }, (_, i) => {
    const part = {
      type: PAYLOAD.ENCRYPTED_FRAGMENT,
      innerType: i === 0 ? firstType : PAYLOAD.NONE,
      place: concatBytes(u16be(i + 1), u16be(total)),
      content: bytes.subarray(i * chunkBytes, (i + 1) * chunkBytes),
    };
    return sealPart(fields, part, keys, nextIv());
  });
}

/** Fragment Number and Total Fragments, RFC 7383 §2.5. */
const FRAGMENT_PLACE_BYTES = 4;

/** What goes into one SK or SKF payload. */
interface Part {
  readonly type: number;
  readonly innerType: number;
  /** What stands between payload header and IV. */
  readonly place: Uint8Array;
  readonly content: Uint8Array;
}

function sealTagBytes(keys: SealingKey): number {
  return keys.kind === "aes-cbc" ? integrityTagBytes(keys.integrity) : AEAD_TAG_BYTES;
}

function sealPart(fields: HeaderFields, part: Part, keys: SealingKey, iv: Uint8Array): Uint8Array {
  invariant(iv.length === ivBytes(keys.kind), "IV length");
  const plaintext = pad(part.content, keys.kind === "aes-cbc" ? AES_BLOCK_BYTES : 1);
  const bodyBytes = part.place.length + iv.length + plaintext.length + sealTagBytes(keys);
  const head = concatBytes(
    headerFor(fields, part.type, IKE_HEADER_BYTES + PAYLOAD_HEADER_BYTES + bodyBytes),
    new Uint8Array([part.innerType, 0]),
    u16be(PAYLOAD_HEADER_BYTES + bodyBytes),
    part.place,
  );
  if (keys.kind !== "aes-cbc") {
    return concatBytes(head, iv, aeadSeal(keys.kind, keys.key, concatBytes(keys.salt.expose(), iv), head, plaintext));
  }
  const authenticated = concatBytes(head, iv, cbcEncrypt(keys.key, iv, plaintext));
  return concatBytes(authenticated, integrityTag(keys.integrity, keys.integrityKey, authenticated));
}

/** Zeros, then their count: together a multiple of the block (RFC 7296 §3.14). */
function pad(bytes: Uint8Array, blockBytes: number): Uint8Array {
  const padded = new Uint8Array(Math.ceil((bytes.length + 1) / blockBytes) * blockBytes);
  padded.set(bytes);
  padded[padded.length - 1] = padded.length - bytes.length - 1;
  return padded;
}

/**
 * Checks and decrypts the SK or SKF payload of `message` (the whole datagram, whose last payload it is); returns what was
 * inside, not yet read. Throws `wire.integrity` when it is not authentic and `wire.short` when it is too short to be.
 */
export function openMessage(message: Uint8Array, sealed: SealedPayload, keys: SealingKey): OpenedMessage {
  const bytes = keys.kind === "aes-cbc" ? openCbc(message, sealed, keys) : openAead(message, sealed, keys);
  return { firstType: sealed.innerType, bytes };
}

type SealedPayload = EncryptedPayload | EncryptedFragmentPayload;

/** The authentic content of an SK or SKF payload: padding and pad length are still at its end. */
export interface OpenedMessage {
  readonly firstType: number;
  readonly bytes: Uint8Array;
}

/** Reads the payloads of an opened message. Errors as in `decodePayloads`; padding of any content is accepted. */
export function openedPayloads(opened: OpenedMessage): Payload[] {
  return decodePayloads(opened.firstType, openedContent(opened));
}

/** The content without its padding: of a fragment, a part of a chain of payloads. Throws `wire.malformed`. */
export function openedContent(opened: OpenedMessage): Uint8Array {
  const padBytes = opened.bytes.at(-1);
  if (padBytes === undefined || padBytes + 1 > opened.bytes.length) {
    throw new EsplexError("wire.malformed", "SK payload: pad length does not fit");
  }
  return opened.bytes.subarray(0, opened.bytes.length - padBytes - 1);
}

function openAead(message: Uint8Array, sealed: SealedPayload, keys: SealingKey & { kind: AeadName }): Uint8Array {
  const { body } = sealed;
  if (body.length < AEAD_IV_BYTES + AEAD_TAG_BYTES)
    throw new EsplexError("wire.short", "SK payload: no room for IV and tag");
  const aad = message.subarray(0, message.length - body.length);
  const nonce = concatBytes(keys.salt.expose(), body.subarray(0, AEAD_IV_BYTES));
  return aeadOpen(keys.kind, keys.key, nonce, aad, body.subarray(AEAD_IV_BYTES));
}

function openCbc(message: Uint8Array, sealed: SealedPayload, keys: SealingKey & { kind: "aes-cbc" }): Uint8Array {
  const { body } = sealed;
  const tagBytes = integrityTagBytes(keys.integrity);
  if (body.length < 2 * AES_BLOCK_BYTES + tagBytes)
    throw new EsplexError("wire.short", "SK payload: no room for IV and tag");
  const tag = body.subarray(body.length - tagBytes);
  if (!verifyIntegrityTag(keys.integrity, keys.integrityKey, message.subarray(0, message.length - tagBytes), tag)) {
    throw new EsplexError("wire.integrity", "wrong integrity tag");
  }
  return cbcDecrypt(
    keys.key,
    body.subarray(0, AES_BLOCK_BYTES),
    body.subarray(AES_BLOCK_BYTES, body.length - tagBytes),
  );
}
