import { ByteReader, concatBytes, u32be } from "../../core/bytes.ts";
import { EsplexError } from "../../core/errors.ts";
import { NOTIFY } from "./constants.ts";
import { notify, type NotifyPayload } from "./notify.ts";

/** N(IKEV2_MESSAGE_ID_SYNC), RFC 6311 §6.3. */
export interface MessageIdSync {
  readonly nonce: Uint8Array;
  /** Message ID of the sender's next request. */
  readonly nextSent: number;
  /** Message ID that the sender expects in the other end's next request. */
  readonly nextReceived: number;
}

export const SYNC_NONCE_BYTES = 4;
/** Message IDs do not wrap (RFC 7296 §2.2): one who goes to their end in one leap means no good. Our choice. */
const MESSAGE_ID_END = 2 ** 31;

export function syncNotify({ nonce, nextSent, nextReceived }: MessageIdSync): NotifyPayload {
  return notify(NOTIFY.IKEV2_MESSAGE_ID_SYNC, concatBytes(nonce, u32be(nextSent), u32be(nextReceived)));
}

/** Throws `wire.malformed`. */
export function readSync({ data }: NotifyPayload): MessageIdSync {
  const reader = new ByteReader(data, "N(IKEV2_MESSAGE_ID_SYNC)");
  const sync = { nonce: reader.bytes(SYNC_NONCE_BYTES).slice(), nextSent: reader.u32(), nextReceived: reader.u32() };
  if (reader.rest().length > 0) throw new EsplexError("wire.malformed", "N(IKEV2_MESSAGE_ID_SYNC) is too long");
  if (sync.nextSent >= MESSAGE_ID_END || sync.nextReceived >= MESSAGE_ID_END) {
    throw new EsplexError("wire.malformed", "N(IKEV2_MESSAGE_ID_SYNC) leaps to the end of the message IDs");
  }
  return sync;
}
