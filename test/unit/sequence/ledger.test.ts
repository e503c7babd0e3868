import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LedgerAbbreviation } from "../../../src/sequence/ledger-abbreviation.ts";
import { LedgerBook } from "../../../src/sequence/ledger-book.ts";
import {
  LedgerReader,
  MAX_BLOCK_BYTES,
  encodeLedgerBlock,
  endOfLastBlock,
} from "../../../src/sequence/ledger-block.ts";
import {
  BURNT_REASONS,
  type LedgerRecord,
  decodeLedgerRecord,
  encodeLedgerRecord,
} from "../../../src/sequence/ledger-record.ts";
import { type LedgerVerdict, LedgerVerifier, type SeenPacket } from "../../../src/sequence/ledger-verifier.ts";
import { NumberSet } from "../../../src/sequence/number-set.ts";

const SA = "a".repeat(32);
const DVIPA = "192.0.2.100";
const PEER = "192.0.2.10";
const SPI = 0x1234;

const u64 = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
const u32 = fc.nat(0xffff_ffff);
const ms = fc.nat(2 ** 48);
const name = fc.constantFrom("t1", "d1", "a-node");
const records: fc.Arbitrary<LedgerRecord> = fc.oneof(
  fc.record({ kind: fc.constantFrom("start" as const, "stop" as const), atMs: ms }),
  fc.record({ kind: fc.constant("own" as const), dvipa: fc.ipV6(), epoch: u64, owner: name }),
  fc
    .record({
      kind: fc.constant("line" as const),
      spi: fc.option(u32),
      protocol: fc.constantFrom("esp" as const, "ah" as const),
      line: u32,
      atMs: ms,
      origin: fc.constantFrom("opened" as const, "restored" as const),
      sa: fc.constant(SA),
      dvipa: fc.ipV4(),
      epoch: u64,
      peer: fc.option(fc.ipV4()),
      windowPackets: u32,
      esn: fc.boolean(),
      counterNonce: fc.boolean(),
      first: u64,
      ceiling: u64,
      // A line without an SPI has no protocol to tell.
    })
    .map((line) => (line.spi === null ? { ...line, protocol: "esp" as const } : line)),
  fc.record({ kind: fc.constant("epoch" as const), line: u32, epoch: u64 }),
  fc.record({ kind: fc.constant("ceiling" as const), line: u32, ceiling: u64 }),
  fc.record({ kind: fc.constant("grant" as const), line: u32, node: name, epoch: u64, first: u64, end: u64, atMs: ms }),
  fc.record({
    kind: fc.constant("burnt" as const),
    line: u32,
    node: name,
    first: u64,
    end: u64,
    reason: fc.constantFrom(...BURNT_REASONS),
  }),
  fc.record({ kind: fc.constant("retired" as const), line: u32 }),
);

describe("records", () => {
  it("read back as they were written", () => {
    fc.assert(
      fc.property(records, (record) => {
        expect(decodeLedgerRecord(encodeLedgerRecord(record))).toEqual(record);
      }),
    );
  });

  it.each([
    "",
    "grant",
    "grant 1 t1 1 5",
    "grant 1 t1 1 5 9 7 8",
    "grant 1 t1 1 -5 9 7",
    "burnt 1 t1 1 2 lazy",
    "gift 1",
  ])("refuse %j", (text) =>
    expect(() => decodeLedgerRecord(text)).toThrow(expect.objectContaining({ code: "store.corrupt" })),
  );

  it("refuse random text with our error alone", () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        expect(() => decodeLedgerRecord(`line ${text}`)).toThrow(expect.objectContaining({ code: "store.corrupt" }));
      }),
    );
  });
});

const GRANTS = ["start 1", "retired 1", "retired 2", "retired 3", "stop 2"];

