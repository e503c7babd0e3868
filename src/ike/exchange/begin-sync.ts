import type { EstablishedSession } from "../session-table.ts";
import type { Step } from "../step.ts";
import type { OwnRequest } from "../window.ts";
import { SYNC_NONCE_BYTES, type MessageIdSync } from "../wire/message-id-sync.ts";

export type SyncRequest = Extract<OwnRequest, { kind: "synchronise" }>;

/** A synchronisation of ours. Each asks from a higher ID than the one before: the peer drops what it has seen. */
export function newSync(step: Step, session: EstablishedSession, before: SyncRequest | null): SyncRequest {
  const sync: MessageIdSync = {
    nonce: step.environment.randomBytes(SYNC_NONCE_BYTES),
    nextSent: Math.max(session.own.nextId, before?.sync.nextSent ?? 0) + 1,
    nextReceived: session.requests.highestId + 1,
  };
  return { kind: "synchronise", sync };
}
