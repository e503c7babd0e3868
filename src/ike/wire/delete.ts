import { ByteReader, concatBytes, u16be } from "../../core/bytes.ts";
import { EsplexError } from "../../core/errors.ts";
import { ESP_SPI_BYTES, PROTOCOL } from "./constants.ts";
import { WIRE_LIMITS } from "./limits.ts";

/** RFC 7296 §3.11. For the IKE SA itself it carries no SPI; for ESP and AH the sender's inbound ones. */
export interface DeletePayload {
  readonly kind: "delete";
  readonly protocol: number;
  readonly spis: readonly Uint8Array[];
}

export function decodeDelete(body: Uint8Array): DeletePayload {
  const reader = new ByteReader(body, "Delete payload");
  const protocol = reader.u8();
  const spiBytes = reader.u8();
  const count = reader.u16();
  const wanted = protocol === PROTOCOL.IKE ? 0 : ESP_SPI_BYTES;
  if (spiBytes !== wanted && count > 0)
    throw new EsplexError("wire.malformed", `Delete payload: SPI of ${spiBytes} bytes`);
  if (count > WIRE_LIMITS.deletedSpis) throw new EsplexError("wire.malformed", `Delete payload: ${count} SPIs`);
  const spis = Array.from({ length: count }, () => reader.bytes(spiBytes).slice());
  reader.end();
  return { kind: "delete", protocol, spis };
}

export function encodeDelete(payload: DeletePayload): Uint8Array {
  const spiBytes = payload.protocol === PROTOCOL.IKE ? 0 : ESP_SPI_BYTES;
  return concatBytes(new Uint8Array([payload.protocol, spiBytes]), u16be(payload.spis.length), ...payload.spis);
}