describe("abbreviated records", () => {
  it("read back as they were written, over blocks and processes", () => {
    const some = fc.array(fc.array(records, { minLength: 1, maxLength: 20 }), { maxLength: 5 });
    fc.assert(
      fc.property(some, (blocks) => {
        const abbreviation = new LedgerAbbreviation();
        const taken: LedgerRecord[] = [];
        const reader = new LedgerReader("a ledger", (record) => taken.push(record));
        for (const block of blocks) reader.push(encodeLedgerBlock(block.map(encodeLedgerRecord), abbreviation));
        expect(taken).toEqual(blocks.flat());
      }),
    );
  });

  it("say only what is new, also beyond 2^53", () => {
    const { shorten, expand } = abbreviating();
    const top = (1n << 64n) - 9n;
    const texts = [
      "grant 1 t1 3 100 108 1795000000000",
      "grant 1 t2 3 108 116 1795000000001",
      "burnt 1 t1 105 108 replaced",
      "burnt 1 t2 100 104 released",
      `grant 2 t2 3 ${top} ${top + 8n} 1795000000001`,
      `grant 2 t2 3 ${top - 8n} ${top} 1795000000001`,
    ];
    const short = texts.map(shorten);
    expect(short.slice(1, 4)).toEqual(["g = t2 = +8 +8 +1", "burnt 1 t1 105 108 replaced", "b = t2 -5 -4 released"]);
    expect(short[5]).toBe("g = = = -8 -8 =");
    expect(short.map(expand)).toEqual(texts);
  });

  it("of another process are not built on", () => {
    const { shorten } = abbreviating();
    shorten("grant 1 t1 3 100 108 7");
    shorten("start 9");
    expect(shorten("grant 1 t1 3 100 108 7")).toBe("grant 1 t1 3 100 108 7");
  });

  it.each(["g = t2 = +8 +8 +1", "c = +1"])("that stand for nothing are refused: %s", (text) => {
    expect(() => abbreviating().expand(text)).toThrow(expect.objectContaining({ code: "store.corrupt" }));
  });

  it.each(["g = =", "g = +1 = = = =", "g = = = -101 = =", "g = = = +99999999999999999999 = =", "g = = = = = = ="])(
    "that do not fit the one before are refused: %s",
    (text) => {
      const { expand } = abbreviating();
      expand("grant 1 t1 3 100 108 7");
      expect(() => decodeLedgerRecord(expand(text))).toThrow(expect.objectContaining({ code: "store.corrupt" }));
    },
  );
});

/** Both ways, each with its own memory. */
function abbreviating(): { shorten: (text: string) => string; expand: (text: string) => string } {
  const [writer, reader] = [new LedgerAbbreviation(), new LedgerAbbreviation()];
  return { shorten: (text) => writer.shorten(text), expand: (text) => reader.expand(text) };
}

describe("blocks", () => {
  const bytes = Buffer.concat([encodeLedgerBlock(GRANTS.slice(0, 2)), encodeLedgerBlock(GRANTS.slice(2))]);
  const read = (pieces: readonly Buffer[]): { taken: string[]; tornBytes: number } => {
    const taken: string[] = [];
    const reader = new LedgerReader("a ledger", (record, line) => taken.push(`${line} ${encodeLedgerRecord(record)}`));
    for (const piece of pieces) reader.push(piece);
    return { taken, tornBytes: reader.tornBytes };
  };

  it("are read in any pieces, with the numbers of their lines", () => {
    const pieces = Array.from(bytes, (byte) => Buffer.from([byte]));
    expect(read(pieces)).toEqual(read([bytes]));
    expect(read([bytes]).taken).toEqual(["1 start 1", "2 retired 1", "4 retired 2", "5 retired 3", "6 stop 2"]);
  });

  it("that a kill has cut are left out, and their length is said", () => {
    const first = encodeLedgerBlock(GRANTS.slice(0, 2));
    for (let length = 0; length < bytes.length; length++) {
      const { taken, tornBytes } = read([bytes.subarray(0, length)]);
      expect(taken.length).toBe(length < first.length ? 0 : 2);
      expect(tornBytes).toBe(length < first.length ? length : length - first.length);
      expect(endOfLastBlock(bytes.subarray(0, length))).toBe(length < first.length ? null : first.length);
    }
    expect(read([bytes, Buffer.alloc(4000)])).toMatchObject({ tornBytes: 4000 });
  });

  it("with one changed byte before the last check are an error that names the line", () => {
    for (let at = 0; at < encodeLedgerBlock(GRANTS.slice(0, 2)).length; at++) {
      const changed = Buffer.from(bytes);
      changed.writeUInt8(changed.readUInt8(at) ^ 1, at);
      expect(() => read([changed])).toThrow(/a ledger, line 1: damaged/);
    }
  });
});

