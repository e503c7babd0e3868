import { describe, expect, test } from "vitest";
import { fromHex, toHex } from "../../../../src/core/bytes.ts";
import { EsplexError } from "../../../../src/core/errors.ts";
import { authMethodName, exchangeName, notifyName, payloadName } from "../../../../src/ike/wire/constants.ts";
import { decodeHeader, encodeHeader } from "../../../../src/ike/wire/header.ts";
import { decodeMessage } from "../../../../src/ike/wire/message.ts";
import { decodePayloads, encodePayloads, requirePayload, type Payload } from "../../../../src/ike/wire/payload.ts";

function codeOf(run: () => unknown): unknown {
  try {
    return run();
  } catch (error) {
    return error instanceof EsplexError ? error.code : error;
  }
}

const HEADER = "1122334455667788" + "0000000000000000" + "21" + "20" + "22" + "08" + "00000000" + "0000001c";

describe("header", () => {
  test("golden", () => {
    const header = decodeHeader(fromHex(HEADER));
    expect(header).toMatchObject({
      nextPayload: 33,
      majorVersion: 2,
      minorVersion: 0,
      exchange: 34,
      fromInitiator: true,
      isResponse: false,
      messageId: 0,
      lengthBytes: 28,
    });
    expect(toHex(encodeHeader(header))).toBe(HEADER);
  });

  test("a length below the header, a wrong length and a wrong version are refused", () => {
    expect(codeOf(() => decodeHeader(fromHex(HEADER.replace(/1c$/, "1b"))))).toBe("wire.malformed");
    expect(codeOf(() => decodeHeader(fromHex(HEADER.slice(2))))).toBe("wire.short");
    expect(codeOf(() => decodeMessage(fromHex(`${HEADER}00`)))).toBe("wire.malformed");
    expect(codeOf(() => decodeMessage(fromHex(HEADER.replace("2120", "2110"))))).toBe("wire.unsupported");
  });
});

/** Hand-made from the figures of RFC 7296 §3. */
const GOLDEN: readonly { type: number; hex: string; payload: Payload }[] = [
  {
    type: 33,
    hex:
      "00000028" +
      "00000024" +
      "01010003" +
      "0300000c" +
      "0100000c" +
      "800e0080" +
      "03000008" +
      "02000005" +
      "00000008" +
      "0400001f",
    payload: {
      kind: "sa",
      proposals: [
        {
          number: 1,
          protocol: 1,
          spi: new Uint8Array(0),
          transforms: [
            { type: 1, id: 12, attributes: [{ type: 14, value: 128 }] },
            { type: 2, id: 5, attributes: [] },
            { type: 4, id: 31, attributes: [] },
          ],
        },
      ],
    },
  },
  {
    type: 34,
    hex: "0000000c" + "001f0000" + "01020304",
    payload: { kind: "ke", group: 31, value: fromHex("01020304") },
  },
  {
    type: 35,
    hex: "0000000d" + "02000000" + "612e6578" + "61",
    payload: { kind: "idi", type: 2, data: fromHex("612e657861") },
  },
  {
    type: 41,
    hex: "0000000c" + "03044009" + "c0000201",
    payload: { kind: "notify", protocol: 3, spi: fromHex("c0000201"), type: 16393, data: new Uint8Array(0) },
  },
  { type: 42, hex: "00000008" + "01000000", payload: { kind: "delete", protocol: 1, spis: [] } },
  {
    type: 42,
    hex: "0000000c" + "03040001" + "c0000201",
    payload: { kind: "delete", protocol: 3, spis: [fromHex("c0000201")] },
  },
  {
    type: 44,
    hex: "00000018" + "01000000" + "07060010" + "0050ffff" + "c0000201" + "c00002ff",
    payload: {
      kind: "tsi",
      selectors: [
        {
          kind: "range",
          selector: {
            startAddress: "192.0.2.1",
            endAddress: "192.0.2.255",
            protocol: 6,
            startPort: 80,
            endPort: 65535,
          },
        },
      ],
    },
  },
];

