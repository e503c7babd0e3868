import { integrityTagBytes, prf, prfBytes, prfPlus } from "../crypto/prf.ts";
import { concatBytes } from "../core/bytes.ts";
import { Secret } from "../core/secret.ts";
import type { SaHalf } from "../sa/spec.ts";
import { suiteLengths, type ChildSuite } from "../sa/suite.ts";
import { cipherKeyBytes, type IkeCipher, type IkeSuite } from "./suite.ts";
import type { SealingKey } from "./wire/encrypted.ts";

/** Keys of an IKE SA, RFC 7296 §2.14. */
export interface IkeKeys {
  readonly d: Secret;
  /** Seals what the original initiator sends. */
  readonly initiator: SealingKey;
  readonly responder: SealingKey;
  readonly pi: Secret;
  readonly pr: Secret;
}

/** Everything besides the secret that key derivation takes; nonces without payload header. */
export interface KeyContext {
  readonly nonceI: Uint8Array;
  readonly nonceR: Uint8Array;
  readonly spiI: Uint8Array;
  readonly spiR: Uint8Array;
}

const KEY_PAD = new TextEncoder().encode("Key Pad for IKEv2");

/** Keys of the first IKE SA: SKEYSEED = prf(Ni | Nr, g^ir), RFC 7296 §2.14. `shared` is wiped. */
export function deriveIkeKeys(suite: IkeSuite, shared: Secret, context: KeyContext): IkeKeys {
  const seed = prf(suite.prf, concatBytes(context.nonceI, context.nonceR), shared.expose());
  shared.wipe();
  return expand(suite, new Secret(seed), context);
}

/**
 * Keys of an IKE SA that replaces another: SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr) with the old SA's PRF,
 * the rest with the new one's (RFC 7296 §2.18). `shared` is wiped.
 */
export function deriveRekeyedIkeKeys(
  old: { readonly suite: IkeSuite; readonly d: Secret },
  suite: IkeSuite,
  shared: Secret,
  context: KeyContext,
): IkeKeys {
  const seed = prf(old.suite.prf, old.d.expose(), shared.expose(), context.nonceI, context.nonceR);
  shared.wipe();
  return expand(suite, new Secret(seed), context);
}

/** {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr). Wipes the seed. */
function expand(suite: IkeSuite, seed: Secret, context: KeyContext): IkeKeys {
  const { cipher } = suite;
  const prfLength = prfBytes(suite.prf);
  const integrityLength = cipher.kind === "aes-cbc" ? 2 * integrityTagBytes(cipher.integrity) : 0;
  const cipherLength = cipherKeyBytes(cipher);
  const salt = concatBytes(context.nonceI, context.nonceR, context.spiI, context.spiR);
  const stream = prfPlus(suite.prf, seed, salt, 3 * prfLength + 2 * integrityLength + 2 * cipherLength);
  const take = keyStream(stream);
  const d = take(prfLength);
  const ai = take(integrityLength);
  const ar = take(integrityLength);
  const ei = take(cipherLength);
  const er = take(cipherLength);
  const keys: IkeKeys = {
    d,
    initiator: sealingKey(cipher, ei, ai),
    responder: sealingKey(cipher, er, ar),
    pi: take(prfLength),
    pr: take(prfLength),
  };
  stream.fill(0);
  seed.wipe();
  return keys;
}

function keyStream(stream: Uint8Array): (lengthBytes: number) => Secret {
  let offset = 0;
  return (lengthBytes) => {
    const key = new Secret(stream.slice(offset, offset + lengthBytes));
    offset += lengthBytes;
    return key;
  };
}

function sealingKey(cipher: IkeCipher, encryption: Secret, integrityKey: Secret): SealingKey {
  if (cipher.kind === "aes-cbc") {
    return { kind: "aes-cbc", key: encryption, integrity: cipher.integrity, integrityKey };
  }
  const keyBytes = encryption.lengthBytes - suiteLengths(cipher).saltBytes;
  const key = new Secret(encryption.expose().slice(0, keyBytes));
  const salt = new Secret(encryption.expose().slice(keyBytes));
  encryption.wipe();
  return { kind: cipher.kind, key, salt };
}

/** Overwrites every key of an IKE SA that is no more. */
export function wipeIkeKeys(keys: IkeKeys): void {
  for (const secret of [keys.d, keys.pi, keys.pr]) secret.wipe();
  for (const side of [keys.initiator, keys.responder]) {
    side.key.wipe();
    if (side.kind === "aes-cbc") side.integrityKey.wipe();
    else side.salt.wipe();
  }
}

/** The two halves of a Child SA's keys, without SPIs: `toResponder` protects what the exchange's initiator sends. */
export interface ChildKeys {
  readonly toResponder: Omit<SaHalf, "spi">;
  readonly toInitiator: Omit<SaHalf, "spi">;
}

/** KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr), RFC 7296 §2.17; for AH nothing but its integrity keys. `shared` (null without PFS) is wiped. */
export function deriveChildKeys(
  ike: { readonly suite: IkeSuite; readonly d: Secret },
  suite: ChildSuite,
  shared: Secret | null,
  nonces: Pick<KeyContext, "nonceI" | "nonceR">,
): ChildKeys {
  const { encryptionKeyBytes, integrityKeyBytes } = suiteLengths(suite);
  const seed = concatBytes(shared?.expose() ?? new Uint8Array(0), nonces.nonceI, nonces.nonceR);
  const stream = prfPlus(ike.suite.prf, ike.d, seed, 2 * (encryptionKeyBytes + integrityKeyBytes));
  shared?.wipe();
  seed.fill(0);
  const take = keyStream(stream);
  const half = (): Omit<SaHalf, "spi"> => ({
    encryptionKey: take(encryptionKeyBytes),
    integrityKey: integrityKeyBytes === 0 ? null : take(integrityKeyBytes),
  });
  const keys = { toResponder: half(), toInitiator: half() };
  stream.fill(0);
  return keys;
}

/** What one side signs, RFC 7296 §2.15. */
export interface SignedOctets {
  /** That side's IKE_SA_INIT message, from the header on. */
  readonly message: Uint8Array;
  /** The other side's nonce. */
  readonly nonce: Uint8Array;
  /** Body of that side's ID payload. */
  readonly identity: Uint8Array;
}

/** The octets that one side signs, RFC 7296 §2.15: its message, the other's nonce, prf(SK_p, its ID). `macKey` is SK_pi or SK_pr. */
export function signedOctets(suite: IkeSuite, macKey: Secret, octets: SignedOctets): Uint8Array {
  return concatBytes(octets.message, octets.nonce, prf(suite.prf, macKey.expose(), octets.identity));
}

/** AUTH with a shared key: prf(prf(psk, "Key Pad for IKEv2"), octets), RFC 7296 §2.15. `macKey` is SK_pi or SK_pr. */
export function pskAuth(suite: IkeSuite, psk: Secret, macKey: Secret, octets: SignedOctets): Uint8Array {
  const padded = prf(suite.prf, psk.expose(), KEY_PAD);
  const auth = prf(suite.prf, padded, signedOctets(suite, macKey, octets));
  padded.fill(0);
  return auth;
}