describe("the book", () => {
  function book(): { book: LedgerBook; written: () => string[] } {
    const texts: string[] = [];
    const one = new LedgerBook(
      (text) => texts.push(text),
      () => 7,
    );
    one.started([], []);
    one.owned(DVIPA, 1n, "d1");
    const registration = { sa: SA, dvipa: DVIPA, epoch: 1n, firstNumber: 1n, windowPackets: 64, esn: false };
    one.changed({
      kind: "opened",
      registration: { ...registration, counterNonce: true, spi: SPI, peer: PEER },
      ceiling: 1000n,
    });
    return { book: one, written: () => texts.splice(0) };
  }
  const grant = (one: LedgerBook, node: string, nextUnsent: bigint, first: bigint, end: bigint): void =>
    one.granted(
      { sa: SA, node, epoch: 1n, count: 1, nextUnsent },
      { first, end, highWater: end, holders: 1, rekeySoon: false },
    );

  it("writes what opens a line", () => {
    const { written } = book();
    expect(written()).toEqual([
      "start 7",
      `own ${DVIPA} 1 d1`,
      `line 1 7 opened ${SA} ${DVIPA} 1 ${SPI} ${PEER} 64 32bit counter 1 1000`,
    ]);
  });

  it("burns the rest of a lease once its node is beyond it, and nothing of one that grows", () => {
    const { book: one, written } = book();
    grant(one, "t1", 0n, 1n, 9n);
    grant(one, "t1", 5n, 9n, 17n);
    grant(one, "t2", 0n, 17n, 25n);
    grant(one, "t1", 12n, 25n, 33n);
    written();
    grant(one, "t1", 27n, 33n, 41n);
    expect(written()).toEqual(["burnt 1 t1 12 17 replaced", "grant 1 t1 1 33 41 7"]);
  });

  it("burns a grant that never arrived, what is given back, and what nobody speaks of", () => {
    const { book: one, written } = book();
    grant(one, "t1", 0n, 1n, 9n);
    grant(one, "t2", 0n, 9n, 17n);
    grant(one, "t1", 3n, 17n, 25n);
    written();
    grant(one, "t1", 4n, 25n, 33n);
    expect(written()).toEqual(["burnt 1 t1 17 25 lostGrant", "grant 1 t1 1 25 33 7"]);
    one.released(SA, "t1", 0n);
    expect(written()).toEqual(["burnt 1 t1 4 9 released", "burnt 1 t1 25 33 released"]);
    grant(one, "t2", 0n, 33n, 41n);
    expect(written()).toEqual(["burnt 1 t2 9 17 unreported", "grant 1 t2 1 33 41 7"]);
  });

  it("knows a new process of a node: it replaces what the old one held, also where the numbers touch", () => {
    const { book: one, written } = book();
    one.greeted("t1", "a");
    grant(one, "t1", 0n, 1n, 9n);
    one.greeted("t1", "b");
    grant(one, "t1", 4n, 9n, 17n);
    written();
    grant(one, "t1", 9n, 17n, 25n);
    expect(written()).toEqual(["burnt 1 t1 4 9 nodeRestart", "grant 1 t1 1 17 25 7"]);
  });

  it("a claim burns what lies below it, and no block that may be on its way", () => {
    const { book: one, written } = book();
    grant(one, "t1", 0n, 1n, 9n);
    grant(one, "t2", 0n, 9n, 17n);
    grant(one, "t1", 3n, 17n, 25n);
    written();
    one.released(SA, "t1", 10n);
    expect(written()).toEqual(["burnt 1 t1 3 9 released"]);
    one.changed({ kind: "retired", sa: SA });
    expect(written()).toEqual(["burnt 1 t1 17 25 retired", "burnt 1 t2 9 17 retired", "retired 1"]);
  });

  it("after a restart keeps a block open that may have been added to a lease from before", () => {
    const { book: one, written } = book();
    // t1 holds [5, 9), granted by the process before this one, and adds the block to it.
    grant(one, "t1", 5n, 9n, 17n);
    grant(one, "t2", 0n, 17n, 25n);
    written();
    grant(one, "t1", 6n, 25n, 33n);
    expect(written()).toEqual(["grant 1 t1 1 25 33 7"]);
    // Now it is in the first of the two, so the second never arrived.
    grant(one, "t1", 10n, 33n, 41n);
    expect(written()).toEqual(["burnt 1 t1 25 33 lostGrant", "grant 1 t1 1 33 41 7"]);
  });

  it("burns what is held when the SA ends, and writes nothing on it after", () => {
    const { book: one, written } = book();
    grant(one, "t1", 0n, 1n, 9n);
    written();
    one.changed({ kind: "raised", sa: SA, ceiling: 2000n });
    one.changed({ kind: "retired", sa: SA });
    grant(one, "t1", 0n, 9n, 17n);
    one.stopped();
    expect(written()).toEqual(["ceiling 1 2000", "burnt 1 t1 1 9 retired", "retired 1", "stop 7"]);
  });
});

