import { isIP } from "node:net";
import { z } from "zod";
import { ipFromBytes, ipToBytes } from "../core/ip.ts";
import { MAX_WINDOW_PACKETS } from "../sa/spec.ts";
import {
  AH_PROPOSALS,
  ESP_PROPOSALS,
  IKE_PROPOSALS,
  parseAhProposal,
  parseEspProposal,
  parseIkeProposal,
} from "./proposals.ts";
import { filterSection } from "./filter-schema.ts";
import { section } from "./section.ts";
import { isSubnet, overlaps, rangeOf } from "./subnet.ts";

/** The port on which distributors listen for targets when the file names none. Our choice. */
const DEFAULT_BUS_PORT = 7701;
/** What a peer's anti-replay window is taken for when the file does not say (strongSwan's default). */
const DEFAULT_REPLAY_WINDOW_PACKETS = 32;
/** Our own window when the file does not say: what distribution reorders fits many times. Our choice. */
const DEFAULT_INBOUND_WINDOW_PACKETS = 1024;
const MIN_WINDOW_PACKETS = 32;
/** strongSwan's: 1 h for a Child SA, 4 h for an IKE SA. */
const DEFAULT_CHILD_SECONDS = 3_600;
const DEFAULT_IKE_SECONDS = 4 * 3_600;
/** A rekey begins when a fifth to a tenth of the time is left, and may need two round trips. Our choice. */
const MIN_LIFETIME_SECONDS = 30;
const MAX_LIFETIME_SECONDS = 30 * 86_400;
/** What is used is known to within what all nodes carry in a moment: smaller limits would be passed by a burst. Our choice. */
const MIN_LIFETIME_BYTES = 1_000_000;
const MIN_LIFETIME_PACKETS = 1_000;

// The `error` of each schema is the text behind "allowed:" in the message.

const NAME = "a name of 1 to 32 characters of a-z, 0-9 and -, not starting with -";
const name = z.string(NAME).regex(/^[a-z0-9][a-z0-9-]{0,31}$/, NAME);

const ADDRESS = "an IPv4 or IPv6 address";
/** In its canonical text, so that addresses can be compared as text. */
const address = z
  .string(ADDRESS)
  .refine((text) => isIP(text) !== 0 && !text.includes("%"), { error: ADDRESS, abort: true })
  .transform((text) => ipFromBytes(ipToBytes(text)));

const HOST_ADDRESS = "an IPv4 or IPv6 address of one host, not a link-local, loopback, multicast or IPv4-mapped one";
const PEER_ADDRESS = `ANY, or ${HOST_ADDRESS}`;
/** RFC 6890 and RFC 4291 §2: what nobody can have a security association with over a network. */
const NO_HOSTS = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"]
  .concat(["::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"])
  .map(rangeOf);
const hostAddress = (allowed: string) =>
  address.refine((text) => !NO_HOSTS.some((range) => overlaps(range, rangeOf(text))), allowed);

const PORT = "a port from 1 to 65535";
const port = z.number(PORT).int(PORT).min(1, PORT).max(65_535, PORT);

const ENDPOINT = "ADDRESS:PORT, an IPv6 address in brackets";
const endpoint = z.string(ENDPOINT).transform((text, context) => {
  const [, v6, v4, digits = ""] = /^(?:\[([^\]%]+)\]|([^:]+)):(\d{1,5})$/.exec(text) ?? [];
  const host = v6 ?? v4 ?? "";
  const number = Number(digits);
  if (isIP(host) === (v6 === undefined ? 4 : 6) && number >= 1 && number <= 65_535) return { host, port: number };
  context.addIssue({ code: "custom", message: ENDPOINT });
  return z.NEVER;
});

const SUBNET = "ADDRESS/PREFIX with no bits set behind the prefix";
const subnet = z.string(SUBNET).refine(isSubnet, SUBNET);

const INTERFACE = "an interface name of 1 to 15 characters";
const IDENTITY = "a name, address, user@name or distinguished name (C=CH, CN=x) of 1 to 255 printable characters";
/** Only a distinguished name may have blanks and letters beyond ASCII. */
const identity = z.string(IDENTITY).regex(/^(?:[!-~]{1,255}|(?=.{1,255}$)[A-Za-z0-9.]+ *=[^\p{Cc}]*\S)$/u, IDENTITY);

