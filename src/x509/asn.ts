import { AsnConvert } from "@peculiar/asn1-schema";
import { EsplexError, messageOf } from "../core/errors.ts";

/** A class that the ASN.1 library can fill. */
type Schema<T> = new () => T;

/** Reads DER as `schema`. Throws `wire.malformed` naming `what`, whatever the library throws. */
export function readAsn<T>(der: Uint8Array, schema: Schema<T>, what: string): T {
  try {
    return AsnConvert.parse(der, schema);
  } catch (error) {
    throw new EsplexError("wire.malformed", `${what}: ${messageOf(error)}`);
  }
}

/** DER of an object of the library. */
export function writeAsn(value: unknown): Uint8Array {
  return new Uint8Array(AsnConvert.serialize(value));
}
