import { inspect } from "node:util";
import fc from "fast-check";
import { expect, test } from "vitest";
import { EnvelopeReader, EnvelopeWriter } from "../../../src/bus/envelope.ts";
import { identityOf, identityUri } from "../../../src/bus/identity.ts";
import {
  REQUESTS,
  type RequestBody,
  type ResponseBody,
  decodeNotice,
  decodeRequest,
  decodeResponse,
  encodeNotice,
  encodeRequest,
  encodeResponse,
} from "../../../src/bus/messages.ts";
import { digestOfSas } from "../../../src/bus/sa-wire.ts";
import { EsplexError } from "../../../src/core/errors.ts";
import { Secret } from "../../../src/core/secret.ts";
import type { SaHalf, SharedSa } from "../../../src/sa/spec.ts";
import { AH_SUITES, ESP_SUITES, suiteLengths, suiteName } from "../../../src/sa/suite.ts";

const ID = "0123456789abcdef0123456789abcdef";
const selector = { startAddress: "192.0.2.100", endAddress: "192.0.2.100", protocol: 6, startPort: 80, endPort: 80 };

function sharedSa(id = ID): SharedSa {
  const half = (spi: number) => ({ spi, encryptionKey: new Secret(new Uint8Array(20).fill(7)), integrityKey: null });
  return {
    id,
    dvipa: "192.0.2.100",
    peer: "192.0.2.10",
    peerName: "client",
    mode: "tunnel",
    suite: { kind: "aes-gcm-16", keyBits: 128 },
    reqid: 5,
    inbound: half(0x1000),
    outbound: half(0x2000),
    localSelectors: [selector],
    remoteSelectors: [selector],
    peerWindowPackets: 1024,
    inboundWindowPackets: 1024,
    esn: true,
    peerUdpPort: null,
  };
}

const overTheWire = (text: string): unknown => JSON.parse(text);

test("an SA arrives as it was sent, its keys in Secret", () => {
  const body: RequestBody<"saInstall"> = { sa: sharedSa(), epoch: 3n, outbound: "hold" };
  const decoded = decodeRequest("saInstall", overTheWire(encodeRequest("saInstall", body)));
  expect(decoded).toEqual(body);
  expect(decoded?.sa.outbound.encryptionKey.equals(body.sa.outbound.encryptionKey)).toBe(true);
  expect(inspect(decoded, { depth: 9 })).not.toContain("BwcH");
});

test("an SA that ends at its distributor arrives without its keys, and never with some", () => {
  const sa: SharedSa = { ...sharedSa(), gateway: "192.0.2.1" };
  const text = encodeRequest("saInstall", { sa, epoch: 3n, outbound: "now" });
  expect(text).not.toContain("BwcH");
  const decoded = decodeRequest("saInstall", overTheWire(text));
  expect(decoded?.sa).toMatchObject({ id: ID, gateway: "192.0.2.1", inbound: { spi: 0x1000, integrityKey: null } });
  expect(decoded?.sa.inbound.encryptionKey.lengthBytes).toBe(0);
  const keyed = encodeRequest("saInstall", { sa: sharedSa(), epoch: 3n, outbound: "now" });
  const withKeys = JSON.parse(keyed) as { sa: object };
  expect(decodeRequest("saInstall", { ...withKeys, sa: { ...withKeys.sa, gateway: "192.0.2.1" } })).toBeNull();
});

test("a filter and the rules of an SA arrive as they were sent, and nothing that is no rule", () => {
  const rule = {
    ...{ name: "web", sources: ["10.0.0.0/8"], protocol: 6, sourcePorts: [], ports: [{ first: 80, last: 80 }] },
    ...{ action: "accept" as const, log: true },
  };
  const dvipa = "192.0.2.100";
  const sent = (changes: object, more: Partial<SharedSa> = {}): unknown => {
    const body = {
      ...{ part: 0, last: true, dvipas: [] },
      filters: [
        {
          dvipa,
          filter: { at: "target" as const, rules: [{ ...rule, ...changes }], policy: "drop" as const, log: false },
        },
      ],
      sas: [
        {
          sa: { ...sharedSa(), filterRules: [0], peerIdentity: "x".repeat(600), ...more },
          outbound: "now" as const,
          received: null,
        },
      ],
    };
    return decodeRequest("snapshot", overTheWire(encodeRequest("snapshot", body)));
  };
  expect(sent({})).toMatchObject({
    filters: [{ dvipa, filter: { rules: [rule], policy: "drop", log: false } }],
    // What is for people is cut: a peer chooses how long its identity is.
    sas: [{ sa: { filterRules: [0], peerIdentity: "x".repeat(512) } }],
  });
  for (const broken of [
    { sources: ["10.0.0.0/8 } drop"] },
    { sources: ["10.0.0.0/33"] },
    { sources: ["any"] },
    { name: 'a" drop' },
    { protocol: 0 },
    { ports: [{ first: 2, last: 1 }] },
    { action: "reject" },
  ]) {
    expect(sent(broken)).toBeNull();
  }
  expect(sent({}, { filterRules: [256] })).toBeNull();
});

