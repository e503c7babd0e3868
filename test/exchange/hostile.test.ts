import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Secret } from "../../src/core/secret.ts";
import { EXCHANGE, NOTIFY, PROTOCOL } from "../../src/ike/wire/constants.ts";
import { openMessage, sealMessage } from "../../src/ike/wire/encrypted.ts";
import { decodeMessage } from "../../src/ike/wire/message.ts";
import { findNotify, findPayload, type Payload } from "../../src/ike/wire/payload.ts";
import { childWish, deleteIke } from "./initiator.ts";
import { CLIENT, connect, DVIPA, initiator, Lab, PATH } from "./lab.ts";

/** Nothing but counts, log lines, and the answers that need no proof: to a higher version, and for an unknown IKE SA. */
const harmless = (lab: Lab, before: number): boolean =>
  lab.effects.slice(before).every((effect) => {
    if (effect.kind !== "send") return effect.kind === "count" || effect.kind === "log";
    const { payloads } = decodeMessage(effect.bytes);
    const told = findNotify(payloads, NOTIFY.INVALID_MAJOR_VERSION) ?? findNotify(payloads, NOTIFY.INVALID_IKE_SPI);
    return told !== undefined;
  });

const invalidSpi = (sent: readonly Uint8Array[]): boolean =>
  sent.length === 1 &&
  findNotify(decodeMessage(sent[0] ?? new Uint8Array(0)).payloads, NOTIFY.INVALID_IKE_SPI) !== undefined;

describe("datagrams that are no message of ours", () => {
  const BAD: readonly [string, (request: Uint8Array) => Uint8Array, string][] = [
    ["empty", () => new Uint8Array(0), "malformed"],
    ["27 bytes", (request) => request.slice(0, 27), "malformed"],
    ["cut", (request) => request.slice(0, -1), "malformed"],
    ["with bytes behind it", (request) => Uint8Array.from([...request, 0]), "malformed"],
    ["too long", () => new Uint8Array(16_385), "oversized"],
    ["IKEv1", (request) => request.with(17, 0x10), "wrongVersion"],
    ["a response", (request) => request.with(19, 0x20), "unexpectedInit"],
    ["message ID 1", (request) => request.with(23, 1), "unexpectedInit"],
    ["a responder SPI", (request) => request.with(15, 1), "unexpectedInit"],
    ["no initiator SPI", (request) => Uint8Array.from(request).fill(0, 0, 8), "unexpectedInit"],
    ["another exchange", (request) => request.with(18, 35), "unknownSpi"],
    ["an unknown exchange", (request) => request.with(18, 99), "unknownSpi"],
    ["a KE payload of the wrong length", () => initiatorWithShortKe(), "malformed"],
  ];
  for (const [what, change, reason] of BAD) {
    test(`${what}: counted as ike.${reason}, not answered`, () => {
      const lab = new Lab();
      expect(lab.deliver(change(Uint8Array.from(initiator().initRequest())))).toEqual([]);
      expect(lab.count(reason)).toBe(1);
      expect(lab.states).toEqual([]);
    });
  }

  test("a higher major version: N(INVALID_MAJOR_VERSION) in version 2, limited; a response is not answered", () => {
    const lab = new Lab({ limits: { errorRepliesPerSecond: 2 } });
    const request = Uint8Array.from(initiator().initRequest()).with(17, 0x30);
    const answer = decodeMessage(lab.answer(request));
    expect(findNotify(answer.payloads, NOTIFY.INVALID_MAJOR_VERSION)).toBeDefined();
    expect(answer.header).toMatchObject({ majorVersion: 2, isResponse: true, fromInitiator: false });
    expect(lab.deliver(request.with(19, 0x28))).toEqual([]);
    expect([1, 2, 3].map(() => lab.deliver(request).length)).toEqual([1, 0, 0]);
  });

  test("random bytes change nothing and never throw", () => {
    const lab = new Lab();
    connect(lab);
    const before = lab.effects.length;
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300, size: "max" }), (bytes) => {
        lab.deliver(bytes);
        if (bytes.length > 17) lab.deliver(bytes.with(17, 0x20));
      }),
    );
    expect(harmless(lab, before)).toBe(true);
    expect(lab.states).toEqual(["established"]);
  });
});