const line = (traits = "32bit counter", sa = SA, number = 1, atMs = 7): string =>
  `line ${number} ${atMs} opened ${sa} ${DVIPA} 1 ${SPI} ${PEER} 64 ${traits} 1 1000`;
const OPENED = ["start 1", `own ${DVIPA} 1 d1`, line()];
const restored = (ceiling: number): string[] => [
  "start 2",
  `own ${DVIPA} 1 d1`,
  `line 1 7 restored ${SA} ${DVIPA} 1 ${SPI} ${PEER} 64 32bit counter ${ceiling} ${ceiling}`,
];

function verdict(ledger: readonly string[], packets: readonly Partial<SeenPacket>[] = []): LedgerVerdict {
  const verifier = new LedgerVerifier();
  for (const [index, text] of ledger.entries()) verifier.take(decodeLedgerRecord(text), `line ${index + 1}`);
  for (const packet of packets) {
    const usual = {
      protocol: "esp",
      source: DVIPA,
      destination: PEER,
      spi: SPI,
      sequence: 1,
      iv: null,
      atMs: 10,
    } as const;
    verifier.takePacket({ ...usual, ...packet });
  }
  return verifier.verdict();
}
const sequences = (...numbers: number[]): Partial<SeenPacket>[] =>
  numbers.map((sequence) => ({ sequence, iv: BigInt(sequence) }));

