import { createHash } from "node:crypto";
import { z } from "zod";
import { MAX_FILTER_RULES } from "../sa/filter.ts";
import { MAX_WINDOW_PACKETS, type SaHalf, type SharedSa } from "../sa/spec.ts";
import { suiteLengths } from "../sa/suite.ts";
import { ipAddress, saId, secretBytes, u16, u32, u64 } from "./fields.ts";

/** RFC 7296 bounds the number of selectors by one byte; more than this no peer of ours needs. */
export const MAX_SELECTORS = 64;
/** What travels of an identity: it is for people, and a peer may choose a long one. */
const MAX_IDENTITY_LENGTH = 512;
/** RFC 4303 §2.1: 1 to 255 are reserved. */
const MIN_SPI = 256;

const keyBits = z.union([z.literal(128), z.literal(256)]);

const integrity = z.enum(["hmac-sha2-256", "hmac-sha2-384", "hmac-sha2-512"]);

const suite = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.enum(["aes-gcm-16", "aes-ccm-16"]), keyBits }),
  z.strictObject({ kind: z.literal("chacha20-poly1305") }),
  z.strictObject({ kind: z.enum(["aes-cbc", "aes-ctr"]), keyBits, integrity }),
  z.strictObject({ kind: z.enum(["null", "ah"]), integrity }),
]);

export const selector = z.strictObject({
  startAddress: ipAddress,
  endAddress: ipAddress,
  protocol: z.number().int().min(0).max(255),
  startPort: u16,
  endPort: u16,
});

const half = z.strictObject({
  spi: u32.min(MIN_SPI),
  encryptionKey: secretBytes,
  integrityKey: secretBytes.nullable(),
});

/**
 * A `SharedSa` as it travels: checked, with its keys decoded into `Secret`. Key lengths must be those of the suite; one that ends
 * at the distributor comes without keys.
 */
export const sharedSa: z.ZodType<SharedSa> = z
  .strictObject({
    id: saId,
    dvipa: ipAddress,
    gateway: ipAddress.optional(),
    peer: ipAddress,
    peerName: z.string().min(1).max(64),
    peerIdentity: z.string().min(1).max(MAX_IDENTITY_LENGTH).optional(),
    filterRules: z
      .array(
        z
          .number()
          .int()
          .min(0)
          .max(MAX_FILTER_RULES - 1),
      )
      .max(MAX_FILTER_RULES)
      .optional(),
    mode: z.enum(["transport", "tunnel"]),
    suite,
    reqid: u32.min(1),
    inbound: half,
    outbound: half,
    localSelectors: z.array(selector).min(1).max(MAX_SELECTORS),
    remoteSelectors: z.array(selector).min(1).max(MAX_SELECTORS),
    peerWindowPackets: u32.min(1).max(65_536),
    inboundWindowPackets: u32.min(1).max(MAX_WINDOW_PACKETS),
    esn: z.boolean(),
    lifesize: z.strictObject({ bytes: u64.nullable(), packets: u64.nullable() }).optional(),
    peerUdpPort: u16.min(1).nullable(),
  })
  .refine((sa: SharedSa) => keysFit(sa, sa.inbound) && keysFit(sa, sa.outbound), { error: "key lengths" });

function keysFit(sa: SharedSa, { encryptionKey, integrityKey }: SaHalf): boolean {
  if (sa.gateway !== undefined) return encryptionKey.lengthBytes === 0 && integrityKey === null;
  const { encryptionKeyBytes, integrityKeyBytes } = suiteLengths(sa.suite);
  return (
    encryptionKey.lengthBytes === encryptionKeyBytes &&
    (integrityKey === null ? integrityKeyBytes === 0 : integrityKey.lengthBytes === integrityKeyBytes)
  );
}

/** The wire form of an SA. It holds key bytes as text: for a bus frame only, never for a log or a file. */
export function sharedSaToWire(sa: SharedSa): unknown {
  const { peerIdentity } = sa;
  return {
    ...sa,
    ...(peerIdentity === undefined ? {} : { peerIdentity: peerIdentity.slice(0, MAX_IDENTITY_LENGTH) }),
    inbound: sa.gateway === undefined ? halfToWire(sa.inbound) : keyless(sa.inbound),
    outbound: sa.gateway === undefined ? halfToWire(sa.outbound) : keyless(sa.outbound),
  };
}

function halfToWire({ spi, encryptionKey, integrityKey }: SaHalf): unknown {
  const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
  return {
    spi,
    encryptionKey: base64(encryptionKey.expose()),
    integrityKey: integrityKey === null ? null : base64(integrityKey.expose()),
  };
}

/** Of an SA whose cryptography stays where it is. */
function keyless({ spi }: SaHalf): unknown {
  return { spi, encryptionKey: "", integrityKey: null };
}

/** What the digest covers of one SA. Its keys are not in it: an id never stands for two sets of keys. */
export interface DigestEntry {
  readonly sa: Pick<SharedSa, "id" | "inbound" | "outbound" | "peerUdpPort">;
  /** Ownership epoch of its DVIPA. */
  readonly epoch: bigint;
}

/** SHA-256 over the ids, SPIs, UDP ports and epochs of a set of SAs, in hex; the order of the entries does not matter. */
export function digestOfSas(entries: Iterable<DigestEntry>): string {
  const lines = [...entries].map(
    ({ sa, epoch }) => `${sa.id} ${sa.inbound.spi} ${sa.outbound.spi} ${sa.peerUdpPort ?? "-"} ${epoch.toString()}\n`,
  );
  const hash = createHash("sha256");
  for (const line of lines.sort()) hash.update(line);
  return hash.digest("hex");
}
