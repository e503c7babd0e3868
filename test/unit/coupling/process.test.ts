/** The coupling service as a process of its own: killed, restarted, started twice. */
import { closeSync, constants, openSync, writeSync } from "node:fs";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { appendFile, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { BusClient } from "../../../src/bus/client.ts";
import type { BusConnection } from "../../../src/bus/connection.ts";
import { systemClock } from "../../../src/core/clock.ts";
import { Counters } from "../../../src/core/counters.ts";
import { silentLog } from "../../../src/core/log.ts";
import { callControl } from "../../../src/daemons/control.ts";
import type { CouplingStatus } from "../../../src/daemons/coupling/status.ts";
import { Authority, until } from "../bus/authority.ts";

const ESPLEX = new URL("../../../bin/esplex", import.meta.url).pathname;
const DVIPA = "2001:db8::100";
const SA = "a".repeat(32);
/** More than the journal and the ledger take here. */
const LOG_LIMIT_KIB = 64;

let lab: Authority;
let directory = "";
let port = 0;
let processes: ChildProcess[] = [];
let clients: BusClient[] = [];

beforeAll(async () => {
  lab = await Authority.create();
  await lab.credentials(null);
  directory = await mkdtemp(join(tmpdir(), "esplex-coupling-"));
  port = await freePort();
  await writeFile(
    join(directory, "lab.yaml"),
    `cluster: lab
bus: { coupling: "127.0.0.1:${port}" }
dvipas:
  - { address: "${DVIPA}", distributor: d1, targets: ALL, ports: ALL }
`,
  );
});
afterEach(async () => {
  for (const client of clients) client.close();
  for (const child of processes) if (child.exitCode === null && child.signalCode === null) await end(child, "SIGKILL");
  clients = [];
  processes = [];
});
afterAll(async () => {
  await lab.remove();
  await rm(directory, { recursive: true, force: true });
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port: free } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return free;
}

const control = (run = "run"): string => join(directory, run, "control.sock");

interface Started {
  readonly child: ChildProcess;
  readonly stderr: () => string;
}

const start = (...extra: readonly string[]): Started => startAt("state", ...extra);

function startAt(state: string, ...extra: readonly string[]): Started {
  const child = spawn(ESPLEX, couplingArguments(state, extra), { stdio: ["ignore", "ignore", "pipe"] });
  let text = "";
  child.stderr?.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
  processes.push(child);
  return { child, stderr: () => text };
}

function couplingArguments(state: string, extra: readonly string[] = []): string[] {
  const { certificate, key, ca } = lab.files("coupling");
  const args = ["coupling", "--cluster", join(directory, "lab.yaml"), "--state", join(directory, state)];
  const files = ["--certificate", certificate, "--key", key, "--ca", ca, "--run", join(directory, "run")];
  return [...args, ...files, ...extra];
}

async function started(): Promise<ChildProcess> {
  const { child, stderr } = start();
  await until(() => {
    if (child.exitCode !== null) throw new Error(`ended: ${stderr()}`);
    return stderr().includes('"started"');
  }, "the start");
  return child;
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<number | null> {
  child.kill(signal);
  if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
  return child.exitCode;
}

async function dial(node: string): Promise<() => BusConnection> {
  let greeted: BusConnection | null = null;
  const client = new BusClient({
    host: "127.0.0.1",
    port,
    cluster: "lab",
    self: node,
    credentials: await lab.credentials(node),
    clock: systemClock,
    counters: new Counters(),
    log: silentLog,
    expect: { kind: "coupling", cluster: "lab" },
    handlers: () => ({ notices: { members: () => {}, recall: () => {}, fenced: () => {} } }),
    onOpen: async (connection) => {
      await connection.request("hello", { node, instance: "1", listen: null, distributes: [] });
      greeted = connection;
    },
    onClose: () => (greeted = null),
  });
  clients.push(client);
  await until(() => greeted !== null, `hello of ${node}`);
  return () => {
    if (greeted === null) throw new Error("not connected");
    return greeted;
  };
}

test("A3 SIGKILL and restart: ownership is kept, grants go on above everything granted before", async () => {
  let child = await started();
  const d1 = await dial("d1");
  const { epoch } = await d1().request("own", { dvipa: DVIPA });
  await d1().request("registerSa", {
    sa: SA,
    dvipa: DVIPA,
    epoch,
    firstNumber: 1n,
    windowPackets: 4096,
    esn: false,
    counterNonce: true,
    spi: 4096,
    peer: "2001:db8::1",
  });
  let highest = 0n;
  for (let round = 0; round < 3; round++) {
    for (let i = 0; i < 100; i++) {
      const { first, end: last } = await d1().request("reserve", { sa: SA, epoch, count: 2000, nextUnsent: 0n });
      expect(first).toBeGreaterThanOrEqual(highest);
      highest = last;
    }
    await end(child, "SIGKILL");
    child = await started();
    await until(() => {
      try {
        return d1().isOpen;
      } catch {
        return false;
      }
    }, "d1 is back");
  }
  const after = await d1().request("reserve", { sa: SA, epoch, count: 1, nextUnsent: 0n });
  expect(after.first).toBeGreaterThanOrEqual(highest);
  expect(await callControl(control(), "status")).toMatchObject({
    ready: true,
    dvipas: [{ address: DVIPA, owner: "d1", epoch: "1" }],
    sas: [{ sa: SA, next: (after.first + 1n).toString(), spi: 4096, peer: "2001:db8::1" }],
    ledger: "written",
  });
  expect(await end(child, "SIGTERM")).toBe(0);
  const ledger = await readFile(join(directory, "state", "ledger"), "utf8");
  expect(ledger).toMatch(/\nstop \d+\ncheck \d+ [0-9a-f]{8}\n$/);
  expect(
    ledger.split("\n").filter((line) => / restored a+ 2001:db8::100 1 4096 2001:db8::1 4096 /.test(line)),
  ).toHaveLength(3);
  const verify = spawn(ESPLEX, ["ledger", "verify", "--ledger", join(directory, "state", "ledger"), "--json"]);
  let json = "";
  verify.stdout.setEncoding("utf8").on("data", (chunk: string) => (json += chunk));
  expect(await once(verify, "close")).toEqual([0, null]);
  const { burnt, ...proof } = JSON.parse(json) as { burnt: Record<string, number> };
  expect(proof).toMatchObject({ proven: true, sas: 1 });
  // A3: each kill skips what was durable and not granted; some of it may have been granted in the last milliseconds.
  expect(Object.keys(burnt).sort()).toEqual(["serviceCrash", "unreported"]);
});

test("a second service on the same directory refuses to start and says why", async () => {
  const child = await started();
  const second = start("--run", join(directory, "run2"));
  const [status] = (await once(second.child, "exit")) as [number];
  expect(status).toBe(2);
  expect(second.stderr()).toContain("another coupling service uses this directory");
  expect(await callControl(control(), "status")).toMatchObject({ ready: true });
  expect((await stat(control())).mode & 0o777).toBe(0o600);
  await expect(callControl(control(), "nonsense")).rejects.toMatchObject({ code: "cluster.notServing" });
  expect(await end(child, "SIGTERM")).toBe(0);
  await expect(callControl(control(), "status")).rejects.toMatchObject({ code: "cluster.notServing" });
});

test("a second service on the same ledger refuses to start, says what to do and leaves the ledger alone", async () => {
  const path = join(directory, "shared-ledger");
  const first = start("--ledger", path);
  await until(() => first.stderr().includes('"started"'), "the start");
  // As if the first were in the middle of a block: this is what the second must not take for the end of a dead one.
  await appendFile(path, "grant 1 t1");
  const second = startAt("state2", "--ledger", path);
  const status = await once(second.child, "exit");
  expect(second.stderr()).toContain(`the ledger ${path}: another coupling service writes it: stop that one, or`);
  expect(status).toEqual([2, null]);
  expect(await readFile(path, "utf8")).toMatch(/grant 1 t1$/);
  expect(await end(first.child, "SIGKILL")).toBeNull();
  const third = start("--ledger", path);
  await until(() => third.stderr().includes('"started"'), "the start after the kill");
  expect(await end(third.child, "SIGTERM")).toBe(0);
  expect(await readFile(path, "utf8")).not.toContain("grant 1 t1");
});

/** A pipe that is full, and that nobody reads. */
async function fullPipe(): Promise<number> {
  const path = join(directory, "pipe");
  await execa("mkfifo", [path]);
  const filler = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  const page = Buffer.alloc(4096, "x");
  for (;;) {
    try {
      writeSync(filler, page);
    } catch (error) {
      expect(error).toMatchObject({ code: "EAGAIN" });
      return openSync(path, "a");
    }
  }
}

test.each([
  {
    what: "a file at the process's size limit",
    open: async () => {
      const path = join(directory, "log");
      await writeFile(path, Buffer.alloc(LOG_LIMIT_KIB * 1024, "x"));
      return openSync(path, "a");
    },
    isLost: true,
  },
  { what: "a full device", open: () => Promise.resolve(openSync("/dev/full", "a")), isLost: true },
  { what: "a pipe that nobody reads", open: fullPipe, isLost: false },
])("$what as its log neither stops the service nor keeps it from ending", async ({ open, isLost }) => {
  const log = await open();
  const limited = ["-c", `ulimit -f ${LOG_LIMIT_KIB}; exec "$@"`, "bash", ESPLEX, ...couplingArguments("full")];
  const child = spawn("bash", limited, { stdio: ["ignore", "ignore", log] });
  processes.push(child);
  closeSync(log);
  await until(async () => (await stat(control()).catch(() => null)) !== null, "the control socket");
  const d1 = await dial("d1");
  expect(await d1().request("own", { dvipa: DVIPA })).toHaveProperty("epoch");
  const { ready, counters } = (await callControl(control(), "status")) as CouplingStatus;
  expect(ready).toBe(true);
  // Lines that wait for a reader are not lost yet.
  if (isLost) expect(counters["log.lostLines"]).toBeGreaterThan(1);
  expect(await end(child, "SIGTERM")).toBe(0);
});

test("wrong use ends with status 2 and names the mistake", async () => {
  const missing = start("--ca", join(directory, "none.crt"));
  expect(await once(missing.child, "exit")).toEqual([2, null]);
  expect(missing.stderr()).toContain("none.crt");
});
