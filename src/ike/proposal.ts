import { DH_GROUPS } from "../crypto/dh.ts";
import type { HmacName } from "../crypto/prf.ts";
import { EsplexError } from "../core/errors.ts";
import { DEFAULT_ESP_SUITES, sameSuite, type ChildSuite, type EspSuite } from "../sa/suite.ts";
import type { EsnPolicy } from "./environment.ts";
import { ikeSuiteName, type IkeCipher, type IkeSuite } from "./suite.ts";
import { DH_NONE, ENCRYPTION, ESN, INTEGRITY, PRF, PROTOCOL, TRANSFORM } from "./wire/constants.ts";
import { keyBitsOf, transform, type Proposal, type SaPayload, type Transform } from "./wire/security-association.ts";

/** A proposal of the peer's that we accept: `answer` is the SA payload's only proposal in our response, but for its SPI. */
export interface ChosenIke {
  readonly suite: IkeSuite;
  readonly offered: Proposal;
  readonly answer: Omit<Proposal, "spi">;
}

/** The same for a Child SA, of ESP or AH. */
export interface ChosenEsp {
  readonly suite: ChildSuite;
  /** Group for PFS, null without. */
  readonly group: number | null;
  /** Extended sequence numbers. */
  readonly esn: boolean;
  /** The peer's inbound SPI. */
  readonly spi: number;
  readonly answer: Omit<Proposal, "spi">;
}

/** What a peer may have for a Child SA. */
export interface EspPolicy {
  /** Of ESP and of AH. Null: `DEFAULT_ESP_SUITES`. */
  readonly espSuites: readonly ChildSuite[] | null;
  readonly esn: EsnPolicy;
}

/** What the peer sent as KE payload: `null` when it sent none. */
type KeGroup = number | null;

const HMACS: readonly { name: HmacName; prf: number; integrity: number }[] = [
  { name: "hmac-sha2-256", prf: PRF.HMAC_SHA2_256, integrity: INTEGRITY.HMAC_SHA2_256_128 },
  { name: "hmac-sha2-384", prf: PRF.HMAC_SHA2_384, integrity: INTEGRITY.HMAC_SHA2_384_192 },
  { name: "hmac-sha2-512", prf: PRF.HMAC_SHA2_512, integrity: INTEGRITY.HMAC_SHA2_512_256 },
];

/** Transform IDs by cipher. Those with an implicit IV (29 to 31, RFC 8750) are left out on purpose: see `nonce-budget.ts`. */
const CIPHER_IDS: Readonly<Record<EspSuite["kind"], number>> = {
  "aes-gcm-16": ENCRYPTION.AES_GCM_16,
  "aes-ccm-16": ENCRYPTION.AES_CCM_16,
  "chacha20-poly1305": ENCRYPTION.CHACHA20_POLY1305,
  "aes-cbc": ENCRYPTION.AES_CBC,
  "aes-ctr": ENCRYPTION.AES_CTR,
  null: ENCRYPTION.NULL,
};

const KNOWN_IKE_TYPES: readonly number[] = [TRANSFORM.ENCRYPTION, TRANSFORM.PRF, TRANSFORM.INTEGRITY, TRANSFORM.DH];
const KNOWN_ESP_TYPES: readonly number[] = [TRANSFORM.ENCRYPTION, TRANSFORM.INTEGRITY, TRANSFORM.DH, TRANSFORM.ESN];
/** AH encrypts nothing: a proposal of AH that says otherwise is none (RFC 7296 §3.3.3). */
const KNOWN_AH_TYPES: readonly number[] = [TRANSFORM.INTEGRITY, TRANSFORM.DH, TRANSFORM.ESN];

/** A transform with what it means to us. */
interface Option<T> {
  readonly value: T;
  readonly transform: Transform;
}

/**
 * Chooses an IKE suite: the peer's order decides, except that its KE payload's group wins over the others of the same
 * proposal (no second round trip). Throws `peer.noProposalChosen`. The caller compares `suite.group` with the KE payload.
 */
