/** How much the responder keeps at most. All are our choice. */
export interface IkeLimits {
  /** Half-open IKE SAs from which on every new one must bring a COOKIE (RFC 7296 §2.6). */
  readonly cookieThreshold: number;
  /** The same for one source address. */
  readonly cookieThresholdPerSource: number;
  readonly halfOpen: number;
  readonly halfOpenPerSource: number;
  /** Per peer of the cluster file and identity that it has proved. */
  readonly ikeSasPerPeer: number;
  readonly childSasPerIkeSa: number;
  /** Closed IKE SAs that still repeat their last answer. */
  readonly closed: number;
  /** Attempts to reach peers that run at the same time. */
  readonly initiating: number;
  /** Attempts to reach a peer on command before it is given up. */
  readonly initiateTries: number;
  /** Error answers outside of an IKE SA. */
  readonly errorRepliesPerSecond: number;
}

/** When things happen, in milliseconds. All are our choice, RFC 7296 §2.4 leaves them open. */
export interface IkeTiming {
  readonly halfOpenMs: number;
  /** How long a kernel installation may take before the peer is told TEMPORARY_FAILURE. */
  readonly installMs: number;
  /** How long after the answer to a rekey the old SA is still sent on, when the peer does not delete it. */
  readonly outboundHoldMs: number;
  /** Silence after which we ask whether the peer lives. */
  readonly dpdIdleMs: number;
  /** Between two messages that keep open the NAT that we are behind (RFC 3948 §4). */
  readonly natKeepaliveMs: number;
  /** First wait for the answer to a request of ours; doubles each time. */
  readonly retransmitMs: number;
  /** Sent so often without answer, the peer is dead: six make about a minute. */
  readonly attempts: number;
  /** Hints of strangers (RFC 7296 §2.21.4) make us ask a peer, or tell it something, no more often than this. */
  readonly hintMs: number;
  readonly cookieSecretMs: number;
  /** How long fragments of an unfinished message are kept at least (RFC 7383 §2.6). */
  readonly reassemblyMs: number;
  /** How long a closed IKE SA repeats its last answer. */
  readonly closedMs: number;
  /** How long a rekeyed IKE SA waits for the peer's DELETE. */
  readonly rekeyedMs: number;
  /** First pause after the peer has refused a rekey; doubles up to `retryMaxMs`, each with jitter. */
  readonly retryMs: number;
  readonly retryMaxMs: number;
  /** TEMPORARY_FAILURE for this long means that both ends disagree for good (RFC 7296 §2.25: several minutes). */
  readonly temporaryFailureMs: number;
  /** Peers that are reached at the start, or were lost together, are spread over this time. */
  readonly startSpreadMs: number;
  /** How often it is looked whether a peer that should be there is lost. */
  readonly standingCheckMs: number;
  /** How long a rekeyed SA is still received on, after both ends have deleted it. */
  readonly lingerMs: number;
  /** How long an SA that lost against another rekey waits for the DELETE of the peer that made it. */
  readonly redundantMs: number;
}

export interface IkeSettings {
  readonly limits: IkeLimits;
  readonly timing: IkeTiming;
}

export const DEFAULT_IKE_SETTINGS: IkeSettings = {
  limits: {
    cookieThreshold: 64,
    cookieThresholdPerSource: 8,
    halfOpen: 1000,
    halfOpenPerSource: 32,
    ikeSasPerPeer: 16,
    childSasPerIkeSa: 16,
    closed: 256,
    initiating: 16,
    initiateTries: 5,
    errorRepliesPerSecond: 10,
  },
  timing: {
    halfOpenMs: 30_000,
    installMs: 10_000,
    outboundHoldMs: 5_000,
    dpdIdleMs: 30_000,
    natKeepaliveMs: 20_000,
    retransmitMs: 1_000,
    attempts: 6,
    hintMs: 10_000,
    cookieSecretMs: 60_000,
    reassemblyMs: 30_000,
    closedMs: 30_000,
    rekeyedMs: 60_000,
    retryMs: 5_000,
    retryMaxMs: 60_000,
    temporaryFailureMs: 180_000,
    startSpreadMs: 3_000,
    standingCheckMs: 5_000,
    lingerMs: 2_000,
    redundantMs: 60_000,
  },
};
