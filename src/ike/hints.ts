import type { SharedSa } from "../sa/spec.ts";
import { protocolOf, type IpsecProtocol } from "../sa/suite.ts";
import { sendOwn } from "./sending.ts";
import type { EstablishedSession, SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";
import { PROTOCOL } from "./wire/constants.ts";

/*
 * What anybody may say, or forge: it changes no state, and makes us send at most one request per IKE SA and pause
 * (RFC 7296 §1.5, §2.21.4).
 */

/** ESP or AH for an SA that we do not have came from this address: a peer that has an IKE SA with us is told to drop it. */
export function hintUnknownEsp(step: Step, table: SessionTable, esp: UnknownEsp): void {
  for (const session of table.at(esp.dvipa, esp.peer)) {
    const { state } = session;
    const made = [state.pending, state.ownPending, ...state.children.values()];
    if (made.some((child) => child !== null && isOf(child.sa, esp))) return;
    if (!mayFollow(step, session)) return;
    table.touch(session);
    step.count("invalidSpiSent");
    const { spi, protocol } = esp;
    step.log("warn", "a packet for an SA that is not there: the peer is told", { ...session.facts(), protocol, spi });
    session.own.enqueue({ kind: "invalidSpi", protocol: protocol === "ah" ? PROTOCOL.AH : PROTOCOL.ESP, spi });
    sendOwn(step, session);
    return;
  }
}

function isOf({ suite, inbound }: SharedSa, { protocol, spi }: UnknownEsp): boolean {
  return inbound.spi === spi && protocolOf(suite) === protocol;
}

/** An ESP or AH packet that belongs to no SA. */
interface UnknownEsp {
  readonly protocol: IpsecProtocol;
  readonly peer: string;
  readonly dvipa: string;
  readonly spi: number;
}

function mayFollow(step: Step, { state }: EstablishedSession): boolean {
  const { lastHintMs } = state;
  if (lastHintMs !== null && step.nowMs < lastHintMs + step.settings.timing.hintMs) {
    step.count("hintLimit");
    return false;
  }
  state.lastHintMs = step.nowMs;
  return true;
}
