/** What a node has received and authenticated on an inbound SA: bit i (least significant first) stands for `highest - i`. */
export interface ReceivedNumbers {
  /** 0 when nothing was received. */
  readonly highest: bigint;
  readonly bits: Uint8Array;
}

/** The same, of one kernel state. */
export interface StateReceived extends ReceivedNumbers {
  /** When the state was made, in seconds since 1970 of its node's clock: one that is made anew has forgotten. */
  readonly bornSeconds: bigint;
}
