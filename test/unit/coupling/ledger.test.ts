/** The ledger's file, and `esplex ledger verify` on what a killed and restarted writer left. */
import { execFile } from "node:child_process";
import { appendFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Counters } from "../../../src/core/counters.ts";
import { silentLog } from "../../../src/core/log.ts";
import { LedgerFile } from "../../../src/daemons/coupling/ledger-file.ts";
import { until } from "../bus/authority.ts";

// Most tests start several processes, one after the other.
vi.setConfig({ testTimeout: 30_000 });

const ESPLEX = new URL("../../../bin/esplex", import.meta.url).pathname;
const SA = "a".repeat(32);
const DVIPA = "192.0.2.100";
const PEER = "192.0.2.10";
const SPI = 0x1234;
const LINE = `line 1 7 opened ${SA} ${DVIPA} 1 ${SPI} ${PEER} 64 32bit counter 1 1000`;
const RECORDS = ["start 1", `own ${DVIPA} 1 d1`, LINE, "grant 1 t1 1 1 9 7", "grant 1 t2 1 9 17 7"];

let directory = "";
let path = "";
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "esplex-ledger-"));
  path = join(directory, "ledger");
});
afterEach(() => rm(directory, { recursive: true, force: true }));

async function written(records: readonly string[]): Promise<void> {
  const file = await LedgerFile.open(path, new Counters(), silentLog);
  for (const record of records) file.append(record);
  await file.close();
}

