/**
 * The node's side of the leases on one SA: a state machine without I/O. One runner per SA feeds it events in the order in which
 * they happened and performs its effects in order, each finished before the next.
 *
 *            granted                          recall, idle: askPark
 *   parked ───────────▶ held ──────────────────────────────────────▶ held (parking) ──parkAllowed──▶ parked
 *     ▲  (kernel alive,   │ threshold at half: reserve; granted: extend or install      │ want, progress, parkDenied
 *     │   credit 0)       │                                                              ▼
 *     └── expired: kernel state died at its limit ──▶ parked (dead) ──granted: reinstall──▶ held
 *
 * Invariants; tests cite their numbers.
 * H1 The kernel may send only numbers of the lease: `oseq + credit < end`, where credit is what it may still send.
 *    A report that breaks this (GSO with offload modules, a foreign hand on the state) takes all credit away at once, and spoils
 *    the SA: a number of somebody else's may have been used.
 * H2 A lease is installed only when all its numbers lie above every number that this holder ever held (`mark`): a late or
 *    repeated grant is burnt.
 * H3 A contiguous block is added by credit alone, and never more credit than lies above the last number that the kernel could
 *    reach before (`reach`): the kernel may have sent up to there meanwhile.
 * H4 One request at a time.
 * H5 A parked holder's kernel has credit 0 before anybody is told.
 * H6 After a recall the next block replaces the lease, also a contiguous one, and its start is reported once the kernel has it:
 *    another node may be waiting until this one has left its low numbers.
 */
import type { ErrorCode } from "../core/errors.ts";
import type { BurnReason, HolderEffect, HolderEvent } from "./holder-events.ts";
import { nextSoleNumbers, sharedLeaseNumbers, SOLE_LEASE, type SoleLease } from "./size.ts";

/** One lease of several in which nothing was sent for this long is offered back. Our choice. */
const IDLE_MS = 2000;
/** After "you may not park" an idle holder asks again after this long. */
const PARK_AGAIN_MS = 5000;
/** On a recall it asks again after this long, else it refreshes at once: others wait for it. */
const PARK_AGAIN_RECALLED_MS = 500;
/** On a recall: who sent this recently refreshes; who did not asks to park. */
const RECENT_MS = 250;
/** A refused request that is worth another try is repeated after this long. */
const RETRY_MS = 100;

/** Refusals that no repetition changes: the SA is over for this node. */
const FINAL_CODES: readonly ErrorCode[] = ["cluster.staleEpoch", "cluster.unknownSa", "cluster.exhausted"];

interface Common {
  readonly windowPackets: number;
  /** Nodes that hold a lease or wait for one, as the coupling service said last; 1 before that. */
  readonly holders: number;
  readonly soleLease: SoleLease;
  /** How long a lease is while this node is alone: follows the rate. */
  readonly soleNumbers: number;
  /** When the last block was granted. */
  readonly grantedAtMs: number;
  /** A recall wants the lease replaced (H6): `ask` until the block is there, `report` until the kernel has it. */
  readonly moving: "no" | "ask" | "report";
  /** A request is under way. */
  readonly isAsking: boolean;
  /** Somebody waits for `ready`. */
  readonly isWanted: boolean;
  /** End of everything that was ever held: lower numbers are never installed (H2). */
  readonly mark: bigint;
  /** Names the last change of the kernel's lease. */
  readonly token: number;
  /** Not before this time: the next try after a refusal. */
  readonly retryAtMs: number;
  /** A final refusal: no more requests. */
  readonly finalCode: ErrorCode | null;
}

/** The kernel can send nothing. */
interface Parked extends Common {
  readonly kind: "parked";
  /** False when the kernel has no state: the next lease is a `reinstall`. */
  readonly isAlive: boolean;
}

/** The kernel may send from `[nextUnsent, end)`. */
interface Held extends Common {
  readonly kind: "held";
  readonly nextUnsent: bigint;
  readonly end: bigint;
  /** The last number that the kernel can send, at least: decides when to refill. */
  readonly reachLow: bigint;
  /** The last number that the kernel can send, at most: decides how much credit is safe (H3). */
  readonly reachHigh: bigint;
  /** Found alive at the start: it is replaced, not extended, for this process did not install it. */
  readonly isAdopted: boolean;
  readonly isParking: boolean;
  /** The parking question under way answers a recall: "no" then means a refresh. */
  readonly isRecalled: boolean;
  /** When parking was denied last. */
  readonly deniedAtMs: number;
  readonly sentAtMs: number;
}

export type HolderState = Parked | Held;

export interface HolderStep {
  readonly state: HolderState;
  readonly effects: readonly HolderEffect[];
}

