import { invariant } from "../core/errors.ts";
import type { IkeKeys } from "./keys.ts";
import { newIkeLife } from "./lifetime.ts";
import { IkeSession, type Established, type IkeRole } from "./session.ts";
import { isEstablished, type EstablishedSession, type SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";
import { ikeSuiteName, type IkeSuite } from "./suite.ts";

/** What a rekey of an IKE SA has agreed on. */
interface NewIke {
  readonly role: IkeRole;
  readonly spiI: Uint8Array;
  readonly spiR: Uint8Array;
  readonly suite: IkeSuite;
  readonly keys: IkeKeys;
}

/**
 * Makes the heir of an IKE SA, with all its Child SAs and what waits to be asked about them (RFC 7296 §2.8). The caller gives the
 * old one its next state.
 */
export function inherit(step: Step, table: SessionTable, old: EstablishedSession, made: NewIke): IkeSession {
  const { peer } = old.state;
  const state: Established = {
    ...old.state,
    sinceMs: step.nowMs,
    lastHeardMs: step.nowMs,
    life: newIkeLife(step, peer.ikeLifetimeMs),
    undecided: made.role === "responder" && old.own.outstanding?.kind === "rekeyIke" ? old : null,
  };
  const { path, nat, fragmentation } = old;
  const heir = new IkeSession({ ...made, path, nat, fragmentation, nextRequestId: 0, state });
  for (const wish of old.own.takeChildWishes()) heir.own.enqueue(wish);
  table.add(heir);
  invariant(isEstablished(heir), "an heir is up from its birth");
  table.know(heir);
  step.count("ikeRekeyed");
  step.log("info", "IKE SA rekeyed", {
    ...heir.facts(),
    old: old.id,
    suite: ikeSuiteName(made.suite),
    begunBy: made.role === "initiator" ? "us" : "the peer",
  });
  return heir;
}
