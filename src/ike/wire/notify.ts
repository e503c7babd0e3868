import { ByteReader, concatBytes, u16be } from "../../core/bytes.ts";
import { EsplexError } from "../../core/errors.ts";
import { PROTOCOL } from "./constants.ts";
import { WIRE_LIMITS } from "./limits.ts";

/** RFC 7296 §3.10. */
export interface NotifyPayload {
  readonly kind: "notify";
  /** Zero unless the notify is about the SA that `spi` names. */
  readonly protocol: number;
  readonly spi: Uint8Array;
  readonly type: number;
  readonly data: Uint8Array;
}

export function decodeNotify(body: Uint8Array): NotifyPayload {
  const reader = new ByteReader(body, "Notify payload");
  const protocol = reader.u8();
  const spiBytes = reader.u8();
  const type = reader.u16();
  if (spiBytes > WIRE_LIMITS.spiBytes)
    throw new EsplexError("wire.malformed", `Notify payload: SPI of ${spiBytes} bytes`);
  return { kind: "notify", protocol, type, spi: reader.bytes(spiBytes).slice(), data: reader.rest().slice() };
}

export function encodeNotify(payload: NotifyPayload): Uint8Array {
  const { protocol, spi, type, data } = payload;
  return concatBytes(new Uint8Array([protocol, spi.length]), u16be(type), spi, data);
}

/** A notify that is about no particular SA. */
export function notify(type: number, data: Uint8Array = new Uint8Array(0)): NotifyPayload {
  return { kind: "notify", protocol: PROTOCOL.NONE, spi: new Uint8Array(0), type, data };
}
