import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { runCommand } from "./command.ts";
import {
  besideProgram,
  endsOf,
  exemptNeighbourDiscovery,
  mustBesideProgram,
  ownFiles,
  privately,
  type IpsecPeer,
  type PeerConnection,
  type PeerOptions,
} from "./ipsec-peer.ts";
import { Program } from "./program.ts";
import { until } from "./until.ts";

const START_LIMIT_MS = 60_000;
/** Compiled into iked: certificates and keys are found by their names in it. */
const CREDENTIALS = "/etc/iked";

/**
 * A stock OpenIKED in a node of the lab. It has one private key for everything and no command that begins a negotiation, so
 * each connection gets a process of its own, with a file that says `active` or `passive`.
 */
export class OpenIked implements IpsecPeer {
  readonly kind = "openiked";
  readonly defaultWindowPackets = 32;
  readonly logFile: string;
  readonly rekeyChild = null;
  readonly rekeyIke = null;
  readonly #options: PeerOptions;
  #program: Program | undefined;

  private constructor(options: PeerOptions) {
    this.#options = options;
    this.logFile = join(options.directory, "iked.log");
  }

  /** Makes its directories; a process starts with the first connection. */
  static async start(options: PeerOptions): Promise<OpenIked> {
    const { directory, certificates } = options;
    for (const name of ["ca", "certs", "crls", "private", "pubkeys"]) {
      // iked reads them as the user _iked.
      await mkdir(join(directory, "iked", name), { recursive: true, mode: name === "private" ? 0o700 : 0o755 });
    }
    await copyFile(certificates.authority, join(directory, "iked", "ca", "ca.crt"));
    // OpenIKED 7.2 looks at the first CERT payload only: what the DVIPA sends of its chain does not help (ca_validate_cert).
    await copyFile(certificates.intermediate, join(directory, "iked", "ca", "intermediate.crt"));
    // iked wants a key of its own even where it uses none; Debian's package makes it when it is installed.
    const key = join(directory, "iked", "private", "local.key");
    await writeFile(key, "", { mode: 0o600 });
    await runCommand("openssl", ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key]);
    return new OpenIked(options);
  }

  async await(connection: PeerConnection): Promise<void> {
    await this.#start(connection, "passive");
  }

  async initiate(connection: PeerConnection): Promise<void> {
    await this.#start(connection, "active");
  }

  async terminate(connection: PeerConnection): Promise<void> {
    if (this.#program?.end !== undefined || this.#program === undefined) return;
    await besideProgram(this.#program, ["ikectl", "reset", "id", `FQDN/${endsOf(connection).dvipaIdentity}`]);
  }

  async stop(): Promise<void> {
    await this.#program?.stop("SIGTERM");
    this.#program = undefined;
  }

  async #start(connection: PeerConnection, role: "active" | "passive"): Promise<void> {
    const { network, node, directory } = this.#options;
    await this.stop();
    const file = join(directory, "iked.conf");
    await writeFile(file, policy(connection, role, this.#options.psk), { mode: 0o600 });
    await this.#useCertificate(connection);
    const program = Program.start({
      network,
      node,
      label: "OpenIKED",
      // Without -v: it would print the policy with its key.
      command: privately([["bind", join(directory, "iked"), CREDENTIALS]], ["iked", "-d", "-f", file]),
      logFile: this.logFile,
    });
    this.#program = program;
    await until("iked answers ikectl", START_LIMIT_MS, async () => {
      await program.assertRunning();
      return (await besideProgram(program, ["ikectl", "show", "sa"])).exitCode === 0;
    });
    // It has emptied the table of policies.
    if (network.ipVersion === 6) await exemptNeighbourDiscovery(network, node);
    await mustBesideProgram(program, ["ikectl", "log", "verbose"]);
  }

  async #useCertificate(connection: PeerConnection): Promise<void> {
    if (connection.auth === "psk") return;
    const { certificate, key } = ownFiles(this.#options, connection.auth);
    const at = (...parts: string[]): string => join(this.#options.directory, "iked", ...parts);
    await copyFile(certificate, at("certs", "client.crt"));
    await copyFile(key, at("private", "local.key"));
  }
}

function policy(connection: PeerConnection, role: "active" | "passive", psk: string): string {
  const { address, identity, dvipa, dvipaIdentity } = endsOf(connection);
  const { name, auth, mode, childSeconds, ikeSeconds } = connection;
  return [
    `ikev2 "${name}" ${role} ${mode} esp from ${address} to ${dvipa} local ${address} peer ${dvipa}`,
    `srcid ${identity} dstid ${dvipaIdentity}`,
    ...(ikeSeconds === undefined ? [] : [`ikelifetime ${ikeSeconds}`]),
    ...(childSeconds === undefined ? [] : [`lifetime ${childSeconds}`]),
    ...(auth === "psk" ? [`psk "${psk}"`] : []),
  ]
    .join(" ")
    .concat("\n");
}