/** Runs `esplex ledger …`; the last line of stdout is JSON when it says anything. */
function ledger(...args: readonly string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(ESPLEX, ["ledger", ...args], (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

async function verified(...args: readonly string[]): Promise<{ status: number; json: Record<string, unknown> }> {
  const { status, stdout } = await ledger("verify", "--ledger", path, ...args);
  return { status, json: JSON.parse(stdout.trimEnd().split("\n").at(-1) ?? "") as Record<string, unknown> };
}

/** A capture with one ESP packet per entry, from the DVIPA to the peer. */
async function capture(
  name: string,
  packets: readonly { sequence: number; iv: bigint; kept?: number }[],
): Promise<string> {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  header.writeUInt32LE(1, 20);
  const frames = packets.map(({ sequence, iv, kept }) => {
    const frame = Buffer.alloc(14 + 20 + 64);
    frame.writeUInt16BE(0x0800, 12);
    Buffer.from([0x45, 0, 0, 84, 0, 0, 0, 0, 64, 50, 0, 0, 192, 0, 2, 100, 192, 0, 2, 10]).copy(frame, 14);
    frame.writeUInt32BE(SPI, 34);
    frame.writeUInt32BE(sequence, 38);
    frame.writeBigUInt64BE(iv, 42);
    const bytes = frame.subarray(0, kept);
    const head = Buffer.alloc(16);
    [100, 0, bytes.length, frame.length].forEach((value, index) => head.writeUInt32LE(value, index * 4));
    return Buffer.concat([head, bytes]);
  });
  const file = join(directory, name);
  await writeFile(file, Buffer.concat([header, ...frames]));
  return file;
}

test("what a run leaves is proved, with its captures and without", async () => {
  await written([...RECORDS, "burnt 1 t1 3 9 replaced", "stop 9"]);
  expect(await verified()).toMatchObject({ status: 0, json: { proven: true, granted: 16, burnt: { replaced: 6 } } });
  const file = await capture(
    "a.pcap",
    [1, 2, 9, 10].map((sequence) => ({ sequence, iv: BigInt(sequence) })),
  );
  expect(await verified("--pcap", file)).toMatchObject({
    status: 0,
    json: {
      packets: 4,
      used: 4,
      outstanding: 6,
      duplicates: 0,
      duplicateIvs: 0,
      outsideLease: 0,
      burnt: { replaced: 6 },
    },
  });
  const { stdout } = await ledger("verify", "--ledger", path, "--pcap", file);
  expect(stdout).toContain("2 grants on 1 SAs: 16 numbers\n");
  expect(stdout).toContain("  replaced: 6\n");
  expect((await ledger("verify", "--ledger", path, "--json")).stdout.trimEnd().split("\n")).toHaveLength(1);
});

test.each([
  [
    "a number that came twice",
    [
      { sequence: 1, iv: 1n },
      { sequence: 1, iv: 2n },
    ],
    { duplicates: 1, duplicateIvs: 0 },
  ],
  [
    "an IV that came twice",
    [
      { sequence: 1, iv: 1n },
      { sequence: 2, iv: 1n },
    ],
    { duplicates: 0, duplicateIvs: 1 },
  ],
  ["a number outside every grant", [{ sequence: 17, iv: 1n }], { outsideLease: 1 }],
  ["a packet cut before its number", [{ sequence: 1, iv: 1n, kept: 40 }], { cutPackets: 1 }],
])("exit status 1 for %s", async (_, packets, found) => {
  await written(RECORDS);
  const file = await capture("a.pcap", packets);
  expect(await verified("--pcap", file)).toMatchObject({ status: 1, json: { proven: false, ...found } });
});

test("the same packet in two captures is a duplicate, unless the captures are said to overlap", async () => {
  await written(RECORDS);
  const both = [await capture("a.pcap", [{ sequence: 1, iv: 1n }]), await capture("b.pcap", [{ sequence: 1, iv: 1n }])];
  expect(await verified("--pcap", ...both)).toMatchObject({ status: 1, json: { duplicates: 1, duplicateIvs: 1 } });
  expect(await verified("--pcap", ...both, "--same-packets")).toMatchObject({ status: 0, json: { samePackets: 1 } });
  const other = await capture("c.pcap", [{ sequence: 1, iv: 2n }]);
  expect(await verified("--pcap", ...both, other, "--same-packets")).toMatchObject({
    status: 1,
    json: { duplicates: 1 },
  });
});

test("exit status 2 for wrong use, 1 for a damaged ledger, with the line", async () => {
  expect(await ledger("verify")).toMatchObject({ status: 2 });
  expect(await ledger("check", "--ledger", path)).toMatchObject({ status: 2 });
  expect(await ledger("verify", "--ledger", path)).toMatchObject({ status: 2, stdout: "" });
  await written(RECORDS);
  expect(await ledger("verify", "--ledger", path, "--pcap", path)).toMatchObject({ status: 2, stdout: "" });
  const bytes = await readFile(path);
  await writeFile(path, bytes.toString().replace("g = t2", "g = t3"));
  const { status, stderr } = await ledger("verify", "--ledger", path);
  expect(status).toBe(1);
  expect(stderr).toContain(`${path}, line 1: damaged between here and line 6`);
});

test("a block that a kill has cut is tolerated and said, and the next process goes on behind the last whole one", async () => {
  await written(RECORDS);
  const whole = await readFile(path);
  await appendFile(path, "grant 1 t1 1 17 25 7\ngrant 1 t");
  expect(await verified()).toMatchObject({ status: 0, json: { tornBytes: 30, granted: 16 } });
  await written(["start 2", `own ${DVIPA} 1 d1`, LINE.replace("opened", "restored").replace(" 1 1000", " 1000 1000")]);
  expect((await readFile(path)).subarray(0, whole.length)).toEqual(whole);
  expect(await verified()).toMatchObject({ status: 0, json: { tornBytes: 0, burnt: { serviceCrash: 983 } } });
});

test.each([0, 1, 2, 3, 4, 5, 6, 8, 10, 15, 20])(
  "a record that comes %i promise turns after the closing began is written or counted as lost",
  async (turns) => {
    const counters = new Counters();
    const file = await LedgerFile.open(path, counters, silentLog);
    const closing = file.close();
    for (let i = 0; i < turns; i++) await Promise.resolve();
    file.append("stop 9");
    await closing;
    file.append("stop 10");
    const isWritten = (await readFile(path, "utf8")).startsWith("stop 9\n");
    expect(isWritten || turns > 0).toBe(true);
    expect(counters.get("ledger.lostRecords")).toBe(isWritten ? 1 : 2);
    expect(file.failure).toBeNull();
  },
);

test("another file than a ledger is left alone", async () => {
  await writeFile(path, "dear diary\n");
  await expect(LedgerFile.open(path, new Counters(), silentLog)).rejects.toMatchObject({ code: "config.invalid" });
  expect(await readFile(path, "utf8")).toBe("dear diary\n");
});

test("a disk that refuses ends the ledger, says so, and counts every record that is lost", async () => {
  const counters = new Counters();
  const errors: string[] = [];
  const file = await LedgerFile.open("/dev/full", counters, { ...silentLog, error: (text) => void errors.push(text) });
  for (const record of RECORDS) file.append(record);
  await until(() => file.failure !== null, "the failure");
  file.append("stop 9");
  expect(file.failure).toContain("ENOSPC");
  expect(errors).toEqual(["the ledger is not written any more; numbers are still granted"]);
  expect(counters.get("ledger.lostRecords")).toBe(RECORDS.length + 1);
  await file.close();
});
