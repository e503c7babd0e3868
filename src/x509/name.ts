import { AttributeTypeAndValue, AttributeValue, Name, RelativeDistinguishedName } from "@peculiar/asn1-x509";
import { EsplexError } from "../core/errors.ts";
import { readAsn, writeAsn } from "./asn.ts";

/** Attribute types by the names that strongSwan and OpenSSL print; the first name of an OID is the one that we print. */
const ATTRIBUTES: readonly (readonly [string, string])[] = [
  ["C", "2.5.4.6"],
  ["ST", "2.5.4.8"],
  ["L", "2.5.4.7"],
  ["STREET", "2.5.4.9"],
  ["O", "2.5.4.10"],
  ["OU", "2.5.4.11"],
  ["CN", "2.5.4.3"],
  ["T", "2.5.4.12"],
  ["SURNAME", "2.5.4.4"],
  ["G", "2.5.4.42"],
  ["SERIALNUMBER", "2.5.4.5"],
  ["SN", "2.5.4.5"],
  ["DC", "0.9.2342.19200300.100.1.25"],
  ["UID", "0.9.2342.19200300.100.1.1"],
  ["EMAIL", "1.2.840.113549.1.9.1"],
  ["E", "1.2.840.113549.1.9.1"],
  ["EMAILADDRESS", "1.2.840.113549.1.9.1"],
];
const OID_OF = new Map(ATTRIBUTES);
const NAME_OF = new Map([...ATTRIBUTES].reverse().map(([name, oid]) => [oid, name]));

/** Types whose values are IA5String (RFC 4519, RFC 5280 §4.1.2.6). */
const IA5_TYPES: readonly string[] = ["1.2.840.113549.1.9.1", "0.9.2342.19200300.100.1.25"];
const COUNTRY = "2.5.4.6";
const PRINTABLE = /^[A-Za-z0-9 '()+,\-./:=?]*$/;
const MAX_ATTRIBUTES = 32;

/** One attribute of a name; its value is compared without case and runs of spaces (RFC 5280 §7.1). */
export interface NameAttribute {
  readonly oid: string;
  readonly value: string;
  /** Shares its relative distinguished name with the attribute before it. */
  readonly joined: boolean;
}

/** A distinguished name: what an identity of type DER_ASN1_DN and a certificate's subject are. */
export class DistinguishedName {
  readonly attributes: readonly NameAttribute[];
  /** Two names with the same key are the same name. */
  readonly key: string;

  readonly #encode: () => Uint8Array;

  private constructor(encode: () => Uint8Array, attributes: readonly NameAttribute[]) {
    this.#encode = encode;
    this.attributes = attributes;
    this.key = attributes.map(attributeKey).join(",");
  }

  /** Made when it is asked for: most names are only compared. */
  get der(): Uint8Array {
    return this.#encode();
  }

  /** Throws `wire.malformed`. */
  static fromDer(der: Uint8Array): DistinguishedName {
    return DistinguishedName.of(readAsn(der, Name, "distinguished name"), () => der);
  }

  /** A name that was read already. */
  static of(name: Name, encode: () => Uint8Array = () => writeAsn(name)): DistinguishedName {
    const attributes: NameAttribute[] = [];
    for (const set of name) {
      for (const [i, { type, value }] of [...set].entries()) {
        attributes.push({ oid: type, value: value.toString(), joined: i > 0 });
      }
    }
    if (attributes.length > MAX_ATTRIBUTES) throw new EsplexError("wire.malformed", "distinguished name: too long");
    return new DistinguishedName(encode, attributes);
  }

  /** `C=CH, O=Example, CN=moon`, in the order of the certificate. A comma in a value is written `\,`. Throws `config.invalid`. */
  static fromText(text: string): DistinguishedName {
    const attributes = attributesOf(text);
    const sets = attributes.map(
      ({ oid, value }) =>
        new RelativeDistinguishedName([new AttributeTypeAndValue({ type: oid, value: attributeValue(oid, value) })]),
    );
    const der = writeAsn(new Name(sets));
    return new DistinguishedName(() => der, attributes);
  }

  get isEmpty(): boolean {
    return this.attributes.length === 0;
  }

  /** For people: as {@link fromText} reads it. */
  toString(): string {
    return this.attributes
      .map(({ oid, value }) => `${NAME_OF.get(oid) ?? oid}=${value.replaceAll(/[,\\]/g, "\\$&")}`)
      .join(", ");
  }

  /**
   * True when this name is one that `pattern` describes: the same attributes in the same order, where the value `*` in the
   * pattern stands for any.
   */
  matches(pattern: DistinguishedName): boolean {
    return (
      this.attributes.length === pattern.attributes.length &&
      pattern.attributes.every((wanted, i) => {
        const own = this.attributes[i];
        if (own === undefined) return false;
        return wanted.value === "*"
          ? own.oid === wanted.oid && own.joined === wanted.joined
          : attributeKey(own) === attributeKey(wanted);
      })
    );
  }

  /** True when this name begins with all of `base` (RFC 5280 §7.1: a directory subtree). */
  isBelow(base: DistinguishedName): boolean {
    return base.attributes.every((wanted, i) => {
      const own = this.attributes[i];
      return own !== undefined && attributeKey(own) === attributeKey(wanted);
    });
  }
}

/** True when the text is meant as a distinguished name: it begins with `TYPE=`. */
export function looksLikeName(text: string): boolean {
  return /^\s*[A-Za-z][A-Za-z0-9]*\s*=|^\s*\d+(?:\.\d+)+\s*=/.test(text);
}

function attributeKey({ oid, value, joined }: NameAttribute): string {
  const folded = value.trim().replaceAll(/\s+/g, " ").toLowerCase();
  return `${joined ? "+" : ""}${oid}=${JSON.stringify(folded)}`;
}

function attributesOf(text: string): NameAttribute[] {
  // Between commas that no backslash protects.
  const parts = text.match(/(?:\\.|[^\\,])+/g) ?? [];
  return parts.map((part) => {
    const [, type = "", value = ""] = /^\s*([A-Za-z0-9.]+)\s*=\s*(.*?)\s*$/s.exec(part) ?? [];
    const oid = OID_OF.get(type.toUpperCase()) ?? (/^\d+(?:\.\d+)+$/.test(type) ? type : undefined);
    if (oid === undefined || value === "") {
      throw new EsplexError("config.invalid", `${text}: ${part.trim()} is not TYPE=VALUE with a known type`);
    }
    return { oid, value: value.replaceAll(/\\(.)/g, "$1"), joined: false };
  });
}

/** The string type that certificate authorities use: RFC 5280 §4.1.2.4. */
function attributeValue(oid: string, value: string): AttributeValue {
  if (IA5_TYPES.includes(oid)) return new AttributeValue({ ia5String: value });
  return oid === COUNTRY && PRINTABLE.test(value)
    ? new AttributeValue({ printableString: value })
    : new AttributeValue({ utf8String: value });
}
