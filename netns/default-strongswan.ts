import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { endsOf, ownFiles, type IpsecPeer, type PeerConnection, type PeerOptions } from "./ipsec-peer.ts";
import { StrongSwan } from "./strongswan.ts";

/** A stock strongSwan as `strongswan.ts` starts it, whose connections say nothing but addresses, credentials and mode. */
export class DefaultStrongSwan implements IpsecPeer {
  readonly kind = "strongswan";
  readonly defaultWindowPackets = 32;
  readonly logFile: string;
  readonly #daemon: StrongSwan;

  private constructor(daemon: StrongSwan, logFile: string) {
    this.#daemon = daemon;
    this.logFile = logFile;
  }

  /** Starts charon and loads the connections. */
  static async start(options: PeerOptions): Promise<DefaultStrongSwan> {
    const { network, node, directory, connections, certificates } = options;
    const daemon = await StrongSwan.launch(network, node, directory);
    const at = (...parts: string[]): string => join(directory, "swanctl", ...parts);
    for (const folder of ["x509", "x509ca", "private"]) await mkdir(at(folder), { recursive: true, mode: 0o700 });
    await copyFile(certificates.authority, at("x509ca", "ca.pem"));
    for (const kind of new Set(connections.map(({ auth }) => auth).filter((auth) => auth !== "psk"))) {
      const { certificate, key } = ownFiles(options, kind);
      await copyFile(certificate, at("x509", `client-${kind}.pem`));
      await copyFile(key, at("private", `client-${kind}.key`));
    }
    await writeFile(StrongSwan.settingsFile(directory), settingsFile(options), { mode: 0o600 });
    const peer = new DefaultStrongSwan(daemon, join(directory, "charon.log"));
    await peer.#swanctl(["--load-all"]);
    return peer;
  }

  async await(): Promise<void> {
    await this.#daemon.program.assertRunning();
  }

  async initiate({ name }: PeerConnection): Promise<void> {
    await this.#swanctl(["--initiate", "--child", name]);
  }

  async terminate({ name }: PeerConnection): Promise<void> {
    await this.#daemon.swanctl(["--terminate", "--ike", name]);
  }

  readonly rekeyChild = async ({ name }: PeerConnection): Promise<void> => this.#swanctl(["--rekey", "--child", name]);

  readonly rekeyIke = async ({ name }: PeerConnection): Promise<void> => this.#swanctl(["--rekey", "--ike", name]);

  async stop(): Promise<void> {
    await this.#daemon.program.stop("SIGTERM");
  }

  async #swanctl(args: readonly string[]): Promise<void> {
    const { exitCode, stdout, stderr } = await this.#daemon.swanctl(args);
    if (exitCode !== 0) throw new Error(`swanctl ${args.join(" ")} failed:\n${stdout}${stderr}`);
  }
}

function settingsFile({ connections, psk }: PeerOptions): string {
  const secrets = connections.filter(({ auth }) => auth === "psk").map((connection) => secretSection(connection, psk));
  return `connections {\n${connections.map(connectionSection).join("")}}\nsecrets {\n${secrets.join("")}}\n`;
}

function connectionSection(connection: PeerConnection): string {
  const { address, identity, dvipa, dvipaIdentity } = endsOf(connection);
  const { name, auth, mode } = connection;
  const own = auth === "psk" ? "auth = psk" : `certs = client-${auth}.pem`;
  return `  ${name} {
    local_addrs = ${address}
    remote_addrs = ${dvipa}
    local {
      id = ${identity}
      ${own}
    }
    remote {
      id = ${dvipaIdentity}
      auth = ${auth === "psk" ? "psk" : "pubkey"}
    }
    children {
      ${name} {
        mode = ${mode}
      }
    }
  }
`;
}

function secretSection(connection: PeerConnection, psk: string): string {
  const { identity, dvipaIdentity } = endsOf(connection);
  return `  ike-${connection.name} {
    id-local = ${identity}
    id-remote = ${dvipaIdentity}
    secret = "${psk}"
  }
`;
}
