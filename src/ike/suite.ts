import { protocolOf, suiteLengths, suiteName, type ChildSuite } from "../sa/suite.ts";
import type { HmacName } from "../crypto/prf.ts";
import { PROTOCOL } from "./wire/constants.ts";

/** How an IKE SA encrypts its messages: as ESP does, with fewer ciphers (RFC 5282, RFC 7634 §3). */
export type IkeCipher =
  | { readonly kind: "aes-gcm-16"; readonly keyBits: 128 | 256 }
  | { readonly kind: "chacha20-poly1305" }
  | { readonly kind: "aes-cbc"; readonly keyBits: 128 | 256; readonly integrity: HmacName };

/** What IKE_SA_INIT negotiates (RFC 7296 §2.7). */
export interface IkeSuite {
  readonly cipher: IkeCipher;
  readonly prf: HmacName;
  /** Diffie-Hellman group number. */
  readonly group: number;
}

/** Length of SK_ei and SK_er: for an AEAD the key is followed by its salt (RFC 5282 §7.1, RFC 7634 §3). */
export function cipherKeyBytes(cipher: IkeCipher): number {
  return suiteLengths(cipher).encryptionKeyBytes;
}

/** `AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256`: as strongSwan prints it, without the group. */
export function ikeSuiteName(suite: IkeSuite): string {
  return `${suiteName(suite.cipher)}/PRF_${suite.prf.toUpperCase().replaceAll("-", "_")}`;
}

/** Security protocol identifier of a Child SA (RFC 7296 §3.3.1): with its SPI it names one of its halves. */
export function protocolIdOf(suite: ChildSuite): number {
  return protocolOf(suite) === "ah" ? PROTOCOL.AH : PROTOCOL.ESP;
}