/** A holder of nothing. `isAlive`: whether the kernel has a state for the SA, with credit 0. */
export function initialHolder(windowPackets: number, isAlive: boolean, soleLease: SoleLease = SOLE_LEASE): HolderState {
  return {
    kind: "parked",
    isAlive,
    windowPackets,
    holders: 1,
    soleLease,
    soleNumbers: soleLease.firstNumbers,
    grantedAtMs: Number.NEGATIVE_INFINITY,
    moving: "no",
    isAsking: false,
    isWanted: false,
    mark: 0n,
    token: 0,
    retryAtMs: 0,
    finalCode: null,
  };
}

/** The range that the kernel may send from, for status; null when parked. */
export function leaseOf(state: HolderState): { readonly nextUnsent: bigint; readonly end: bigint } | null {
  return state.kind === "held" ? { nextUnsent: state.nextUnsent, end: state.end } : null;
}

/** False where nothing becomes due by time alone: the next event is somebody's wish, or the kernel's. Most SAs of most nodes. */
export function needsTicks(state: HolderState): boolean {
  return state.kind === "held" || (state.finalCode === null && (state.isWanted || !state.isAlive));
}

/** One event in, the next state and what to do out. */
export function stepHolder(state: HolderState, event: HolderEvent): HolderStep {
  switch (event.kind) {
    case "want":
      return wanted(state);
    case "threshold":
      if (state.kind === "held" && event.oseq >= state.end) return tripped(state, event.oseq);
      return refilled(progressed(state, event.oseq, event.nowMs));
    case "applied":
      return applied(state, event);
    case "granted":
      return granted({ ...state, isAsking: false, holders: event.holders }, event, state.isAsking);
    case "refused":
      return refused(state, event.code, event.nowMs);
    case "recall":
      return recalled({ ...state, holders: Math.max(1, event.holders) }, event.nowMs);
    case "expired":
      return expired(state);
    case "tripped":
      return deleted(state, event.lastUsable);
    case "tick":
      return ticked(event.oseq === null ? state : progressed(state, event.oseq, event.nowMs), event.nowMs);
    case "adopted":
      return adopted(state, event);
    case "parkAllowed":
      return parkAllowed(state);
    case "parkDenied":
      return parkDenied(state, event.nowMs);
  }
}

function wanted(state: HolderState): HolderStep {
  if (state.kind === "held" && credit(state) > 0n) {
    // The distributor counts on this node again: a parking question under way is void.
    return { state: { ...state, isParking: false }, effects: [{ kind: "ready" }] };
  }
  if (state.finalCode !== null) return { state, effects: [{ kind: "unready", code: state.finalCode }] };
  return asked({ ...state, isWanted: true });
}

function progressed(state: HolderState, oseq: bigint, nowMs: number): HolderState {
  if (state.kind !== "held" || oseq < state.nextUnsent || oseq >= state.end) return state;
  const nextUnsent = oseq + 1n;
  const reachLow = state.reachLow < oseq ? oseq : state.reachLow;
  return { ...state, nextUnsent, reachLow, isParking: false, sentAtMs: nowMs };
}

function applied(state: HolderState, event: HolderEvent & { kind: "applied" }): HolderStep {
  if (state.kind !== "held" || event.token !== state.token) return { state, effects: [] };
  if (event.lastSendable >= state.end) return tripped(state, event.lastSendable);
  const isMoved = state.moving === "report";
  const exact: Held = {
    ...state,
    reachLow: event.lastSendable,
    reachHigh: event.lastSendable,
    moving: isMoved ? "no" : state.moving,
  };
  const next = refilled(progressed(exact, event.oseq, event.nowMs));
  // The answer to a refill that is due at once may be what others wait for: the report goes first.
  const report: HolderEffect[] = isMoved ? [{ kind: "report", nextUnsent: event.oseq + 1n }] : [];
  return { state: next.state, effects: [...report, ...next.effects] };
}

function granted(state: HolderState, grant: HolderEvent & { kind: "granted" }, wasAsking: boolean): HolderStep {
  const { first, end, nowMs } = grant;
  const isNew = first < end && first >= state.mark;
  if (!wasAsking || !isNew) {
    const effects: HolderEffect[] = isNew ? [{ kind: "burnt", first, end, why: "unasked" }] : [];
    return { state: { ...state, retryAtMs: nowMs + RETRY_MS }, effects };
  }
  const paced = { ...state, ...pace(state, nowMs) };
  if (paced.kind === "held" && first === paced.end && !paced.isAdopted && paced.moving !== "ask") {
    return extended(paced, end);
  }
  const isAlive = state.kind === "held" || state.isAlive;
  const token = state.token + 1;
  const next: Held = {
    ...common(paced),
    moving: state.moving === "ask" ? "report" : state.moving,
    kind: "held",
    nextUnsent: first,
    end,
    mark: end,
    token,
    reachLow: end - 1n,
    reachHigh: end - 1n,
    isAdopted: false,
    isParking: false,
    isRecalled: false,
    deniedAtMs: state.kind === "held" ? state.deniedAtMs : Number.NEGATIVE_INFINITY,
    sentAtMs: state.kind === "held" ? state.sentAtMs : nowMs,
    isWanted: false,
  };
  const install: HolderEffect = { kind: isAlive ? "install" : "reinstall", first, end, token };
  return withReady(state, next, [install, ...rest(state, "replaced")]);
}

