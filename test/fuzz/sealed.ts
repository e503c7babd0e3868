import { concatBytes, u16be, u64be } from "../../src/core/bytes.ts";
import { aeadSeal, AES_BLOCK_BYTES, cbcEncrypt } from "../../src/crypto/ciphers.ts";
import { integrityTag, integrityTagBytes } from "../../src/crypto/prf.ts";
import { PAYLOAD, PAYLOAD_HEADER_BYTES } from "../../src/ike/wire/constants.ts";
import type { SealingKey } from "../../src/ike/wire/encrypted.ts";
import { headerFor, type HeaderFields } from "../../src/ike/wire/message.ts";

const IKE_HEADER_BYTES = 28;

/** What goes into an SK or SKF payload: any bytes, which need not be a chain of payloads. */
export interface Content {
  readonly firstType: number;
  readonly bytes: Uint8Array;
  /** Number and total of a fragment; null for an SK payload. */
  readonly fragment: readonly [number, number] | null;
}

/** Seals what a peer with the right keys, and no manners, would send. `ivNumber` is never the same twice. */
export function sealAnything(fields: HeaderFields, content: Content, key: SealingKey, ivNumber: bigint): Uint8Array {
  const { fragment, firstType } = content;
  const place = fragment === null ? new Uint8Array(0) : concatBytes(...fragment.map(u16be));
  const type = fragment === null ? PAYLOAD.ENCRYPTED : PAYLOAD.ENCRYPTED_FRAGMENT;
  const isCbc = key.kind === "aes-cbc";
  const plain = padded(content.bytes, isCbc ? AES_BLOCK_BYTES : 1);
  const iv = isCbc ? concatBytes(u64be(0n), u64be(ivNumber)) : u64be(ivNumber);
  const tagBytes = isCbc ? integrityTagBytes(key.integrity) : 16;
  const bodyBytes = PAYLOAD_HEADER_BYTES + place.length + iv.length + plain.length + tagBytes;
  const head = concatBytes(
    headerFor(fields, type, IKE_HEADER_BYTES + bodyBytes),
    new Uint8Array([firstType, 0]),
    u16be(bodyBytes),
    place,
  );
  if (!isCbc) {
    return concatBytes(head, iv, aeadSeal(key.kind, key.key, concatBytes(key.salt.expose(), iv), head, plain));
  }
  const signed = concatBytes(head, iv, cbcEncrypt(key.key, iv, plain));
  return concatBytes(signed, integrityTag(key.integrity, key.integrityKey, signed));
}

function padded(bytes: Uint8Array, blockBytes: number): Uint8Array {
  const whole = new Uint8Array(Math.ceil((bytes.length + 1) / blockBytes) * blockBytes);
  whole.set(bytes);
  whole[whole.length - 1] = whole.length - bytes.length - 1;
  return whole;
}
