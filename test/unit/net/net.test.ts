import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { u32 } from "../../../src/core/struct.ts";
import { hasOurPrefix, steeringMark, steeringTable, tunnelReqid } from "../../../src/net/ids.ts";
import { isErrno, kernelRefusal } from "../../../src/net/kernel-error.ts";
import {
  Attributes,
  finishFrame,
  MessageBuilder,
  numberBytes,
  parseMessages,
} from "../../../src/net/netlink-message.ts";
import { readQueueCounters } from "../../../src/net/nfqueue.ts";
import { readSysctl, SysctlJournal } from "../../../src/net/sysctl.ts";

describe("netlink messages", () => {
  it("attributes: what was built is what is read", () => {
    const payloads = fc.array(fc.tuple(fc.integer({ min: 1, max: 60 }), fc.uint8Array({ maxLength: 90 })), {
      maxLength: 12,
    });
    fc.assert(
      fc.property(payloads, fc.uint8Array({ maxLength: 40 }), (list, head) => {
        const builder = new MessageBuilder(16).head(head);
        for (const [type, payload] of list) builder.attribute(type, payload);
        builder.nested(61, (inner) => inner.attribute(7, numberBytes(u32, 4711)));
        const [message, ...more] = parseMessages(finishFrame(builder.request(3, 4, "test"), 0, 9, 8));
        expect(more).toEqual([]);
        expect(message).toMatchObject({ type: 3, flags: 5, seq: 9, port: 8 });
        const attributes = new Attributes(message?.body ?? new Uint8Array(), head.length);
        for (const [type, payload] of new Map(list)) expect(attributes.bytes(type)).toEqual(payload);
        expect(attributes.nested(61).number(7, u32)).toBe(4711);
      }),
    );
  });

  it("an outgrown buffer is wiped", () => {
    const secret = new Uint8Array(40).fill(0x5a);
    const builder = new MessageBuilder(64).attribute(1, secret);
    const before = builder.request(1, 0, "").frame;
    builder.attribute(2, secret);
    expect(before.every((byte) => byte === 0)).toBe(true);
  });

  it("messages that lie side by side never touch", () => {
    const sizes = fc.array(
      fc.tuple(fc.integer({ min: 16, max: 600 }), fc.integer({ min: 0, max: 900 }), fc.boolean()),
      {
        minLength: 2,
        maxLength: 40,
      },
    );
    fc.assert(
      fc.property(sizes, (list) => {
        const builders = list.map(([capacity]) => new MessageBuilder(capacity));
        const frames = builders.map((builder, at) => {
          const [, length = 0, later = false] = list[at] ?? [];
          const fill = new Uint8Array(length).fill(at + 1);
          if (later) builder.request(1, 0, "not the last word");
          return { at, frame: builder.head(fill).request(1, 0, "").frame, length };
        });
        for (const { at, frame, length } of frames) {
          expect(frame.length).toBe(16 + 4 * Math.ceil(length / 4));
          expect(frame.subarray(0, 16).every((byte) => byte === 0)).toBe(true);
          expect(frame.subarray(16, 16 + length).every((byte) => byte === at + 1)).toBe(true);
          expect(frame.subarray(16 + length).every((byte) => byte === 0)).toBe(true);
        }
      }),
    );
  });

  it("lengths that lead outside are refused", () => {
    const frame = finishFrame(new MessageBuilder().request(1, 0, ""), 0, 0, 0).slice();
    for (const length of [0, 15, 17, 0xffffffff]) {
      frame.set(numberBytes(u32, length));
      expect(() => parseMessages(frame)).toThrow(expect.objectContaining({ code: "wire.malformed" }));
    }
    expect(() => new Attributes(Uint8Array.of(9, 0, 1, 0, 5))).toThrow(
      expect.objectContaining({ code: "wire.malformed" }),
    );
    expect(() => new Attributes(Uint8Array.of(5, 0, 1, 0, 5)).number(1, u32)).toThrow("too short");
  });
});

describe("refusals", () => {
  it("carry errno by number and name, and the kernel's sentence", () => {
    const error = kernelRefusal("add state", 17, "Requested AEAD algorithm not found");
    expect(error.details).toMatchObject({ errno: 17, code: "EEXIST", operation: "add state" });
    expect(error.message).toBe("add state: EEXIST: Requested AEAD algorithm not found");
    expect(isErrno(error, "ESRCH", "EEXIST")).toBe(true);
    expect(isErrno(error, "ESRCH")).toBe(false);
    expect(isErrno(new Error("EEXIST"), "EEXIST")).toBe(false);
    expect(kernelRefusal("x", 9999).details).toMatchObject({ code: "errno 9999" });
  });
});

describe("our numbers", () => {
  it("carry the prefix, and no index leads outside it", () => {
    expect([steeringMark(1), steeringTable(1), tunnelReqid(1)]).toEqual([0x45500001, 0x45500001, 0x45500001]);
    expect(hasOurPrefix(steeringMark(0xfffff))).toBe(true);
    expect([0, 7, 0x45600001, 0x45400000].some(hasOurPrefix)).toBe(false);
    for (const index of [0, -1, 1.5, 0x100000]) expect(() => steeringMark(index)).toThrow(RangeError);
  });
});

describe("sysctl journal", () => {
  let root: string;
  const forward = ["net", "ipv4", "ip_forward"];

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), "esplex-sysctl-"));
    await mkdir(join(root, "net/ipv4"), { recursive: true });
    await writeFile(join(root, "net/ipv4/ip_forward"), "0\n");
  });
  afterEach(() => rm(root, { recursive: true }));

  it("restores the first value, once", async () => {
    const journal = new SysctlJournal(root);
    journal.set(forward, "1");
    journal.set(forward, "2");
    expect(journal.before).toEqual([{ name: forward, value: "0" }]);
    journal.restore();
    expect(readSysctl(forward, root)).toBe("0");
    await writeFile(join(root, "net/ipv4/ip_forward"), "5");
    journal.restore();
    expect(await readFile(join(root, "net/ipv4/ip_forward"), "utf8")).toBe("5");
  });

  it("keeps inside /proc/sys", () => {
    for (const name of [[], ["..", "x"], ["a/b"], ["a", ""]]) {
      expect(() => readSysctl(name, root)).toThrow(expect.objectContaining({ code: "config.invalid" }));
    }
    expect(() => readSysctl(["net", "none"], root)).toThrow(expect.objectContaining({ code: "kernel.missing" }));
  });
});

it("queue counters are read by column", async () => {
  const directory = await mkdtemp(join(tmpdir(), "esplex-queue-"));
  const path = join(directory, "nfnetlink_queue");
  await writeFile(
    path,
    "    7   1234     0 2    64     0     0        0  1\n   42  31058     3 2    40     6     9       13  1\n",
  );
  expect(readQueueCounters(42, path)).toEqual({ waiting: 3, droppedFull: 6, droppedOverrun: 9 });
  expect(readQueueCounters(4, path)).toEqual({ waiting: 0, droppedFull: 0, droppedOverrun: 0 });
  await rm(directory, { recursive: true });
});
