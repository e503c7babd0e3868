import { EsplexError } from "../core/errors.ts";
import { ipFromBytes, ipToBytes, ipVersion } from "../core/ip.ts";

export const AF_INET = 2;
export const AF_INET6 = 10;
export type AddressFamily = typeof AF_INET | typeof AF_INET6;
export const FAMILIES: readonly AddressFamily[] = [AF_INET, AF_INET6];

/** Bits of an address of that family. */
export function addressBits(family: AddressFamily): 32 | 128 {
  return family === AF_INET ? 32 : 128;
}

export function familyOf(address: string): AddressFamily {
  return ipVersion(address) === 4 ? AF_INET : AF_INET6;
}

/** A family number as the kernel sent it; `wire.unsupported` when it is neither IPv4 nor IPv6. */
export function asFamily(family: number): AddressFamily {
  if (family === AF_INET || family === AF_INET6) return family;
  throw new EsplexError("wire.unsupported", `address family ${family}`);
}

/** `xfrm_address_t` and the like: 16 bytes, of which IPv4 uses the first four. */
export function addressUnion(address: string): Uint8Array {
  const bytes = new Uint8Array(16);
  bytes.set(ipToBytes(address));
  return bytes;
}

export function addressFromUnion(bytes: Uint8Array, family: AddressFamily): string {
  return ipFromBytes(family === AF_INET ? bytes.subarray(0, 4) : bytes);
}

/** `0.0.0.0` or `::`. */
export function anyAddress(family: AddressFamily): string {
  return family === AF_INET ? "0.0.0.0" : "::";
}
