import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFile, mkdtemp, open, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readJournal } from "../../../src/sequence/journal-record.ts";
import { afterEach, beforeEach, expect, test } from "vitest";
import { JournalCeilingStore } from "../../../src/sequence/journal-ceiling-store.ts";
import type { StoredSequence } from "../../../src/sequence/ceiling-store.ts";

/** The Node that the project pins: it runs TypeScript as it is. */
const NODE = new URL("../../../node_modules/node/bin/node", import.meta.url).pathname;

let directory = "";
beforeEach(async () => void (directory = await mkdtemp(join(tmpdir(), "esplex-store-"))));
afterEach(async () => rm(directory, { recursive: true, force: true }));

const journal = (): string => join(directory, "journal");
const sequence = (id: number, ceiling = 100n): StoredSequence => ({
  sa: id.toString(16).padStart(32, "0"),
  dvipa: "2001:db8::1",
  epoch: 1n,
  firstNumber: 1n,
  windowPackets: 1024,
  esn: false,
  counterNonce: true,
  instances: { past: 1, nodes: [{ node: "t1", incarnation: "a", count: 2 }] },
  ceiling,
});

/** A node name that looks like an encoded number must stay a name. */
const OWNER = "5n";

async function filled(): Promise<void> {
  const store = await JournalCeilingStore.open(directory);
  await store.own("2001:db8::1", 0n, 1n, OWNER);
  await store.put(sequence(1), null);
  await store.raise(sequence(1).sa, 100n, 200n);
  await store.put(sequence(2), null);
  await store.retire(sequence(2).sa);
  await store.close();
}

test("what was durable comes back", async () => {
  await filled();
  const store = await JournalCeilingStore.open(directory);
  expect(store.initial()).toEqual({
    sequences: [sequence(1, 200n)],
    epochs: [{ dvipa: "2001:db8::1", epoch: 1n, owner: OWNER }],
    retired: [sequence(2).sa],
  });
  await store.close();
});

test("changes of one turn share a record, in order", async () => {
  const store = await JournalCeilingStore.open(directory);
  await store.put(sequence(1, 0n), null);
  await Promise.all(Array.from({ length: 50 }, (_, i) => store.raise(sequence(1).sa, BigInt(i), BigInt(i + 1))));
  await store.close();
  expect((await readFile(journal(), "utf8")).trimEnd().split("\n")).toHaveLength(2);
  const again = await JournalCeilingStore.open(directory);
  expect(again.initial().sequences).toEqual([sequence(1, 50n)]);
  await again.close();
});

test("a change that does not fit what it replaces is refused", async () => {
  const store = await JournalCeilingStore.open(directory);
  await store.put(sequence(1), null);
  await expect(store.raise(sequence(1).sa, 99n, 300n)).rejects.toMatchObject({ code: "store.corrupt" });
  await expect(store.raise(sequence(1).sa, 100n, 100n)).rejects.toMatchObject({ code: "store.corrupt" });
  await expect(store.put(sequence(1), null)).rejects.toMatchObject({ code: "store.corrupt" });
  await expect(store.put(sequence(1, 50n), 100n)).rejects.toMatchObject({ code: "store.corrupt" });
  await expect(store.own("2001:db8::1", 3n, 4n, "d1")).rejects.toMatchObject({ code: "store.corrupt" });
  await store.retire(sequence(1).sa);
  await expect(store.put(sequence(1), null)).rejects.toMatchObject({ code: "store.corrupt" });
  await store.close();
});

test("a last record cut at any byte is left out, and the store goes on behind the whole ones", async () => {
  await filled();
  const whole = await readFile(journal());
  const lastStart = whole.subarray(0, -1).lastIndexOf(0x0a) + 1;
  for (let cut = lastStart; cut < whole.length; cut += 7) {
    await writeFile(journal(), whole.subarray(0, cut));
    const store = await JournalCeilingStore.open(directory);
    expect(store.initial().sequences.map(({ sa }) => sa)).toEqual([sequence(1).sa, sequence(2).sa]);
    await store.raise(sequence(2).sa, 100n, 101n);
    await store.close();
    const again = await JournalCeilingStore.open(directory);
    expect(again.initial().sequences).toContainEqual(sequence(2, 101n));
    await again.close();
  }
});

test("a tail of zeros, as a file system leaves it after a power cut, is left out", async () => {
  await filled();
  const { size } = await stat(journal());
  await truncate(journal(), size + 300);
  const store = await JournalCeilingStore.open(directory);
  expect(store.initial().sequences).toEqual([sequence(1, 200n)]);
  await store.close();
});

test("a flipped bit anywhere is an error, never a lower ceiling", async () => {
  await filled();
  const whole = await readFile(journal());
  for (let i = 0; i < whole.length; i++) {
    const damaged = Buffer.from(whole);
    damaged[i] = (damaged[i] ?? 0) ^ 0x04;
    expect(() => readJournal(damaged, "journal"), `byte ${i}`).toThrow(/damaged at byte/);
  }
  await writeFile(journal(), Buffer.concat([whole.subarray(0, 30), Buffer.from("x"), whole.subarray(31)]));
  await expect(JournalCeilingStore.open(directory)).rejects.toMatchObject({ code: "store.corrupt" });
});

test("garbage behind whole records is an error", async () => {
  await filled();
  await appendFile(journal(), "this is no record at all, and long enough to be one\n");
  await expect(JournalCeilingStore.open(directory)).rejects.toMatchObject({ code: "store.corrupt" });
});

test("a long journal is rewritten, with the same content", async () => {
  const store = await JournalCeilingStore.open(directory, 4096);
  await store.put(sequence(1, 0n), null);
  for (let i = 0n; i < 200n; i++) await store.raise(sequence(1).sa, i, i + 1n);
  await store.close();
  expect((await stat(journal())).size).toBeLessThan(10_000);
  const again = await JournalCeilingStore.open(directory);
  expect(again.initial().sequences).toEqual([sequence(1, 200n)]);
  await again.close();
});

test("one directory, one process: also against another process, and free again after SIGKILL", async () => {
  const store = await JournalCeilingStore.open(directory);
  await expect(JournalCeilingStore.open(directory)).rejects.toMatchObject({ code: "config.invalid" });
  await store.close();
  const url = new URL("../../../src/sequence/journal-ceiling-store.ts", import.meta.url).href;
  const script = `const { JournalCeilingStore } = await import(${JSON.stringify(url)});
    await JournalCeilingStore.open(process.argv[1]); console.log("held"); setInterval(() => {}, 1000);`;
  const child = spawn(NODE, ["--input-type=module", "-e", script, directory], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  await expect(JournalCeilingStore.open(directory)).rejects.toMatchObject({ code: "config.invalid" });
  child.kill("SIGKILL");
  await once(child, "close");
  await (await JournalCeilingStore.open(directory)).close();
});

test("after a failed write the store stays failed", async () => {
  const store = await JournalCeilingStore.open(directory);
  await store.put(sequence(1), null);
  // The real thing needs a full disk: a limit on the file size gives the same error from write(2), so take a closed file.
  await store.close();
  await expect(store.raise(sequence(1).sa, 100n, 200n)).rejects.toMatchObject({ code: "store.failed" });
  await expect(store.retire(sequence(1).sa)).rejects.toMatchObject({ code: "store.failed" });
});

test("a directory that cannot be made or written is an error", async () => {
  const file = join(directory, "file");
  await (await open(file, "w")).close();
  await expect(JournalCeilingStore.open(file)).rejects.toMatchObject({ code: "store.failed" });
});
