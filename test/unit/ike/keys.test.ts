import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { concatBytes, fromHex, toHex, u32be } from "../../../src/core/bytes.ts";
import { isError } from "../../../src/core/errors.ts";
import { Secret } from "../../../src/core/secret.ts";
import { prf, prfPlus } from "../../../src/crypto/prf.ts";
import {
  deriveChildKeys,
  deriveIkeKeys,
  deriveRekeyedIkeKeys,
  pskAuth,
  wipeIkeKeys,
  type IkeKeys,
  type KeyContext,
} from "../../../src/ike/keys.ts";
import { EXCHANGE, NOTIFY, PROTOCOL } from "../../../src/ike/wire/constants.ts";
import { openedPayloads, openMessage, sealMessage, type SealingKey } from "../../../src/ike/wire/encrypted.ts";
import { encodeIdentification } from "../../../src/ike/wire/identification.ts";
import { decodeMessage } from "../../../src/ike/wire/message.ts";
import { notify } from "../../../src/ike/wire/notify.ts";
import { findNotify, requirePayload, type Payload } from "../../../src/ike/wire/payload.ts";
import { keyVector, type KeyVector } from "./vectors.ts";

/*
 * Sessions with strongSwan whose own log says which keys it derived: an independent answer for prf+, SKEYSEED, the order
 * of the keys, AUTH, KEYMAT and the SK payload of both ciphers.
 */

const secret = (hex: string): Secret => new Secret(fromHex(hex));
const hexOf = (key: Secret | null): string => (key === null ? "" : toHex(key.expose()));

/** SK_e as strongSwan logs it: with the salt behind it for GCM. */
function encryptionHex(side: SealingKey): string {
  return side.kind === "aes-cbc" ? hexOf(side.key) : hexOf(side.key) + hexOf(side.salt);
}

function expectKeys(keys: IkeKeys, wanted: KeyVector["ikeSas"][number]): void {
  expect(hexOf(keys.d)).toBe(wanted.d);
  expect(encryptionHex(keys.initiator)).toBe(wanted.ei);
  expect(encryptionHex(keys.responder)).toBe(wanted.er);
  expect(hexOf(keys.pi)).toBe(wanted.pi);
  expect(hexOf(keys.pr)).toBe(wanted.pr);
  if (keys.initiator.kind === "aes-cbc" && keys.responder.kind === "aes-cbc") {
    expect(hexOf(keys.initiator.integrityKey)).toBe(wanted.ai);
    expect(hexOf(keys.responder.integrityKey)).toBe(wanted.ar);
  }
}

function contextOf(request: Uint8Array, response: Uint8Array): KeyContext {
  const [i, r] = [decodeMessage(request), decodeMessage(response)];
  const { nonce: nonceI } = requirePayload(i.payloads, "nonce");
  const { nonce: nonceR } = requirePayload(r.payloads, "nonce");
  return { nonceI, nonceR, spiI: r.header.spiI, spiR: r.header.spiR };
}

function open(bytes: Uint8Array, key: SealingKey): Payload[] {
  const sealed = requirePayload(decodeMessage(bytes).payloads, "encrypted");
  return openedPayloads(openMessage(bytes, sealed, key));
}

