import { dhGroup } from "../../crypto/dh.ts";
import { EsplexError, invariant } from "../../core/errors.ts";
import { deriveRekeyedIkeKeys } from "../keys.ts";
import { checkKeGroup, chooseIke } from "../proposal.ts";
import { inherit } from "../inheritance.ts";
import type { IkeSession } from "../session.ts";
import type { EstablishedSession, SessionTable } from "../session-table.ts";
import type { Step } from "../step.ts";
import { IKE_SPI_BYTES } from "../wire/constants.ts";
import { requirePayload, type Payload } from "../wire/payload.ts";
import { lowestNonce } from "./child.ts";
import { newIkeSpi, NONCE_BYTES } from "./init.ts";
import { respond, type Outcome } from "./outcome.ts";

/**
 * Answers the peer's rekey of the IKE SA (RFC 7296 §1.3.2, §2.18): the new one takes over the children; the old one waits
 * for the peer's DELETE. Throws `peer.*`.
 */
export function rekeyIke(
  step: Step,
  table: SessionTable,
  session: EstablishedSession,
  request: { readonly payloads: readonly Payload[]; readonly nonceI: Uint8Array },
): Outcome {
  refuseWhileBusy(session);
  const { payloads, nonceI } = request;
  const { state } = session;
  const ke = requirePayload(payloads, "ke");
  const { suite, offered, answer } = chooseIke(
    requirePayload(payloads, "sa"),
    ke.group,
    IKE_SPI_BYTES,
    state.peer.ikeSuites,
  );
  checkKeGroup(suite.group, ke.group);
  const spiI = offered.spi;
  if (spiI.every((byte) => byte === 0)) throw new EsplexError("peer.invalidSyntax", "the new IKE SPI is zero");
  const group = dhGroup(suite.group);
  invariant(group !== undefined, "a chosen group is a known one");
  const pair = group.generate();
  const shared = pair.agree(ke.value);
  const nonceR = step.environment.randomBytes(NONCE_BYTES);
  const spiR = newIkeSpi(step, table);
  const old = { suite: session.suite, d: session.keys.d };
  const context = { nonceI, nonceR, spiI, spiR };
  const keys = deriveRekeyedIkeKeys(old, suite, shared, context);
  const heir = inherit(step, table, session, { role: "responder", spiI, spiR, suite, keys });
  retire(step, session, heir, lowestNonce(context));
  return respond([
    { kind: "sa", proposals: [{ ...answer, spi: spiR }] },
    { kind: "nonce", nonce: nonceR },
    { kind: "ke", group: suite.group, value: pair.publicValue },
  ]);
}

/** The old one answers until the peer deletes it. Our own rekey of it goes on: the nonces decide later (RFC 7296 §2.8.2). */
function retire(step: Step, session: EstablishedSession, heir: IkeSession, nonce: Uint8Array): void {
  const { peer } = session.state;
  const retired: IkeSession = session;
  if (retired.own.outstanding?.kind !== "rekeyIke") retired.own.clear();
  const expiresAtMs = step.nowMs + step.settings.timing.rekeyedMs;
  retired.state = { kind: "rekeyed", peerName: peer.name, expiresAtMs, heir, lowestNonce: nonce };
}

/** RFC 7296 §2.25.1: not while we create, rekey or close one of its children. A DPD of ours is simply forgotten. */
function refuseWhileBusy({ state, own }: EstablishedSession): void {
  const isBusy = state.ownPending !== null || own.has(({ kind }) => kind !== "dpd" && kind !== "rekeyIke");
  if (isBusy) throw new EsplexError("peer.temporaryFailure", "a Child SA is being made, rekeyed or closed");
}
