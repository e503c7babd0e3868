import type { DhKeyPair } from "../crypto/dh.ts";
import type { TrafficSelector } from "../sa/spec.ts";
import type { ChildSuite } from "../sa/suite.ts";
import type { ChildMode } from "./environment.ts";

/** What a Child SA is to be: a new one, or an old one's heir (RFC 7296 §2.8: same selectors and algorithms). */
export interface ChildWish {
  /** The SA that it replaces; null for none. */
  readonly replaces: string | null;
  readonly mode: ChildMode;
  /** Of ESP and of AH, the preferred one first. */
  readonly suites: readonly ChildSuite[];
  /** Ids of transform type 5, the preferred one first. */
  readonly numbers: readonly number[];
  readonly local: readonly TrafficSelector[];
  readonly remote: readonly TrafficSelector[];
}

/** A Child SA that we have asked for: what the answer is read with. */
export interface ChildOffer {
  readonly wish: ChildWish;
  /** Our inbound SPI. */
  readonly spi: number;
  readonly nonce: Uint8Array;
  /** Groups that may be chosen; empty without PFS. */
  readonly groups: readonly number[];
  /** The peer has named the group: it wanted another than our first one. */
  readonly isSecondTry: boolean;
  /** Our half of the KE exchange; null without PFS. */
  readonly ke: { readonly group: number; readonly pair: DhKeyPair } | null;
}
