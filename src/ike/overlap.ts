import { EsplexError } from "../core/errors.ts";
import type { SharedSa, TrafficSelector } from "../sa/spec.ts";
import { dvipaAt } from "./local-end.ts";
import { isNatted } from "./nat.ts";
import { intersect } from "./selectors.ts";
import type { EstablishedSession, SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";

/**
 * Refuses selectors that another peer's Child SA has already, where either is behind a NAT: private addresses are chosen by
 * whoever uses them, and a kernel sends what a selector matches to one peer alone (RFC 7296 §2.23.1 leaves it to the policy).
 * The same peer, proved by its identity, at the same outer address may have them twice: it makes a new SA before it breaks the
 * old. Throws `peer.tsUnacceptable`.
 */
export function refuseOverlap(
  step: Step,
  table: SessionTable,
  session: EstablishedSession,
  wanted: { readonly local: readonly TrafficSelector[]; readonly remote: readonly TrafficSelector[] },
): void {
  const dvipa = dvipaAt(step.environment, session.path.local.address);
  for (const other of table.up(isNatted(session.nat) ? "all" : "natted")) {
    if (isSamePeer(session, other)) continue;
    const { children, pending, ownPending } = other.state;
    const made = [...children.values(), pending, ownPending].flatMap((child) => child?.sa ?? []);
    const taken = made.find((sa) => sa.dvipa === dvipa && mayClash(session, sa) && clashes(sa, wanted));
    if (taken === undefined) continue;
    step.count("selectorsTaken");
    throw new EsplexError(
      "peer.tsUnacceptable",
      `${taken.peerName} at ${taken.peer} has these traffic selectors already`,
      {
        sa: taken.id,
      },
    );
  }
}

function isSamePeer(a: EstablishedSession, b: EstablishedSession): boolean {
  return (
    a === b ||
    (a.state.peer.name === b.state.peer.name &&
      a.state.remoteIdentity === b.state.remoteIdentity &&
      a.path.remote.address === b.path.remote.address)
  );
}

function mayClash(session: EstablishedSession, sa: SharedSa): boolean {
  return isNatted(session.nat) || sa.peerUdpPort !== null;
}

function clashes(sa: SharedSa, { local, remote }: Parameters<typeof refuseOverlap>[3]): boolean {
  const meet = (some: readonly TrafficSelector[], others: readonly TrafficSelector[]): boolean =>
    some.some((one) => others.some((other) => intersect(one, other) !== null));
  return meet(sa.localSelectors, local) && meet(sa.remoteSelectors, remote);
}
