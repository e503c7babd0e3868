/** Where this node answers, and for which virtual address: a DVIPA for itself, a security gateway for its DVIPA. */
import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import type { SharedSa } from "../sa/spec.ts";
import type { IkeEnvironment } from "./environment.ts";
import type { Path } from "./events.ts";

type Ends = Pick<IkeEnvironment, "dvipas" | "gateways">;

/** The DVIPA whose traffic is protected by SAs that end at `local`, a canonical address; null where we do not answer. */
export function dvipaAt(environment: Ends, local: string): string | null {
  const protectedThere = environment.gateways?.().get(local);
  if (protectedThere !== undefined) return protectedThere;
  return environment.dvipas().some((dvipa) => canonical(dvipa) === local) ? local : null;
}

/** True for an address at which SAs end that protect another one: in tunnel mode alone. */
export function isGateway(environment: Ends, local: string): boolean {
  return environment.gateways?.().has(local) ?? false;
}

/** The ends of a Child SA between the addresses of its IKE SA. */
export function endsOf(environment: Ends, { local, remote }: Path): Pick<SharedSa, "dvipa" | "gateway" | "peer"> {
  const dvipa = dvipaAt(environment, local.address) ?? local.address;
  return { dvipa, ...(dvipa === local.address ? {} : { gateway: local.address }), peer: remote.address };
}

function canonical(address: string): string {
  return ipFromBytes(ipToBytes(address));
}
