import { MAX_FRAME_BYTES } from "./frames.ts";

/** Limits of one connection; the defaults are our choice. */
export interface BusLimits {
  /** A heart-beat goes out this often. */
  readonly heartbeatMs: number;
  /** Without one whole frame for this long the peer counts as dead. */
  readonly silenceMs: number;
  /** A request without its own limit fails after this long. */
  readonly requestMs: number;
  readonly maxFrameBytes: number;
  /** Bytes that may wait for a slow reader before it is cut off. */
  readonly maxSendBytes: number;
  /** Requests that may wait for their response. */
  readonly maxPending: number;
  /** Messages that may wait for a handler before reading stops. */
  readonly maxInbox: number;
}

/** What a connection runs with unless told otherwise. */
export const DEFAULT_LIMITS: BusLimits = {
  heartbeatMs: 1000,
  silenceMs: 6000,
  requestMs: 5000,
  maxFrameBytes: MAX_FRAME_BYTES,
  maxSendBytes: 8 * 1024 * 1024,
  maxPending: 16_384,
  maxInbox: 1024,
};
