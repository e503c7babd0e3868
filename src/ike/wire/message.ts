import { concatBytes } from "../../core/bytes.ts";
import { EsplexError } from "../../core/errors.ts";
import { IKE_HEADER_BYTES, IKE_MAJOR_VERSION } from "./constants.ts";
import { decodeHeader, encodeHeader, type IkeHeader } from "./header.ts";
import { decodePayloads, encodePayloads, type Payload } from "./payload.ts";

/** One IKE message; an encrypted one has its SK payload last, still sealed (see `encrypted.ts`). */
export interface IkeMessage {
  readonly header: IkeHeader;
  readonly payloads: readonly Payload[];
}

/** What of a header the sender chooses; the rest follows from the payloads. */
export type HeaderFields = Pick<IkeHeader, "spiI" | "spiR" | "exchange" | "fromInitiator" | "isResponse" | "messageId">;

/** Reads a whole datagram. Its length must be what the header says (RFC 7296 §3.1). */
export function decodeMessage(bytes: Uint8Array): IkeMessage {
  const header = decodeHeader(bytes);
  if (header.majorVersion !== IKE_MAJOR_VERSION) {
    throw new EsplexError("wire.unsupported", `IKE version ${header.majorVersion}`);
  }
  if (header.lengthBytes !== bytes.length) {
    throw new EsplexError("wire.malformed", `IKE length ${header.lengthBytes}, datagram ${bytes.length}`);
  }
  return { header, payloads: decodePayloads(header.nextPayload, bytes.subarray(IKE_HEADER_BYTES)) };
}

/** Encodes a message that is not encrypted: IKE_SA_INIT, and the errors that answer without an SA. */
export function encodeMessage(fields: HeaderFields, payloads: readonly Payload[]): Uint8Array {
  const chain = encodePayloads(payloads);
  return concatBytes(headerFor(fields, chain.firstType, IKE_HEADER_BYTES + chain.bytes.length), chain.bytes);
}

/** The encoded header of a message of this length. */
export function headerFor(fields: HeaderFields, nextPayload: number, lengthBytes: number): Uint8Array {
  return encodeHeader({ ...fields, nextPayload, lengthBytes, majorVersion: IKE_MAJOR_VERSION, minorVersion: 0 });
}
