import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import {
  type DvipaConfig,
  type PeerConfig,
  busSection,
  certificatesSection,
  dvipaSection,
  peerSection,
} from "./cluster-schema.ts";
import { MAX_FILTER_ITEMS } from "../sa/filter.ts";
import { overlaps, rangeOf } from "./subnet.ts";

/** One thing that is wrong with the file: where, what was found, what is allowed. */
export interface Problem {
  readonly path: readonly (string | number)[];
  readonly found: string;
  readonly allowed: string;
}

/** An item of a list that its own schema accepts, with its place. */
interface Placed<T> {
  readonly index: number;
  readonly value: T;
}

/**
 * What no single value shows: duplicates, overlaps, references to nothing. Looks at every item that is valid by itself, so that all
 * problems of a file come out at once.
 */
export function inconsistencies(raw: unknown): Problem[] {
  const file = typeof raw === "object" && raw !== null ? (raw as Record<string, unknown>) : {};
  const dvipas = valid<DvipaConfig>(file["dvipas"], (item) => dvipaSection.safeParse(item));
  const peers = valid<PeerConfig>(file["peers"], (item) => peerSection.safeParse(item));
  // An invalid one is reported by itself: no reason to complain that it is missing as well.
  const dvipaCount = Array.isArray(file["dvipas"]) ? file["dvipas"].length : 0;
  const items = dvipas.reduce((sum, { value }) => sum + filterItems(value), 0);
  const bus = busSection.safeParse(file["bus"]);
  return [
    ...duplicates(dvipas, "dvipas", "address", ({ address }) => address),
    ...dvipas.flatMap(({ index, value }) => [
      ...repeated(["dvipas", index, "targets"], value.targets),
      ...repeated(["dvipas", index, "ports"], value.ports),
      ...weightProblems(index, value),
      ...filterProblems(index, value),
      ...gatewayProblems(index, value, dvipas),
      ...(bus.success ? sameAsCoupling(index, value, bus.data.coupling.host) : []),
    ]),
    ...(items <= MAX_FILTER_ITEMS ? [] : [tooManyFilterItems(items)]),
    ...duplicates(peers, "peers", "name", ({ name }) => name),
    ...duplicates(peers, "peers", "identity", ({ address, identity }) => `${address} ${identity}`),
    ...peers.flatMap((peer) => [
      ...authProblems(peer, dvipas, file["certificates"]),
      ...peerProblems(peer, dvipas, dvipaCount),
      ...repeated(["peers", peer.index, "modes"], peer.value.modes),
    ]),
  ];
}

function valid<T>(list: unknown, parse: (item: unknown) => { success: boolean; data?: T }): Placed<T>[] {
  if (!Array.isArray(list)) return [];
  return list.flatMap((item: unknown, index) => {
    const { data } = parse(item);
    return data === undefined ? [] : [{ index, value: data }];
  });
}

function duplicates<T>(items: readonly Placed<T>[], list: string, key: string, of: (value: T) => string): Problem[] {
  const seen = new Map<string, number>();
  return items.flatMap(({ index, value }) => {
    const text = of(value);
    const first = seen.get(text);
    if (first === undefined) {
      seen.set(text, index);
      return [];
    }
    return [{ path: [list, index, key], found: `${text}, as in ${list}[${first}]`, allowed: "each only once" }];
  });
}

function repeated(path: readonly (string | number)[], items: readonly (string | number)[] | "ALL"): Problem[] {
  if (items === "ALL") return [];
  return items.flatMap((item, index) =>
    items.indexOf(item) === index
      ? []
      : [{ path: [...path, index], found: `${item} again`, allowed: "each only once" }],
  );
}

/** A weight that changes nothing is a mistake of whoever wrote it. */
function weightProblems(index: number, { targets, distribution: { method, weights } }: DvipaConfig): Problem[] {
  const path = ["dvipas", index, "distribution", "weights"];
  const names = Object.keys(weights);
  if (names.length > 0 && method === "roundRobin") {
    return [{ path, found: "weights with method roundRobin", allowed: "weights with another method" }];
  }
  if (targets === "ALL") return [];
  const strangers = names.filter((name) => !targets.includes(name));
  return strangers.map((name) => ({
    path: [...path, name],
    found: name,
    allowed: `the targets: ${targets.join(", ")}`,
  }));
}

function filterItems({ filter }: DvipaConfig): number {
  const rules = filter?.rules ?? [];
  return rules.reduce((sum, rule) => sum + 1 + rule.source.length + rule.ports.length + rule.sourcePorts.length, 0);
}

function tooManyFilterItems(items: number): Problem {
  const found = `filters with ${items} rules, sources and port ranges in all`;
  return { path: ["dvipas"], found, allowed: `at most ${MAX_FILTER_ITEMS}` };
}

/** Addresses of the wrong IP version, and names that two rules have: they stand in log and status. */
function filterProblems(index: number, { address, filter }: DvipaConfig): Problem[] {
  const { version } = rangeOf(address);
  const names = new Set<string>();
  return (filter?.rules ?? []).flatMap(({ name, source }, i) => {
    const path = ["dvipas", index, "filter", "rules", i];
    const others = source.filter((text) => rangeOf(text).version !== version);
    const problems: Problem[] = others.map((text) => ({
      path: [...path, "source"],
      found: text,
      allowed: `IPv${version} addresses, as the DVIPA's own`,
    }));
    if (name !== null && names.has(name))
      problems.push({ path: [...path, "name"], found: name, allowed: "another name" });
    if (name !== null) names.add(name);
    return problems;
  });
}

