import { join } from "node:path";
import { runCommand, tryCommand, type CommandResult } from "./command.ts";
import { DVIPA_IDENTITY, SERVICE_ADDRESSES, type IpVersion } from "./layout.ts";
import type { LabNetwork } from "./network.ts";
import type { Program } from "./program.ts";

/** The programs that the lab can run as the cluster's peer in its client node. */
export type PeerKind = "strongswan" | "libreswan" | "openiked";
/** What the two ends prove themselves with: the pre-shared key, or certificates of this kind at both. */
export type PeerAuth = "psk" | "ecdsa" | "rsa";
/** How packets are protected (RFC 4301 §3.2). */
export type IpsecMode = "transport" | "tunnel";

/** One connection between the client and the DVIPA, as both ends' files describe it. Everything else is default there. */
export interface PeerConnection {
  /** Also the first label of the peer's identity, so that each connection is a peer of its own to the cluster. */
  readonly name: string;
  readonly ipVersion: IpVersion;
  readonly auth: PeerAuth;
  readonly mode: IpsecMode;
  /** Lifetimes at a peer that has no command to rekey, s; absent: its default. */
  readonly childSeconds?: number;
  readonly ikeSeconds?: number;
}

/** The two ends of a connection: addresses, and identities of the type ID_FQDN (RFC 7296 §3.5). */
export interface ConnectionEnds {
  readonly address: string;
  readonly identity: string;
  readonly dvipa: string;
  readonly dvipaIdentity: string;
}

/** The DVIPA has a name of its own for each kind of certificate: that is how a connection says which it wants to see. */
export function endsOf({ name, ipVersion, auth }: PeerConnection): ConnectionEnds {
  const { client, dvipa } = SERVICE_ADDRESSES[ipVersion];
  const dvipaIdentity = auth === "psk" ? DVIPA_IDENTITY : dvipaCertificateName(auth);
  return { address: client, identity: `${name}.client.lab.example`, dvipa, dvipaIdentity };
}

/** The name that only the DVIPA's certificate of this kind has. */
export function dvipaCertificateName(kind: string): string {
  return `${kind}.${DVIPA_IDENTITY}`;
}

/** What a peer of the lab is started with. */
export interface PeerOptions {
  readonly network: LabNetwork;
  readonly node: string;
  /** For its files; must not exist. */
  readonly directory: string;
  readonly connections: readonly PeerConnection[];
  /** The pre-shared key: these characters themselves. */
  readonly psk: string;
  /** Files in PEM: the authority, the one below it, and for each kind of certificate `client-KIND.pem` and `client-KIND.key`. */
  readonly certificates: { readonly authority: string; readonly intermediate: string; readonly directory: string };
}

/** An IKE daemon other than ours, in a node of the lab, with all of its connections loaded or ready to be. */
export interface IpsecPeer {
  readonly kind: PeerKind;
  /** What it says; no keys are in it. */
  readonly logFile: string;
  /** Anti-replay window that it installs by default, packets. */
  readonly defaultWindowPackets: number;
  /** Begins no negotiation, but answers one for this connection. */
  await(connection: PeerConnection): Promise<void>;
  /** Begins the negotiation; returns before it is done, or when it is. */
  initiate(connection: PeerConnection): Promise<void>;
  /** Closes the IKE SA and tells the cluster. */
  terminate(connection: PeerConnection): Promise<void>;
  /** Orders a rekey; null where the peer has no such command and its lifetimes decide. */
  readonly rekeyChild: ((connection: PeerConnection) => Promise<void>) | null;
  readonly rekeyIke: ((connection: PeerConnection) => Promise<void>) | null;
  stop(): Promise<void>;
}

/** One of a node's IPsec states, as its kernel has it. */
export interface KernelSa {
  readonly source: string;
  readonly destination: string;
  /** `0x…`, eight digits. */
  readonly spi: string;
  readonly mode: string;
  readonly windowPackets: number;
}

/** The node's ESP states, by `ip xfrm state`, larval ones (SPIs that IKE has reserved) aside. */
export async function readKernelSas(network: LabNetwork, node: string): Promise<readonly KernelSa[]> {
  const text = await network.run(node, ["ip", "xfrm", "state", "list", "nokeys"]);
  return text.split(/\n(?=src )/).flatMap((block) => {
    const found = /^src (\S+) dst (\S+)\s+proto esp spi (0x[0-9a-f]+) reqid \S+ mode (\S+)/.exec(block);
    if (found === null || !/\t(aead|auth-trunc|auth|enc) /.test(block)) return [];
    const [, source = "", destination = "", spi = "", mode = ""] = found;
    const window = /replay[-_]window (\d+)/g;
    const windows = [...block.matchAll(window)].map(([, packets]) => Number(packets));
    return [{ source, destination, spi, mode, windowPackets: Math.max(0, ...windows) }];
  });
}

/**
 * Client and DVIPA are neighbours, and a policy for everything between them would protect neighbour discovery too: the
 * advertisement of a link-layer address could not be read without knowing it. strongSwan and OpenIKED leave the exemption
 * (RFC 4891 §4) to the user; a client behind a router needs none. Does nothing where it is there.
 */
export async function exemptNeighbourDiscovery(network: LabNetwork, node: string): Promise<void> {
  const { client, dvipa } = SERVICE_ADDRESSES[6];
  const lines = [135, 136].flatMap((type) => [
    `policy update src ${client} dst ${dvipa} proto ipv6-icmp type ${type} dir out priority 1 action allow`,
    `policy update src ${dvipa} dst ${client} proto ipv6-icmp type ${type} dir in priority 1 action allow`,
  ]);
  await network.run(node, ["ip", "-batch", "-"], { input: lines.map((line) => `xfrm ${line}\n`).join("") });
}

/** Makes the mounts up to `--`, three words each, and runs the rest. */
const PRIVATE_MOUNTS = `set -eu
mount -t tmpfs -o mode=755 tmpfs /run
while [ "$1" != -- ]; do
  case $1 in
    bind) mount --bind "$2" "$3" ;;
    over) cd "$2" && mount -t overlay -o "lowerdir=.:$3" overlay "$3" && cd / ;;
  esac
  shift 3
done
shift
exec "$@"`;

/** A mount that only one program sees: a directory bound in another's place, or laid over it. */
export type PrivateMount = readonly ["bind" | "over", string, string];

/**
 * The command line that runs `command` with mounts of its own and an empty `/run`: `ip netns exec`, which goes before it, makes
 * the mount namespace. The host sees nothing of it.
 */
export function privately(mounts: readonly PrivateMount[], command: readonly string[]): string[] {
  return ["sh", "-c", PRIVATE_MOUNTS, "sh", ...mounts.flat(), "--", ...command];
}

/** Runs a control command where the daemon `program` is: in its network and mount namespaces. */
export async function besideProgram(program: Program, command: readonly string[]): Promise<CommandResult> {
  return tryCommand("nsenter", ["--target", String(program.pid), "--mount", "--net", "--", ...command]);
}

/** Like {@link besideProgram}, but the command must succeed; returns its stdout. */
export async function mustBesideProgram(program: Program, command: readonly string[]): Promise<string> {
  return runCommand("nsenter", ["--target", String(program.pid), "--mount", "--net", "--", ...command]);
}

/** The certificate and key that a peer shows for this kind. */
export function ownFiles(options: PeerOptions, kind: string): { readonly certificate: string; readonly key: string } {
  const { directory } = options.certificates;
  return { certificate: join(directory, `client-${kind}.pem`), key: join(directory, `client-${kind}.key`) };
}