function initiatorWithShortKe(): Uint8Array {
  const request = Uint8Array.from(initiator().initRequest());
  const ke = findPayload(decodeMessage(request).payloads, "ke");
  const key = Buffer.from(ke?.value ?? []);
  // The group says X25519, the value is all zeros: a point of small order (RFC 8031 §2).
  request.fill(0, Buffer.from(request).indexOf(key), Buffer.from(request).indexOf(key) + key.length);
  return request;
}

describe("messages for an IKE SA", () => {
  test("any changed byte of a sealed request is noticed, and the good one still works", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const good = client.request(EXCHANGE.INFORMATIONAL, [deleteIke]);
    for (let at = 0; at < good.length; at++) {
      const told = lab.deliver(good.with(at, (good[at] ?? 0) ^ 0x01));
      expect(told.length === 0 || invalidSpi(told)).toBe(true);
    }
    expect(lab.states).toEqual(["established"]);
    expect(lab.answer(good).length).toBeGreaterThan(0);
    expect(lab.states).toEqual(["closed"]);
  });

  test("changed, cut and repeated requests never throw and install nothing", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const requests = [
      client.seal(EXCHANGE.INFORMATIONAL, 2, false, [deleteIke]),
      client.seal(EXCHANGE.CREATE_CHILD_SA, 2, false, []),
      client.createChildRequest(childWish(CLIENT, DVIPA), child).bytes,
    ];
    const before = lab.effects.length;
    fc.assert(
      fc.property(
        fc.constantFrom(...requests),
        fc.nat(500),
        fc.integer({ min: 1, max: 255 }),
        fc.nat(500),
        (bytes, at, flip, cut) => {
          const place = at % bytes.length;
          const changed = bytes.with(place, (bytes[place] ?? 0) ^ flip);
          lab.deliver(changed);
          lab.deliver(changed.slice(0, cut));
        },
      ),
    );
    expect(harmless(lab, before)).toBe(true);
    expect(lab.states).toEqual(["established"]);
  });

  test("old, future and altered message IDs are dropped", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, []));
    const seal = (id: number) => client.seal(EXCHANGE.INFORMATIONAL, id, false, []);
    for (const id of [0, 1, 4, 0xffffffff]) expect(lab.deliver(seal(id))).toEqual([]);
    expect(lab.count("messageIdOutsideWindow")).toBe(4);
    // Same ID as the last one, other bytes (another IV): no answer to somebody who made it up.
    expect(lab.deliver(seal(2))).toEqual([]);
    expect(lab.count("requestAltered")).toBe(1);
    expect(lab.deliver(seal(3))).toHaveLength(1);
  });

  test("a repeated IKE_AUTH after the session went on is dropped", () => {
    const lab = new Lab();
    const client = initiator();
    client.readInit(lab.answer(client.initRequest()));
    const auth = client.authRequest(childWish(CLIENT, DVIPA));
    lab.answer(auth.bytes);
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, []));
    expect(lab.deliver(auth.bytes)).toEqual([]);
    expect(lab.saLog).toEqual(["install:0:now"]);
  });

  test("unprotected payloads, fragments, wrong SPIs and unexpected responses are dropped", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const good = client.seal(EXCHANGE.INFORMATIONAL, 2, false, []);
    const header = Uint8Array.from(good.subarray(0, 28));
    const bare = Uint8Array.from([...header, 0, 0, 0, 8, 1, 0, 0, 0])
      .with(16, 42)
      .with(27, 36)
      .with(26, 0);
    expect(lab.deliver(bare)).toEqual([]);
    expect(lab.count("unprotected")).toBe(1);
    expect(lab.deliver(good.with(16, 53))).toEqual([]);
    expect(lab.count("fragmentNotNegotiated")).toBe(1);
    expect(lab.deliver(good.with(0, (good[0] ?? 0) ^ 1))).toEqual([]);
    expect(invalidSpi(lab.deliver(good.with(19, 0x00)))).toBe(true);
    expect(lab.count("wrongSpi")).toBe(1);
    expect(lab.count("unknownSpi")).toBe(1);
    expect(lab.deliver(client.seal(EXCHANGE.INFORMATIONAL, 0, true, []))).toEqual([]);
    expect(lab.count("unexpectedResponse")).toBe(1);
    expect(lab.deliver(client.seal(99, 2, false, []))).toEqual([]);
    expect(lab.count("unexpectedExchange")).toBe(1);
    expect(lab.deliver(good)).toHaveLength(1);
  });

  test("our own messages sent back to us are not taken for the peer's", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const [dpd] = lab.pass(30_000);
    expect(invalidSpi(lab.deliver(dpd ?? new Uint8Array(0)))).toBe(true);
    expect(lab.count("unknownSpi")).toBe(1);
    // Reflected with the initiator's flag set: the keys differ by direction.
    expect(lab.deliver((dpd ?? new Uint8Array(0)).with(19, 0x28))).toEqual([]);
    expect(lab.count("integrity")).toBe(1);
    lab.deliver(client.seal(EXCHANGE.INFORMATIONAL, 0, true, []));
  });

  test("an authentic message that is nonsense inside: N(INVALID_SYNTAX), the IKE SA ends (RFC 7296 §2.21.3)", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const nonsense: Payload = { kind: "unknown", type: 44, critical: false, body: new Uint8Array(2) };
    const answer = client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [nonsense])));
    expect(findNotify(answer, NOTIFY.INVALID_SYNTAX)).toBeDefined();
    expect(lab.states).toEqual(["closed"]);
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
  });

  test("an unknown critical payload inside: told, and the IKE SA goes on", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const strange: Payload = { kind: "unknown", type: 201, critical: true, body: new Uint8Array(0) };
    const answer = client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [strange])));
    expect(findNotify(answer, NOTIFY.UNSUPPORTED_CRITICAL_PAYLOAD)?.data).toEqual(Uint8Array.of(201));
    expect(lab.states).toEqual(["established"]);
  });
});

