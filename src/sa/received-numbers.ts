/** What a node has received and authenticated on an inbound SA: bit i (least significant first) stands for `highest - i`. */
export interface ReceivedNumbers {
  /** 0 when nothing was received. */
  readonly highest: bigint;
  readonly bits: Uint8Array;
}
