import { dhGroup } from "../../crypto/dh.ts";
import { EsplexError, invariant } from "../../core/errors.ts";
import { deriveRekeyedIkeKeys } from "../keys.ts";
import { checkKeGroup, chooseIke } from "../proposal.ts";
import { IkeSession, type Established } from "../session.ts";
import type { EstablishedSession, SessionTable } from "../session-table.ts";
import type { Step } from "../step.ts";
import { ikeSuiteName } from "../suite.ts";
import { IKE_SPI_BYTES } from "../wire/constants.ts";
import { requirePayload, type Payload } from "../wire/payload.ts";
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
  refuseWhileClosing(session);
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
  const heir = new IkeSession({
    spiI,
    spiR,
    path: session.path,
    suite,
    keys: deriveRekeyedIkeKeys(old, suite, shared, { nonceI, nonceR, spiI, spiR }),
    natDetected: session.natDetected,
    fragmentation: session.fragmentation,
    nextRequestId: 0,
    state: { ...state, sinceMs: step.nowMs, lastHeardMs: step.nowMs } satisfies Established,
  });
  const retired: IkeSession = session;
  retired.own.clear();
  retired.state = {
    kind: "rekeyed",
    peerName: state.peer.name,
    expiresAtMs: step.nowMs + step.settings.timing.rekeyedMs,
  };
  table.addRekeyed(heir);
  step.count("ikeRekeyed");
  step.log("info", "IKE SA rekeyed", { ...heir.facts(), old: retired.id, suite: ikeSuiteName(suite) });
  return respond([
    { kind: "sa", proposals: [{ ...answer, spi: spiR }] },
    { kind: "nonce", nonce: nonceR },
    { kind: "ke", group: suite.group, value: pair.publicValue },
  ]);
}

/** RFC 7296 §2.25.2: not while we close one of its children. A DPD of ours is simply forgotten. */
function refuseWhileClosing(session: EstablishedSession): void {
  if (![...session.state.children.values()].some((child) => child.closing)) return;
  throw new EsplexError("peer.temporaryFailure", "a Child SA is being closed");
}
