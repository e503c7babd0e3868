import { createHash } from "node:crypto";
import { toHex } from "../core/bytes.ts";

/** SHA-1 of the parts joined: for NAT detection and CERTREQ alone (RFC 7296 §2.23, §3.7). */
export function sha1(...parts: readonly Uint8Array[]): Uint8Array {
  const hash = createHash("sha1");
  for (const part of parts) hash.update(part);
  return new Uint8Array(hash.digest());
}

/** SHA-256 in hex: names a message, to know a retransmission from another message with the same ID. */
export function sha256Hex(bytes: Uint8Array): string {
  return toHex(new Uint8Array(createHash("sha256").update(bytes).digest()));
}
