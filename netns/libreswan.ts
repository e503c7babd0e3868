import { randomBytes } from "node:crypto";
import { access, mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { runCommand } from "./command.ts";
import {
  besideProgram,
  endsOf,
  mustBesideProgram,
  ownFiles,
  privately,
  type IpsecPeer,
  type PeerConnection,
  type PeerOptions,
} from "./ipsec-peer.ts";
import { Program } from "./program.ts";
import { until } from "./until.ts";

/** Where `scripts/setup` unpacks Debian's package, which cannot be installed beside strongSwan. */
const PACKAGE = fileURLToPath(new URL("../.cache/libreswan", import.meta.url));
const EXECUTABLES = "/usr/libexec/ipsec";
const START_LIMIT_MS = 60_000;

/** A stock libreswan in a node of the lab. */
export class Libreswan implements IpsecPeer {
  readonly kind = "libreswan";
  readonly defaultWindowPackets = 128;
  readonly logFile: string;
  readonly #file: string;
  readonly #program: Program;

  private constructor(program: Program, file: string) {
    this.#file = file;
    this.#program = program;
    this.logFile = program.logFile;
  }

  /** Starts pluto with a database of certificates of its own. */
  static async start(options: PeerOptions): Promise<Libreswan> {
    const { network, node, directory } = options;
    await access(join(PACKAGE, EXECUTABLES, "pluto")).catch(() => {
      throw new Error("libreswan is missing: run scripts/setup");
    });
    await mkdir(join(directory, "nss"), { recursive: true, mode: 0o700 });
    await Promise.all([
      writeFile(join(directory, "ipsec.conf"), connectionFile(options), { mode: 0o600 }),
      writeFile(join(directory, "ipsec.secrets"), secretsFile(options), { mode: 0o600 }),
      fillDatabase(options),
    ]);
    const files = ["--config", join(directory, "ipsec.conf"), "--secretsfile", join(directory, "ipsec.secrets")];
    const command = [
      ...[`${EXECUTABLES}/pluto`, "--nofork", "--stderrlog", ...files, "--nssdir", join(directory, "nss")],
    ];
    const program = Program.start({
      network,
      node,
      label: "libreswan",
      command: privately([["over", join(PACKAGE, "usr"), "/usr"]], command),
      logFile: join(directory, "pluto.log"),
    });
    const peer = new Libreswan(program, join(directory, "ipsec.conf"));
    await until("pluto answers whack", START_LIMIT_MS, async () => {
      await program.assertRunning();
      return (await besideProgram(program, [`${EXECUTABLES}/whack`, "--status"])).exitCode === 0;
    });
    return peer;
  }

  /** Loads it: pluto routes what it has loaded and used, and no two connections may have the same route. */
  async await({ name }: PeerConnection): Promise<void> {
    const said = await mustBesideProgram(this.#program, [`${EXECUTABLES}/addconn`, "--config", this.#file, name]);
    await until(`libreswan has loaded ${name}: ${said}`, START_LIMIT_MS, async () =>
      (await this.#whack(["--status"])).includes(`"${name}":`),
    );
  }

  async initiate(connection: PeerConnection): Promise<void> {
    await this.await(connection);
    await this.#whack(["--initiate", "--asynchronous", "--name", connection.name]);
  }

  /** Unloads it too: pluto would begin again what it was told to initiate. */
  async terminate({ name }: PeerConnection): Promise<void> {
    await this.#whack(["--delete", "--name", name]);
  }

  readonly rekeyChild = async ({ name }: PeerConnection): Promise<void> => {
    await this.#whack(["--rekey-ipsec", "--asynchronous", "--name", name]);
  };

  readonly rekeyIke = async ({ name }: PeerConnection): Promise<void> => {
    await this.#whack(["--rekey-ike", "--asynchronous", "--name", name]);
  };

  async stop(): Promise<void> {
    await this.#program.stop("SIGTERM");
  }

  /** whack's exit status is that of the last thing that pluto said, so only its words count. */
  async #whack(args: readonly string[]): Promise<string> {
    await this.#program.assertRunning();
    const { stdout, stderr } = await besideProgram(this.#program, [`${EXECUTABLES}/whack`, ...args]);
    return stdout + stderr;
  }
}

function connectionFile(options: PeerOptions): string {
  return `config setup\n\n${options.connections.map(connectionSection).join("\n")}`;
}

function connectionSection(connection: PeerConnection): string {
  const { address, identity, dvipa, dvipaIdentity } = endsOf(connection);
  const { name, auth, mode } = connection;
  // An RSA certificate is what libreswan expects when nothing is said.
  const authentication = { psk: ["authby=secret"], ecdsa: ["authby=ecdsa", "leftcert=client-ecdsa"] };
  const lines = [
    `left=${address}`,
    `leftid=@${identity}`,
    `right=${dvipa}`,
    `rightid=@${dvipaIdentity}`,
    ...(auth === "rsa" ? ["leftcert=client-rsa"] : authentication[auth]),
    `type=${mode}`,
    "auto=add",
  ];
  return `conn ${name}\n${lines.map((line) => `  ${line}\n`).join("")}`;
}

function secretsFile({ connections, psk }: PeerOptions): string {
  return connections
    .filter(({ auth }) => auth === "psk")
    .map(endsOf)
    .map(({ identity, dvipaIdentity }) => `@${identity} @${dvipaIdentity} : PSK "${psk}"\n`)
    .join("");
}

/** Puts the authority and the peer's own certificates into its NSS database, whose files have no password of their own. */
async function fillDatabase(options: PeerOptions): Promise<void> {
  const { directory, certificates, connections } = options;
  const database = ["-d", `sql:${join(directory, "nss")}`];
  const password = join(directory, "transfer-password");
  await writeFile(password, randomBytes(16).toString("hex"), { mode: 0o600 });
  await runCommand("certutil", ["-N", ...database, "--empty-password"]);
  await runCommand("certutil", ["-A", ...database, "-n", "ca", "-t", "CT,,", "-a", "-i", certificates.authority]);
  for (const kind of new Set(connections.map(({ auth }) => auth).filter((auth) => auth !== "psk"))) {
    const { certificate, key } = ownFiles(options, kind);
    const bundle = join(directory, `${kind}.p12`);
    await runCommand("openssl", [
      ...["pkcs12", "-export", "-in", certificate, "-inkey", key, "-name", `client-${kind}`],
      ...["-out", bundle, "-passout", `file:${password}`],
    ]);
    await runCommand("pk12util", ["-i", bundle, ...database, "-w", password]);
    await rm(bundle);
  }
  await rm(password);
}