/** Of another IP version than the DVIPA, a DVIPA itself, or one that another DVIPA has: the address says which DVIPA is meant. */
function gatewayProblems(
  index: number,
  { address, gateways }: DvipaConfig,
  dvipas: readonly Placed<DvipaConfig>[],
): Problem[] {
  const { version } = rangeOf(address);
  return gateways.flatMap((gateway, i): Problem[] => {
    const problem = (found: string, allowed: string): Problem[] => [
      { path: ["dvipas", index, "gateways", i], found, allowed },
    ];
    if (rangeOf(gateway).version !== version) return problem(gateway, `IPv${version} addresses, as the DVIPA's own`);
    if (dvipas.some(({ value }) => value.address === gateway)) {
      return problem(`${gateway}, which is a DVIPA`, "addresses of the distributor's host");
    }
    const first = dvipas.flatMap(({ index: at, value }) => value.gateways.map((other, j) => ({ at, other, j })));
    const before = first.find(({ at, other, j }) => other === gateway && (at < index || (at === index && j < i)));
    return before === undefined ? [] : problem(`${gateway}, as in dvipas[${before.at}]`, "each only once");
  });
}

function sameAsCoupling(index: number, { address }: DvipaConfig, host: string): Problem[] {
  if (address !== ipFromBytes(ipToBytes(host))) return [];
  const found = `${address}, the address of bus.coupling`;
  return [{ path: ["dvipas", index, "address"], found, allowed: "an address that nothing else uses" }];
}

/** A shared key or certificates, and what each of them needs. */
function authProblems(
  { index, value: peer }: Placed<PeerConfig>,
  dvipas: readonly Placed<DvipaConfig>[],
  certificates: unknown,
): Problem[] {
  const at = (key: string, found: string, allowed: string): Problem => ({
    path: ["peers", index, key],
    found,
    allowed,
  });
  const { psk, certificate, identity } = peer;
  if ((psk === null) === (certificate === null)) {
    return [
      at("psk", psk === null ? "neither psk nor certificate" : "psk and certificate", "one of psk and certificate"),
    ];
  }
  if (certificate === null) {
    const isPattern = identity.includes("*") || identity === "%any";
    return isPattern ? [at("identity", `${identity} with a psk`, "wildcards only for peers with certificate")] : [];
  }
  const problems: Problem[] = [];
  if (identity.startsWith("keyid:")) problems.push(at("identity", identity, "key IDs only for peers with psk"));
  const common = certificatesSection.safeParse(certificates ?? {});
  if (certificate.authorities.length === 0 && common.success && common.data.authorities.length === 0) {
    problems.push(at("certificate", "no authorities", "authorities here or in the section certificates"));
  }
  if (dvipas.length > 0 && dvipas.every(({ value }) => value.certificates.length === 0)) {
    problems.push(at("certificate", "a certificate peer, but no DVIPA has certificates", "certificates of a DVIPA"));
  }
  return problems;
}

function peerProblems(
  { index, value: peer }: Placed<PeerConfig>,
  dvipas: readonly Placed<DvipaConfig>[],
  dvipaCount: number,
): Problem[] {
  const problems: Problem[] = [];
  const at = (key: string, found: string, allowed: string): unknown =>
    problems.push({ path: ["peers", index, key], found, allowed });
  const addresses = dvipas.map(({ value }) => rangeOf(value.address));
  if (dvipaCount === 0) at("name", "a peer, but no DVIPA", "peers only where the file has dvipas");
  const { start, dvipa: as, mode } = peer.initiate;
  if (start !== "none" && peer.address === "ANY") {
    at("initiate", `start: ${start} with address ANY`, "the peer's address");
  }
  if (as !== null && dvipas.length === dvipaCount && !dvipas.some(({ value }) => value.address === as)) {
    at("initiate", `dvipa: ${as}`, "one of the file's dvipas");
  }
  if (dvipas.some(({ value }) => value.filter?.at === "distributor") && peer.modes.includes("transport")) {
    at("modes", peer.modes.join(", "), "tunnel alone, where a DVIPA's filter is at the distributor");
  }
  if (mode !== null && !peer.modes.includes(mode)) at("initiate", `mode: ${mode}`, "one of the peer's modes");
  if (peer.address !== "ANY") {
    const range = rangeOf(peer.address);
    if (addresses.some((address) => overlaps(address, range))) {
      at("address", `${peer.address}, which is a DVIPA`, "an address of the peer's own, or ANY");
    } else if (dvipas.some(({ value }) => value.gateways.includes(peer.address))) {
      at("address", `${peer.address}, which is a gateway of a DVIPA`, "an address of the peer's own, or ANY");
    } else if (
      dvipas.length === dvipaCount &&
      dvipaCount > 0 &&
      !addresses.some(({ version }) => version === range.version)
    ) {
      at("address", peer.address, "an address of a version that a DVIPA has");
    }
  }
  for (const [i, subnet] of peer.remoteSubnets.entries()) {
    const range = rangeOf(subnet);
    const dvipa = dvipas.find(({ value }) => overlaps(rangeOf(value.address), range));
    const other = peer.remoteSubnets.findIndex((text, j) => j < i && overlaps(rangeOf(text), range));
    const path = ["peers", index, "remoteSubnets", i];
    if (dvipa !== undefined) {
      problems.push({
        path,
        found: `${subnet}, which holds the DVIPA ${dvipa.value.address}`,
        allowed: "subnets behind the peer",
      });
    }
    if (other >= 0) {
      const found = `${subnet}, which overlaps ${peer.remoteSubnets[other] ?? ""}`;
      problems.push({ path, found, allowed: "subnets that share no address" });
    }
  }
  if (peer.remoteSubnets.length > 0 && !peer.modes.includes("tunnel")) {
    at("remoteSubnets", "subnets without tunnel mode", "an empty list, or modes with tunnel");
  }
  return problems;
}
