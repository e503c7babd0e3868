import { ipFromBytes, ipToBytes, ipVersion } from "../core/ip.ts";
import { EsplexError } from "../core/errors.ts";
import type { TrafficSelector } from "../sa/spec.ts";
import type { TrafficSelectorPayload } from "./wire/traffic-selectors.ts";

const LAST_PORT = 65_535;

/** A single address, any protocol, any port. */
export function hostSelector(address: string): TrafficSelector {
  const canonical = ipFromBytes(ipToBytes(address));
  return { startAddress: canonical, endAddress: canonical, protocol: 0, startPort: 0, endPort: LAST_PORT };
}

/** A subnet such as `192.0.2.0/24` (an address alone is a host). Throws `wire.malformed` when it is none. */
export function subnetSelector(subnet: string): TrafficSelector {
  const [address = "", prefixText] = subnet.split("/");
  const bytes = ipToBytes(address);
  const prefixBits = prefixText === undefined ? bytes.length * 8 : Number(prefixText);
  if (!Number.isInteger(prefixBits) || prefixBits < 0 || prefixBits > bytes.length * 8) {
    throw new EsplexError("wire.malformed", `not a subnet: ${subnet}`);
  }
  const mask = (byte: number, i: number): number => {
    const hostBits = Math.min(8, Math.max(0, 8 * (i + 1) - prefixBits));
    return byte & (0xff << hostBits) & 0xff;
  };
  const first = bytes.map(mask);
  const last = first.map((byte, i) => byte | (0xff & ~mask(0xff, i)));
  return {
    startAddress: ipFromBytes(first),
    endAddress: ipFromBytes(last),
    protocol: 0,
    startPort: 0,
    endPort: LAST_PORT,
  };
}

/**
 * What of the offer the policy allows (RFC 7296 §2.9): the intersection of each offered selector with each allowed one,
 * without those that another one contains. Empty when nothing is left.
 */
export function narrow(offer: TrafficSelectorPayload, allowed: readonly TrafficSelector[]): TrafficSelector[] {
  const found = offer.selectors.flatMap((offered) =>
    offered.kind === "unknown" ? [] : allowed.flatMap((policy) => intersect(offered.selector, policy) ?? []),
  );
  return found.filter(
    (selector, i) =>
      !found.some((other, j) => i !== j && contains(other, selector) && (j < i || !contains(selector, other))),
  );
}

/** What both selectors match, or null. OPAQUE ports (start after end, RFC 7296 §3.13.1) match nothing here. */
export function intersect(a: TrafficSelector, b: TrafficSelector): TrafficSelector | null {
  if (ipVersion(a.startAddress) !== ipVersion(b.startAddress)) return null;
  if (a.protocol !== 0 && b.protocol !== 0 && a.protocol !== b.protocol) return null;
  const startAddress = compareAddresses(a.startAddress, b.startAddress) >= 0 ? a.startAddress : b.startAddress;
  const endAddress = compareAddresses(a.endAddress, b.endAddress) <= 0 ? a.endAddress : b.endAddress;
  const startPort = Math.max(a.startPort, b.startPort);
  const endPort = Math.min(a.endPort, b.endPort);
  if (compareAddresses(startAddress, endAddress) > 0 || startPort > endPort) return null;
  return { startAddress, endAddress, protocol: a.protocol === 0 ? b.protocol : a.protocol, startPort, endPort };
}

function contains(outer: TrafficSelector, inner: TrafficSelector): boolean {
  const common = intersect(outer, inner);
  return common !== null && sameSelector(common, inner);
}

function sameSelector(a: TrafficSelector, b: TrafficSelector): boolean {
  return (
    a.startAddress === b.startAddress &&
    a.endAddress === b.endAddress &&
    a.protocol === b.protocol &&
    a.startPort === b.startPort &&
    a.endPort === b.endPort
  );
}

/** True when both lists say the same in the same order. */
export function sameSelectors(a: readonly TrafficSelector[], b: readonly TrafficSelector[]): boolean {
  return a.length === b.length && a.every((selector, i) => b[i] !== undefined && sameSelector(selector, b[i]));
}

function compareAddresses(a: string, b: string): number {
  return Buffer.compare(ipToBytes(a), ipToBytes(b));
}

/** The payload that carries these selectors. */
export function selectorPayload(kind: "tsi" | "tsr", selectors: readonly TrafficSelector[]): TrafficSelectorPayload {
  return { kind, selectors: selectors.map((selector) => ({ kind: "range", selector })) };
}
