import { ipToBytes, ipVersion } from "../core/ip.ts";

/** A range of addresses of one version, both ends included, as numbers. */
export interface AddressRange {
  readonly version: 4 | 6;
  readonly first: bigint;
  readonly last: bigint;
}

/** The range of `ADDRESS/PREFIX`, or of one address. The text has been checked. */
export function rangeOf(text: string): AddressRange {
  const [base = "", prefix] = text.split("/");
  const version = ipVersion(base);
  const hostBits = BigInt(
    (version === 4 ? 32 : 128) - (prefix === undefined ? (version === 4 ? 32 : 128) : Number(prefix)),
  );
  const first = addressNumber(base);
  return { version, first, last: first + (1n << hostBits) - 1n };
}

/** True when both share an address. */
export function overlaps(a: AddressRange, b: AddressRange): boolean {
  return a.version === b.version && a.first <= b.last && b.first <= a.last;
}

/** True for `ADDRESS/PREFIX` with a valid prefix and no bits set behind it. */
export function isSubnet(text: string): boolean {
  const [, base, digits] = /^([^/%]+)\/(0|[1-9]\d{0,2})$/.exec(text) ?? [];
  if (base === undefined || digits === undefined) return false;
  try {
    const bits = ipVersion(base) === 4 ? 32 : 128;
    const hostBits = BigInt(bits - Number(digits));
    return hostBits >= 0n && addressNumber(base) % (1n << hostBits) === 0n;
  } catch {
    return false;
  }
}

function addressNumber(address: string): bigint {
  return ipToBytes(address).reduce((number, byte) => (number << 8n) | BigInt(byte), 0n);
}
