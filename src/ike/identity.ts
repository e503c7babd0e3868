import { isIP } from "node:net";
import { fromHex, toHex } from "../core/bytes.ts";
import { EsplexError } from "../core/errors.ts";
import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import type { Certificate } from "../x509/certificate.ts";
import { DistinguishedName, looksLikeName } from "../x509/name.ts";
import { ID_TYPE } from "./wire/constants.ts";
import type { IdentificationPayload } from "./wire/identification.ts";

/** Prefix of an identity that is an opaque key ID in hex, in the cluster file. */
const KEY_ID_PREFIX = "keyid:";

/** What an ID payload carries. */
export type Identity = Pick<IdentificationPayload, "type" | "data">;

/**
 * An identity in text as the ID payload that carries it: an IP address, `user@host`, `keyid:HEX`, a distinguished name
 * (`C=CH, O=Example, CN=moon`), else a domain name (a leading `@` is dropped, as libreswan writes it). Throws `config.invalid`
 * when it is none of these.
 */
export function identityPayload(kind: "idi" | "idr", text: string): IdentificationPayload {
  const version = isIP(text);
  if (version !== 0) {
    return { kind, type: version === 4 ? ID_TYPE.IPV4_ADDR : ID_TYPE.IPV6_ADDR, data: ipToBytes(text) };
  }
  if (text.startsWith(KEY_ID_PREFIX)) {
    return { kind, type: ID_TYPE.KEY_ID, data: fromHex(text.slice(KEY_ID_PREFIX.length)) };
  }
  if (looksLikeName(text)) {
    return { kind, type: ID_TYPE.DER_ASN1_DN, data: DistinguishedName.fromText(text).der };
  }
  const name = text.replace(/^@/, "");
  if (name === "") throw new EsplexError("config.invalid", "an empty IKE identity");
  const type = name.includes("@") ? ID_TYPE.RFC822_ADDR : ID_TYPE.FQDN;
  return { kind, type, data: new TextEncoder().encode(name) };
}

/** A printable key: two payloads have the same one exactly when they name the same identity. Names ignore ASCII case. */
export function identityKey(payload: Identity): string {
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
    case ID_TYPE.DER_ASN1_DN: {
      const name = readName(data);
      return name === null ? `id${type}:${toHex(data)}` : `dn:${name.key}`;
    }
    case ID_TYPE.KEY_ID:
      return `${KEY_ID_PREFIX}${toHex(data)}`;
    default:
      return `id${type}:${toHex(data)}`;
  }
}

/** For people. */
export function identityText(payload: Identity): string {
  const name = payload.type === ID_TYPE.DER_ASN1_DN ? readName(payload.data) : null;
  return name === null ? identityKey(payload) : name.toString();
}

/** What a peer's identity must look like. */
export interface IdentityPattern {
  /** Null when it names one identity alone. */
  readonly wildcard: "any" | "suffix" | "name" | null;
  matches(identity: Identity): boolean;
}

/**
 * A pattern from the cluster file: an identity, or `*` (any), `*.example.com`, `*@example.com` (anything that ends so), or a
 * distinguished name where the value `*` stands for any. Throws `config.invalid`.
 */
export function identityPattern(text: string): IdentityPattern {
  if (text === "*" || text === "%any") return { wildcard: "any", matches: () => true };
  const [, suffix] = /^\*([@.].+)$/.exec(text) ?? [];
  if (suffix !== undefined) {
    const type = suffix.startsWith("@") ? ID_TYPE.RFC822_ADDR : ID_TYPE.FQDN;
    const ending = suffix.toLowerCase();
    return {
      wildcard: "suffix",
      matches: (identity) =>
        identity.type === type && isPlainText(identity.data) && endsInside(lowerText(identity.data), ending),
    };
  }
  if (looksLikeName(text)) {
    const pattern = DistinguishedName.fromText(text);
    return {
      wildcard: pattern.attributes.some(({ value }) => value === "*") ? "name" : null,
      matches: (identity) =>
        identity.type === ID_TYPE.DER_ASN1_DN && (readName(identity.data)?.matches(pattern) ?? false),
    };
  }
  if (text.includes("*"))
    throw new EsplexError("config.invalid", `${text}: a wildcard stands at the start, or is a whole value of a name`);
  const wanted = identityKey(identityPayload("idi", text));
  return { wildcard: null, matches: (identity) => identityKey(identity) === wanted };
}

/** With something before the ending, and for a mail address no second `@` in it. */
function endsInside(name: string, ending: string): boolean {
  return name.length > ending.length && name.endsWith(ending) && !name.slice(0, -ending.length).includes("@");
}

/**
 * True when the certificate was issued to this identity (RFC 4945 §3.1): an address, domain or mail name among its alternative
 * names, a distinguished name as its subject. A key ID is never in a certificate.
 */
export function isIdentityOf(certificate: Certificate, identity: Identity): boolean {
  const { names, subject } = certificate;
  const { type, data } = identity;
  switch (type) {
    case ID_TYPE.IPV4_ADDR:
    case ID_TYPE.IPV6_ADDR:
      return data.length === (type === ID_TYPE.IPV4_ADDR ? 4 : 16) && names.ips.includes(ipFromBytes(data));
    case ID_TYPE.FQDN:
      return isPlainText(data) && names.dns.includes(lowerText(data));
    case ID_TYPE.RFC822_ADDR:
      return isPlainText(data) && names.emails.includes(lowerText(data));
    case ID_TYPE.DER_ASN1_DN: {
      const name = readName(data);
      if (name === null || name.isEmpty) return false;
      return [subject, ...names.directories].some(({ key }) => key === name.key);
    }
    default:
      return false;
  }
}

function readName(der: Uint8Array): DistinguishedName | null {
  try {
    return DistinguishedName.fromDer(der);
  } catch (error) {
    if (!(error instanceof EsplexError)) throw error;
    return null;
  }
}

/** Visible ASCII without `:`, so that a name can never look like one of the other forms. */
function isPlainText(data: Uint8Array): boolean {
  return data.length > 0 && data.every((byte) => byte > 0x20 && byte < 0x7f && byte !== 0x3a);
}

function lowerText(data: Uint8Array): string {
  return Buffer.from(data).toString("latin1").toLowerCase();
}