/** The length of a sole holder's leases follows how fast they are used. */
function pace(state: HolderState, nowMs: number): Pick<Common, "soleNumbers" | "grantedAtMs"> {
  if (state.kind === "parked" || state.holders > 1) return { soleNumbers: state.soleNumbers, grantedAtMs: nowMs };
  const soleNumbers = nextSoleNumbers(state.soleLease, state.soleNumbers, nowMs - state.grantedAtMs);
  return { soleNumbers, grantedAtMs: nowMs };
}

/** Adds a block that follows on ours (H3). */
function extended(state: Held, end: bigint): HolderStep {
  const grown: Held = { ...state, end, mark: end };
  const creditNumbers = end - 1n - state.reachHigh;
  // Writing the credit replaces what is left of it: too small a block waits for the next one.
  if (creditNumbers <= state.reachHigh + 1n - state.nextUnsent) return asked(grown);
  const token = state.token + 1;
  const reachLow = state.nextUnsent - 1n + creditNumbers;
  const next: Held = { ...grown, token, reachHigh: end - 1n, reachLow, isWanted: false };
  return withReady(state, next, [{ kind: "extend", newEnd: end, creditNumbers, token }]);
}

/** What is given up of a lease, as far as there is something. */
function rest(state: HolderState, why: BurnReason): HolderEffect[] {
  if (state.kind !== "held" || state.nextUnsent >= state.end) return [];
  return [{ kind: "burnt", first: state.nextUnsent, end: state.end, why }];
}

/** The kernel is beyond its lease, or could get there (H1): nothing more may leave on it. */
function tripped(state: Held, lastUsable: bigint): HolderStep {
  return {
    state: { ...common(state), kind: "parked", isAlive: true, mark: lastUsable + 1n },
    effects: [{ kind: "park" }, ...rest(state, "tripped"), { kind: "release", nextUnsent: lastUsable + 1n }],
  };
}

/** The tripwire has deleted the state. Numbers beyond all that was ever held here are told: nobody may trust the SA then. */
function deleted(state: HolderState, lastUsable: bigint): HolderStep {
  const isBeyond = lastUsable >= state.mark;
  const mark = isBeyond ? lastUsable + 1n : state.mark;
  const claim: HolderEffect[] = isBeyond ? [{ kind: "release", nextUnsent: mark }] : [];
  const next = asked({ ...common(state), kind: "parked", isAlive: false, mark });
  return { state: next.state, effects: [...rest(state, "tripped"), ...claim, ...next.effects] };
}

function withReady(before: HolderState, state: Held, effects: readonly HolderEffect[]): HolderStep {
  return { state, effects: before.isWanted ? [...effects, { kind: "ready" }] : effects };
}

function refused(state: HolderState, code: ErrorCode, nowMs: number): HolderStep {
  const isFinal = FINAL_CODES.includes(code);
  const next: HolderState = { ...state, isAsking: false, retryAtMs: nowMs + RETRY_MS };
  if (!isFinal) return { state: next, effects: [] };
  const effects: HolderEffect[] = state.isWanted ? [{ kind: "unready", code }] : [];
  return { state: { ...next, finalCode: code, isWanted: false }, effects };
}

function recalled(state: HolderState, nowMs: number): HolderStep {
  if (state.isAsking) return { state, effects: [] };
  if (state.kind === "parked") return { state, effects: [{ kind: "release", nextUnsent: 0n }] };
  const wasDenied = nowMs - state.deniedAtMs < PARK_AGAIN_RECALLED_MS;
  if (nowMs - state.sentAtMs <= RECENT_MS || wasDenied) return asked({ ...state, moving: "ask" });
  return parkAsked({ ...state, isRecalled: true });
}

