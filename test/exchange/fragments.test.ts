import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { toHex } from "../../src/core/bytes.ts";
import type { SignatureScheme } from "../../src/crypto/signature.ts";
import { writeSignature } from "../../src/ike/auth/signature-payload.ts";
import { EXCHANGE, NOTIFY } from "../../src/ike/wire/constants.ts";
import { decodeMessage } from "../../src/ike/wire/message.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import type { Payload } from "../../src/ike/wire/payload.ts";
import { WIRE_LIMITS } from "../../src/ike/wire/limits.ts";
import { NOW_MS, TestCertificate, trustIn } from "../support/certificates.ts";
import { childWish, deleteIke, type Initiator } from "./initiator.ts";
import { CBC_SUITE, CLIENT, DVIPA, GCM_SUITE, initiator, Lab, peerConfig } from "./lab.ts";

/** Properties on a machine that is busy with other things. */
const SLOW_MACHINE_MS = 60_000;

const ECDSA: SignatureScheme = { kind: "ecdsa", hash: "sha256", encoding: "der" };

const FRAGMENTATION = notify(NOTIFY.IKEV2_FRAGMENTATION_SUPPORTED);
const vendor = (lengthBytes: number): Payload => ({ kind: "vendor", data: new Uint8Array(lengthBytes).fill(7) });

function halfOpen(lab: Lab, before: readonly Payload[] = [FRAGMENTATION], suite = CBC_SUITE): Initiator {
  const client = initiator({ suites: [suite] });
  client.readInit(lab.answer(client.initRequest({ before })));
  return client;
}

/** IKE_AUTH with enough in it to be long, in fragments. */
function authFragments(client: Initiator, maxBytes = 576): Uint8Array[] {
  const { payloads } = client.authPayloads(childWish(CLIENT, DVIPA), { payloads: [vendor(1500)] });
  return client.fragments(EXCHANGE.IKE_AUTH, payloads, maxBytes);
}

function deliverAll(lab: Lab, datagrams: readonly Uint8Array[]): Uint8Array[] {
  return datagrams.flatMap((bytes) => lab.deliver(bytes));
}

function established(lab: Lab, suite = CBC_SUITE): Initiator {
  const client = halfOpen(lab, [FRAGMENTATION], suite);
  deliverAll(lab, authFragments(client));
  expect(lab.states).toEqual(["established"]);
  return client;
}

