import { EsplexError } from "../core/errors.ts";
import { localEndOf, type SharedSa, type TrafficSelector } from "../sa/spec.ts";
import { dvipaAt } from "./local-end.ts";
import { isNatted } from "./nat.ts";
import { intersect, sameSelectors } from "./selectors.ts";
import type { EstablishedSession, SessionTable } from "./session-table.ts";
import type { Step } from "./step.ts";

/**
 * Refuses selectors that another Child SA of the DVIPA has already: of a peer, where either is behind a NAT (private addresses are
 * chosen by whoever uses them, RFC 7296 §2.23.1 leaves it to the policy); and very the same selectors of any peer, this one too,
 * at another of our addresses. A kernel sends what a selector matches through one tunnel alone. The same peer, proved by its
 * identity, at the same outer addresses may have them twice: it makes a new SA before it breaks the old. Throws
 * `peer.tsUnacceptable`.
 */
export function refuseOverlap(
  step: Step,
  table: SessionTable,
  session: EstablishedSession,
  wanted: { readonly local: readonly TrafficSelector[]; readonly remote: readonly TrafficSelector[] },
): void {
  const dvipa = dvipaAt(step.environment, session.path.local.address);
  const hasGateways = (step.environment.gateways?.().size ?? 0) > 0;
  for (const other of table.up(isNatted(session.nat) || hasGateways ? "all" : "natted")) {
    if (isSamePeer(session, other)) continue;
    const { children, pending, ownPending } = other.state;
    const made = [...children.values(), pending, ownPending].flatMap((child) => child?.sa ?? []);
    const taken = made.find((sa) => sa.dvipa === dvipa && clashes(session, sa, wanted));
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
    (a.path.local.address === b.path.local.address &&
      a.state.peer.name === b.state.peer.name &&
      a.state.remoteIdentity === b.state.remoteIdentity &&
      a.path.remote.address === b.path.remote.address)
  );
}

type Wanted = Parameters<typeof refuseOverlap>[3];
type Meeting = (a: TrafficSelector, b: TrafficSelector) => boolean;

function clashes(session: EstablishedSession, sa: SharedSa, wanted: Wanted): boolean {
  const hasNat = isNatted(session.nat) || sa.peerUdpPort !== null;
  if (hasNat && meet(sa, wanted, (a, b) => intersect(a, b) !== null)) return true;
  return localEndOf(sa) !== session.path.local.address && meet(sa, wanted, (a, b) => sameSelectors([a], [b]));
}

function meet(sa: SharedSa, { local, remote }: Wanted, isMeeting: Meeting): boolean {
  const anyOf = (some: readonly TrafficSelector[], others: readonly TrafficSelector[]): boolean =>
    some.some((one) => others.some((other) => isMeeting(one, other)));
  return anyOf(sa.localSelectors, local) && anyOf(sa.remoteSelectors, remote);
}
