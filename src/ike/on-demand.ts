import { ipFromBytes, ipToBytes, ipVersion } from "../core/ip.ts";
import type { TrafficSelector } from "../sa/spec.ts";
import type { ChildMode, IkeEnvironment } from "./environment.ts";
import { wishFor } from "./exchange/first-child.ts";
import { IKE_PORT } from "./wire/constants.ts";

/** Traffic that makes us reach out to a peer: from the DVIPA to these destinations. */
export interface OnDemand {
  readonly peerName: string;
  readonly dvipa: string;
  readonly peer: string;
  readonly mode: ChildMode;
  /** As in the Child SA that we will ask for. */
  readonly local: readonly TrafficSelector[];
  readonly remote: readonly TrafficSelector[];
}

/** All traffic of this kind, for the DVIPAs that this node answers for. */
export function onDemand(environment: Pick<IkeEnvironment, "peers" | "dvipas">): OnDemand[] {
  const ours = environment.dvipas().map(canonical);
  return environment.peers().flatMap((config): OnDemand[] => {
    const { name, address, initiate } = config;
    if (initiate.start !== "onDemand" || address === "any") return [];
    const dvipa = ours.find(
      (own) => ipVersion(own) === ipVersion(address) && (initiate.dvipa === null || own === initiate.dvipa),
    );
    if (dvipa === undefined) return [];
    const peer = canonical(address);
    const path = { local: { address: dvipa, port: IKE_PORT }, remote: { address: peer, port: IKE_PORT } };
    const { mode, local, remote } = wishFor(config, path, false);
    return [{ peerName: name, dvipa, peer, mode, local, remote }];
  });
}

/** True when the selector holds this address. */
export function includes({ startAddress, endAddress }: TrafficSelector, address: string): boolean {
  if (ipVersion(startAddress) !== ipVersion(address)) return false;
  const bytes = ipToBytes(address);
  return Buffer.compare(ipToBytes(startAddress), bytes) <= 0 && Buffer.compare(bytes, ipToBytes(endAddress)) <= 0;
}

function canonical(address: string): string {
  return ipFromBytes(ipToBytes(address));
}
