import { ByteReader, concatBytes, u32be } from "../../core/bytes.ts";
import { EsplexError } from "../../core/errors.ts";
import { FLAG_INITIATOR, FLAG_RESPONSE, IKE_HEADER_BYTES, IKE_SPI_BYTES } from "./constants.ts";

/** RFC 7296 §3.1. Flags other than Initiator and Response are ignored on receipt and zero when sent. */
export interface IkeHeader {
  /** 8 bytes; the initiator's is never zero. */
  readonly spiI: Uint8Array;
  /** 8 bytes; zero in the first message of IKE_SA_INIT. */
  readonly spiR: Uint8Array;
  readonly nextPayload: number;
  readonly majorVersion: number;
  readonly minorVersion: number;
  readonly exchange: number;
  /** The sender is the original initiator of the IKE SA. */
  readonly fromInitiator: boolean;
  readonly isResponse: boolean;
  readonly messageId: number;
  /** Of the whole message, header included. */
  readonly lengthBytes: number;
}

/** Reads the header only: versions other than 2 decode too, so that they can be answered (RFC 7296 §2.5). */
export function decodeHeader(bytes: Uint8Array): IkeHeader {
  const reader = new ByteReader(bytes, "IKE header");
  const spiI = reader.bytes(IKE_SPI_BYTES).slice();
  const spiR = reader.bytes(IKE_SPI_BYTES).slice();
  const nextPayload = reader.u8();
  const version = reader.u8();
  const exchange = reader.u8();
  const flags = reader.u8();
  const messageId = reader.u32();
  const lengthBytes = reader.u32();
  if (lengthBytes < IKE_HEADER_BYTES) {
    throw new EsplexError("wire.malformed", `IKE header: length ${lengthBytes} is less than the header`);
  }
  return {
    spiI,
    spiR,
    nextPayload,
    majorVersion: version >>> 4,
    minorVersion: version & 0x0f,
    exchange,
    fromInitiator: (flags & FLAG_INITIATOR) !== 0,
    isResponse: (flags & FLAG_RESPONSE) !== 0,
    messageId,
    lengthBytes,
  };
}

export function encodeHeader(header: IkeHeader): Uint8Array {
  const flags = (header.fromInitiator ? FLAG_INITIATOR : 0) | (header.isResponse ? FLAG_RESPONSE : 0);
  return concatBytes(
    header.spiI,
    header.spiR,
    new Uint8Array([header.nextPayload, (header.majorVersion << 4) | header.minorVersion, header.exchange, flags]),
    u32be(header.messageId),
    u32be(header.lengthBytes),
  );
}