export function chooseIke(
  payload: SaPayload,
  keGroup: number,
  spiBytes: number,
  allowed: readonly IkeSuite[] | null,
): ChosenIke {
  for (const offered of payload.proposals) {
    if (offered.protocol !== PROTOCOL.IKE || offered.spi.length !== spiBytes) continue;
    if (!offered.transforms.every(({ type }) => KNOWN_IKE_TYPES.includes(type))) continue;
    const groups = keFirst(groupOptions(offered), keGroup);
    for (const cipher of cipherOptions(offered).filter(isForIke)) {
      for (const prf of prfOptions(offered)) {
        for (const group of groups) {
          const suite: IkeSuite = { cipher: cipher.value, prf: prf.value, group: group.value };
          if (allowed !== null && !allowed.some((other) => sameIkeSuite(other, suite))) continue;
          const transforms = [...cipher.transforms, prf.transform, group.transform];
          return { suite, offered, answer: { number: offered.number, protocol: PROTOCOL.IKE, transforms } };
        }
      }
    }
  }
  throw new EsplexError("peer.noProposalChosen", "no IKE proposal is acceptable", {
    offered: payload.proposals.length,
  });
}

/**
 * Chooses a suite of ESP or AH and the length of its numbers, in the peer's order: one proposal, hence one protocol (RFC 7296 §3.3). `pfs` says whether groups may be negotiated at
 * all (never in IKE_AUTH, RFC 7296 §1.2). Throws `peer.noProposalChosen`, or `peer.invalidKePayload` with `details.group`
 * when the KE payload is of another group than the acceptable one.
 */
export function chooseEsp(
  payload: SaPayload,
  keGroup: KeGroup,
  pfs: boolean,
  { espSuites, esn: esnPolicy }: EspPolicy,
): ChosenEsp {
  const allowed = espSuites ?? DEFAULT_ESP_SUITES;
  for (const offered of payload.proposals) {
    const spi = childSpi(offered);
    if (spi === null || !offered.transforms.every(({ type }) => typesOf(offered).includes(type))) continue;
    const numbers = chooseNumbers(offered, esnPolicy);
    const group = chooseEspGroup(offered, keGroup, pfs);
    if (numbers === undefined || group === undefined) continue;
    for (const cipher of offered.protocol === PROTOCOL.AH ? ahOptions(offered) : cipherOptions(offered)) {
      if (!allowed.some((other) => sameSuite(other, cipher.value))) continue;
      checkKeGroup(group.value, keGroup);
      const transforms = [...cipher.transforms, ...group.transforms, numbers.transform];
      const answer = { number: offered.number, protocol: offered.protocol, transforms };
      return { suite: cipher.value, group: group.value, esn: numbers.value, spi, answer };
    }
  }
  throw new EsplexError("peer.noProposalChosen", "no ESP or AH proposal is acceptable", {
    offered: payload.proposals.length,
  });
}

/** Throws `peer.invalidKePayload` when the KE payload is not of the wanted group (RFC 7296 §1.2, §1.3.1). */
export function checkKeGroup(wanted: number | null, keGroup: KeGroup): void {
  if (wanted === null || wanted === keGroup) return;
  throw new EsplexError("peer.invalidKePayload", `KE payload of group ${keGroup ?? "none"}, wanted ${wanted}`, {
    group: wanted,
  });
}

/** The SPI of a proposal of ESP or AH. */
function childSpi(offered: Proposal): number | null {
  const isChild = offered.protocol === PROTOCOL.ESP || offered.protocol === PROTOCOL.AH;
  if (!isChild || offered.spi.length !== 4) return null;
  const spi = new DataView(offered.spi.buffer, offered.spi.byteOffset).getUint32(0);
  return spi >= FIRST_CHILD_SPI ? spi : null;
}

/** SPIs 1 to 255 are reserved, 0 is local (RFC 4303 §2.1, RFC 4302 §2.4). */
const FIRST_CHILD_SPI = 256;

function typesOf({ protocol }: Proposal): readonly number[] {
  return protocol === PROTOCOL.AH ? KNOWN_AH_TYPES : KNOWN_ESP_TYPES;
}

