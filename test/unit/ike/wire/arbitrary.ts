import fc from "fast-check";
import { ipFromBytes } from "../../../../src/core/ip.ts";
import type { Payload } from "../../../../src/ike/wire/payload.ts";
import type { WireSelector } from "../../../../src/ike/wire/traffic-selectors.ts";

const bytes = (minLength: number, maxLength: number) => fc.uint8Array({ minLength, maxLength });
const u8 = fc.integer({ min: 0, max: 0xff });
const u16 = fc.integer({ min: 0, max: 0xffff });

const attribute = fc.record({
  type: fc.integer({ min: 0, max: 0x7fff }),
  value: fc.oneof(u16, bytes(0, 8)),
});
const transform = fc.record({ type: u8, id: u16, attributes: fc.array(attribute, { maxLength: 4 }) });
const proposal = fc.record({
  number: u8,
  protocol: u8,
  spi: bytes(0, 16),
  transforms: fc.array(transform, { maxLength: 6 }),
});

const range = fc.tuple(fc.constantFrom(4, 16), u8, u16, u16).chain(([addressBytes, protocol, startPort, endPort]) =>
  fc.tuple(bytes(addressBytes, addressBytes), bytes(addressBytes, addressBytes)).map(([start, end]): WireSelector => ({
    kind: "range",
    selector: { startAddress: ipFromBytes(start), endAddress: ipFromBytes(end), protocol, startPort, endPort },
  })),
);
const unknownSelector = fc.record({
  kind: fc.constant("unknown" as const),
  type: fc.integer({ min: 9, max: 255 }),
  body: bytes(1, 20),
});
const selectors = fc.array(fc.oneof(range, unknownSelector), { minLength: 1, maxLength: 8 });

const constant = <K extends string>(kind: K) => fc.constant(kind);
const identification = (kind: "idi" | "idr") => fc.record({ kind: constant(kind), type: u8, data: bytes(0, 40) });

/** Any payload but SK, as it can be sent. */
export const payload: fc.Arbitrary<Payload> = fc.oneof(
  fc.record({ kind: constant("sa"), proposals: fc.array(proposal, { minLength: 1, maxLength: 4 }) }),
  fc.record({ kind: constant("ke"), group: u16, value: bytes(0, 64) }),
  fc.record({ kind: constant("nonce"), nonce: bytes(16, 256) }),
  identification("idi"),
  identification("idr"),
  fc.record({ kind: constant("cert"), encoding: u8, data: bytes(0, 40) }),
  fc.record({ kind: constant("certreq"), encoding: u8, authorities: bytes(0, 40) }),
  fc.record({ kind: constant("auth"), method: u8, data: bytes(0, 40) }),
  fc.record({ kind: constant("notify"), protocol: u8, spi: bytes(0, 16), type: u16, data: bytes(0, 40) }),
  fc.record({
    kind: constant("delete"),
    protocol: fc.constantFrom(2, 3),
    spis: fc.array(bytes(4, 4), { maxLength: 5 }),
  }),
  fc.record({ kind: constant("delete"), protocol: fc.constant(1), spis: fc.constant([]) }),
  fc.record({ kind: constant("vendor"), data: bytes(0, 40) }),
  fc.record({ kind: constant("tsi"), selectors }),
  fc.record({ kind: constant("tsr"), selectors }),
  fc.record({
    kind: constant("unknown"),
    type: fc.integer({ min: 128, max: 255 }),
    critical: fc.constant(false),
    body: bytes(0, 40),
  }),
);