describe("a request in fragments", () => {
  for (const [name, suite] of Object.entries({ CBC_SUITE, GCM_SUITE })) {
    test(
      `${name}: put together in any order, answered once`,
      () => {
        fc.assert(
          fc.property(
            fc.array(fc.nat(1000), { minLength: 8, maxLength: 8 }),
            fc.integer({ min: 200, max: 1400 }),
            (order, size) => {
              const lab = new Lab();
              const client = halfOpen(lab, [FRAGMENTATION], suite);
              const datagrams = authFragments(client, size);
              expect(datagrams.length).toBeGreaterThan(1);
              for (const bytes of datagrams) expect(bytes.length).toBeLessThanOrEqual(size);
              const shuffled = datagrams
                .map((bytes, i) => ({ bytes, at: order[i % 8] ?? 0, i }))
                .sort((a, b) => a.at - b.at || a.i - b.i);
              const answers = shuffled.map(({ bytes }) => lab.deliver(bytes).length);
              expect(answers).toEqual([...datagrams.slice(1).map(() => 0), 1]);
              expect(lab.states).toEqual(["established"]);
            },
          ),
          { numRuns: 20 },
        );
      },
      SLOW_MACHINE_MS,
    );
  }

  test("one that is missing is waited for; the rest again changes nothing", () => {
    const lab = new Lab();
    const datagrams = authFragments(halfOpen(lab));
    const [first = new Uint8Array(0), ...rest] = datagrams;
    expect(deliverAll(lab, [...rest, ...rest, ...rest])).toEqual([]);
    expect(lab.count("fragmentTaken")).toBe(rest.length);
    expect(lab.count("fragmentRepeated")).toBe(2 * rest.length);
    expect(lab.states).toEqual(["halfOpen"]);
    expect(lab.deliver(first)).toHaveLength(1);
    expect(lab.states).toEqual(["established"]);
  });

  test("when it comes again, its first fragment alone brings the answer again", () => {
    const lab = new Lab();
    const client = halfOpen(lab);
    const datagrams = authFragments(client);
    const [answer] = deliverAll(lab, datagrams);
    const again = datagrams.map((bytes) => lab.deliver(bytes).map(toHex));
    expect(again).toEqual([[toHex(answer ?? new Uint8Array(0))], ...datagrams.slice(1).map(() => [])]);
    // Cut more finely, as after a lost big answer (RFC 7383 §2.5.2); a forged one is not answered.
    client.nextId -= 1;
    const finer = authFragments(client, 300);
    expect(lab.deliver(finer[0] ?? new Uint8Array(0)).map(toHex)).toEqual([toHex(answer ?? new Uint8Array(0))]);
    expect(lab.deliver((finer[0] ?? new Uint8Array(0)).with(60, 1).with(61, 2))).toEqual([]);
    expect(lab.installed).toHaveLength(1);
  });

  test("a finer set replaces a coarser one, a coarser one is too late", () => {
    const lab = new Lab();
    const client = halfOpen(lab);
    const coarse = authFragments(client, 900);
    client.nextId -= 1;
    const fine = authFragments(client, 400);
    deliverAll(lab, coarse.slice(0, -1));
    deliverAll(lab, fine.slice(0, -1));
    expect(lab.deliver(coarse.at(-1) ?? new Uint8Array(0))).toEqual([]);
    expect(lab.count("fragmentOld")).toBe(1);
    expect(lab.deliver(fine.at(-1) ?? new Uint8Array(0))).toHaveLength(1);
  });

  test("the whole message may come instead", () => {
    const lab = new Lab();
    const client = halfOpen(lab);
    deliverAll(lab, authFragments(client).slice(1));
    client.nextId -= 1;
    const request = client.authRequest(childWish(CLIENT, DVIPA));
    client.readAuth(lab.answer(request.bytes), request);
    expect(lab.states).toEqual(["established"]);
  });

  test("a forged fragment does not spoil the set", () => {
    const lab = new Lab();
    const datagrams = authFragments(halfOpen(lab));
    for (const bytes of datagrams) {
      for (const at of [33, 35, 40, bytes.length - 1]) {
        expect(lab.deliver(bytes.with(at, (bytes[at] ?? 0) ^ 1))).toEqual([]);
      }
    }
    expect(lab.count("fragmentTaken")).toBe(0);
    expect(deliverAll(lab, datagrams)).toHaveLength(1);
  });

  test("number zero, beyond the total, too many, or too short: dropped before anything is decrypted", () => {
    const lab = new Lab();
    const [first = new Uint8Array(0)] = authFragments(halfOpen(lab));
    const place = (number: number, total: number): Uint8Array => {
      const bytes = first.slice();
      new DataView(bytes.buffer).setUint16(32, number);
      new DataView(bytes.buffer).setUint16(34, total);
      return bytes;
    };
    for (const [number, total] of [
      [0, 4],
      [0, 0],
      [5, 4],
      [1, WIRE_LIMITS.fragments + 1],
      [1, 0xffff],
    ] as const) {
      lab.deliver(place(number, total));
    }
    expect(lab.count("fragmentMalformed")).toBe(5);
    expect(lab.count("integrity")).toBe(0);
  });

  test("more than a message may have is dropped, and can begin again", () => {
    const lab = new Lab();
    const client = halfOpen(lab);
    const { payloads } = client.authPayloads(childWish(CLIENT, DVIPA), {
      payloads: [vendor(WIRE_LIMITS.messageBytes)],
    });
    deliverAll(lab, client.fragments(EXCHANGE.IKE_AUTH, payloads, 1200));
    expect(lab.count("fragmentTooLong")).toBe(1);
    client.nextId -= 1;
    expect(deliverAll(lab, authFragments(client))).toHaveLength(1);
  });

  test("an unfinished set does not stay for ever", () => {
    const lab = new Lab();
    const client = established(lab);
    const long = [vendor(2000)];
    const request = client.fragments(EXCHANGE.INFORMATIONAL, long, 576);
    deliverAll(lab, request.slice(0, -1));
    lab.pass(31_000);
    expect(lab.deliver(request.at(-1) ?? new Uint8Array(0))).toEqual([]);
    expect(deliverAll(lab, request.slice(0, -1))).toHaveLength(1);
  });

  test("without the notify in IKE_SA_INIT a fragment is none", () => {
    const lab = new Lab();
    const client = halfOpen(lab, []);
    expect(deliverAll(lab, authFragments(client))).toEqual([]);
    expect(lab.count("fragmentNotNegotiated")).toBe(authFragments(client).length);
  });

  test("a refusal is repeated too", () => {
    const lab = new Lab();
    const client = halfOpen(lab);
    const { payloads } = client.authPayloads(childWish(CLIENT, DVIPA), { payloads: [vendor(1500)], method: 13 });
    const datagrams = client.fragments(EXCHANGE.IKE_AUTH, payloads, 576);
    const [answer] = deliverAll(lab, datagrams);
    expect(lab.states).toEqual(["closed"]);
    expect(deliverAll(lab, datagrams).map(toHex)).toEqual([toHex(answer ?? new Uint8Array(0))]);
  });
});