describe("the proof", () => {
  it("counts what was granted, used, burnt and is left", () => {
    const ledger = [...OPENED, "grant 1 t1 1 1 9 7", "grant 1 t2 1 9 17 7", "burnt 1 t1 3 9 replaced", "stop 9"];
    expect(
      verdict([...ledger, ...restored(1000), "ceiling 1 2000", "grant 1 t1 1 1000 1008 7"], sequences(1, 2, 3, 1000)),
    ).toMatchObject({
      proven: true,
      granted: 24n,
      used: 4n,
      burnt: { replaced: 5n, serviceStop: 983n },
      outstanding: 15n,
      grants: 3,
      sas: 1,
    });
  });

  it.each([
    ["L1 a grant that comes twice", ["grant 1 t1 1 1 9 7", "grant 1 t2 1 1 9 7"], "was granted before"],
    ["L1 one that overlaps", ["grant 1 t1 1 1 9 7", "grant 1 t2 1 8 17 7"], "was granted before"],
    ["L1 one that leaves numbers out", ["grant 1 t1 1 1 9 7", "grant 1 t2 1 10 17 7"], "leaves numbers out"],
    ["L1 an SA that is opened twice", [line("32bit counter", SA, 2)], "was opened before"],
    ["L2 one above the ceiling", ["grant 1 t1 1 1 1001 7"], "beyond the ceiling"],
    ["L2 a ceiling that falls", ["ceiling 1 999"], "does not rise"],
    ["L2 a ceiling that fell in a restart", restored(999), "fell from 1000"],
    ["L3 one of an old epoch", [`own ${DVIPA} 2 d1`, "grant 1 t1 1 1 9 7"], "has 2"],
    ["L3 one of an epoch of its own", ["grant 1 t1 2 1 9 7"], "under epoch 2"],
    ["L3 an epoch that goes back", [`own ${DVIPA} 0 d1`], "goes from epoch 1"],
    ["L3 an epoch with two owners", [`own ${DVIPA} 1 d2`], "goes from epoch 1"],
    ["L3 one on an SA that has ended", ["retired 1", "grant 1 t1 1 1 9 7"], "has ended"],
    ["L3 an SA that comes back", ["retired 1", ...restored(1000)], "is back"],
    [
      "L4 a range burnt twice",
      ["grant 1 t1 1 1 9 7", "burnt 1 t1 3 6 replaced", "burnt 1 t1 5 9 released"],
      "1 numbers",
    ],
    ["L4 a range that was not granted", ["grant 1 t1 1 1 9 7", "burnt 1 t1 5 10 released"], "never granted"],
    ["a record after the end", ["stop 9", "grant 1 t1 1 1 9 7"], "after the end"],
    ["a grant on no line", ["grant 2 t1 1 1 9 7"], "was not opened"],
  ])("fails on %s", (_, records, why) => {
    const found = verdict([...OPENED, ...records]);
    expect(found).toMatchObject({ proven: false, violations: 1 });
    expect(found.named[0]).toContain(why);
  });

  const granted = [...OPENED, "grant 1 t1 1 1 9 7"];

  it("L5 L7 fails on a number or an IV that comes twice, and does not mind equal IVs where a cipher makes them itself", () => {
    expect(verdict(granted, sequences(1, 2, 1))).toMatchObject({ proven: false, duplicates: 1, duplicateIvs: 1 });
    const alike = [
      { sequence: 1, iv: 7n },
      { sequence: 2, iv: 7n },
    ];
    expect(verdict(granted, alike)).toMatchObject({ proven: false, duplicates: 0, duplicateIvs: 1 });
    const free = ["start 1", `own ${DVIPA} 1 d1`, line("32bit free"), "grant 1 t1 1 1 9 7"];
    expect(verdict(free, alike)).toMatchObject({ proven: true, duplicateIvs: 0 });
  });

  it("L6 fails on a packet outside every grant, on an SA nobody registered, and leaves strangers alone", () => {
    expect(verdict(granted, sequences(9))).toMatchObject({ proven: false, outsideLease: 1 });
    expect(verdict(granted, [{ spi: 0x9999 }])).toMatchObject({ proven: false, outsideLease: 1 });
    expect(verdict(granted, [{ spi: 0x9999, source: PEER, destination: DVIPA }])).toMatchObject({
      proven: true,
      packets: 0,
    });
  });

  it("says which packets a killed process may have granted without a record; duplicates among them count", () => {
    const killed = [...granted, ...restored(1000)];
    expect(verdict(killed, sequences(8, 9, 999))).toMatchObject({ proven: true, unrecorded: 2, outsideLease: 0 });
    expect(verdict(killed, sequences(9, 9))).toMatchObject({ proven: false, unrecorded: 1, duplicates: 1 });
    expect(verdict(killed, sequences(1000))).toMatchObject({ proven: false, outsideLease: 1 });
    expect(verdict([...granted, "stop 9", ...restored(1000)], sequences(9))).toMatchObject({ outsideLease: 1 });
  });

  it("finds the upper half of an extended number, also where packets of several hosts cross the edge out of order", () => {
    const edge = 2 ** 32;
    const opened = `line 1 7 opened ${SA} ${DVIPA} 1 ${SPI} ${PEER} 64 esn counter ${edge - 4} ${edge + 100}`;
    const ledger = ["start 1", `own ${DVIPA} 1 d1`, opened, `grant 1 t1 1 ${edge - 4} ${edge + 8} 7`];
    expect(verdict(ledger, sequences(edge - 4, edge - 3, 0, edge - 2, 1, edge - 1, 2))).toMatchObject({
      proven: true,
      used: 7n,
    });
    expect(verdict(ledger, sequences(edge - 4, 0, 0))).toMatchObject({ proven: false, duplicates: 1 });
    expect(verdict(ledger, sequences(edge - 4, 8))).toMatchObject({ proven: false, outsideLease: 1 });
  });

  it("keeps an SA of AH apart from one of ESP with the same SPI and peer", () => {
    const ah = line("32bit free", "b".repeat(32), 2).replace(` ${SPI} `, ` ah:${SPI} `);
    const both = [...granted, ah, "grant 2 t1 1 1 5 7"];
    const packets = [{ sequence: 4 }, { protocol: "ah" as const, sequence: 4 }];
    expect(verdict(both, packets)).toMatchObject({ proven: true, used: 2n, sas: 2 });
    expect(verdict(both, [...packets, { protocol: "ah", sequence: 4 }])).toMatchObject({ duplicates: 1 });
    // Granted on the SA of ESP, and not on that of AH.
    expect(verdict(both, [{ protocol: "ah", sequence: 8 }])).toMatchObject({ proven: false, outsideLease: 1 });
    expect(verdict(granted, [{ protocol: "ah", sequence: 1 }])).toMatchObject({ proven: false, outsideLease: 1 });
  });

  it("keeps SAs apart that had the same SPI and peer one after the other", () => {
    const later = [line("32bit counter", "b".repeat(32), 2, 1000), "grant 2 t1 1 1 9 1000"];
    const packets = [
      { sequence: 1, atMs: 500 },
      { sequence: 1, atMs: 1500 },
    ];
    expect(verdict([...granted, "retired 1", ...later], packets)).toMatchObject({ proven: true, used: 2n });
  });
});