describe("secrets", () => {
  test("no log line, count or summary shows a key", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteIke]));
    const [sa] = lab.installed;
    const text = JSON.stringify([lab.effects, lab.responder.snapshot()]);
    expect(sa?.inbound.encryptionKey).toBeInstanceOf(Secret);
    expect(text).toContain("[secret]");
    for (const key of [sa?.inbound.encryptionKey, sa?.outbound.encryptionKey]) {
      expect(text).not.toContain(Buffer.from(key?.expose() ?? []).toString("hex"));
    }
  });

  test("GCM: every message of one IKE SA has its own IV", () => {
    const lab = new Lab();
    const gcm = { cipher: { kind: "aes-gcm-16", keyBits: 128 }, prf: "hmac-sha2-256", group: 31 } as const;
    const { client } = connect(lab, { suites: [gcm] });
    for (let i = 0; i < 5; i++) lab.answer(client.request(EXCHANGE.INFORMATIONAL, []), PATH);
    lab.pass(40_000);
    const sealed = lab.effects
      .flatMap((effect) => (effect.kind === "send" ? [effect.bytes] : []))
      .filter((bytes) => findPayload(decodeMessage(bytes).payloads, "encrypted") !== undefined);
    const ivs = new Map<string, string>();
    for (const bytes of sealed) {
      const iv = Buffer.from(bytes.subarray(32, 40)).toString("hex");
      const whole = Buffer.from(bytes).toString("hex");
      expect(ivs.get(iv) ?? whole).toBe(whole);
      ivs.set(iv, whole);
    }
    expect(ivs.size).toBeGreaterThan(6);
  });
});

test("a message sealed for another SA does not open", () => {
  const key = { kind: "aes-gcm-16" as const, key: new Secret(new Uint8Array(16)), salt: new Secret(new Uint8Array(4)) };
  const fields = {
    spiI: new Uint8Array(8).fill(1),
    spiR: new Uint8Array(8).fill(2),
    exchange: EXCHANGE.INFORMATIONAL,
    fromInitiator: true,
    isResponse: false,
    messageId: 0,
  };
  const bytes = sealMessage(fields, [{ kind: "delete", protocol: PROTOCOL.IKE, spis: [] }], key, new Uint8Array(8));
  const moved = bytes.with(8, 9);
  const sealed = findPayload(decodeMessage(moved).payloads, "encrypted");
  if (sealed === undefined) throw new Error("not sealed");
  expect(() => openMessage(moved, sealed, key)).toThrow("wrong AEAD tag");
});
