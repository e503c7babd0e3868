/** Traffic selectors (ranges, RFC 7296 §3.13.1) as kernel selectors (prefixes and masks). */
import { EsplexError } from "../core/errors.ts";
import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import { addressBits, familyOf } from "../net/inet-address.ts";
import type { TrafficSelector } from "../sa/spec.ts";
import { IPPROTO_ICMP, IPPROTO_ICMPV6 } from "./constants.ts";

export interface Prefix {
  readonly address: string;
  readonly prefixBits: number;
}

/** Matches ports p with `p & mask === port`; mask 0 is any. */
export interface PortMask {
  readonly port: number;
  readonly mask: number;
}

/** What packets a policy is about; protocol 0 is any. For ICMP the ports are type and code. */
export interface PolicySelector {
  readonly source: Prefix;
  readonly destination: Prefix;
  readonly protocol: number;
  readonly sourcePort: PortMask;
  readonly destinationPort: PortMask;
}

export const ANY_PORT: PortMask = { port: 0, mask: 0 };

/** Policies of one SA and direction; more means selectors that no person wrote. Our choice. */
const SELECTORS_MAX = 64;

/** One text per selector. */
export function selectorKey({ source, destination, protocol, sourcePort, destinationPort }: PolicySelector): string {
  const end = (prefix: Prefix, { port, mask }: PortMask): string => {
    const ports = mask === 0 ? "" : ` port ${port}${mask === 0xffff ? "" : `/0x${mask.toString(16)}`}`;
    return `${prefix.address}/${prefix.prefixBits}${ports}`;
  };
  return `${end(source, sourcePort)} → ${end(destination, destinationPort)} proto ${protocol}`;
}

/**
 * Every pair of a local and a remote traffic selector that have an IP version and a protocol in common (RFC 4301
 * §4.4.1.2), seen outbound: source is local. Throws `wire.unsupported` when they cannot be expressed, or only as more
 * than 64 policies.
 */
export function policySelectors(
  local: readonly TrafficSelector[],
  remote: readonly TrafficSelector[],
): readonly PolicySelector[] {
  const selectors = new Map<string, PolicySelector>();
  for (const ours of local) {
    for (const theirs of remote) {
      for (const selector of pairSelectors(ours, theirs)) {
        selectors.set(selectorKey(selector), selector);
        if (selectors.size > SELECTORS_MAX) throw unsupported(`more than ${SELECTORS_MAX} kernel selectors needed`);
      }
    }
  }
  if (selectors.size === 0) throw unsupported("local and remote selectors have nothing in common");
  return [...selectors.values()];
}

/** The same traffic in the other direction. */
export function reversed(selector: PolicySelector): PolicySelector {
  const { source, destination, sourcePort, destinationPort } = selector;
  const isIcmp = selector.protocol === IPPROTO_ICMP || selector.protocol === IPPROTO_ICMPV6;
  const ports = isIcmp ? { sourcePort, destinationPort } : { sourcePort: destinationPort, destinationPort: sourcePort };
  return { ...selector, source: destination, destination: source, ...ports };
}

function* pairSelectors(local: TrafficSelector, remote: TrafficSelector): Generator<PolicySelector> {
  if (familyOf(local.startAddress) !== familyOf(remote.startAddress)) return;
  if (local.protocol !== 0 && remote.protocol !== 0 && local.protocol !== remote.protocol) return;
  const protocol = local.protocol === 0 ? remote.protocol : local.protocol;
  const isIcmp = protocol === IPPROTO_ICMP || protocol === IPPROTO_ICMPV6;
  if (isIcmp && !(isAnyPort(local) && isAnyPort(remote))) throw unsupported("ICMP types in traffic selectors");
  for (const source of prefixesOf(local)) {
    for (const destination of prefixesOf(remote)) {
      for (const sourcePort of portMasksOf(local)) {
        for (const destinationPort of portMasksOf(remote)) {
          yield { source, destination, protocol, sourcePort, destinationPort };
        }
      }
    }
  }
}

function isAnyPort({ startPort, endPort }: TrafficSelector): boolean {
  return startPort === 0 && endPort === 0xffff;
}

function prefixesOf({ startAddress, endAddress }: TrafficSelector): Prefix[] {
  const bits = addressBits(familyOf(startAddress));
  if (familyOf(endAddress) !== familyOf(startAddress)) throw unsupported("a range over two IP versions");
  const blocks = alignedBlocks(toNumber(startAddress), toNumber(endAddress), bits);
  return blocks.map(({ first, sizeBits }) => ({ address: toAddress(first, bits / 8), prefixBits: bits - sizeBits }));
}

function portMasksOf({ startPort, endPort }: TrafficSelector): PortMask[] {
  return alignedBlocks(BigInt(startPort), BigInt(endPort), 16).map(({ first, sizeBits }) => {
    return { port: Number(first), mask: (0xffff << sizeBits) & 0xffff };
  });
}

/** The fewest blocks of power-of-two size and alignment that make up [first, last]; `wire.unsupported` when empty. */
function alignedBlocks(first: bigint, last: bigint, bits: number): { first: bigint; sizeBits: number }[] {
  if (first > last) throw unsupported("a range that ends before it starts");
  const blocks: { first: bigint; sizeBits: number }[] = [];
  for (let at = first; at <= last;) {
    let sizeBits = 0;
    while (
      sizeBits < bits &&
      (at & ((2n << BigInt(sizeBits)) - 1n)) === 0n &&
      at + (2n << BigInt(sizeBits)) - 1n <= last
    ) {
      sizeBits++;
    }
    blocks.push({ first: at, sizeBits });
    if (blocks.length > SELECTORS_MAX) throw unsupported(`a range of more than ${SELECTORS_MAX} prefixes`);
    at += 1n << BigInt(sizeBits);
  }
  return blocks;
}

function toNumber(address: string): bigint {
  return ipToBytes(address).reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
}

function toAddress(value: bigint, lengthBytes: number): string {
  const bytes = Array.from({ length: lengthBytes }, (_, i) =>
    Number((value >> BigInt(8 * (lengthBytes - 1 - i))) & 0xffn),
  );
  return ipFromBytes(Uint8Array.from(bytes));
}

function unsupported(why: string): EsplexError {
  return new EsplexError("wire.unsupported", `traffic selectors: ${why}`);
}
