import type { DhKeyPair } from "../crypto/dh.ts";
import type { IkePeerConfig } from "./environment.ts";
import type { Path } from "./events.ts";
import type { IkeSuite } from "./suite.ts";

/** Whom to reach, as whom. */
export interface Target {
  readonly peerName: string;
  /** Canonical. */
  readonly dvipa: string;
}

/** What became of an attempt to reach a peer. */
export interface TargetOutcome {
  readonly target: Target;
  readonly ok: boolean;
}

/** Our IKE_SA_INIT that waits for an answer (RFC 7296 §1.2): there are no keys yet. */
export interface Initiation {
  readonly target: Target;
  readonly peer: IkePeerConfig;
  readonly path: Path;
  readonly spiI: Uint8Array;
  readonly nonceI: Uint8Array;
  /** What we take; the KE payload is of the first one's group. */
  readonly suites: readonly IkeSuite[];
  readonly pair: DhKeyPair;
  /** Answers that made us ask again: COOKIE and INVALID_KE_PAYLOAD. */
  readonly turns: number;
  readonly cookie: Uint8Array | null;
  readonly request: Uint8Array;
  sent: number;
  nextAtMs: number;
}