describe("what we send", () => {
  const root = TestCertificate.root("CN=Root");
  const between = root.intermediate("CN=Between", { key: "rsa" });
  const sun = between.leaf("CN=sun", { dns: ["sun.lab"], key: "rsa" });
  const moon = root.leaf("CN=moon", { dns: ["moon.lab"] });
  const hashes = notify(NOTIFY.SIGNATURE_HASH_ALGORITHMS, Uint8Array.from([0, 2]));

  /** IKE_AUTH with certificates: the answer carries two RSA certificates and a signature. */
  function longAnswer(before: readonly Payload[], suite = CBC_SUITE) {
    const peer = peerConfig({ auth: { kind: "certificate", trust: trustIn([root]) } });
    const lab = new Lab({ peers: [peer], credentials: [sun.credential], wallClockMs: NOW_MS });
    const client = halfOpen(lab, [hashes, ...before], suite);
    const proof = (octets: Uint8Array): Payload[] => [
      { kind: "cert", encoding: 4, data: moon.certificate.der },
      writeSignature({ scheme: ECDSA, signature: moon.signingKey.sign(ECDSA, octets) }),
    ];
    const { bytes } = client.authRequest(childWish(CLIENT, DVIPA), { proof });
    return { lab, client, request: bytes, answers: lab.deliver(bytes) };
  }

  test("short answers stay whole", () => {
    const lab = new Lab();
    const client = established(lab);
    const answer = lab.answer(client.request(EXCHANGE.INFORMATIONAL, []));
    expect(decodeMessage(answer).payloads[0]?.kind).toBe("encrypted");
  });

  for (const [name, suite] of Object.entries({ CBC_SUITE, GCM_SUITE })) {
    test(`${name}: a long answer goes in fragments, each small enough, each with an IV of its own; again on a repeat`, () => {
      const { lab, client, request, answers } = longAnswer([FRAGMENTATION], suite);
      expect(answers.length).toBeGreaterThan(1);
      for (const bytes of answers) expect(bytes.length).toBeLessThanOrEqual(WIRE_LIMITS.unfragmentedBytes);
      const kinds = client.openFragments(answers).map(({ kind }) => kind);
      expect(kinds).toEqual(["idr", "cert", "cert", "auth", "notify", "sa", "tsi", "tsr"]);
      const ivs = answers.map((bytes) => toHex(bytes.subarray(36, 44)));
      expect(new Set(ivs).size).toBe(answers.length);
      expect(lab.deliver(request).map(toHex)).toEqual(answers.map(toHex));
    });
  }

  test("to a peer that takes none, a long answer goes whole", () => {
    const { client, answers } = longAnswer([]);
    expect(answers).toHaveLength(1);
    expect(client.open(answers[0] ?? new Uint8Array(0))).toHaveLength(8);
  });

  test("an IKE SA that replaces another takes fragments as well", () => {
    const lab = new Lab();
    const client = established(lab);
    const rekey = client.rekeyIkeRequest(CBC_SUITE);
    const heir = rekey.finish(lab.answer(rekey.bytes));
    const request = heir.fragments(EXCHANGE.INFORMATIONAL, [vendor(2000), deleteIke], 576);
    expect(deliverAll(lab, request)).toHaveLength(1);
    expect(lab.states).toContain("closed");
  });
});

test(
  "changed and cut fragments never throw and install nothing",
  () => {
    const lab = new Lab();
    const client = established(lab);
    const datagrams = client.fragments(EXCHANGE.INFORMATIONAL, [vendor(2000), deleteIke], 576);
    const before = lab.saLog.length;
    fc.assert(
      fc.property(
        fc.constantFrom(...datagrams),
        fc.array(fc.record({ at: fc.nat(600), value: fc.integer({ min: 0, max: 255 }) }), {
          minLength: 1,
          maxLength: 4,
        }),
        fc.option(fc.nat(600), { freq: 3 }),
        (original, changes, cut) => {
          const bytes = original.slice(0, cut ?? original.length);
          for (const { at, value } of changes) if (at < bytes.length) bytes[at] = value;
          // All of them unchanged would be the request itself.
          if (toHex(bytes) !== toHex(original)) lab.deliver(bytes);
        },
      ),
      { numRuns: 300 },
    );
    expect(lab.states).toEqual(["established"]);
    expect(lab.saLog).toHaveLength(before);
  },
  SLOW_MACHINE_MS,
);
