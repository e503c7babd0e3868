import { ByteReader, concatBytes, u16be } from "../../core/bytes.ts";
import type { SignatureScheme } from "../../crypto/signature.ts";
import { HASH_ALGORITHM, NOTIFY } from "../wire/constants.ts";
import { notify, type NotifyPayload } from "../wire/notify.ts";
import { findNotify, type Payload } from "../wire/payload.ts";

/** What we verify, best first. Never SHA-1 (RFC 8247 §3.2). */
const OURS: readonly number[] = [
  HASH_ALGORITHM.SHA2_256,
  HASH_ALGORITHM.SHA2_384,
  HASH_ALGORITHM.SHA2_512,
  HASH_ALGORITHM.IDENTITY,
];
/** Hashes of one notify that we look at; the registry has 7 (our choice). */
const MAX_HASHES = 64;

const HASH_IDS = {
  sha256: HASH_ALGORITHM.SHA2_256,
  sha384: HASH_ALGORITHM.SHA2_384,
  sha512: HASH_ALGORITHM.SHA2_512,
} as const;

/** N(SIGNATURE_HASH_ALGORITHMS) of ours (RFC 7427 §4). */
export function hashNotify(): NotifyPayload {
  return notify(NOTIFY.SIGNATURE_HASH_ALGORITHMS, concatBytes(...OURS.map(u16be)));
}

/** What the peer verifies; null when it says nothing, and so does not know RFC 7427. An odd byte at the end is ignored. */
export function readHashNotify(payloads: readonly Payload[]): readonly number[] | null {
  const found = findNotify(payloads, NOTIFY.SIGNATURE_HASH_ALGORITHMS);
  if (found === undefined) return null;
  const reader = new ByteReader(found.data, "SIGNATURE_HASH_ALGORITHMS");
  const hashes: number[] = [];
  while (reader.remaining >= 2 && hashes.length < MAX_HASHES) hashes.push(reader.u16());
  return hashes;
}

/** The hash that a peer must take to verify this. */
export function hashIdOf(scheme: SignatureScheme): number {
  return scheme.kind === "ed25519" ? HASH_ALGORITHM.IDENTITY : HASH_IDS[scheme.hash];
}
