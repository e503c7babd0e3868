import { chmod, copyFile, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { CommandResult } from "./command.ts";
import { exemptNeighbourDiscovery, type IpsecMode } from "./ipsec-peer.ts";
import { CLIENT_IDENTITY, DVIPA_IDENTITY } from "./layout.ts";
import type { LabNetwork } from "./network.ts";
import { Program } from "./program.ts";
import { until } from "./until.ts";

/**
 * Plugins of a stock client that does IPsec in the kernel. The list must be explicit: Debian's default set would bring
 * kernel-libipsec (ESP in user space) and bypass-lan (no IPsec on local networks).
 */
const PLUGINS =
  "random nonce aes sha1 sha2 md5 hmac kdf drbg gmp openssl curve25519 gcm ccm ctr chapoly xcbc cmac pem pkcs1 pkcs8 x509 pubkey constraints revocation kernel-netlink socket-default vici updown";
/** Never while a test runs. They differ: strongSwan puts the children of equal connections on one IKE SA. */
const IKE_REKEY_TIME = { dvipa: "0", again: "24h" } as const;
const START_LIMIT_MS = 30_000;

/** What the client proposes and does; the defaults are those of the demo. */
export interface ClientSettings {
  /** IKE proposals in swanctl's words. */
  readonly proposals: string;
  /** ESP proposals in swanctl's words; a DH group in one asks for PFS on rekeying. */
  readonly espProposals: string;
  /** AH proposals in swanctl's words, instead of ESP; null: ESP. */
  readonly ahProposals: string | null;
  /** Anti-replay window, packets. */
  readonly replayWindowPackets: number;
  /** Dead peer detection after this much silence, s; 0: none. */
  readonly dpdDelaySeconds: number;
  /** The address that it negotiates with; null: the DVIPA. */
  readonly remoteAddress: string | null;
  /** The pre-shared key: these characters themselves. */
  readonly psk: string;
  readonly localIdentity: string;
  readonly remoteIdentity: string;
  /** Traffic selectors in swanctl's words; `dynamic` is the own address. */
  readonly localSelectors: string;
  readonly remoteSelectors: string;
  /** A certificate that the client shows instead of the key, with the authority that it believes; null: the key. */
  readonly certificate: ClientCertificate | null;
  /** A second connection, `again`, with the same children: an IKE SA beside the first one. */
  readonly hasAgain: boolean;
}

/** Files of a certificate in PEM. */
export interface ClientCertificate {
  readonly certificate: string;
  readonly key: string;
  readonly authority: string;
  /** Sent along with the certificate. */
  readonly intermediate?: string;
  /** In swanctl's words: `pubkey` leaves the choice to strongSwan, `rsa/pss-sha256` does not. */
  readonly method: string;
}

/** Everything but the key. Lifetimes are off: a lab rekeys when a test asks for it. */
export const DEFAULT_CLIENT: Omit<ClientSettings, "psk"> = {
  certificate: null,
  hasAgain: false,
  proposals: "aes128gcm16-prfsha256-x25519,aes256-sha256-ecp256,aes256-sha256-modp2048",
  espProposals: "aes256gcm16,aes128gcm16,aes256-sha512,aes128-sha256",
  ahProposals: null,
  replayWindowPackets: 1024,
  dpdDelaySeconds: 0,
  remoteAddress: null,
  localIdentity: CLIENT_IDENTITY,
  remoteIdentity: DVIPA_IDENTITY,
  localSelectors: "dynamic",
  remoteSelectors: "dynamic",
};

/** The names of the client's two child configurations, which are also IPsec modes. */
export type ChildName = IpsecMode;

/** The names of the client's connections; `again` is there when the settings say so. */
export type ConnectionName = "dvipa" | "again";

/** A stock strongSwan in a node of the lab. */
export class StrongSwan {
  readonly program: Program;
  readonly #network: LabNetwork;
  readonly #node: string;
  readonly #directory: string;

  private constructor(network: LabNetwork, node: string, directory: string, program: Program) {
    this.#network = network;
    this.#node = node;
    this.#directory = directory;
    this.program = program;
  }

  /** Starts charon in `node` with its files in `directory`, which it makes, and loads `settings`. */
  static async start(
    network: LabNetwork,
    node: string,
    directory: string,
    settings: ClientSettings,
  ): Promise<StrongSwan> {
    const client = await StrongSwan.launch(network, node, directory);
    await client.load(settings);
    return client;
  }

  /** Starts charon without any connection. */
  static async launch(network: LabNetwork, node: string, directory: string): Promise<StrongSwan> {
    await mkdir(join(directory, "swanctl"), { recursive: true, mode: 0o700 });
    await writeFile(join(directory, "strongswan.conf"), daemonConfiguration(directory), { mode: 0o600 });
    const program = Program.start({
      network,
      node,
      label: "strongSwan",
      command: ["/usr/sbin/charon-systemd"],
      environment: { STRONGSWAN_CONF: join(directory, "strongswan.conf") },
      logFile: join(directory, "charon.out"),
    });
    const client = new StrongSwan(network, node, directory, program);
    await until("strongSwan answers swanctl", START_LIMIT_MS, async () => {
      await program.assertRunning();
      return (await client.swanctl(["--stats"])).exitCode === 0;
    });
    if (network.ipVersion === 6) await exemptNeighbourDiscovery(network, node);
    return client;
  }

  /** The client of a lab that another process started. */
  static settingsFile(directory: string): string {
    return join(directory, "swanctl", "swanctl.conf");
  }

  /** Replaces the client's connections and secrets. Running SAs stay. */
  async load(settings: ClientSettings): Promise<void> {
    const path = StrongSwan.settingsFile(this.#directory);
    await writeFile(path, connectionConfiguration(this.#network, this.#node, settings), { mode: 0o600 });
    await chmod(path, 0o600);
    await this.#copyCertificate(settings.certificate);
    const { exitCode, stdout, stderr } = await this.swanctl(["--load-all", "--clear"]);
    if (exitCode !== 0) throw new Error(`swanctl refused the lab's configuration:\n${stdout}${stderr}`);
  }

  /** Puts the files where swanctl looks for them, always under the same names. */
  async #copyCertificate(files: ClientCertificate | null): Promise<void> {
    if (files === null) return;
    const at = (...parts: string[]): string => join(this.#directory, "swanctl", ...parts);
    for (const folder of ["x509", "x509ca", "private"]) await mkdir(at(folder), { recursive: true, mode: 0o700 });
    await copyFile(files.certificate, at("x509", "client.pem"));
    await copyFile(files.authority, at("x509ca", "ca.pem"));
    await rm(at("x509ca", "intermediate.pem"), { force: true });
    if (files.intermediate !== undefined) await copyFile(files.intermediate, at("x509ca", "intermediate.pem"));
    await copyFile(files.key, at("private", "client.key"));
  }

  /** Negotiates the child `name`; a failure is a result, with the exchange's log in `stdout`. */
  async initiate(name: ChildName, limitSeconds = 30, connection: ConnectionName = "dvipa"): Promise<CommandResult> {
    const wanted = ["--ike", connection, "--child", name];
    return this.swanctl(["--initiate", ...wanted, "--timeout", String(limitSeconds), "--loglevel", "1"]);
  }

  /** Closes the IKE SA with everything under it, and waits for the answer. */
  async terminate(limitSeconds = 30, connection: ConnectionName = "dvipa"): Promise<CommandResult> {
    return this.swanctl(["--terminate", "--ike", connection, "--timeout", String(limitSeconds)]);
  }

  /** Makes the IKE SA and its children anew from IKE_SA_INIT on, then deletes the old ones. Returns before it is done. */
  async reauthenticate(): Promise<CommandResult> {
    return this.swanctl(["--rekey", "--ike", "dvipa", "--reauth"]);
  }

  /** Asks for a rekey of the child `name` with CREATE_CHILD_SA. Returns before it is done. */
  async rekey(name: ChildName): Promise<CommandResult> {
    return this.swanctl(["--rekey", "--child", name]);
  }

  /** What `swanctl --list-sas` prints: no keys are in it. */
  async listSas(): Promise<string> {
    return (await this.swanctl(["--list-sas"])).stdout;
  }

  /** Any swanctl command against this client. */
  async swanctl(args: readonly string[]): Promise<CommandResult> {
    const settings = [
      `STRONGSWAN_CONF=${join(this.#directory, "strongswan.conf")}`,
      `SWANCTL_DIR=${join(this.#directory, "swanctl")}`,
    ];
    const [command, ...rest] = args;
    const uri = ["--uri", `unix://${this.#directory}/vici`];
    return this.#network.try(this.#node, [
      "env",
      ...settings,
      "swanctl",
      ...(command === undefined ? [] : [command]),
      ...rest,
      ...uri,
    ]);
  }
}

function daemonConfiguration(directory: string): string {
  return `charon-systemd {
  load = ${PLUGINS}
  install_routes = no
  install_virtual_ip = no
  make_before_break = yes
  retransmit_timeout = 1.0
  retransmit_base = 1.4
  retransmit_tries = 5
  plugins {
    vici { socket = unix://${directory}/vici }
  }
  filelog {
    lab {
      path = ${directory}/charon.log
      time_format = %H:%M:%S
      flush_line = yes
      default = 1
    }
  }
}
`;
}

function localAuth({ certificate }: ClientSettings): string {
  return certificate === null ? "auth = psk" : `auth = ${certificate.method}\n      certs = client.pem`;
}

function connectionConfiguration(network: LabNetwork, node: string, settings: ClientSettings): string {
  const child = (mode: ChildName): string => `      ${mode} {
        mode = ${mode}
        ${settings.ahProposals === null ? `esp_proposals = ${settings.espProposals}` : `ah_proposals = ${settings.ahProposals}`}
        local_ts = ${settings.localSelectors}
        remote_ts = ${settings.remoteSelectors}
        replay_window = ${settings.replayWindowPackets}
        rekey_time = 0
        start_action = none
        close_action = none
        dpd_action = clear
      }
`;
  const connection = (name: ConnectionName): string => `  ${name} {
    version = 2
    local_addrs = ${network.addressOfClient(node)}
    remote_addrs = ${settings.remoteAddress ?? network.dvipa}
    proposals = ${settings.proposals}
    rekey_time = ${IKE_REKEY_TIME[name]}
    dpd_delay = ${settings.dpdDelaySeconds}s
    local { ${localAuth(settings)}
      id = ${settings.localIdentity} }
    remote { auth = ${settings.certificate === null ? "psk" : "pubkey"}
      id = ${settings.remoteIdentity} }
    children {
${child("transport")}${child("tunnel")}    }
  }
`;
  return `connections {
${connection("dvipa")}${settings.hasAgain ? connection("again") : ""}}
secrets {
  ike-lab {
    id-local = ${settings.localIdentity}
    id-remote = ${settings.remoteIdentity}
    secret = ${settings.psk}
  }
}
`;
}