function expired(state: HolderState): HolderStep {
  if (state.kind === "parked") return asked({ ...state, isAlive: false });
  const first = state.reachLow >= state.nextUnsent ? state.reachLow + 1n : state.nextUnsent;
  // Its lease was too short for its rate.
  const soleNumbers = state.holders > 1 ? state.soleNumbers : nextSoleNumbers(state.soleLease, state.soleNumbers, 0);
  const next: Parked = { ...common(state), soleNumbers, kind: "parked", isAlive: false };
  const { state: after, effects } = asked(next);
  if (first >= state.end) return { state: after, effects };
  return { state: after, effects: [{ kind: "burnt", first, end: state.end, why: "expired" }, ...effects] };
}

function ticked(state: HolderState, nowMs: number): HolderStep {
  if (state.kind === "parked") {
    const needs = state.isWanted || !state.isAlive;
    return needs && nowMs >= state.retryAtMs ? asked(state) : { state, effects: [] };
  }
  if (nowMs < state.retryAtMs) return { state, effects: [] };
  if (state.isAdopted) return asked(state);
  const refill = refilled(state);
  if (refill.effects.length > 0) return refill;
  // Alone, it keeps its numbers until somebody else wants to send: given back they would be burnt.
  const isIdle = state.holders > 1 && nowMs - state.sentAtMs >= IDLE_MS && nowMs - state.deniedAtMs >= PARK_AGAIN_MS;
  return isIdle && !state.isAsking ? parkAsked(state) : refill;
}

function adopted(state: HolderState, event: HolderEvent & { kind: "adopted" }): HolderStep {
  const { oseq, lastSendable, nowMs } = event;
  const mark = lastSendable + 1n;
  if (lastSendable <= oseq) return { state: { ...common(state), kind: "parked", isAlive: true, mark }, effects: [] };
  return asked({
    ...common(state),
    kind: "held",
    mark,
    nextUnsent: oseq + 1n,
    end: mark,
    reachLow: lastSendable,
    reachHigh: lastSendable,
    isAdopted: true,
    isParking: false,
    isRecalled: false,
    deniedAtMs: Number.NEGATIVE_INFINITY,
    sentAtMs: nowMs,
  });
}

function parkAllowed(state: HolderState): HolderStep {
  if (state.kind !== "held" || !state.isParking) return { state, effects: [] };
  // Numbers are on their way: a release now would make the service forget a lease that is about to be installed.
  if (state.isAsking) return { state: { ...state, isParking: false }, effects: [] };
  return {
    state: { ...common(state), moving: "no", kind: "parked", isAlive: true },
    effects: [{ kind: "park" }, ...rest(state, "parked"), { kind: "release", nextUnsent: 0n }],
  };
}

function parkDenied(state: HolderState, nowMs: number): HolderStep {
  if (state.kind !== "held" || !state.isParking) return { state, effects: [] };
  const denied: Held = { ...state, isParking: false, isRecalled: false, deniedAtMs: nowMs };
  // After a recall only a new block takes it out of the others' way.
  return state.isRecalled ? asked({ ...denied, moving: "ask" }) : { state: denied, effects: [] };
}

function parkAsked(state: Held): HolderStep {
  if (state.isParking) return { state, effects: [] };
  return { state: { ...state, isParking: true }, effects: [{ kind: "askPark" }] };
}

/** Asks for numbers when half of the credit of a full lease is used. */
function refilled(state: HolderState): HolderStep {
  if (state.kind !== "held" || credit(state) > fullLease(state) / 2n) return { state, effects: [] };
  return asked(state);
}

function asked(state: HolderState): HolderStep {
  if (state.isAsking || state.finalCode !== null) return { state, effects: [] };
  const full = fullLease(state);
  // A contiguous block also gives the numbers between `reach` and `end` back, so that much less is asked for.
  const spare = state.kind === "held" && state.moving !== "ask" ? state.end - 1n - state.reachHigh : 0n;
  const count = Number(full > spare ? full - spare : 1n);
  const nextUnsent = state.kind === "held" && state.nextUnsent < state.end ? state.nextUnsent : 0n;
  return { state: { ...state, isAsking: true }, effects: [{ kind: "reserve", count, nextUnsent }] };
}

function fullLease(state: HolderState): bigint {
  return BigInt(state.holders <= 1 ? state.soleNumbers : sharedLeaseNumbers(state.windowPackets, state.holders));
}

/** Numbers that the kernel can still send, at least. */
function credit(state: Held): bigint {
  return state.reachLow + 1n - state.nextUnsent;
}

function common(state: HolderState): Common {
  const { windowPackets, holders, soleLease, soleNumbers, grantedAtMs, moving } = state;
  const { isAsking, isWanted, mark, token, retryAtMs, finalCode } = state;
  return {
    windowPackets,
    holders,
    soleLease,
    soleNumbers,
    grantedAtMs,
    moving,
    isAsking,
    isWanted,
    mark,
    token,
    retryAtMs,
    finalCode,
  };
}
