import { isIP } from "node:net";
import { z } from "zod";
import { Secret } from "../core/secret.ts";

const U64_MAX = 0xffff_ffff_ffff_ffffn;

/** An unsigned 64-bit number as decimal text on the wire, `bigint` in the program. */
export const u64 = z
  .string()
  .regex(/^(0|[1-9]\d{0,19})$/)
  .transform((text) => BigInt(text))
  .refine((value) => value <= U64_MAX);

export const u32 = z.number().int().min(0).max(0xffff_ffff);
export const u16 = z.number().int().min(0).max(0xffff);

/** Name of a node or cluster: also what may stand in a certificate. */
export const nodeName = z.string().regex(/^[a-z0-9][a-z0-9-]{0,31}$/);

/** Id of a `SharedSa`. */
export const saId = z.string().regex(/^[0-9a-f]{32}$/);

/** An IPv4 or IPv6 address in text, without a zone. */
export const ipAddress = z
  .string()
  .max(45)
  .refine((text) => isIP(text) !== 0 && !text.includes("%"));

const MAX_KEY_BYTES = 128;

/** Key bytes: base64 inside TLS, `Secret` in the program. */
export const secretBytes = z
  .string()
  .max(4 * Math.ceil(MAX_KEY_BYTES / 3))
  .regex(/^[A-Za-z0-9+/]*={0,2}$/)
  .transform((text) => new Secret(new Uint8Array(Buffer.from(text, "base64"))));