function chooseEspGroup(
  offered: Proposal,
  keGroup: KeGroup,
  pfs: boolean,
): { value: number | null; transforms: readonly Transform[] } | undefined {
  const offers = offered.transforms.filter(({ type }) => type === TRANSFORM.DH);
  if (offers.length === 0) return { value: null, transforms: [] };
  const none = offers.find(({ id }) => id === DH_NONE);
  const groups = pfs ? keFirst(groupOptions(offered), keGroup) : [];
  const [first] = groups;
  if (none !== undefined && (first === undefined || first.value !== keGroup))
    return { value: null, transforms: [none] };
  return first === undefined ? undefined : { value: first.value, transforms: [first.transform] };
}

/**
 * 32-bit or extended numbers (RFC 7296 §3.3.2). Every ESP proposal must say which it takes (§3.3.3): one without a
 * transform of this type offers neither. Within a proposal the first listed wins, but that `prefer` takes extended ones.
 */
function chooseNumbers(offered: Proposal, policy: EsnPolicy): Option<boolean> | undefined {
  const options = offered.transforms
    .filter(({ type, attributes }) => type === TRANSFORM.ESN && attributes.length === 0)
    .filter(({ id }) => id === ESN.NO || (id === ESN.YES && policy !== "never"))
    .map((found) => ({ value: found.id === ESN.YES, transform: found }));
  const extended = options.find(({ value }) => value);
  return policy === "prefer" ? (extended ?? options[0]) : options[0];
}

function groupOptions(offered: Proposal): Option<number>[] {
  return offered.transforms
    .filter(
      ({ type, id, attributes }) =>
        type === TRANSFORM.DH && attributes.length === 0 && DH_GROUPS.some((g) => g.id === id),
    )
    .map((found) => ({ value: found.id, transform: found }));
}

function keFirst(groups: readonly Option<number>[], keGroup: KeGroup): Option<number>[] {
  return [...groups.filter(({ value }) => value === keGroup), ...groups.filter(({ value }) => value !== keGroup)];
}

function prfOptions(offered: Proposal): Option<HmacName>[] {
  return offered.transforms.flatMap((found) => {
    const hmac = found.type === TRANSFORM.PRF && keyBitsOf(found) === null && HMACS.find(({ prf }) => prf === found.id);
    return hmac ? [{ value: hmac.name, transform: found }] : [];
  });
}

/** A cipher with the integrity algorithm that it needs. */
interface CipherOption<T extends ChildSuite = EspSuite> {
  readonly value: T;
  readonly transforms: readonly Transform[];
}

function isForIke(option: CipherOption): option is CipherOption<IkeCipher> {
  const { kind } = option.value;
  return kind === "aes-gcm-16" || kind === "chacha20-poly1305" || kind === "aes-cbc";
}

/** Every integrity algorithm of a proposal of AH that we know, in the peer's order; NONE is none (RFC 7296 §3.3.2). */
function ahOptions(offered: Proposal): CipherOption<ChildSuite>[] {
  return offered.transforms.flatMap((found) => {
    const hmac = found.type === TRANSFORM.INTEGRITY && hmacOf(found);
    return hmac ? [{ value: { kind: "ah", integrity: hmac }, transforms: [found] }] : [];
  });
}

/** Every cipher of the proposal that we know, in the peer's order. */
function cipherOptions(offered: Proposal): CipherOption[] {
  const integrity = offered.transforms.filter(({ type }) => type === TRANSFORM.INTEGRITY);
  return offered.transforms
    .filter(({ type }) => type === TRANSFORM.ENCRYPTION)
    .flatMap((found) => [...aeadOptions(found, integrity), ...macOptions(found, integrity)]);
}

/** AES has one of two key lengths; the others must not name theirs (RFC 7296 §3.3.5, RFC 7634 §4). */
function aesKeyBits(cipher: Transform): 128 | 256 | null {
  const keyBits = keyBitsOf(cipher);
  return keyBits === 128 || keyBits === 256 ? keyBits : null;
}

