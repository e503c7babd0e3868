import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import type { TestCertificate } from "../support/certificates.ts";
import {
  BENCH_PSK,
  CERTIFICATE_CLIENT,
  PSK_CLIENT,
  RESPONDER,
  STRONGSWAN_ADDRESS,
  STRONGSWAN_PORT,
} from "./ike-lab.ts";
import { processRssKb, Program } from "./programs.ts";

const CHARON = "/usr/sbin/charon-systemd";
const PLUGINS =
  "random nonce aes sha1 sha2 hmac kdf drbg openssl curve25519 gcm pem pkcs1 pkcs8 x509 pubkey constraints kernel-netlink socket-default vici";
const READY_POLLS = 100;
const READY_POLL_MS = 100;
const run = promisify(execFile);

/** Debian's strongSwan as responder: no log, no limits against floods, no liveness checks, every IKE SA stays. */
export class StrongSwanResponder {
  readonly #program: Program;
  readonly #directory: string;

  private constructor(program: Program, directory: string) {
    this.#program = program;
    this.#directory = directory;
  }

  static async start(root: TestCertificate, own: TestCertificate): Promise<StrongSwanResponder> {
    const directory = await mkdtemp(join(tmpdir(), "esplex-bench-"));
    const swanctl = join(directory, "swanctl");
    for (const folder of ["x509", "x509ca", "private"]) await mkdir(join(swanctl, folder), { recursive: true });
    await writeFile(join(directory, "strongswan.conf"), daemonConfiguration(directory));
    await writeFile(join(swanctl, "swanctl.conf"), connections(), { mode: 0o600 });
    await writeFile(join(swanctl, "x509ca", "ca.pem"), root.pem);
    await writeFile(join(swanctl, "x509", "own.pem"), own.pem);
    await writeFile(join(swanctl, "private", "own.pem"), own.privatePem, { mode: 0o600 });
    const command = `echo started; exec ${CHARON}`;
    const environment = [`STRONGSWAN_CONF=${join(directory, "strongswan.conf")}`];
    const program = await Program.start("env", [...environment, "sh", "-c", command], "started");
    const responder = new StrongSwanResponder(program, directory);
    await responder.#load();
    return responder;
  }

  async #load(): Promise<void> {
    for (let left = READY_POLLS; ; left--) {
      try {
        await this.#swanctl(["--load-all"]);
        return;
      } catch (error) {
        if (left === 0) throw error;
        await new Promise((resolve) => setTimeout(resolve, READY_POLL_MS));
      }
    }
  }

  async #swanctl(args: readonly string[]): Promise<void> {
    const [command = "", ...rest] = args;
    const env = {
      ...process.env,
      STRONGSWAN_CONF: join(this.#directory, "strongswan.conf"),
      SWANCTL_DIR: join(this.#directory, "swanctl"),
    };
    await run("/usr/sbin/swanctl", [command, ...rest, "--uri", `unix://${this.#directory}/vici`], { env });
  }

  cpuUs(): Promise<number> {
    return this.#program.cpuUs();
  }

  async rssKb(): Promise<number> {
    return processRssKb(this.#program.pid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#program[Symbol.asyncDispose]();
    await rm(this.#directory, { recursive: true, force: true });
  }
}

function daemonConfiguration(directory: string): string {
  return `charon-systemd {
  load = ${PLUGINS}
  port = ${STRONGSWAN_PORT}
  port_nat_t = ${STRONGSWAN_PORT + 1}
  install_routes = no
  install_virtual_ip = no
  dos_protection = no
  cookie_threshold = 0
  block_threshold = 0
  init_limit_half_open = 0
  half_open_timeout = 60
  plugins {
    vici { socket = unix://${directory}/vici }
  }
  journal { default = -1 }
  syslog {
    daemon { default = -1 }
    auth { default = -1 }
  }
}
`;
}

function connections(): string {
  const connection = (name: string, client: string, local: string, remote: string): string => `  ${name} {
    version = 2
    local_addrs = ${STRONGSWAN_ADDRESS}
    remote_addrs = %any
    proposals = aes128-sha256-x25519
    unique = never
    rekey_time = 0
    dpd_delay = 0s
    send_certreq = no
    local {
      ${local}
      id = ${RESPONDER}
    }
    remote {
      auth = ${remote}
      id = ${client}
    }
    children {
      c {
        mode = transport
        esp_proposals = aes128gcm16
        rekey_time = 0
      }
    }
  }
`;
  return `connections {
${connection("psk", PSK_CLIENT, "auth = psk", "psk")}${connection("ecdsa", CERTIFICATE_CLIENT, "auth = pubkey\n      certs = own.pem", "pubkey")}}
secrets {
  ike-bench {
    id-1 = ${RESPONDER}
    id-2 = ${PSK_CLIENT}
    secret = ${BENCH_PSK}
  }
}
`;
}
