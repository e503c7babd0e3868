import { EXCHANGE, FLAG_RESPONSE, NOTIFY, PAYLOAD } from "../../ike/wire/constants.ts";
import { AF_INET, type AddressFamily } from "../../net/inet-address.ts";
import { NAT_T_PORT } from "../../sa/spec.ts";

/** How many IKE_SA_INIT requests come up to IKE, in nftables' words (nft(8), limit statement). */
export interface InitLimits {
  /** Of those that come for the first time. */
  readonly first: string;
  /** Of those that bring a COOKIE, true or false. */
  readonly cookies: string;
  /** Of those that come again. */
  readonly again: string;
  /** Of those with one source address and one initiator's SPI, the first among them. */
  readonly each: string;
}

/**
 * What IKE serves beside its work on a host that emulates another; a thousand clients that begin at once are let in. `each`: one in
 * 0.4 s, which is shorter than initiators' first pauses. Those are, by default: libreswan 0.5 s, OpenIKED 2 s, strongSwan 4 s. Our
 * choice.
 */
const INIT_LIMITS: InitLimits = {
  first: "100/second burst 1000 packets",
  cookies: "1000/second burst 1000 packets",
  again: "1000/second burst 1000 packets",
  each: "150/minute burst 1 packets",
};

/**
 * Of each set: 26,000 new requests a second for 10 s, longer than the first pauses. Both of IPv4 take 92 MB of the kernel's memory
 * when full (measured); IPv6's keys are 12 bytes longer. Our choice.
 */
const REMEMBERED = "flags dynamic,timeout; size 262144; timeout 10s;";

/** Fields of the IKE header, in bits (RFC 7296 §3.1). */
const SPI_R = 64;
const NEXT_PAYLOAD = 128;
const EXCHANGE_TYPE = 144;
const FLAGS = 152;
/** Type of a notify that is the first payload (§3.10). */
const FIRST_NOTIFY_TYPE = 272;

/** Where IKE begins, in bits behind the begin of the UDP header; on the NAT-T port behind a marker (RFC 3948 §2.2). */
const IKE_PORTS = [
  { port: 500, at: 64, marker: "" },
  { port: NAT_T_PORT, at: 96, marker: "@th,64,32 0 " },
] as const;

/** Text for a ruleset. */
export interface InitGuard {
  /** Sets, limits and counters. */
  readonly objects: readonly string[];
  /** Chains that the rules lead to. */
  readonly chains: readonly string[];
  /** The ends of rules about packets to this host. */
  readonly matches: readonly string[];
}

/**
 * Keeps a flood of IKE_SA_INIT requests (RFC 7296 §2.6) in the kernel, where a packet of it costs least, and away from the queue of
 * IKE's socket, out of which it would push all others. Beyond a number in each second a request passes when it comes again, as a
 * real initiator's does (§2.1): from the same address with the same SPI, after a pause. Of a flood that does so too, and of one that
 * fills the sets within their time, only so many a second pass, and of the clients beside it their share of those.
 */
export function initGuard(families: readonly AddressFamily[], limits: InitLimits = INIT_LIMITS): InitGuard {
  const sets = families.flatMap((family) =>
    ["init_seen", "init_pause"].map(
      (name) => `set ${named(name, family)} { typeof ${keyAt(family, 64)}; ${REMEMBERED} }`,
    ),
  );
  const withhold = 'counter name "init_withheld" drop';
  const chains = IKE_PORTS.map(({ port, at }) => {
    const keys = families.map((family) => ({
      key: keyAt(family, at),
      seen: `@${named("init_seen", family)}`,
      pause: `@${named("init_pause", family)}`,
    }));
    // Apart from `init_pause`, since a look-up runs an element's limit too (nft_lookup.c).
    const isKnown = keys.map(({ key, seen }) => `${key} ${seen} goto init_again_${port}`);
    // The request that a limit is made for uses it up.
    const remember = keys.flatMap(({ key, seen, pause }) => [
      `add ${seen} { ${key} }`,
      `add ${pause} { ${key} limit rate over ${limits.each} }`,
    ]);
    const tooSoon = keys.map(
      ({ key, pause }) => `update ${pause} { ${key} limit rate over ${limits.each} } ${withhold}`,
    );
    const isCookie = `@th,${at + NEXT_PAYLOAD},8 ${PAYLOAD.NOTIFY} @th,${at + FIRST_NOTIFY_TYPE},16 ${NOTIFY.COOKIE}`;
    return `
      chain init_${port} {
        ${isCookie} limit name "init_cookies" accept
        limit name "init_first" accept
        ${[...isKnown, ...remember].join("\n")}
        ${withhold}
      }
      chain init_again_${port} {
        ${tooSoon.join("\n")}
        limit name "init_again" accept
        ${withhold}
      }`;
  });
  const matches = IKE_PORTS.map(({ port, at, marker }) => {
    const isRequest = `@th,${at + EXCHANGE_TYPE},8 ${EXCHANGE.IKE_SA_INIT} @th,${at + FLAGS},8 & ${FLAG_RESPONSE} == 0`;
    return `udp dport ${port} ${marker}${isRequest} @th,${at + SPI_R},64 0 goto init_${port}`;
  });
  return {
    objects: [
      ...sets,
      `limit init_first { rate ${limits.first} }`,
      `limit init_cookies { rate ${limits.cookies} }`,
      `limit init_again { rate ${limits.again} }`,
      "counter init_withheld { }",
    ],
    chains,
    matches,
  };
}

function named(name: string, family: AddressFamily): string {
  return family === AF_INET ? name : `${name}6`;
}

/** What tells one request from others: source and initiator's SPI; IKE begins at bit `at`. */
function keyAt(family: AddressFamily, at: number): string {
  return `${family === AF_INET ? "ip" : "ip6"} saddr . @th,${at},64`;
}
