/** Which of a tunnel's SAs is sent on. */
import { expect, it } from "vitest";
import { LeaseRunner } from "../../../src/daemons/node/lease-runner.ts";
import { OWN_IKE, SaTable, type Entry } from "../../../src/daemons/node/sa-table.ts";
import { sampleSa } from "../sa/esp-builder.ts";

const SAMPLE = sampleSa({ kind: "aes-gcm-16", keyBits: 128 }, "transport");
const TUNNEL = SAMPLE.reqid;

/** Enters the nth SA of the tunnel, one to be sent on now with its runner. */
function enter(table: SaTable, n: number, outbound: "now" | "hold"): Entry {
  const inbound = { ...SAMPLE.inbound, spi: 0x1000 + n };
  const sa = { ...SAMPLE, id: String(n).repeat(32), inbound, outbound: { ...SAMPLE.outbound, spi: 0x2000 + n } };
  const entry = table.enter(OWN_IKE, { sa, epoch: 1n, outbound });
  if (outbound === "now") run(entry);
  return entry;
}

/** Only whether there is a runner matters here. */
function run(entry: Entry): void {
  entry.runner = Object.create(LeaseRunner.prototype) as LeaseRunner;
}

it("a tunnel without an SA that may be used has no sender", () => {
  const table = new SaTable();
  enter(table, 1, "hold");
  expect(table.sender(TUNNEL)).toBeNull();
});

it("the sender is the SA that was switched to last, also when it is the older one", () => {
  const table = new SaTable();
  const older = enter(table, 1, "now");
  const younger = enter(table, 2, "hold");
  table.setNow(younger);
  run(younger);
  expect(table.sender(TUNNEL)).toBe(younger);
  table.setNow(older);
  expect(table.sender(TUNNEL)).toBe(older);
});

it("one that comes to be used at once is the sender, also beside one that was switched to", () => {
  const table = new SaTable();
  const first = enter(table, 1, "hold");
  table.setNow(first);
  run(first);
  const second = enter(table, 2, "now");
  expect(table.sender(TUNNEL)).toBe(second);
  table.leave(second);
  expect(table.sender(TUNNEL)).toBe(first);
});
