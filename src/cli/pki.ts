import { randomBytes } from "node:crypto";
import { access, chmod, mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { X509Certificate } from "node:crypto";
import { ExecaError, execa } from "execa";
import type { ArgumentsCamelCase, CommandModule } from "yargs";
import { type Identity, identityName, identityUri } from "../bus/identity.ts";
import { EsplexError, messageOf } from "../core/errors.ts";

/** Lifetime of the CA and of what it issues, in days. Our choice. */
const CA_DAYS = 3650;
const LEAF_DAYS = 825;
/** RFC 5280 §4.1.2.2: at most 20 bytes, positive. */
const SERIAL_BYTES = 16;
const NAME = /^[a-z0-9][a-z0-9-]{0,31}$/;

interface InitArguments {
  readonly directory: string;
  readonly cluster: string;
}

interface IssueArguments extends InitArguments {
  readonly node: string | undefined;
  readonly coupling: boolean;
}

/**
 * Makes the cluster's own CA (ECDSA P-256) in `directory`: `ca.crt` and `ca.key` (mode 0600). Does nothing when it is there.
 * Gives a line for the user. Throws `config.invalid`.
 */
export async function initPki(directory: string, cluster: string): Promise<string> {
  checkName("--cluster", cluster);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  if (await exists(directory, "ca")) {
    await checkCa(directory, cluster);
    return `${directory}/ca.crt is there already`;
  }
  await inScratch(
    directory,
    async (scratch) => {
      await makeKey(scratch, "ca");
      await openssl([
        ...["req", "-x509", "-new", "-sha256", "-key", join(scratch, "ca.key"), "-out", join(scratch, "ca.crt")],
        ...["-days", String(CA_DAYS), "-subj", caSubject(cluster)],
        ...["-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"],
        ...["-addext", "keyUsage=critical,keyCertSign,cRLSign"],
      ]);
    },
    "ca",
  );
  return `${directory}/ca.crt and ca.key made`;
}

/**
 * Issues certificate and key of one end of the bus: `<name>.crt`, `<name>.key` (mode 0600). Does nothing when they are there and
 * good. Gives a line for the user. Throws `config.invalid`.
 */
export async function issueCertificate(directory: string, identity: Identity): Promise<string> {
  checkName("--cluster", identity.cluster);
  const name = identityName(identity);
  checkName("--node", name);
  if (identity.kind === "node" && name === "coupling") throw wrong("--node coupling: use --coupling for the service");
  if (!(await exists(directory, "ca"))) {
    throw wrong(
      `${directory}/ca.crt is missing; run: esplex pki init --directory ${directory} --cluster ${identity.cluster}`,
    );
  }
  const ca = await checkCa(directory, identity.cluster);
  if (await exists(directory, name)) {
    await checkLeaf(directory, name, identity, ca);
    return `${directory}/${name}.crt is there already`;
  }
  await inScratch(directory, (scratch) => issue(directory, scratch, name, identity), name);
  return `${directory}/${name}.crt and ${name}.key made for ${identityUri(identity)}`;
}

async function issue(directory: string, scratch: string, name: string, identity: Identity): Promise<void> {
  const at = (file: string): string => join(scratch, file);
  await makeKey(scratch, name);
  const extensions = [
    "basicConstraints=critical,CA:FALSE",
    "keyUsage=critical,digitalSignature",
    "extendedKeyUsage=serverAuth,clientAuth",
    `subjectAltName=critical,URI:${identityUri(identity)}`,
  ];
  await writeFile(at("extensions"), `${extensions.join("\n")}\n`);
  await openssl(["req", "-new", "-sha256", "-key", at(`${name}.key`), "-out", at("request"), "-subj", `/CN=${name}`]);
  await openssl([
    ...["x509", "-req", "-sha256", "-in", at("request"), "-out", at(`${name}.crt`), "-extfile", at("extensions")],
    ...["-CA", join(directory, "ca.crt"), "-CAkey", join(directory, "ca.key")],
    // The first bit stays clear: a serial number is positive.
    ...["-set_serial", `0x7${randomBytes(SERIAL_BYTES).toString("hex").slice(1)}`, "-days", String(LEAF_DAYS)],
  ]);
}

/** The key goes from openssl into a file that only its owner can read: never over a command line or a pipe. */
async function makeKey(scratch: string, name: string): Promise<void> {
  const path = join(scratch, `${name}.key`);
  await writeFile(path, "", { mode: 0o600 });
  await openssl(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path]);
  await chmod(path, 0o600);
}