/** An AEAD needs no integrity algorithm: none is offered, or NONE is among them (RFC 5282 §8). */
function aeadOptions(cipher: Transform, integrity: readonly Transform[]): CipherOption[] {
  const value = aeadSuite(cipher);
  const none = integrity.find(({ id }) => id === INTEGRITY.NONE);
  if (value === null || (integrity.length > 0 && none === undefined)) return [];
  return [{ value, transforms: none === undefined ? [cipher] : [cipher, none] }];
}

function aeadSuite(cipher: Transform): EspSuite | null {
  const keyBits = aesKeyBits(cipher);
  switch (cipher.id) {
    case ENCRYPTION.AES_GCM_16:
      return keyBits === null ? null : { kind: "aes-gcm-16", keyBits };
    case ENCRYPTION.AES_CCM_16:
      return keyBits === null ? null : { kind: "aes-ccm-16", keyBits };
    case ENCRYPTION.CHACHA20_POLY1305:
      return keyBitsOf(cipher) === null ? { kind: "chacha20-poly1305" } : null;
    default:
      return null;
  }
}

function macOptions(cipher: Transform, integrity: readonly Transform[]): CipherOption[] {
  return integrity.flatMap((found) => {
    const hmac = hmacOf(found);
    const value = hmac === null ? null : macSuite(cipher, hmac);
    return value === null ? [] : [{ value, transforms: [cipher, found] }];
  });
}

/** The HMAC of an integrity transform; null for others. */
function hmacOf(found: Transform): HmacName | null {
  if (keyBitsOf(found) !== null) return null;
  return HMACS.find((known) => known.integrity === found.id)?.name ?? null;
}

function macSuite(cipher: Transform, integrity: HmacName): EspSuite | null {
  const keyBits = aesKeyBits(cipher);
  switch (cipher.id) {
    case ENCRYPTION.AES_CBC:
      return keyBits === null ? null : { kind: "aes-cbc", keyBits, integrity };
    case ENCRYPTION.AES_CTR:
      return keyBits === null ? null : { kind: "aes-ctr", keyBits, integrity };
    case ENCRYPTION.NULL:
      return keyBitsOf(cipher) === null ? { kind: "null", integrity } : null;
    default:
      return null;
  }
}

/** True when both name the same algorithms. */
export function sameIkeSuite(a: IkeSuite, b: IkeSuite): boolean {
  return a.group === b.group && ikeSuiteName(a) === ikeSuiteName(b);
}

/** The transforms that offer exactly this suite, for a proposal of our own. */
export function ikeTransforms(suite: IkeSuite): Transform[] {
  const prf = HMACS.find(({ name }) => name === suite.prf);
  return [
    ...cipherTransforms(suite.cipher),
    transform(TRANSFORM.PRF, prf?.prf ?? 0),
    transform(TRANSFORM.DH, suite.group),
  ];
}

/**
 * The transforms that offer exactly this suite; `groups` is one, several with the preferred one first, or null for no PFS;
 * `numbers` are ids of transform type 5 (`ESN`), the preferred one first.
 */
export function espTransforms(
  suite: ChildSuite,
  groups: readonly number[] | number | null,
  numbers: readonly number[] = [ESN.NO],
): Transform[] {
  const ids = groups === null ? [] : typeof groups === "number" ? [groups] : groups;
  const dh = ids.map((group) => transform(TRANSFORM.DH, group));
  return [...cipherTransforms(suite), ...dh, ...numbers.map((id) => transform(TRANSFORM.ESN, id))];
}

function cipherTransforms(cipher: ChildSuite): Transform[] {
  if (cipher.kind === "ah") return [integrityTransform(cipher.integrity)];
  const encryption = transform(
    TRANSFORM.ENCRYPTION,
    CIPHER_IDS[cipher.kind],
    "keyBits" in cipher ? cipher.keyBits : null,
  );
  if (!("integrity" in cipher)) return [encryption];
  return [encryption, integrityTransform(cipher.integrity)];
}

function integrityTransform(integrity: HmacName): Transform {
  return transform(TRANSFORM.INTEGRITY, HMACS.find(({ name }) => name === integrity)?.integrity ?? 0);
}