test("an SA in UDP arrives as it was sent, and the digest knows its port", () => {
  const sa: SharedSa = { ...sharedSa(), peerUdpPort: 40_000 };
  const body: RequestBody<"saInstall"> = { sa, epoch: 3n, outbound: "now" };
  expect(decodeRequest("saInstall", overTheWire(encodeRequest("saInstall", body)))).toEqual(body);
  const digests = [null, 40_000, 40_001].map((peerUdpPort) =>
    digestOfSas([{ sa: { ...sharedSa(), peerUdpPort }, epoch: 3n }]),
  );
  expect(new Set(digests).size).toBe(3);
});

test.each([...ESP_SUITES, ...AH_SUITES].map((suite) => [suiteName(suite), suite] as const))(
  "an SA with %s arrives as it was sent",
  (_, suite) => {
    const { encryptionKeyBytes, integrityKeyBytes } = suiteLengths(suite);
    const keys = {
      encryptionKey: new Secret(new Uint8Array(encryptionKeyBytes).fill(7)),
      integrityKey: integrityKeyBytes === 0 ? null : new Secret(new Uint8Array(integrityKeyBytes).fill(8)),
    };
    const half = (spi: number): SaHalf => ({ spi, ...keys });
    const sa: SharedSa = { ...sharedSa(), suite, inbound: half(0x1000), outbound: half(0x2000) };
    const sent = (changed: SharedSa): unknown =>
      decodeRequest("saInstall", overTheWire(encodeRequest("saInstall", { sa: changed, epoch: 3n, outbound: "now" })));
    expect(sent(sa)).toMatchObject({ sa: { suite, inbound: keys } });
    const long = new Secret(new Uint8Array(encryptionKeyBytes + 1));
    expect(sent({ ...sa, inbound: { ...sa.inbound, encryptionKey: long } })).toBeNull();
    const otherKey = integrityKeyBytes === 0 ? new Secret(new Uint8Array(32)) : null;
    expect(sent({ ...sa, outbound: { ...sa.outbound, integrityKey: otherKey } })).toBeNull();
  },
);

test("a target joins with its other address, or without one", () => {
  const join = (otherAddress: unknown): unknown => decodeRequest("join", { node: "t1", shadow: [], otherAddress });
  for (const good of ["fe80::5", "198.51.100.5", null]) expect(join(good)).toMatchObject({ otherAddress: good });
  for (const bad of ["fe80::5%trust0", "t1", 7, undefined]) expect(join(bad)).toBeNull();
});

test("what a kernel has received arrives as it was sent; bits that are no bytes, or too many, are refused", () => {
  const received = [{ highest: 7n, bits: new Uint8Array([0x7f]), bornSeconds: 1_700_000_000n }, null];
  const body: ResponseBody<"received"> = { received };
  expect(decodeResponse("received", overTheWire(encodeResponse("received", body)))).toEqual(body);
  const answer = (bits: string): unknown =>
    decodeResponse("received", { received: [{ highest: "7", bits, bornSeconds: "1" }] });
  expect(answer("ff".repeat(512))).not.toBeNull();
  for (const bits of ["f", "FF", "zz", "ff".repeat(513)]) expect(answer(bits)).toBeNull();
});

test("a snapshot arrives as it was sent", () => {
  const body: RequestBody<"snapshot"> = {
    part: 0,
    last: true,
    dvipas: [{ address: "2001:db8::1", epoch: (1n << 64n) - 1n, ports: [80, 443], handsOver: true }],
    sas: [
      { sa: sharedSa(), outbound: "now", received: { highest: 1n << 33n, bits: new Uint8Array([255, 1]) } },
      { sa: sharedSa("b".repeat(32)), outbound: "hold", received: null },
    ],
  };
  expect(decodeRequest("snapshot", overTheWire(encodeRequest("snapshot", body)))).toEqual(body);
});

test("keys whose length does not fit the suite, and unknown keys, are refused", () => {
  const wire = (change: (sa: Record<string, unknown>) => void): unknown => {
    const value = overTheWire(encodeRequest("saInstall", { sa: sharedSa(), epoch: 1n, outbound: "now" }));
    change((value as { sa: Record<string, unknown> }).sa);
    return value;
  };
  expect(
    decodeRequest(
      "saInstall",
      wire(() => {}),
    ),
  ).not.toBeNull();
  const wrong: ((sa: Record<string, unknown>) => void)[] = [
    (sa) => (sa["suite"] = { kind: "aes-gcm-16", keyBits: 256 }),
    (sa) => (sa["suite"] = { kind: "null" }),
    (sa) => (sa["suite"] = { kind: "ah" }),
    // The keys are those of an AEAD.
    (sa) => (sa["suite"] = { kind: "ah", integrity: "hmac-sha2-256" }),
    (sa) => (sa["suite"] = { kind: "chacha20-poly1305", keyBits: 256 }),
    (sa) => (sa["suite"] = { kind: "aes-ctr", keyBits: 128 }),
    (sa) => (sa["suite"] = { kind: "aes-gcm-16", keyBits: 192 }),
    (sa) => (sa["id"] = "../etc"),
    (sa) => (sa["dvipa"] = "192.0.2.256"),
    (sa) => (sa["dvipa"] = "fe80::1%eth0"),
    (sa) => (sa["localSelectors"] = []),
    (sa) => (sa["extra"] = 1),
    (sa) => delete sa["esn"],
    (sa) => delete sa["peerUdpPort"],
    (sa) => (sa["peerUdpPort"] = 0),
    (sa) => (sa["peerUdpPort"] = 65_536),
    (sa) => (sa["peerUdpPort"] = "4500"),
    (sa) => (sa["inboundWindowPackets"] = 0),
    (sa) => (sa["inboundWindowPackets"] = 4097),
  ];
  for (const change of wrong) expect(decodeRequest("saInstall", wire(change))).toBeNull();
});

