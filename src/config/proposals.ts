import type { AhSuite, EspIntegrity, EspSuite } from "../sa/suite.ts";

/** An IKE suite of the cluster file: `IkeSuite` of `ike/`, which this layer does not know. */
export interface IkeSuiteConfig {
  readonly cipher: Extract<EspSuite, { kind: "chacha20-poly1305" }> | IkeGcm | IkeCbc;
  readonly prf: EspIntegrity;
  /** Number of the Diffie-Hellman group. */
  readonly group: number;
}
interface IkeGcm {
  readonly kind: "aes-gcm-16";
  readonly keyBits: 128 | 256;
}
interface IkeCbc {
  readonly kind: "aes-cbc";
  readonly keyBits: 128 | 256;
  readonly integrity: EspIntegrity;
}

type Aead = Exclude<EspSuite, { integrity: EspIntegrity }>;
/** A cipher that still lacks its integrity algorithm. */
type Bare = { readonly kind: "aes-cbc" | "aes-ctr"; readonly keyBits: 128 | 256 } | { readonly kind: "null" };

// The words are strongSwan's (`swanctl.conf`, `proposals` and `esp_proposals`), each with the aliases that are in use.
const AEADS = words<Aead>([
  ["aes128gcm16 aes128gcm128 aes128gcm", { kind: "aes-gcm-16", keyBits: 128 }],
  ["aes256gcm16 aes256gcm128 aes256gcm", { kind: "aes-gcm-16", keyBits: 256 }],
  ["chacha20poly1305", { kind: "chacha20-poly1305" }],
  ["aes128ccm16 aes128ccm128 aes128ccm", { kind: "aes-ccm-16", keyBits: 128 }],
  ["aes256ccm16 aes256ccm128 aes256ccm", { kind: "aes-ccm-16", keyBits: 256 }],
]);
const CIPHERS = words<Bare>([
  ["aes128 aes", { kind: "aes-cbc", keyBits: 128 }],
  ["aes256", { kind: "aes-cbc", keyBits: 256 }],
  ["aes128ctr", { kind: "aes-ctr", keyBits: 128 }],
  ["aes256ctr", { kind: "aes-ctr", keyBits: 256 }],
  ["null", { kind: "null" }],
]);
const HMACS = words<EspIntegrity>([
  ["sha256 sha2_256", "hmac-sha2-256"],
  ["sha384 sha2_384", "hmac-sha2-384"],
  ["sha512 sha2_512", "hmac-sha2-512"],
]);
const PRFS = words<EspIntegrity>([
  ["prfsha256", "hmac-sha2-256"],
  ["prfsha384", "hmac-sha2-384"],
  ["prfsha512", "hmac-sha2-512"],
]);
const GROUPS = words<number>([
  ["x25519 curve25519", 31],
  ["ecp256", 19],
  ["ecp384", 20],
  ["ecp521", 21],
  ["modp2048", 14],
  ["modp3072", 15],
  ["modp4096", 16],
]);

function words<T>(lines: readonly (readonly [string, T])[]): ReadonlyMap<string, T> {
  return new Map(lines.flatMap(([names, value]) => names.split(" ").map((name): [string, T] => [name, value])));
}

/**
 * The suites of one proposal in strongSwan's words, `aes256-aes128-sha256`: every cipher with every integrity algorithm.
 * Null for anything else: an unknown word, a cipher without what it needs, an AEAD beside an integrity algorithm.
 */
export function parseEspProposal(text: string): EspSuite[] | null {
  const rest = new Set(text.split("-"));
  const ciphers = takeCiphers(rest);
  return rest.size === 0 ? ciphers : null;
}

/** The same for AH, `sha256-sha512`: integrity algorithms and nothing else. */
export function parseAhProposal(text: string): AhSuite[] | null {
  const rest = new Set(text.split("-"));
  const hmacs = take(rest, HMACS);
  return rest.size > 0 || hmacs.length === 0 ? null : hmacs.map((integrity) => ({ kind: "ah", integrity }));
}

/**
 * The same for IKE: `aes128-sha256-x25519`, `aes256gcm16-prfsha384-ecp384`. Without a PRF the integrity algorithms are it, so an
 * AEAD needs one.
 */
export function parseIkeProposal(text: string): IkeSuiteConfig[] | null {
  const rest = new Set(text.split("-"));
  const hmacs = [...rest].flatMap((word) => HMACS.get(word) ?? []);
  const named = take(rest, PRFS);
  const groups = take(rest, GROUPS);
  const ciphers = takeCiphers(rest);
  const prfs = named.length > 0 ? named : hmacs;
  if (rest.size > 0 || ciphers === null || prfs.length === 0 || groups.length === 0) return null;
  const suites: IkeSuiteConfig[] = [];
  for (const cipher of ciphers) {
    if (cipher.kind !== "aes-gcm-16" && cipher.kind !== "chacha20-poly1305" && cipher.kind !== "aes-cbc") return null;
    const own = cipher as IkeSuiteConfig["cipher"];
    suites.push(...prfs.flatMap((prf) => groups.map((group) => ({ cipher: own, prf, group }))));
  }
  return suites;
}

function takeCiphers(rest: Set<string>): EspSuite[] | null {
  const aeads = take(rest, AEADS);
  const bare = take(rest, CIPHERS);
  const hmacs = take(rest, HMACS);
  if (aeads.length > 0) return bare.length > 0 || hmacs.length > 0 ? null : aeads;
  if (bare.length === 0 || hmacs.length === 0) return null;
  return bare.flatMap((cipher) => hmacs.map((integrity): EspSuite => ({ ...cipher, integrity })));
}

/** Removes the words of a table from the proposal; returns what they mean, in the proposal's order. */
function take<T>(rest: Set<string>, table: ReadonlyMap<string, T>): T[] {
  return [...rest].flatMap((word) => {
    const value = table.get(word);
    if (value !== undefined) rest.delete(word);
    return value ?? [];
  });
}

const AEAD_WORDS = "aes128gcm16, aes256gcm16, chacha20poly1305";
const HMAC_WORDS = "-sha256, -sha384 or -sha512";
const GROUP_WORDS = "x25519, ecp256, ecp384, ecp521, modp2048, modp3072 or modp4096";

/** What stands behind "allowed:". */
export const ESP_PROPOSALS =
  `a list of 1 to 32 of strongSwan's ESP proposals without groups and esn: ${AEAD_WORDS}, aes128ccm16, aes256ccm16; ` +
  `or aes128, aes256, aes128ctr, aes256ctr, null with ${HMAC_WORDS}`;
export const AH_PROPOSALS =
  "a list of 1 to 32 of strongSwan's AH proposals without groups and esn: sha256, sha384, sha512";
export const IKE_PROPOSALS =
  `a list of 1 to 32 of strongSwan's IKE proposals: ${AEAD_WORDS} with -prfsha256, -prfsha384 or -prfsha512; ` +
  `or aes128, aes256 with ${HMAC_WORDS}; and a group, -${GROUP_WORDS}`;
