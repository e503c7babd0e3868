import { ByteReader, concatBytes, u16be } from "../../core/bytes.ts";
import { EsplexError } from "../../core/errors.ts";
import { ipFromBytes, ipToBytes } from "../../core/ip.ts";
import type { TrafficSelector } from "../../sa/spec.ts";
import { TS_TYPE } from "./constants.ts";
import { WIRE_LIMITS } from "./limits.ts";

/** RFC 7296 §3.13.1. A type that we do not know is kept, and never matches. */
export type WireSelector =
  | { readonly kind: "range"; readonly selector: TrafficSelector }
  | { readonly kind: "unknown"; readonly type: number; readonly body: Uint8Array };

/** TSi or TSr, RFC 7296 §3.13. */
export interface TrafficSelectorPayload {
  readonly kind: "tsi" | "tsr";
  readonly selectors: readonly WireSelector[];
}

const SELECTOR_HEADER_BYTES = 4;

export function decodeTrafficSelectors(kind: "tsi" | "tsr", body: Uint8Array): TrafficSelectorPayload {
  const reader = new ByteReader(body, "TS payload");
  const count = reader.u8();
  reader.skip(3);
  if (count === 0 || count > WIRE_LIMITS.trafficSelectors) {
    throw new EsplexError("wire.malformed", `TS payload: ${count} selectors`);
  }
  const selectors = Array.from({ length: count }, () => decodeSelector(reader));
  reader.end();
  return { kind, selectors };
}

function decodeSelector(reader: ByteReader): WireSelector {
  const type = reader.u8();
  const protocol = reader.u8();
  const body = reader.bytes(reader.u16() - SELECTOR_HEADER_BYTES);
  const addressBytes = type === TS_TYPE.IPV4_RANGE ? 4 : type === TS_TYPE.IPV6_RANGE ? 16 : null;
  if (addressBytes === null) return { kind: "unknown", type, body: concatBytes(new Uint8Array([protocol]), body) };
  const inner = new ByteReader(body, "traffic selector");
  const startPort = inner.u16();
  const endPort = inner.u16();
  const startAddress = ipFromBytes(inner.bytes(addressBytes));
  const endAddress = ipFromBytes(inner.bytes(addressBytes));
  inner.end();
  return { kind: "range", selector: { startAddress, endAddress, protocol, startPort, endPort } };
}

export function encodeTrafficSelectors(payload: TrafficSelectorPayload): Uint8Array {
  return concatBytes(new Uint8Array([payload.selectors.length, 0, 0, 0]), ...payload.selectors.map(encodeSelector));
}

function encodeSelector(selector: WireSelector): Uint8Array {
  if (selector.kind === "unknown") {
    const [protocol = 0] = selector.body;
    return concatBytes(
      new Uint8Array([selector.type, protocol]),
      u16be(SELECTOR_HEADER_BYTES + selector.body.length - 1),
      selector.body.subarray(1),
    );
  }
  const { startAddress, endAddress, protocol, startPort, endPort } = selector.selector;
  const start = ipToBytes(startAddress);
  const body = concatBytes(u16be(startPort), u16be(endPort), start, ipToBytes(endAddress));
  const type = start.length === 4 ? TS_TYPE.IPV4_RANGE : TS_TYPE.IPV6_RANGE;
  return concatBytes(new Uint8Array([type, protocol]), u16be(SELECTOR_HEADER_BYTES + body.length), body);
}
