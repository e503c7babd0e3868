import { u32be } from "../core/bytes.ts";
import { unreachable } from "../core/errors.ts";
import type { Path } from "./events.ts";
import type { IkeSession, ResponseDraft } from "./session.ts";
import type { Step } from "./step.ts";
import type { Datagrams, OwnRequest } from "./window.ts";
import { EXCHANGE, PROTOCOL } from "./wire/constants.ts";
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

/** Puts the next request of our own on the wire, when none is there and one waits. */
export function sendOwn(step: Step, session: IkeSession): void {
  const datagrams = session.own.start(step.nowMs, step.settings.timing, (messageId, request) =>
    session.seal(
      step,
      { exchange: EXCHANGE.INFORMATIONAL, messageId, isResponse: false },
      ownPayloads(session, request),
    ),
  );
  if (datagrams !== null) emitDatagrams(step, session.path, datagrams);
}

function ownPayloads(session: IkeSession, request: OwnRequest): Payload[] {
  switch (request.kind) {
    case "dpd":
      return [];
    case "deleteIke":
      return [{ kind: "delete", protocol: PROTOCOL.IKE, spis: [] }];
    case "deleteChild": {
      const child = session.state.kind === "established" ? session.state.children.get(request.saId) : undefined;
      const spis = child === undefined ? [] : [u32be(child.sa.inbound.spi)];
      return spis.length === 0 ? [] : [{ kind: "delete", protocol: PROTOCOL.ESP, spis }];
    }
    default:
      return unreachable(request);
  }
}
