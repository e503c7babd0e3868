import { DH_GROUPS, dhGroup } from "../../crypto/dh.ts";
import { EsplexError, invariant } from "../../core/errors.ts";
import { certRequests } from "../auth/cert-requests.ts";
import { hashNotify, readHashNotify } from "../auth/signature-hashes.ts";
import type { IkePeerConfig } from "../environment.ts";
import type { Path } from "../events.ts";
import type { Initiation, Target } from "../initiation.ts";
import { deriveIkeKeys } from "../keys.ts";
import { detectNat, isNatted, NO_NAT, natDetectionNotifies } from "../nat.ts";
import { ikeProposals } from "../ike-proposals.ts";
import { checkKeGroup, chooseIke } from "../proposal.ts";
import { NAT_T_PORT } from "../../sa/spec.ts";
import { IkeSession } from "../session.ts";
import type { Step } from "../step.ts";
import type { IkeSuite } from "../suite.ts";
import { EXCHANGE, IKE_SPI_BYTES, NOTIFY } from "../wire/constants.ts";
import { WIRE_LIMITS } from "../wire/limits.ts";
import { encodeMessage, type IkeMessage } from "../wire/message.ts";
import { notify } from "../wire/notify.ts";
import { findError, findNotify, requirePayload, type Payload } from "../wire/payload.ts";
import { firstChildOffer } from "./first-child.ts";
import { NONCE_BYTES } from "./init.ts";
import { wantedGroup } from "./failure.ts";
import { ownIkeSpi } from "./offer-ike.ts";

/** A peer that answers COOKIE or INVALID_KE_PAYLOAD oftener than this is not followed; our choice. */
const MAX_TURNS = 4;

const PRFS = ["hmac-sha2-256", "hmac-sha2-384", "hmac-sha2-512"] as const;

/** What we offer where the cluster file names nothing: everything that we support, the fastest first. */
const DEFAULT_SUITES: readonly IkeSuite[] = DH_GROUPS.flatMap(({ id: group }) => [
  ...PRFS.flatMap((prf): IkeSuite[] => [
    { cipher: { kind: "aes-gcm-16", keyBits: 256 }, prf, group },
    { cipher: { kind: "aes-gcm-16", keyBits: 128 }, prf, group },
    { cipher: { kind: "chacha20-poly1305" }, prf, group },
  ]),
  ...PRFS.flatMap((prf) =>
    PRFS.flatMap((integrity): IkeSuite[] => [
      { cipher: { kind: "aes-cbc", keyBits: 256, integrity }, prf, group },
      { cipher: { kind: "aes-cbc", keyBits: 128, integrity }, prf, group },
    ]),
  ),
]);

/** IKE_SA_INIT to a peer. Emits nothing: the caller sends `request`. */
export function beginInit(step: Step, target: Target, peer: IkePeerConfig, path: Path): Initiation {
  const suites = peer.ikeSuites ?? DEFAULT_SUITES;
  const group = dhGroup(suites[0]?.group ?? 0);
  if (group === undefined) throw new EsplexError("config.invalid", `peer ${peer.name} has no IKE suite`);
  const fresh = { spiI: ownIkeSpi(step), nonceI: step.environment.randomBytes(NONCE_BYTES), pair: group.generate() };
  return withRequest(step, { ...fresh, target, peer, path, suites, turns: 0, cookie: null });
}

/** HDR(SPIi, 0), [N(COOKIE)], SAi1, KEi, Ni, N(NATD)…, N(FRAGMENTATION), N(SIGNATURE_HASH_ALGORITHMS). */
function withRequest(step: Step, made: Omit<Initiation, "request" | "sent" | "nextAtMs">): Initiation {
  const { suites, spiI, nonceI, pair, path, cookie } = made;
  const [first] = suites;
  invariant(first !== undefined, "an offer has a suite");
  const spis = { spiI, spiR: new Uint8Array(IKE_SPI_BYTES) };
  const fields = { ...spis, exchange: EXCHANGE.IKE_SA_INIT, fromInitiator: true, isResponse: false, messageId: 0 };
  const request = encodeMessage(fields, [
    ...(cookie === null ? [] : [notify(NOTIFY.COOKIE, cookie)]),
    { kind: "sa", proposals: ikeProposals(suites) },
    { kind: "ke", group: first.group, value: pair.publicValue },
    { kind: "nonce", nonce: nonceI },
    ...natDetectionNotifies(spis, path.local, path.remote),
    notify(NOTIFY.IKEV2_FRAGMENTATION_SUPPORTED),
    hashNotify(),
  ]);
  return { ...made, request, sent: 1, nextAtMs: step.nowMs + step.settings.timing.retransmitMs };
}

