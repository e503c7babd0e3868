import type { DhKeyPair } from "../crypto/dh.ts";
import type { IkeSuite } from "./suite.ts";

/** A new IKE SA that we have asked for: what the answer is read with. */
export interface IkeOffer {
  /** The suites that we take; the first has the KE payload's group. */
  readonly suites: readonly IkeSuite[];
  /** Our SPI of the new IKE SA. */
  readonly spi: Uint8Array;
  readonly nonce: Uint8Array;
  readonly pair: DhKeyPair;
  /** The peer has named the group: it wanted another than our first one. */
  readonly isSecondTry: boolean;
}
