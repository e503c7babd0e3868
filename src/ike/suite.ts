import { GCM_SALT_BYTES } from "../sa/suite.ts";
import type { HmacName } from "../crypto/prf.ts";

/** How an IKE SA encrypts its messages. */
export type IkeCipher =
  | { readonly kind: "aes-gcm-16"; readonly keyBits: 128 | 256 }
  | { readonly kind: "aes-cbc"; readonly keyBits: 128 | 256; readonly integrity: HmacName };

/** What IKE_SA_INIT negotiates (RFC 7296 §2.7). */
export interface IkeSuite {
  readonly cipher: IkeCipher;
  readonly prf: HmacName;
  /** Diffie-Hellman group number. */
  readonly group: number;
}

/** Length of SK_ei and SK_er: for GCM the key is followed by its salt (RFC 5282 §7.1). */
export function cipherKeyBytes(cipher: IkeCipher): number {
  return cipher.keyBits / 8 + (cipher.kind === "aes-gcm-16" ? GCM_SALT_BYTES : 0);
}

/** `AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256`: as strongSwan prints it, without the group. */
export function ikeSuiteName(suite: IkeSuite): string {
  const { cipher } = suite;
  const prf = `PRF_${upper(suite.prf)}`;
  if (cipher.kind === "aes-gcm-16") return `AES_GCM_16_${cipher.keyBits}/${prf}`;
  const halfBits = Number(cipher.integrity.slice(-3)) / 2;
  return `AES_CBC_${cipher.keyBits}/${upper(cipher.integrity)}_${halfBits}/${prf}`;
}

function upper(name: string): string {
  return name.toUpperCase().replaceAll("-", "_");
}
