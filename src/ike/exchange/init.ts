import { dhGroup } from "../../crypto/dh.ts";
import { EsplexError, invariant, isError } from "../../core/errors.ts";
import { sha256Hex } from "../../crypto/hash.ts";
import { certRequests } from "../auth/cert-requests.ts";
import { hashNotify, readHashNotify } from "../auth/signature-hashes.ts";
import type { Path } from "../events.ts";
import { deriveIkeKeys } from "../keys.ts";
import { detectNat, NO_NAT, natDetectionNotifies } from "../nat.ts";
import { anchorsFor, ikeSuitesFor } from "../peers.ts";
import { checkKeGroup, chooseIke } from "../proposal.ts";
import { IkeSession } from "../session.ts";
import type { SessionTable } from "../session-table.ts";
import type { Step } from "../step.ts";
import { ikeSuiteName } from "../suite.ts";
import { EXCHANGE, IKE_SPI_BYTES, NOTIFY } from "../wire/constants.ts";
import { encodeMessage, type IkeMessage } from "../wire/message.ts";
import { notify } from "../wire/notify.ts";
import { findNotify, requirePayload, type Payload } from "../wire/payload.ts";

/** Length of our nonces: at least half the PRF's key, RFC 7296 §2.10. */
export const NONCE_BYTES = 32;

/** An IKE_SA_INIT request that no session knows yet. */
export interface InitRequest {
  readonly path: Path;
  readonly bytes: Uint8Array;
  readonly message: IkeMessage;
  /** {@link initKey} of it. */
  readonly key: string;
}

/** Names this very message from this very source. */
export function initKey({ local, remote }: Path, bytes: Uint8Array): string {
  return [remote.address, remote.port, local.address, sha256Hex(bytes)].join(" ");
}

/**
 * Answers IKE_SA_INIT (RFC 7296 §1.2) and makes a half-open session. Nothing is kept when the answer is
 * INVALID_KE_PAYLOAD. Returns the answer, null for none. Throws `wire.*` and `peer.*`.
 */
export function answerInit(step: Step, table: SessionTable, request: InitRequest): Uint8Array | null {
  const { payloads } = request.message;
  const sa = requirePayload(payloads, "sa");
  const ke = requirePayload(payloads, "ke");
  const { nonce: nonceI } = requirePayload(payloads, "nonce");
  if (isFull(step, table, request.path.remote.address)) return null;

  const { suite, answer } = chooseIke(
    sa,
    ke.group,
    0,
    ikeSuitesFor(step.environment.peers(), request.path.remote.address),
  );
  try {
    checkKeGroup(suite.group, ke.group);
  } catch (error) {
    if (!isError(error, "peer.invalidKePayload")) throw error;
    step.count("invalidKePayload");
    const wanted = new Uint8Array([suite.group >>> 8, suite.group & 0xff]);
    return statelessAnswer(request.message.header.spiI, [notify(NOTIFY.INVALID_KE_PAYLOAD, wanted)]);
  }
  return createSession(step, table, request, { suite, answer, keValue: ke.value, nonceI });
}

function isFull(step: Step, table: SessionTable, address: string): boolean {
  const { limits } = step.settings;
  if (table.unproven >= limits.halfOpen) {
    step.count("halfOpenLimit");
    return true;
  }
  if (table.unprovenFrom(address) < limits.halfOpenPerSource) return false;
  step.count("halfOpenPerSourceLimit");
  return true;
}

/** An answer to IKE_SA_INIT that makes no SA: its responder SPI is zero (RFC 7296 §2.6). */
export function statelessAnswer(spiI: Uint8Array, payloads: readonly Payload[]): Uint8Array {
  const fields = { exchange: EXCHANGE.IKE_SA_INIT, fromInitiator: false, isResponse: true, messageId: 0 };
  return encodeMessage({ spiI, spiR: new Uint8Array(IKE_SPI_BYTES), ...fields }, payloads);
}

interface Agreed extends Pick<ReturnType<typeof chooseIke>, "suite" | "answer"> {
  readonly keValue: Uint8Array;
  readonly nonceI: Uint8Array;
}

function createSession(step: Step, table: SessionTable, request: InitRequest, agreed: Agreed): Uint8Array {
  const { suite, answer, nonceI } = agreed;
  const { spiI } = request.message.header;
  const group = dhGroup(suite.group);
  invariant(group !== undefined, "a chosen group is a known one");
  const pair = group.generate();
  const shared = pair.agree(agreed.keValue);
  const nonceR = step.environment.randomBytes(NONCE_BYTES);
  const spiR = newIkeSpi(step, table);
  const { payloads } = request.message;
  const peerHashes = readHashNotify(payloads);
  const fragmentation = findNotify(payloads, NOTIFY.IKEV2_FRAGMENTATION_SUPPORTED) !== undefined;
  const nat = detectNat(payloads, { spiI, spiR: new Uint8Array(IKE_SPI_BYTES) }, request.path);
  const { local, remote } = request.path;
  const fields = { exchange: EXCHANGE.IKE_SA_INIT, fromInitiator: false, isResponse: true, messageId: 0 };
  const response = encodeMessage({ spiI, spiR, ...fields }, [
    { kind: "sa", proposals: [{ ...answer, spi: new Uint8Array(0) }] },
    { kind: "ke", group: suite.group, value: pair.publicValue },
    { kind: "nonce", nonce: nonceR },
    ...(nat === null ? [] : natDetectionNotifies({ spiI, spiR }, local, remote)),
    ...certRequests(anchorsFor(step.environment.peers(), remote.address)),
    ...(fragmentation ? [notify(NOTIFY.IKEV2_FRAGMENTATION_SUPPORTED)] : []),
    ...(peerHashes === null ? [] : [hashNotify()]),
  ]);
  const session = new IkeSession({
    role: "responder",
    spiI,
    spiR,
    path: request.path,
    suite,
    keys: deriveIkeKeys(suite, shared, { nonceI, nonceR, spiI, spiR }),
    nat: nat ?? NO_NAT,
    fragmentation,
    nextRequestId: 1,
    state: {
      kind: "halfOpen",
      init: { request: request.bytes.slice(), response, nonceI, nonceR, peerHashes },
      expiresAtMs: step.nowMs + step.settings.timing.halfOpenMs,
    },
  });
  table.addHalfOpen(session, request.key);
  step.count("initAnswered");
  step.log("debug", "IKE_SA_INIT answered", { ...session.facts(), suite: ikeSuiteName(suite), group: group.name, nat });
  return response;
}

/** An SPI of ours that no session has; never zero. */
export function newIkeSpi(step: Step, table: SessionTable): Uint8Array {
  const ATTEMPTS = 8;
  for (let i = 0; i < ATTEMPTS; i++) {
    const spi = step.environment.randomBytes(IKE_SPI_BYTES);
    if (spi.some((byte) => byte !== 0) && table.bySpi(spi) === undefined) return spi;
  }
  throw new EsplexError("cluster.exhausted", "no free IKE SPI found");
}