it("a set of numbers holds what was added, over its pages", () => {
  const range = fc.tuple(fc.bigInt({ min: 65_500n, max: 65_600n }), fc.bigInt({ min: 0n, max: 90n }));
  fc.assert(
    fc.property(fc.array(range), (ranges) => {
      const [numbers, model] = [new NumberSet(), new Set<bigint>()];
      for (const [first, length] of ranges) {
        let known = 0;
        for (let n = first; n < first + length; n++) {
          if (model.has(n)) known++;
          model.add(n);
        }
        expect(numbers.addRange(first, first + length)).toBe(known);
      }
      expect(numbers.size).toBe(model.size);
      expect(numbers.common(numbers)).toBe(model.size);
      for (let n = 65_490n; n < 65_700n; n++) expect(numbers.has(n)).toBe(model.has(n));
    }),
  );
});

describe("a ledger without an end", () => {
  it.each([
    ["zeros, as a power cut may leave them", Buffer.alloc(1 << 20)],
    ["records without a check", Buffer.from("start 1\n".repeat(1 << 17))],
  ])("is refused before it fills the memory: %s", (_, piece) => {
    const reader = new LedgerReader("ledger", () => {});
    const pushTooMuch = (): void => {
      for (let pushed = 0; pushed <= MAX_BLOCK_BYTES; pushed += piece.length) reader.push(piece);
    };
    expect(pushTooMuch).toThrow(/has no end/);
  });
});