for (const name of ["strongswan-keys-cbc", "strongswan-keys-gcm"]) {
  describe(name, () => {
    const vector = keyVector(name);
    const messages = vector.messages.map(({ hex }) => fromHex(hex));
    const [initRequest, initResponse, authRequest, authResponse] = messages;
    if (!initRequest || !initResponse || !authRequest || !authResponse) throw new Error("vector too short");
    const [ikeSa] = vector.ikeSas;
    if (ikeSa === undefined) throw new Error("vector without keys");
    const context = contextOf(initRequest, initResponse);
    const keys = () => deriveIkeKeys(vector.suite, secret(ikeSa.sharedSecret), context);

    test("keys of the IKE SA", () => expectKeys(keys(), ikeSa));

    test("SK payloads of strongSwan decrypt; ours were read by it", () => {
      const request = open(authRequest, keys().initiator);
      const response = open(authResponse, keys().responder);
      expect(request.map(({ kind }) => kind)).toContain("tsr");
      expect(findNotify(request, NOTIFY.MOBIKE_SUPPORTED)).toBeDefined();
      expect(findNotify(response, NOTIFY.MOBIKE_SUPPORTED)).toBeUndefined();
      expect(new TextDecoder().decode(requirePayload(request, "idi").data)).toBe("moon.lab");
      expect(new TextDecoder().decode(requirePayload(response, "idr").data)).toBe("sun.lab");
    });

    test("AUTH of both sides", () => {
      const { pi, pr } = keys();
      const idI = requirePayload(open(authRequest, keys().initiator), "idi");
      const idR = requirePayload(open(authResponse, keys().responder), "idr");
      const psk = secret(vector.psk);
      const initiator = { message: initRequest, nonce: context.nonceR, identity: encodeIdentification(idI) };
      const responder = { message: initResponse, nonce: context.nonceI, identity: encodeIdentification(idR) };
      expect(toHex(pskAuth(vector.suite, psk, pi, initiator))).toBe(vector.auth.initiator);
      expect(toHex(pskAuth(vector.suite, psk, pr, responder))).toBe(vector.auth.responder);
    });

    test("keys of the first Child SA", () => {
      const child = deriveChildKeys({ suite: vector.suite, d: keys().d }, vector.espSuite, null, context);
      expectChild(child, vector.children[0]);
    });

    test("a changed byte anywhere behind the header's SPIs is noticed", () => {
      const changed = Uint8Array.from(authRequest);
      for (const at of [20, 31, 32, 60, changed.length - 1]) {
        changed.set(authRequest);
        changed[at] = (changed[at] ?? 0) ^ 0x40;
        const sealed = { kind: "encrypted" as const, innerType: 35, body: changed.subarray(32) };
        let thrown: unknown;
        try {
          openMessage(changed, sealed, keys().initiator);
        } catch (error) {
          thrown = error;
        }
        expect(isError(thrown, "wire.integrity")).toBe(true);
      }
    });
  });
}

function expectChild(
  child: ReturnType<typeof deriveChildKeys>,
  wanted: KeyVector["children"][number] | undefined,
): void {
  expect(hexOf(child.toResponder.encryptionKey)).toBe(wanted?.encryptionInitiator);
  expect(hexOf(child.toInitiator.encryptionKey)).toBe(wanted?.encryptionResponder);
  expect(hexOf(child.toResponder.integrityKey)).toBe(wanted?.integrityInitiator);
  expect(hexOf(child.toInitiator.integrityKey)).toBe(wanted?.integrityResponder);
}

describe("rekeying", () => {
  const vector = keyVector("strongswan-keys-gcm");
  const messages = vector.messages.map(({ hex }) => fromHex(hex));
  const [first, second] = vector.ikeSas;
  const [initRequest, initResponse] = messages;
  if (!first || !second || !initRequest || !initResponse) throw new Error("vector too short");
  const keys = deriveIkeKeys(vector.suite, secret(first.sharedSecret), contextOf(initRequest, initResponse));
  const exchanges = messages
    .filter((bytes) => decodeMessage(bytes).header.exchange === EXCHANGE.CREATE_CHILD_SA)
    .map((bytes) => open(bytes, decodeMessage(bytes).header.isResponse ? keys.responder : keys.initiator));
  const nonceOf = (payloads: Payload[] | undefined) => requirePayload(payloads ?? [], "nonce").nonce;
  const spiOf = (payloads: Payload[] | undefined) =>
    requirePayload(payloads ?? [], "sa").proposals[0]?.spi ?? new Uint8Array(0);

  test("Child SA with PFS", () => {
    const [request, response] = exchanges;
    const [, wanted] = vector.children;
    const nonces = { nonceI: nonceOf(request), nonceR: nonceOf(response) };
    const shared = secret(wanted?.sharedSecret ?? "");
    expect(findNotify(request ?? [], NOTIFY.REKEY_SA)?.protocol).toBe(PROTOCOL.ESP);
    expectChild(deriveChildKeys({ suite: vector.suite, d: keys.d }, vector.espSuite, shared, nonces), wanted);
    expect(hexOf(shared)).toMatch(/^0+$/);
  });

  test("IKE SA", () => {
    const [, , request, response] = exchanges;
    const context: KeyContext = {
      nonceI: nonceOf(request),
      nonceR: nonceOf(response),
      spiI: spiOf(request),
      spiR: spiOf(response),
    };
    const old = { suite: vector.suite, d: keys.d };
    const heir = deriveRekeyedIkeKeys(old, vector.suite, secret(second.sharedSecret), context);
    expectKeys(heir, second);
    wipeIkeKeys(heir);
    for (const key of [heir.d, heir.pi, heir.pr, heir.initiator.key, heir.responder.key]) {
      expect(hexOf(key)).toMatch(/^0+$/);
    }
  });
});