describe("payloads", () => {
  for (const { type, hex, payload } of GOLDEN) {
    test(`golden ${payload.kind}`, () => {
      expect(decodePayloads(type, fromHex(hex))).toEqual([payload]);
      expect(encodePayloads([payload])).toEqual({ firstType: type, bytes: fromHex(hex) });
    });
  }

  const REFUSED: readonly [string, number, string, string][] = [
    ["a payload shorter than its header", 43, "00000003", "wire.short"],
    ["a payload longer than the message", 43, "00000009" + "00000000", "wire.short"],
    ["bytes after the last payload", 43, "00000004" + "00", "wire.malformed"],
    ["a nonce of 15 bytes", 40, `00000013${"00".repeat(15)}`, "wire.malformed"],
    ["a nonce of 257 bytes", 40, `00000105${"00".repeat(257)}`, "wire.malformed"],
    ["an SA without proposals", 33, "00000004", "wire.short"],
    ["a proposal with fewer transforms than it says", 33, "0000000c" + "00000008" + "01010001", "wire.short"],
    [
      "a transform count that does not fit the marks",
      33,
      "00000014" + "00000010" + "01010001" + "03000008" + "02000005",
      "wire.malformed",
    ],
    ["no traffic selector", 44, "00000008" + "00000000", "wire.malformed"],
    ["33 traffic selectors", 44, "00000008" + "21000000", "wire.malformed"],
    ["an identity of 513 bytes", 35, `0000020901000000${"61".repeat(513)}`, "wire.malformed"],
    ["a Delete with SPIs of 8 bytes", 42, "00000010" + "03080001" + "0000000000000001", "wire.malformed"],
    ["an unknown critical payload", 200, "00800004", "peer.unsupportedCriticalPayload"],
  ];
  for (const [what, type, hex, code] of REFUSED) {
    test(`${what} is refused with ${code}`, () => expect(codeOf(() => decodePayloads(type, fromHex(hex)))).toBe(code));
  }

  test("65 payloads are too many", () => {
    const chain = Array.from({ length: 65 }, (): Payload => ({ kind: "vendor", data: new Uint8Array(0) }));
    const { firstType, bytes } = encodePayloads(chain);
    expect(codeOf(() => decodePayloads(firstType, bytes))).toBe("wire.malformed");
    expect(decodePayloads(43, encodePayloads(chain.slice(1)).bytes)).toHaveLength(64);
  });

  test("33 proposals, 129 transforms and 5 attributes are too many", () => {
    const proposal = { number: 1, protocol: 1, spi: new Uint8Array(0), transforms: [] };
    const transform = { type: 1, id: 12, attributes: [] };
    const attribute = { type: 14, value: 128 };
    const tooMany: Payload[] = [
      { kind: "sa", proposals: Array.from({ length: 33 }, () => proposal) },
      { kind: "sa", proposals: [{ ...proposal, transforms: Array.from({ length: 129 }, () => transform) }] },
      {
        kind: "sa",
        proposals: [
          { ...proposal, transforms: [{ ...transform, attributes: Array.from({ length: 5 }, () => attribute) }] },
        ],
      },
    ];
    for (const payload of tooMany) {
      expect(codeOf(() => decodePayloads(33, encodePayloads([payload]).bytes))).toBe("wire.malformed");
    }
  });

  test("an unknown payload that is not critical, and a critical one that we know, are kept", () => {
    expect(decodePayloads(200, fromHex("00000005" + "07"))).toEqual([
      { kind: "unknown", type: 200, critical: false, body: fromHex("07") },
    ]);
    expect(decodePayloads(47, fromHex("00800004"))).toMatchObject([{ kind: "unknown", type: 47, critical: true }]);
    expect(decodePayloads(43, fromHex("00800004"))).toMatchObject([{ kind: "vendor" }]);
  });

  test("a payload that must stand there once", () => {
    const nonce: Payload = { kind: "nonce", nonce: new Uint8Array(16) };
    expect(requirePayload([nonce], "nonce")).toBe(nonce);
    expect(codeOf(() => requirePayload([], "nonce"))).toBe("peer.invalidSyntax");
    expect(codeOf(() => requirePayload([nonce, nonce], "nonce"))).toBe("peer.invalidSyntax");
  });
});

test("names for logs", () => {
  expect(payloadName(46)).toBe("ENCRYPTED");
  expect(exchangeName(34)).toBe("IKE_SA_INIT");
  expect(notifyName(16390)).toBe("COOKIE");
  expect(authMethodName(14)).toBe("DIGITAL_SIGNATURE");
  expect(notifyName(9999)).toBe("?(9999)");
});
