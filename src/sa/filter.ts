/** What passes after IPsec (R17): the rules of a DVIPA, and which of them are about an SA. */

/** Both ends included. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** One rule, without whom it is about: that is in the SA. What is empty or null matches everything. */
export interface FilterRule {
  /** For people: log and status. */
  readonly name: string;
  /** Addresses and `ADDRESS/PREFIX` of the client's side, of the DVIPA's IP version. */
  readonly sources: readonly string[];
  /** IP protocol. */
  readonly protocol: number | null;
  readonly sourcePorts: readonly PortRange[];
  /** Ports of the DVIPA. */
  readonly ports: readonly PortRange[];
  readonly action: "accept" | "drop";
  readonly log: boolean;
}

/** The rules of a DVIPA in their order; the first that matches decides, else the policy. */
export interface DvipaFilter {
  /** Who filters what goes to a target: the target (R17 a), or the distributor, which then decrypts it (R17 b). */
  readonly at: "target" | "distributor";
  readonly rules: readonly FilterRule[];
  readonly policy: "accept" | "drop";
  /** Whether what only the policy decides is logged. */
  readonly log: boolean;
}

/** Rules that a DVIPA may have; each SA has numbers of them. */
export const MAX_FILTER_RULES = 256;
/** Rules, sources and port ranges of all DVIPAs together: they travel in one message. */
export const MAX_FILTER_ITEMS = 1024;
/** Addresses of one rule, and port ranges of one rule. */
export const MAX_FILTER_SOURCES = 64;
export const MAX_FILTER_PORTS = 64;
/** In a name: it stands in log lines. */
export const FILTER_RULE_NAME = /^[A-Za-z0-9][A-Za-z0-9 ._-]{0,47}$/;