/** Lets `make` work in a directory of its own, then moves `<name>.key` and `<name>.crt` out of it: a half-made pair is never seen. */
async function inScratch(directory: string, make: (scratch: string) => Promise<void>, name: string): Promise<void> {
  const scratch = await mkdtemp(join(directory, ".making-"));
  try {
    await make(scratch);
    for (const file of [`${name}.key`, `${name}.crt`]) await rename(join(scratch, file), join(directory, file));
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function openssl(args: readonly string[]): Promise<void> {
  try {
    await execa("openssl", args, { stdin: "ignore", stdout: "ignore" });
  } catch (error) {
    const missing = error instanceof ExecaError && error.code === "ENOENT";
    const why = error instanceof ExecaError && error.stderr ? error.stderr : messageOf(error);
    throw wrong(
      missing ? "openssl is missing; run: apt-get install openssl" : `openssl ${args[0] ?? ""} failed: ${why}`,
    );
  }
}

async function exists(directory: string, name: string): Promise<boolean> {
  const [key, certificate] = await Promise.all([
    isThere(`${directory}/${name}.key`),
    isThere(`${directory}/${name}.crt`),
  ]);
  if (key === certificate) return key;
  const [there, missing] = key ? ["key", "crt"] : ["crt", "key"];
  throw wrong(`${directory} has ${name}.${there} but no ${name}.${missing}: move it away, or bring the other one back`);
}

async function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

async function readCertificate(path: string): Promise<X509Certificate> {
  try {
    const certificate = new X509Certificate(await readFile(path));
    if (certificate.validToDate.getTime() < Date.now()) throw new Error(`expired on ${certificate.validTo}`);
    return certificate;
  } catch (error) {
    throw wrong(`${path}: ${messageOf(error)}; move it and its key away and issue it anew`);
  }
}

async function checkCa(directory: string, cluster: string): Promise<X509Certificate> {
  const ca = await readCertificate(`${directory}/ca.crt`);
  const subject = ca.subject.split("\n").find((line) => line.startsWith("CN="));
  if (`/${subject ?? ""}` !== caSubject(cluster)) {
    throw wrong(
      `${directory}/ca.crt is not the CA of cluster ${cluster} (${subject ?? "no name"}); use another --directory`,
    );
  }
  return ca;
}

async function checkLeaf(directory: string, name: string, identity: Identity, ca: X509Certificate): Promise<void> {
  const path = `${directory}/${name}.crt`;
  const certificate = await readCertificate(path);
  if (!certificate.verify(ca.publicKey)) throw wrong(`${path} was issued by another CA; move it and its key away`);
  if (certificate.subjectAltName !== `URI:${identityUri(identity)}`) {
    throw wrong(`${path} is for ${certificate.subjectAltName ?? "nobody"}; move it and its key away`);
  }
}

function caSubject(cluster: string): string {
  return `/CN=esplex CA of cluster ${cluster}`;
}

function checkName(option: string, name: string): void {
  if (!NAME.test(name))
    throw wrong(`${option} ${name}: allowed are 1 to 32 characters of a-z, 0-9 and -, not starting with -`);
}

function wrong(message: string): EsplexError {
  return new EsplexError("config.invalid", message);
}

const directory = {
  type: "string",
  demandOption: true,
  requiresArg: true,
  describe: "where CA, certificates and keys are",
} as const;
const cluster = {
  type: "string",
  demandOption: true,
  requiresArg: true,
  describe: "the cluster's name, as in its file",
} as const;

const initCommand: CommandModule<object, InitArguments> = {
  command: "init",
  describe: "Make the cluster's own CA",
  builder: (args) => args.option("directory", directory).option("cluster", cluster),
  handler: async ({ directory: path, cluster: name }: ArgumentsCamelCase<InitArguments>) => {
    process.stderr.write(`${await initPki(path, name)}\n`);
  },
};

const issueCommand: CommandModule<object, IssueArguments> = {
  command: "issue",
  describe: "Issue a node's or the coupling service's certificate and key",
  builder: (args) =>
    args
      .option("directory", directory)
      .option("cluster", cluster)
      .option("node", { type: "string", requiresArg: true, describe: "the node's name" })
      .option("coupling", { type: "boolean", default: false, describe: "for the coupling service" })
      .check(({ node, coupling }) => {
        if ((node !== undefined) !== coupling) return true;
        throw new Error("give either --node NAME or --coupling");
      }),
  handler: async ({ directory: path, cluster: name, node }: ArgumentsCamelCase<IssueArguments>) => {
    const identity: Identity =
      node === undefined ? { kind: "coupling", cluster: name } : { kind: "node", cluster: name, name: node };
    process.stderr.write(`${await issueCertificate(path, identity)}\n`);
  },
};

/** `esplex pki`: the certificates of the cluster bus. */
export const pkiCommand: CommandModule = {
  command: "pki",
  describe: "Make the CA and the certificates of the cluster bus",
  builder: (args) => args.command(initCommand).command(issueCommand).demandCommand(1, "pki needs init or issue"),
  handler: () => {},
};