const TARGETS = "ALL, or a list of 1 to 256 node names";
const PORTS = "ALL, or a list of 1 to 1024 TCP ports";
const WINDOW = `a power of two from ${MIN_WINDOW_PACKETS} to ${MAX_WINDOW_PACKETS} (packets)`;
const ESN = "prefer, allow or never";
const MODES = "a list of transport and tunnel, at least one";
const LIFETIME = `${MIN_LIFETIME_SECONDS} to ${MAX_LIFETIME_SECONDS} (seconds)`;
const LIFETIME_BYTES = `${MIN_LIFETIME_BYTES} to ${Number.MAX_SAFE_INTEGER} (bytes)`;
const LIFETIME_PACKETS = `${MIN_LIFETIME_PACKETS} to ${Number.MAX_SAFE_INTEGER} (packets)`;
const START = "auto, onDemand or none";
const MODE = "transport or tunnel";
const FILE = "a path, relative to the cluster file";
const FILES = "a list of 1 to 64 paths, relative to the cluster file";
const REVOCATION = "relaxed or strict";
const USAGE = "a list of serverAuth, clientAuth and ikeIntermediate";
const METHOD = "roundRobin, weighted, leastConnections or load";
const WEIGHT = "a whole number from 1 to 100";
const WEIGHTS = "at most 256 node names, each with a whole number from 1 to 100";
const AFFINITY = "0 to 86400 (seconds)";
const PEER_NAME = "a name of 1 to 64 characters of A-Z, a-z, 0-9, ., _ and -";

const window = (defaultPackets: number) =>
  z
    .number(WINDOW)
    .int(WINDOW)
    .refine((n) => n >= MIN_WINDOW_PACKETS && n <= MAX_WINDOW_PACKETS && (n & (n - 1)) === 0, WINDOW)
    .default(defaultPackets);

const MAX_PROPOSALS = 32;
const MAX_PROPOSAL_LENGTH = 256;

/** Suites in strongSwan's words; null when the file lists none. */
const proposals = <S>(parse: (text: string) => S[] | null, allowed: string) => {
  const proposal = z
    .string(allowed)
    .max(MAX_PROPOSAL_LENGTH, allowed)
    .transform((text, context): S[] => {
      const suites = parse(text);
      if (suites !== null) return suites;
      context.addIssue({ code: "custom", message: allowed });
      return z.NEVER;
    });
  return z
    .array(proposal, allowed)
    .min(1, allowed)
    .max(MAX_PROPOSALS, allowed)
    .transform((lists) => lists.flat())
    .nullable()
    .default(null);
};

const seconds = (defaultSeconds: number) =>
  z
    .number(LIFETIME)
    .int(LIFETIME)
    .min(MIN_LIFETIME_SECONDS, LIFETIME)
    .max(MAX_LIFETIME_SECONDS, LIFETIME)
    .default(defaultSeconds);

/** A limit of what an SA carries; null for none. */
const carried = (min: number, allowed: string) =>
  z
    .number(allowed)
    .int(allowed)
    .min(min, allowed)
    .max(Number.MAX_SAFE_INTEGER, allowed)
    .transform((value) => BigInt(value))
    .nullable()
    .default(null);

const listOrAll = <S extends z.ZodType>(item: S, max: number, text: string) =>
  z.union([z.literal("ALL", text), z.array(item, text).min(1, text).max(max, text)], text);

const file = z.string(FILE).min(1, FILE).max(4096, FILE);
const MAX_FILES = 64;
const files = z.array(file, FILES).max(MAX_FILES, FILES);

const MAX_CREDENTIALS = 8;
const CREDENTIALS = `a list of at most ${MAX_CREDENTIALS} sections with chain and key`;
const credentialSection = section({ chain: file, key: file });

/** Whom we believe when a peer shows a certificate. */
export const certificatesSection = section({
  authorities: files.default([]),
  revocationLists: files.default([]),
  revocation: z.enum(["relaxed", "strict"], REVOCATION).default("relaxed"),
  extendedKeyUsages: z.array(z.enum(["serverAuth", "clientAuth", "ikeIntermediate"], USAGE), USAGE).default([]),
});

export const busSection = section({ coupling: endpoint, port: port.default(DEFAULT_BUS_PORT) });

const MAX_WEIGHTS = 256;
/** Above, a round of weighted turns gets long; our choice. */
const MAX_WEIGHT = 100;
const MAX_AFFINITY_SECONDS = 86_400;

