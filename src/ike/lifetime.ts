import type { SharedSa } from "../sa/spec.ts";
import type { ChildLifetime } from "./environment.ts";
import type { Step } from "./step.ts";

/**
 * Lifetimes (RFC 7296 §2.8): at its hard limit an SA is gone; it is rekeyed at a random moment between 80 and 90 % of it, so
 * that two ends with equal limits, and many SAs made at once, do not all begin together. Our choice.
 */
const SOFT_SHARE = 0.8;
const SOFT_JITTER_SHARE = 0.1;

/** Between half and all of a pause. */
const PAUSE_SHARE = 0.5;

/** What an SA has carried, in the direction that has more. */
export interface Usage {
  readonly bytes: bigint;
  readonly packets: bigint;
}

/** Where an SA stands in its life. */
export interface Life {
  /** When it is to be rekeyed; null: time alone is no reason. In the past while somebody is at it. */
  rekeyAtMs: number | null;
  readonly endsAtMs: number | null;
  /** Rekeys that failed in a row. */
  failures: number;
  /** Since when the peer answers TEMPORARY_FAILURE; null when its last answer was another. */
  temporarySinceMs: number | null;
}

/** A Child SA also ends by what it carries. */
export interface ChildLife extends Life {
  readonly soft: Partial<Usage>;
  readonly hard: Partial<Usage>;
}

/** The life of an IKE SA; null for no limit. */
export function newIkeLife(step: Step, limitMs: number | null): Life {
  return lifeOf(step, limitMs, softShare(step));
}

function softShare(step: Step): number {
  return SOFT_SHARE + SOFT_JITTER_SHARE * step.random();
}

function lifeOf({ nowMs }: Step, limitMs: number | null, share: number): Life {
  return {
    rekeyAtMs: limitMs === null ? null : nowMs + limitMs * share,
    endsAtMs: limitMs === null ? null : nowMs + limitMs,
    failures: 0,
    temporarySinceMs: null,
  };
}

export function newChildLife(step: Step, limits: ChildLifetime): ChildLife {
  const share = softShare(step);
  const permille = BigInt(Math.round(1000 * share));
  const soft = (hard: bigint): bigint => (hard * permille) / 1000n;
  const hard = {
    ...(limits.bytes !== null && { bytes: limits.bytes }),
    ...(limits.packets !== null && { packets: limits.packets }),
  };
  return {
    ...lifeOf(step, limits.timeMs, share),
    soft: {
      ...(limits.bytes !== null && { bytes: soft(limits.bytes) }),
      ...(limits.packets !== null && { packets: soft(limits.packets) }),
    },
    hard,
  };
}

/** What the nodes must know of the limits: nothing when it does not matter what the SA carries. */
export function lifesizeOf({ bytes, packets }: ChildLifetime): Pick<SharedSa, "lifesize"> {
  return bytes === null && packets === null ? {} : { lifesize: { bytes, packets } };
}

/** True when what was used has reached one of the limits. */
export function reaches(used: Usage, limits: Partial<Usage>): boolean {
  const bytes = limits.bytes !== undefined && used.bytes >= limits.bytes;
  return bytes || (limits.packets !== undefined && used.packets >= limits.packets);
}

/** A rekey has failed: it is tried again after a pause, as long as the SA lives. */
export function postpone(step: Step, life: Life): void {
  life.failures += 1;
  life.rekeyAtMs = step.nowMs + pauseMs(step, life.failures);
}

/** How long to wait after so many failures in a row: doubling pauses, each cut by a random part. */
export function pauseMs(step: Step, failures: number): number {
  const { retryMs, retryMaxMs } = step.settings.timing;
  const fullMs = Math.min(retryMaxMs, retryMs * 2 ** Math.min(failures - 1, 16));
  return fullMs * (PAUSE_SHARE + (1 - PAUSE_SHARE) * step.random());
}

/**
 * A rekey was refused: it is postponed. True when the peer has answered TEMPORARY_FAILURE for so long that both ends must
 * disagree about the SAs (RFC 7296 §2.25).
 */
export function refuseForNow(step: Step, life: Life, isTemporary: boolean): boolean {
  postpone(step, life);
  life.temporarySinceMs = isTemporary ? (life.temporarySinceMs ?? step.nowMs) : null;
  const sinceMs = life.temporarySinceMs;
  return sinceMs !== null && step.nowMs - sinceMs >= step.settings.timing.temporaryFailureMs;
}