describe("ChaCha20-Poly1305: RFC 7634 appendix B", () => {
  const url = new URL("../../vectors/rfc7634.json", import.meta.url);
  const vector = JSON.parse(readFileSync(url, "utf8")) as { keymat: string; ike: { message: string } };
  const [keyHex, saltHex] = [vector.keymat.slice(0, 64), vector.keymat.slice(64)];
  const key: SealingKey = { kind: "chacha20-poly1305", key: secret(keyHex), salt: secret(saltHex) };
  const window = notify(NOTIFY.SET_WINDOW_SIZE, u32be(10));

  test("its message is read", () => {
    expect(open(fromHex(vector.ike.message), key)).toEqual([expect.objectContaining({ ...window })]);
  });

  test("we write the same message", () => {
    const fields = {
      spiI: fromHex("c0c1c2c3c4c5c6c7"),
      spiR: fromHex("d0d1d2d3d4d5d6d7"),
      exchange: EXCHANGE.INFORMATIONAL,
      fromInitiator: false,
      isResponse: false,
      messageId: 9,
    };
    expect(toHex(sealMessage(fields, [window], key, fromHex("1011121314151617")))).toBe(vector.ike.message);
  });

  test("SK_e is 36 bytes, salt last, behind SK_d and without SK_a", () => {
    const suite = { cipher: { kind: "chacha20-poly1305" }, prf: "hmac-sha2-256", group: 31 } as const;
    const nonces = { nonceI: new Uint8Array(32).fill(1), nonceR: new Uint8Array(32).fill(2) };
    const spis = { spiI: new Uint8Array(8).fill(3), spiR: new Uint8Array(8).fill(4) };
    const keys = deriveIkeKeys(suite, new Secret(new Uint8Array(32).fill(5)), { ...nonces, ...spis });
    const seed = prf("hmac-sha2-256", concatBytes(nonces.nonceI, nonces.nonceR), new Uint8Array(32).fill(5));
    const salt = concatBytes(nonces.nonceI, nonces.nonceR, spis.spiI, spis.spiR);
    const stream = toHex(prfPlus("hmac-sha2-256", new Secret(seed), salt, 3 * 32 + 2 * 36));
    const all = [
      hexOf(keys.d),
      encryptionHex(keys.initiator),
      encryptionHex(keys.responder),
      hexOf(keys.pi),
      hexOf(keys.pr),
    ];
    expect(all.join("")).toBe(stream);
    expect(keys.responder.kind === "aes-cbc" ? 0 : keys.responder.salt.lengthBytes).toBe(4);
    wipeIkeKeys(keys);
    expect(encryptionHex(keys.initiator) + encryptionHex(keys.responder)).toMatch(/^0+$/);
  });
});

test("a pad length beyond the message, and any padding up to 255, as a peer may send it", () => {
  const key: SealingKey = { kind: "aes-gcm-16", key: secret("11".repeat(16)), salt: secret("22".repeat(4)) };
  const fields = {
    spiI: new Uint8Array(8).fill(1),
    spiR: new Uint8Array(8).fill(2),
    exchange: EXCHANGE.INFORMATIONAL,
    fromInitiator: true,
    isResponse: false,
    messageId: 7,
  };
  const sealed = sealMessage(fields, [], key, new Uint8Array(8));
  expect(open(sealed, key)).toEqual([]);
  expect(() => openedPayloads({ firstType: 0, bytes: Uint8Array.of(5, 5, 3) })).toThrow("pad length");
  expect(() => openedPayloads({ firstType: 0, bytes: new Uint8Array(0) })).toThrow("pad length");
  expect(openedPayloads({ firstType: 0, bytes: Uint8Array.from({ length: 256 }, (_, i) => i) })).toEqual([]);
});

describe("KEYMAT of AH (RFC 7296 §2.17)", () => {
  test.each([
    ["hmac-sha2-256", 32],
    ["hmac-sha2-384", 48],
    ["hmac-sha2-512", 64],
  ] as const)("is the two keys of %s and nothing else, the initiator's first", (integrity, keyBytes) => {
    const { suite } = keyVector("strongswan-keys-gcm");
    const d = secret("5a".repeat(32));
    const nonces = { nonceI: new Uint8Array(32).fill(1), nonceR: new Uint8Array(32).fill(2) };
    const child = deriveChildKeys({ suite, d }, { kind: "ah", integrity }, null, nonces);
    const stream = prfPlus(suite.prf, d, Uint8Array.of(...nonces.nonceI, ...nonces.nonceR), 2 * keyBytes);
    expectChild(child, {
      sharedSecret: null,
      encryptionInitiator: "",
      integrityInitiator: toHex(stream.subarray(0, keyBytes)),
      encryptionResponder: "",
      integrityResponder: toHex(stream.subarray(keyBytes)),
    });
  });
});
