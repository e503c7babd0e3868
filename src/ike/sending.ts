import { beginExchange } from "./exchange/begin.ts";
import type { Path } from "./events.ts";
import type { IkeSession, ResponseDraft } from "./session.ts";
import type { Step } from "./step.ts";
import type { Datagrams } from "./window.ts";
import type { Payload } from "./wire/payload.ts";

/** Answers a request and keeps the answer for its retransmissions. */
export function sendResponse(
  step: Step,
  session: IkeSession,
  draft: ResponseDraft,
  payloads: readonly Payload[],
): void {
  const { exchange, messageId } = draft;
  const datagrams = session.seal(step, { exchange, messageId, isResponse: true }, payloads);
  session.requests.finish(datagrams);
  emitDatagrams(step, draft.path, datagrams);
}

/** Sends a message: all of its fragments. */
export function emitDatagrams(step: Step, path: Path, datagrams: Datagrams): void {
  for (const bytes of datagrams) step.emit({ kind: "send", ...path, bytes });
}

/** True while nothing of ours may begin here: it is not decided yet which heir of an IKE SA stays. */
export function isUndecided({ state }: IkeSession): boolean {
  return state.kind === "established" && state.undecided?.own.outstanding?.kind === "rekeyIke";
}

/** Puts the next request of our own on the wire, when none is there and one waits. */
export function sendOwn(step: Step, session: IkeSession): void {
  if (isUndecided(session)) return;
  for (let wish = session.own.next(); wish !== null; wish = session.own.next()) {
    const begun = beginExchange(step, session, wish);
    if (begun === null) continue;
    const { exchange, payloads, request } = begun;
    const datagrams = session.own.start(step.nowMs, step.settings.timing, request, (messageId) =>
      session.seal(step, { exchange, messageId, isResponse: false }, payloads),
    );
    emitDatagrams(step, session.path, datagrams);
  }
}
