import { u32be } from "../core/bytes.ts";
import { unreachable } from "../core/errors.ts";
import type { IkeSession, ResponseDraft } from "./session.ts";
import type { Step } from "./step.ts";
import type { OwnRequest } from "./window.ts";
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
  const bytes = session.seal(step, { exchange, messageId, isResponse: true }, payloads);
  session.requests.finish(bytes);
  step.emit({ kind: "send", ...draft.path, bytes });
}

/** Puts the next request of our own on the wire, when none is there and one waits. */
export function sendOwn(step: Step, session: IkeSession): void {
  const bytes = session.own.start(step.nowMs, step.settings.timing, (messageId, request) =>
    session.seal(
      step,
      { exchange: EXCHANGE.INFORMATIONAL, messageId, isResponse: false },
      ownPayloads(session, request),
    ),
  );
  if (bytes !== null) step.emit({ kind: "send", ...session.path, bytes });
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