/** How new connections are spread over the targets. */
const distributionSection = section({
  method: z.enum(["roundRobin", "weighted", "leastConnections", "load"], METHOD).default("roundRobin"),
  weights: z
    .record(name, z.number(WEIGHT).int(WEIGHT).min(1, WEIGHT).max(MAX_WEIGHT, WEIGHT), WEIGHTS)
    .refine((weights) => Object.keys(weights).length <= MAX_WEIGHTS, WEIGHTS)
    .default({}),
  affinitySeconds: z.number(AFFINITY).int(AFFINITY).min(0, AFFINITY).max(MAX_AFFINITY_SECONDS, AFFINITY).default(0),
});

const MAX_GATEWAYS = 8;
const GATEWAYS = `a list of at most ${MAX_GATEWAYS} addresses of the distributor's host`;

export const dvipaSection = section({
  address: hostAddress(HOST_ADDRESS),
  interface: z
    .string(INTERFACE)
    .regex(/^[^\s/:]{1,15}$/, INTERFACE)
    .nullable()
    .default(null),
  distributor: name,
  targets: listOrAll(name, 256, TARGETS),
  ports: listOrAll(port, 1024, PORTS),
  distribution: distributionSection.prefault({}),
  filter: filterSection,
  gateways: z.array(hostAddress(HOST_ADDRESS), GATEWAYS).max(MAX_GATEWAYS, GATEWAYS).default([]),
  certificates: z.array(credentialSection, CREDENTIALS).max(MAX_CREDENTIALS, CREDENTIALS).default([]),
});

export const peerSection = section({
  name: z.string(PEER_NAME).regex(/^[A-Za-z0-9._-]{1,64}$/, PEER_NAME),
  address: z.union([z.literal("ANY"), hostAddress(PEER_ADDRESS)], PEER_ADDRESS),
  identity,
  localIdentity: identity,
  psk: section({ file }).nullable().default(null),
  certificate: section({ authorities: files.default([]) })
    .nullable()
    .default(null),
  modes: z
    .array(z.enum(["transport", "tunnel"], MODES), MODES)
    .min(1, MODES)
    .max(2, MODES)
    .default(["transport", "tunnel"]),
  remoteSubnets: z.array(subnet, `a list of ${SUBNET}`).max(64, "at most 64 subnets").default([]),
  replayWindow: window(DEFAULT_REPLAY_WINDOW_PACKETS),
  inboundReplayWindow: window(DEFAULT_INBOUND_WINDOW_PACKETS),
  ikeProposals: proposals(parseIkeProposal, IKE_PROPOSALS),
  espProposals: proposals(parseEspProposal, ESP_PROPOSALS),
  ahProposals: proposals(parseAhProposal, AH_PROPOSALS),
  esn: z.enum(["prefer", "allow", "never"], ESN).default("allow"),
  childLifetime: section({
    seconds: seconds(DEFAULT_CHILD_SECONDS),
    bytes: carried(MIN_LIFETIME_BYTES, LIFETIME_BYTES),
    packets: carried(MIN_LIFETIME_PACKETS, LIFETIME_PACKETS),
  }).prefault({}),
  ikeLifetime: section({ seconds: seconds(DEFAULT_IKE_SECONDS) }).prefault({}),
  initiate: section({
    start: z.enum(["auto", "onDemand", "none"], START).default("none"),
    dvipa: address.nullable().default(null),
    mode: z.enum(["transport", "tunnel"], MODE).nullable().default(null),
  }).prefault({}),
});

const MAX_DVIPAS = 256;
const MAX_PEERS = 4096;
const list = <S extends z.ZodType>(item: S, max: number) => {
  const text = `a list of at most ${max}`;
  return z.array(item, text).max(max, text).default([]);
};

/** The cluster file. */
export const clusterFile = section({
  cluster: name,
  bus: busSection,
  certificates: certificatesSection.prefault({}),
  dvipas: list(dvipaSection, MAX_DVIPAS),
  peers: list(peerSection, MAX_PEERS),
});

/** The cluster file, checked, with its defaults filled in. */
export type ClusterConfig = z.output<typeof clusterFile>;
/** A virtual address: who distributes it, to which targets, for which TCP ports. */
export type DvipaConfig = z.output<typeof dvipaSection>;
/** Authorities and revocation lists, as paths. */
export type CertificatesConfig = z.output<typeof certificatesSection>;
/** One of a DVIPA's certificates, as paths. */
export type CredentialConfig = z.output<typeof credentialSection>;
/** An IKE peer, with either a pre-shared key (it stays in its file: `readPsk`) or certificates. */
export type PeerConfig = z.output<typeof peerSection>;
