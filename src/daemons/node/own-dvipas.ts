/** The DVIPAs that a node distributes, as its cluster file says, and what they want of its host's network. */
import { EsplexError } from "../../core/errors.ts";
import type { ClusterConfig } from "../../config/cluster-schema.ts";
import type { Distribution } from "../../steer/choose.ts";
import { FilterRules } from "./filter-rules.ts";
import type { HostDvipa, HostNetworkState } from "./host-network.ts";

/** A DVIPA of the cluster file that names this node as its distributor. */
export interface OwnDvipa {
  readonly address: string;
  readonly interfaceName: string | null;
  /** Addresses of this host at which SAs for it end, besides the DVIPA itself. */
  readonly gateways: readonly string[];
  readonly targets: "ALL" | readonly string[];
  readonly ports: "ALL" | readonly number[];
  readonly distribution: Distribution;
}

/** The DVIPAs of the cluster file that name this node as their distributor. */
export function ownDvipas(config: ClusterConfig, nodeName: string): OwnDvipa[] {
  const own = config.dvipas.filter(({ distributor }) => distributor === nodeName);
  return own.map(({ address, interface: interfaceName, gateways, targets, ports, distribution }) => {
    return { address, interfaceName, gateways, targets, ports, distribution };
  });
}

/** Their filters. */
export function ownFilters(config: ClusterConfig, nodeName: string): FilterRules {
  return new FilterRules(config.dvipas.filter(({ distributor }) => distributor === nodeName));
}

/** Who decrypts is a matter of routes and policies on every node. Throws `config.invalid` when a reload would change it. */
export function requireSamePlaces(own: readonly OwnDvipa[], before: FilterRules, now: FilterRules): void {
  const moved = own.find(
    ({ address }) =>
      before.isAtDistributor(address) !== now.isAtDistributor(address) ||
      before.handsOver(address) !== now.handsOver(address),
  );
  if (moved === undefined) return;
  const what = `filter.at or gateways of ${moved.address}`;
  throw new EsplexError("config.invalid", `dvipas: ${what} has changed: restart this node`);
}

/** All gateways, each with its DVIPA. */
export function gatewaysOf(dvipas: readonly OwnDvipa[]): ReadonlyMap<string, string> {
  return new Map(dvipas.flatMap(({ address, gateways }) => gateways.map((gateway) => [gateway, address])));
}

/** Numbers of targets, in the order of their first join: they make marks and tables, so that they never change. */
export class TargetNumbers {
  readonly #names: string[] = [];

  /** In the order of their first join. */
  names(): readonly string[] {
    return this.#names;
  }

  /** From 1; null for one that never joined. */
  of(target: string): number | null {
    const place = this.#names.indexOf(target);
    return place < 0 ? null : place + 1;
  }

  /** Its number, a new one if it has none. */
  enter(target: string): number {
    return this.of(target) ?? this.#names.push(target);
  }
}

/** What the DVIPAs want of the host's network: `targets` have joined, `handsOver` tells whose traffic is decrypted here. */
export function networkOf(
  dvipas: readonly OwnDvipa[],
  targets: readonly { readonly name: string; readonly addresses: readonly string[] }[],
  numbers: TargetNumbers,
  handsOver: (dvipa: string) => boolean,
): HostNetworkState {
  const hasTunnels = dvipas.some(({ address }) => handsOver(address));
  return {
    dvipas: dvipas.map(({ address, interfaceName }): HostDvipa => ({ address, role: "distributor", interfaceName })),
    gateways: [...gatewaysOf(dvipas).keys()],
    returned: dvipas.filter(({ gateways }) => gateways.length > 0).map(({ address }) => address),
    targets: targets.map(({ name, addresses }) => ({
      index: numbers.enter(name),
      gateways: addresses,
      tunnel: hasTunnels ? (addresses[0] ?? null) : null,
    })),
    handedOver: [],
    returnPaths: [],
  };
}
