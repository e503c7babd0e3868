import { fromHex, toHex } from "../core/bytes.ts";
import { EsplexError } from "../core/errors.ts";
import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import { isIP } from "node:net";
import { ID_TYPE } from "./wire/constants.ts";
import type { IdentificationPayload } from "./wire/identification.ts";

/** Prefix of an identity that is an opaque key ID in hex, in the cluster file. */
const KEY_ID_PREFIX = "keyid:";

/**
 * An identity in text as the ID payload that carries it: an IP address, `user@host`, `keyid:HEX`, else a domain name
 * (a leading `@` is dropped, as libreswan writes it). Throws `config.invalid` when it is none of these.
 */
export function identityPayload(kind: "idi" | "idr", text: string): IdentificationPayload {
  const version = isIP(text);
  if (version !== 0) {
    return { kind, type: version === 4 ? ID_TYPE.IPV4_ADDR : ID_TYPE.IPV6_ADDR, data: ipToBytes(text) };
  }
  if (text.startsWith(KEY_ID_PREFIX)) {
    return { kind, type: ID_TYPE.KEY_ID, data: fromHex(text.slice(KEY_ID_PREFIX.length)) };
  }
  const name = text.replace(/^@/, "");
  if (name === "") throw new EsplexError("config.invalid", "an empty IKE identity");
  const type = name.includes("@") ? ID_TYPE.RFC822_ADDR : ID_TYPE.FQDN;
  return { kind, type, data: new TextEncoder().encode(name) };
}

/** A printable key: two payloads have the same one exactly when they name the same identity. Names ignore ASCII case. */
export function identityKey(payload: Pick<IdentificationPayload, "type" | "data">): string {
  const { type, data } = payload;
  switch (type) {
    case ID_TYPE.IPV4_ADDR:
    case ID_TYPE.IPV6_ADDR:
      return data.length === (type === ID_TYPE.IPV4_ADDR ? 4 : 16)
        ? `ip:${ipFromBytes(data)}`
        : `id${type}:${toHex(data)}`;
    case ID_TYPE.FQDN:
    case ID_TYPE.RFC822_ADDR:
      return isPlainText(data)
        ? `${type === ID_TYPE.FQDN ? "" : "email:"}${lowerText(data)}`
        : `id${type}:${toHex(data)}`;
    case ID_TYPE.KEY_ID:
      return `${KEY_ID_PREFIX}${toHex(data)}`;
    default:
      return `id${type}:${toHex(data)}`;
  }
}

/** Visible ASCII without `:`, so that a name can never look like one of the other forms. */
function isPlainText(data: Uint8Array): boolean {
  return data.length > 0 && data.every((byte) => byte > 0x20 && byte < 0x7f && byte !== 0x3a);
}

function lowerText(data: Uint8Array): string {
  return Buffer.from(data).toString("latin1").toLowerCase();
}
