import { dhGroup } from "../../crypto/dh.ts";
import { EsplexError, invariant } from "../../core/errors.ts";
import type { IkeOffer } from "../ike-offer.ts";
import { deriveRekeyedIkeKeys, type IkeKeys } from "../keys.ts";
import { checkKeGroup, chooseIke, ikeTransforms, sameIkeSuite } from "../proposal.ts";
import type { IkeSession } from "../session.ts";
import type { Step } from "../step.ts";
import type { IkeSuite } from "../suite.ts";
import { IKE_SPI_BYTES, PROTOCOL } from "../wire/constants.ts";
import { requirePayload, type Payload } from "../wire/payload.ts";
import { lowestNonce } from "./child.ts";
import { NONCE_BYTES } from "./init.ts";
import { groupsFrom } from "./offer-child.ts";

/** The heir of an IKE SA has its algorithms; of the group the peer may choose another that it is allowed. */
export function offerIkeHeir(
  step: Step,
  session: IkeSession,
  allowed: readonly IkeSuite[] | null,
  wanted: number | null,
): IkeOffer {
  const { suite } = session;
  const all = groupsFrom(wanted ?? suite.group).map((group): IkeSuite => ({ ...suite, group }));
  const isAllowed = (one: IkeSuite): boolean => allowed === null || allowed.some((other) => sameIkeSuite(other, one));
  const suites = all.filter((one) => one.group === suite.group || isAllowed(one));
  const group = dhGroup(suites[0]?.group ?? suite.group);
  invariant(group !== undefined, "a negotiated group is a known one");
  return {
    suites,
    spi: ownIkeSpi(step),
    nonce: step.environment.randomBytes(NONCE_BYTES),
    pair: group.generate(),
    isSecondTry: wanted !== null,
  };
}

/** Random: that another IKE SA of ours has it happens once in 2^64. Zero names no SA. */
export function ownIkeSpi(step: Step): Uint8Array {
  const spi = step.environment.randomBytes(IKE_SPI_BYTES);
  if (spi.every((byte) => byte === 0)) spi[0] = 1;
  return spi;
}

/** SA Ni KEi (RFC 7296 §1.3.2), one proposal for all groups. */
export function ikeOfferPayloads({ suites, spi, nonce, pair }: IkeOffer): Payload[] {
  const [first, ...others] = suites;
  invariant(first !== undefined, "an offer has a suite");
  const groups = others.flatMap((suite) => ikeTransforms(suite).slice(-1));
  const transforms = [...ikeTransforms(first), ...groups];
  return [
    { kind: "sa", proposals: [{ number: 1, protocol: PROTOCOL.IKE, spi, transforms }] },
    { kind: "nonce", nonce },
    { kind: "ke", group: first.group, value: pair.publicValue },
  ];
}

/** A new IKE SA that both ends have agreed on. */
export interface AgreedIke {
  readonly suite: IkeSuite;
  readonly spiR: Uint8Array;
  readonly keys: IkeKeys;
  readonly lowestNonce: Uint8Array;
}

/** Reads what the peer chose of our offer. Throws `peer.*` when it is not what we offered, `wire.malformed` for a bad KE value. */
export function readIkeAnswer(session: IkeSession, offer: IkeOffer, payloads: readonly Payload[]): AgreedIke {
  const ke = requirePayload(payloads, "ke");
  const { nonce: nonceR } = requirePayload(payloads, "nonce");
  const sa = requirePayload(payloads, "sa");
  const { suite, offered, answer } = chooseIke(sa, ke.group, IKE_SPI_BYTES, offer.suites);
  checkKeGroup(suite.group, ke.group);
  const isOne = sa.proposals.length === 1 && answer.transforms.length === offered.transforms.length;
  if (!isOne || suite.group !== offer.suites[0]?.group) {
    throw new EsplexError("peer.noProposalChosen", "the peer chose what was not offered");
  }
  const spiR = offered.spi;
  if (spiR.every((byte) => byte === 0)) throw new EsplexError("peer.invalidSyntax", "the new IKE SPI is zero");
  const old = { suite: session.suite, d: session.keys.d };
  const context = { nonceI: offer.nonce, nonceR, spiI: offer.spi, spiR };
  const keys = deriveRekeyedIkeKeys(old, suite, offer.pair.agree(ke.value), context);
  return { suite, spiR, keys, lowestNonce: lowestNonce(context) };
}
