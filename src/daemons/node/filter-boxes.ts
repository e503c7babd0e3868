import { EsplexError } from "../../core/errors.ts";
import { ipFromBytes, ipToBytes, ipVersion } from "../../core/ip.ts";
import type { SharedSa, TrafficSelector } from "../../sa/spec.ts";

/** Boxes of one SA; more means selectors that no person wrote. Our choice. */
const MAX_BOXES = 256;

type Interval = readonly [first: bigint, last: bigint];
/** Sources and destinations of inner packets. */
type Box = readonly [Interval, Interval];

/** Pairs of addresses that packets of an SA may have, in nftables' words. */
export interface SelectorBox {
  readonly version: 4 | 6;
  /** `SOURCE . DESTINATION`, each an address or `FIRST-LAST`. */
  readonly text: string;
}

/**
 * The addresses that an SA's selectors allow inbound (RFC 4301 §5.2), as boxes that share no packet: nftables takes no
 * intervals that overlap, and a peer may choose selectors that do. Throws `wire.unsupported` when that needs too many.
 */
export function selectorBoxes(sa: Pick<SharedSa, "localSelectors" | "remoteSelectors">): SelectorBox[] {
  const found: SelectorBox[] = [];
  for (const version of [4, 6] as const) {
    let boxes: Box[] = [];
    for (const local of sa.localSelectors) {
      for (const remote of sa.remoteSelectors) {
        const box = boxOf(local, remote, version);
        if (box === null) continue;
        boxes = [
          ...boxes,
          ...boxes.reduce<Box[]>((rest, other) => rest.flatMap((part) => without(part, other)), [box]),
        ];
        if (boxes.length > MAX_BOXES) {
          throw new EsplexError("wire.unsupported", `traffic selectors: more than ${MAX_BOXES} filter entries needed`);
        }
      }
    }
    found.push(...boxes.map((box) => ({ version, text: textOf(box, version) })));
  }
  return found;
}

function boxOf(local: TrafficSelector, remote: TrafficSelector, version: 4 | 6): Box | null {
  if (ipVersion(local.startAddress) !== version || ipVersion(remote.startAddress) !== version) return null;
  if (local.protocol !== 0 && remote.protocol !== 0 && local.protocol !== remote.protocol) return null;
  return [addressesOf(remote), addressesOf(local)];
}

/** What of `box` is outside `other`: at most two parts for each dimension. */
function without(box: Box, other: Box): Box[] {
  if (box.some(([first, last], i) => last < at(other, i)[0] || first > at(other, i)[1])) return [box];
  const parts: Box[] = [];
  let rest = box;
  for (let i = 0; i < box.length; i++) {
    const [first, last] = at(rest, i);
    const [cutFirst, cutLast] = at(other, i);
    if (first < cutFirst) parts.push(replaced(rest, i, [first, cutFirst - 1n]));
    if (last > cutLast) parts.push(replaced(rest, i, [cutLast + 1n, last]));
    rest = replaced(rest, i, [first > cutFirst ? first : cutFirst, last < cutLast ? last : cutLast]);
  }
  return parts;
}

function at(box: Box, i: number): Interval {
  return box[i] ?? [0n, 0n];
}

function replaced(box: Box, i: number, interval: Interval): Box {
  const [source, destination] = box;
  return i === 0 ? [interval, destination] : [source, interval];
}

function textOf(box: Box, version: 4 | 6): string {
  return box
    .map(([first, last]) => {
      const text = addressText(first, version);
      return first === last ? text : `${text}-${addressText(last, version)}`;
    })
    .join(" . ");
}

function addressesOf({ startAddress, endAddress }: TrafficSelector): Interval {
  return [numberOf(startAddress), numberOf(endAddress)];
}

function numberOf(address: string): bigint {
  return BigInt(`0x${Buffer.from(ipToBytes(address)).toString("hex")}`);
}

function addressText(value: bigint, version: 4 | 6): string {
  const hex = value.toString(16).padStart(version === 4 ? 8 : 32, "0");
  return ipFromBytes(new Uint8Array(Buffer.from(hex, "hex")));
}
