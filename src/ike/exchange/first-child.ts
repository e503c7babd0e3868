import type { ChildOffer } from "../child-offer.ts";
import type { EsnPolicy, IkePeerConfig } from "../environment.ts";
import type { Path } from "../events.ts";
import { hostSelector, subnetSelector } from "../selectors.ts";
import { DEFAULT_ESP_SUITES } from "../../sa/suite.ts";
import type { Step } from "../step.ts";
import { ESN } from "../wire/constants.ts";
import type { ChildWish } from "../child-offer.ts";
import { offerChild } from "./offer-child.ts";

const NUMBERS: Readonly<Record<EsnPolicy, readonly number[]>> = {
  prefer: [ESN.YES, ESN.NO],
  allow: [ESN.NO, ESN.YES],
  never: [ESN.NO],
};

/**
 * The Child SA that we want with a peer: between the two addresses, or to the networks behind the peer. Where there is a NAT
 * it is a tunnel, if the peer may have one (`childBehindNat`).
 */
export function wishFor(peer: IkePeerConfig, { local, remote }: Path, natted: boolean): ChildWish {
  const mode = natted && peer.modes.includes("tunnel") ? "tunnel" : peer.initiate.mode;
  const subnets = mode === "tunnel" ? peer.remoteSubnets.map(subnetSelector) : [];
  return {
    replaces: null,
    mode,
    suites: peer.espSuites ?? DEFAULT_ESP_SUITES,
    numbers: NUMBERS[peer.esn],
    local: [hostSelector(local.address)],
    remote: subnets.length > 0 ? subnets : [hostSelector(remote.address)],
  };
}

/** The one of IKE_AUTH takes its nonce from IKE_SA_INIT and has no group of its own (RFC 7296 §1.2, §2.17). */
export function firstChildOffer(
  step: Step,
  peer: IkePeerConfig,
  path: Path,
  natted: boolean,
  nonceI: Uint8Array,
): ChildOffer {
  return { ...offerChild(step, wishFor(peer, path, natted), []), nonce: nonceI };
}
