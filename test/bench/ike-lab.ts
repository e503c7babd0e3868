/** Names that the responders and the initiator of the IKE benchmarks share. All addresses are of the loopback network. */
export const OUR_ADDRESS = "127.0.0.10";
export const STRONGSWAN_ADDRESS = "127.0.0.20";
/** strongSwan takes its ports at every address: not those that ours needs at one. */
export const STRONGSWAN_PORT = 15_500;
export const RESPONDER = "sun.lab";
export const PSK_CLIENT = "moon.lab";
export const CERTIFICATE_CLIENT = "star.lab";
/** For this benchmark alone. */
export const BENCH_PSK = "a shared key for the benchmark of IKE";

/** What a responder of ours is started with. */
export interface ResponderOrder {
  /** Peers with an address and an identity of their own; 0: those of a rate test. */
  readonly clients: number;
  readonly kernel: boolean;
  /** In DER, as hex; the key in PEM. Made for this run. */
  readonly authority: string;
  readonly certificate: string;
  readonly key: string;
  /** A moment in which they are in date. */
  readonly wallClockMs: number;
}

/** 127.1.0.1 and so on. */
export function clientAddress(index: number): string {
  return `127.${1 + Math.floor(index / 62_500)}.${Math.floor(index / 250) % 250}.${1 + (index % 250)}`;
}

/** Identities of the peers of `fleet.main.ts`: below this name. */
export const FLEET_DOMAIN = "fleet.example";
/** Their addresses (RFC 3849), behind the lab's client. */
export const FLEET_PREFIX = "2001:db8:ffff::/48";

/** What the peers of `fleet.main.ts` are started with. */
export interface FleetOrder {
  readonly responder: string;
  readonly responderIdentity: string;
}

/** 2001:db8:ffff::1 and so on. */
export function fleetAddress(index: number): string {
  return `2001:db8:ffff::${(index + 1).toString(16)}`;
}