/** What an answer to our IKE_SA_INIT comes to. Nothing in it is authentic: what is no use is as if it had not come. */
export type InitAnswer =
  | { readonly kind: "useless"; readonly reason: string }
  | { readonly kind: "again"; readonly initiation: Initiation }
  | { readonly kind: "session"; readonly session: IkeSession };

/** Reads an answer to our IKE_SA_INIT (RFC 7296 §1.2, §2.6, §2.21.1). `isFirst`: we have no other IKE SA with the peer. Throws `wire.*` and `peer.*` for one that is none. */
export function readInitAnswer(
  step: Step,
  initiation: Initiation,
  isFirst: boolean,
  message: IkeMessage,
  bytes: Uint8Array,
): InitAnswer {
  const { payloads } = message;
  const again = askAgain(step, initiation, payloads);
  if (again !== null) return { kind: "again", initiation: again };
  const refused = findError(payloads) ?? findNotify(payloads, NOTIFY.COOKIE);
  if (refused !== undefined) return { kind: "useless", reason: `notify ${refused.type}` };
  const { peer, path, spiI, nonceI, suites, target } = initiation;
  const { spiR } = message.header;
  if (spiR.every((byte) => byte === 0)) return { kind: "useless", reason: "no SPI" };
  const ke = requirePayload(payloads, "ke");
  const sa = requirePayload(payloads, "sa");
  const { nonce: nonceR } = requirePayload(payloads, "nonce");
  const { suite, offered, answer } = chooseIke(sa, ke.group, 0, suites);
  checkKeGroup(suite.group, ke.group);
  const isOne = sa.proposals.length === 1 && answer.transforms.length === offered.transforms.length;
  if (!isOne || suite.group !== suites[0]?.group) return { kind: "useless", reason: "a suite that was not offered" };
  const keys = deriveIkeKeys(suite, initiation.pair.agree(ke.value), { nonceI, nonceR, spiI, spiR });
  const init = {
    request: initiation.request,
    response: bytes.slice(),
    nonceI,
    nonceR,
    peerHashes: readHashNotify(payloads),
  };
  const nat = detectNat(payloads, { spiI, spiR }, path) ?? NO_NAT;
  // RFC 7296 §2.23: from here on everything travels between the ports of NAT traversal.
  const onward = isNatted(nat) ? pathOn(path, NAT_T_PORT) : path;
  const session = new IkeSession({
    ...{ role: "initiator", spiI, spiR, path: onward, suite, keys },
    nat,
    fragmentation: findNotify(payloads, NOTIFY.IKEV2_FRAGMENTATION_SUPPORTED) !== undefined,
    nextRequestId: 0,
    nextOwnId: 1,
    state: {
      kind: "authenticating",
      ...{ peer, target, init, isFirst },
      offer: firstChildOffer(step, peer, onward, isNatted(nat), nonceI),
      requests: payloads.filter(({ kind }) => kind === "certreq"),
    },
  });
  return { kind: "session", session };
}

function pathOn({ local, remote }: Path, port: number): Path {
  return { local: { ...local, port }, remote: { ...remote, port } };
}

/** The request that a COOKIE or INVALID_KE_PAYLOAD asks for; null for neither, and for one too many. */
function askAgain(step: Step, initiation: Initiation, payloads: readonly Payload[]): Initiation | null {
  if (initiation.turns >= MAX_TURNS) return null;
  const turns = initiation.turns + 1;
  const cookie = findNotify(payloads, NOTIFY.COOKIE)?.data;
  if (cookie !== undefined && cookie.length > 0 && cookie.length <= WIRE_LIMITS.cookieMaxBytes) {
    return withRequest(step, { ...initiation, turns, cookie });
  }
  const invalid = findNotify(payloads, NOTIFY.INVALID_KE_PAYLOAD);
  const wanted = invalid === undefined ? null : wantedGroup(invalid);
  const group = wanted === null ? undefined : dhGroup(wanted);
  const { suites } = initiation;
  const fitting = suites.filter((suite) => suite.group === wanted);
  if (group === undefined || fitting.length === 0 || suites[0]?.group === wanted) return null;
  const others = suites.filter((suite) => suite.group !== wanted);
  return withRequest(step, { ...initiation, turns, suites: [...fitting, ...others], pair: group.generate() });
}

/** CERTREQ of IKE_AUTH for the authorities that this peer may come with (RFC 7296 §1.2). */
export function certRequestsFor({ auth }: IkePeerConfig): Payload[] {
  return auth.kind === "certificate" ? certRequests(auth.trust.anchors) : [];
}