test("any JSON as a body is refused or accepted, never thrown at", () => {
  fc.assert(
    fc.property(
      fc.jsonValue(),
      fc.constantFrom(...(Object.keys(REQUESTS) as (keyof typeof REQUESTS)[])),
      (raw, type) => {
        decodeRequest(type, raw);
        decodeResponse(type, raw);
      },
    ),
  );
});

test("notices carry bigints as text", () => {
  const body = { sa: ID, highWater: 1n << 40n, holders: 2 };
  expect(encodeNotice("recall", body)).toBe(`{"sa":"${ID}","highWater":"1099511627776","holders":2}`);
  expect(decodeNotice("recall", overTheWire(encodeNotice("recall", body)))).toEqual(body);
});

test("the digest depends on ids, SPIs and epochs, not on order", () => {
  const a = { sa: sharedSa("a".repeat(32)), epoch: 1n };
  const b = { sa: sharedSa("b".repeat(32)), epoch: 1n };
  expect(digestOfSas([a, b])).toBe(digestOfSas([b, a]));
  expect(digestOfSas([a])).not.toBe(digestOfSas([a, b]));
  expect(digestOfSas([a])).not.toBe(digestOfSas([{ ...a, epoch: 2n }]));
});

test("envelopes: number, sender and form are checked", () => {
  const writer = new EnvelopeWriter("t1");
  const frames = [
    writer.request(1, "own", "{}"),
    writer.response(1, "{}"),
    writer.notice("resync", "{}"),
    writer.heartbeat(),
  ];
  const reader = new EnvelopeReader("t1");
  expect(frames.map((frame) => (reader.read(frame) as { kind: string }).kind)).toEqual([
    "request",
    "response",
    "notice",
    "heartbeat",
  ]);
  expect(reader.read(frames[3] ?? "")).toBe("sequenceGap");
  expect(reader.read('{"n":6,"f":"t1","h":1}')).toBe("sequenceGap");
  expect(reader.read('{"n":5,"f":"t2","h":1}')).toBe("senderMismatch");
  for (const text of ["", "[", "[]", "null", '{"n":5,"f":"t1"}']) {
    expect(new EnvelopeReader("t1").read(text)).toMatch(/frameMalformed|senderMismatch|sequenceGap/);
  }
  expect(new EnvelopeReader("t1").read('{"n":1,"f":"t1","q":-1,"t":"own","b":{}}')).toBe("frameMalformed");
});

test("only errors meant for the other side travel with their text", () => {
  const failure = (error: unknown): unknown => {
    const envelope = new EnvelopeReader("c").read(new EnvelopeWriter("c").failure(1, error));
    return typeof envelope === "object" && envelope.kind === "failure" ? envelope.error : envelope;
  };
  expect(failure(new EsplexError("cluster.exhausted", "used up"))).toMatchObject({
    code: "cluster.exhausted",
    message: "used up",
  });
  expect(failure(new Error("secret path"))).toMatchObject({ code: "cluster.notServing" });
  expect(String(failure(new EsplexError("kernel.refused", "secret path")))).not.toContain("secret");
});

test("identities: one URI of this cluster and nothing else", () => {
  expect(identityOf("URI:esplex://lab/node/t1", "lab")).toEqual({ kind: "node", cluster: "lab", name: "t1" });
  expect(identityOf("URI:esplex://lab/coupling", "lab")).toEqual({ kind: "coupling", cluster: "lab" });
  expect(identityUri({ kind: "node", cluster: "lab", name: "t1" })).toBe("esplex://lab/node/t1");
  const wrong = [
    undefined,
    "",
    "DNS:t1",
    "URI:esplex://other/node/t1",
    "URI:esplex://lab/node/",
    "URI:esplex://lab/node/t1/x",
    "URI:esplex://lab/node/T1",
    "URI:esplex://lab/node/t1, URI:esplex://lab/node/t2",
    'URI:"esplex://lab/node/t1"',
    "URI:esplex://lab/node/t1\n",
  ];
  for (const text of wrong)
    expect(() => identityOf(text, "lab")).toThrow(expect.objectContaining({ code: "bus.unauthorised" }));
});
