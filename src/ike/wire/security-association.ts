import { ByteReader, concatBytes, u16be } from "../../core/bytes.ts";
import { EsplexError } from "../../core/errors.ts";
import { ATTRIBUTE_KEY_LENGTH } from "./constants.ts";
import { WIRE_LIMITS } from "./limits.ts";

/** RFC 7296 §3.3.5: a number stands in the attribute itself (TV), bytes follow it (TLV). */
export interface TransformAttribute {
  readonly type: number;
  readonly value: number | Uint8Array;
}

/** RFC 7296 §3.3.2. */
export interface Transform {
  readonly type: number;
  readonly id: number;
  readonly attributes: readonly TransformAttribute[];
}

/** RFC 7296 §3.3.1. */
export interface Proposal {
  readonly number: number;
  readonly protocol: number;
  /** Empty in IKE_SA_INIT, 8 bytes when an IKE SA is rekeyed, 4 for ESP. */
  readonly spi: Uint8Array;
  readonly transforms: readonly Transform[];
}

export interface SaPayload {
  readonly kind: "sa";
  readonly proposals: readonly Proposal[];
}

const MORE_PROPOSALS = 2;
const MORE_TRANSFORMS = 3;
const ATTRIBUTE_IS_TV = 0x8000;

export function decodeSa(body: Uint8Array): SaPayload {
  const reader = new ByteReader(body, "SA payload");
  const proposals: Proposal[] = [];
  let more = true;
  while (more) {
    if (proposals.length === WIRE_LIMITS.proposals)
      throw new EsplexError("wire.malformed", "SA payload: too many proposals");
    more = readMore(reader, MORE_PROPOSALS, "proposal");
    proposals.push(decodeProposal(readSubstructure(reader)));
  }
  reader.end();
  return { kind: "sa", proposals };
}

function readMore(reader: ByteReader, marker: number, what: string): boolean {
  const value = reader.u8();
  reader.skip(1);
  if (value !== 0 && value !== marker) throw new EsplexError("wire.malformed", `${what}: next is ${value}`);
  return value === marker;
}

/** The rest of a proposal or transform whose first two bytes are read: its length field counts from the start. */
function readSubstructure(reader: ByteReader): Uint8Array {
  return reader.bytes(reader.u16() - 4);
}

function decodeProposal(bytes: Uint8Array): Proposal {
  const reader = new ByteReader(bytes, "proposal");
  const number = reader.u8();
  const protocol = reader.u8();
  const spiBytes = reader.u8();
  const count = reader.u8();
  if (spiBytes > WIRE_LIMITS.spiBytes) throw new EsplexError("wire.malformed", `proposal: SPI of ${spiBytes} bytes`);
  if (count > WIRE_LIMITS.transforms) throw new EsplexError("wire.malformed", `proposal: ${count} transforms`);
  const spi = reader.bytes(spiBytes).slice();
  const transforms: Transform[] = [];
  for (let i = 0; i < count; i++) {
    const more = readMore(reader, MORE_TRANSFORMS, "transform");
    if (more !== i < count - 1) throw new EsplexError("wire.malformed", "proposal: transform count does not fit");
    transforms.push(decodeTransform(readSubstructure(reader)));
  }
  reader.end();
  return { number, protocol, spi, transforms };
}

function decodeTransform(bytes: Uint8Array): Transform {
  const reader = new ByteReader(bytes, "transform");
  const type = reader.u8();
  reader.skip(1);
  const id = reader.u16();
  const attributes: TransformAttribute[] = [];
  while (reader.remaining > 0) {
    if (attributes.length === WIRE_LIMITS.attributes)
      throw new EsplexError("wire.malformed", "transform: too many attributes");
    const word = reader.u16();
    const tv = (word & ATTRIBUTE_IS_TV) !== 0;
    attributes.push({
      type: word & ~ATTRIBUTE_IS_TV,
      value: tv ? reader.u16() : reader.bytes(reader.u16()).slice(),
    });
  }
  return { type, id, attributes };
}

export function encodeSa(payload: SaPayload): Uint8Array {
  const { proposals } = payload;
  return concatBytes(...proposals.map((proposal, i) => encodeProposal(proposal, i < proposals.length - 1)));
}

function encodeProposal(proposal: Proposal, more: boolean): Uint8Array {
  const { transforms, spi } = proposal;
  const body = concatBytes(
    new Uint8Array([proposal.number, proposal.protocol, spi.length, transforms.length]),
    spi,
    ...transforms.map((transform, i) => encodeTransform(transform, i < transforms.length - 1)),
  );
  return concatBytes(new Uint8Array([more ? MORE_PROPOSALS : 0, 0]), u16be(body.length + 4), body);
}

function encodeTransform(transform: Transform, more: boolean): Uint8Array {
  const attributes = transform.attributes.map(({ type, value }) =>
    typeof value === "number"
      ? concatBytes(u16be(type | ATTRIBUTE_IS_TV), u16be(value))
      : concatBytes(u16be(type), u16be(value.length), value),
  );
  const body = concatBytes(new Uint8Array([transform.type, 0]), u16be(transform.id), ...attributes);
  return concatBytes(new Uint8Array([more ? MORE_TRANSFORMS : 0, 0]), u16be(body.length + 4), body);
}

/**
 * The key length in bits, null without one, `undefined` when the transform has attributes that we do not understand
 * (it is not acceptable then, RFC 7296 §3.3.6).
 */
export function keyBitsOf(transform: Transform): number | null | undefined {
  const [first, ...others] = transform.attributes;
  if (first === undefined) return null;
  if (others.length > 0 || first.type !== ATTRIBUTE_KEY_LENGTH || typeof first.value !== "number") return undefined;
  return first.value;
}

/** A transform, with its key length where it has one. */
export function transform(type: number, id: number, keyBits: number | null = null): Transform {
  return { type, id, attributes: keyBits === null ? [] : [{ type: ATTRIBUTE_KEY_LENGTH, value: keyBits }] };
}
