/** Synchronisation of message IDs, RFC 6311. */
import { describe, expect, test } from "vitest";
import { concatBytes, u32be } from "../../src/core/bytes.ts";
import { EXCHANGE, NOTIFY, PROTOCOL } from "../../src/ike/wire/constants.ts";
import { readSync, syncNotify, type MessageIdSync } from "../../src/ike/wire/message-id-sync.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import { findNotify, type Payload } from "../../src/ike/wire/payload.ts";
import { childWish, type Initiator } from "./initiator.ts";
import { CLIENT, DVIPA, initiator, Lab, PATH_4500 } from "./lab.ts";
import { World, type End } from "./two-cores.ts";

const SUPPORTED = notify(NOTIFY.IKEV2_MESSAGE_ID_SYNC_SUPPORTED);
const NONCE = Uint8Array.of(1, 2, 3, 4);

/** A client that has announced it, or not; what it had for an answer. */
function connected(payloads: readonly Payload[] = [SUPPORTED]): { lab: Lab; client: Initiator; answer: Payload[] } {
  const lab = new Lab();
  const client = initiator();
  client.readInit(lab.answer(client.initRequest()));
  const request = client.authRequest(childWish(CLIENT, DVIPA), { payloads });
  return { lab, client, answer: client.open(lab.answer(request.bytes, PATH_4500)) };
}

function sync(changes: Partial<MessageIdSync> = {}): Payload {
  return syncNotify({ nonce: NONCE, nextSent: 50, nextReceived: 7, ...changes });
}

const ask = (client: Initiator, payloads: readonly Payload[]): Uint8Array =>
  client.seal(EXCHANGE.INFORMATIONAL, 0, false, payloads);
const said = (payloads: readonly Payload[]): MessageIdSync | null => {
  const found = findNotify(payloads, NOTIFY.IKEV2_MESSAGE_ID_SYNC);
  return found === undefined ? null : readSync(found);
};
const dpd = (client: Initiator, messageId: number): Uint8Array =>
  client.seal(EXCHANGE.INFORMATIONAL, messageId, false, []);
const ikeId = (lab: Lab): string => lab.responder.snapshot().ikeSas[0]?.id ?? "";

describe("the peer synchronises", () => {
  test("announced in IKE_AUTH only to who has announced it", () => {
    expect(findNotify(connected().answer, NOTIFY.IKEV2_MESSAGE_ID_SYNC_SUPPORTED)).toBeDefined();
    expect(findNotify(connected([]).answer, NOTIFY.IKEV2_MESSAGE_ID_SYNC_SUPPORTED)).toBeUndefined();
  });

  test("both go on from the higher of what either knows", () => {
    const { lab, client } = connected();
    expect(said(client.open(lab.answer(ask(client, [sync()]))))).toEqual({
      nonce: NONCE,
      nextSent: 7,
      nextReceived: 50,
    });
    expect(lab.deliver(dpd(client, 2))).toEqual([]);
    expect(client.open(lab.answer(dpd(client, 50)))).toEqual([]);
    // R → I  our own next request has the ID that the peer named
    const [ours] = lab.command({ kind: "rekeyChild", saId: lab.installed[0]?.id ?? "" });
    expect(new DataView((ours ?? new Uint8Array(28)).buffer).getUint32(20)).toBe(7);
  });

  test("what comes again changes nothing and has no answer; a later one counts", () => {
    const { lab, client } = connected();
    const first = ask(client, [sync()]);
    lab.answer(first);
    expect(lab.deliver(first)).toEqual([]);
    expect(lab.deliver(ask(client, [sync({ nextSent: 50, nonce: Uint8Array.of(9, 9, 9, 9) })]))).toEqual([]);
    lab.answer(dpd(client, 50));
    lab.answer(dpd(client, 51));
    expect(lab.deliver(ask(client, [sync({ nextSent: 51 })]))).toEqual([]);
    expect(lab.count("syncReplayed")).toBe(3);
    expect(said(client.open(lab.answer(ask(client, [sync({ nextSent: 52, nextReceived: 3 })]))))).toMatchObject({
      nextSent: 7,
      nextReceived: 52,
    });
    lab.answer(dpd(client, 52));
  });

  test.each([
    ["something else with it", [sync(), notify(NOTIFY.INITIAL_CONTACT)]],
    ["two of them", [sync(), sync()]],
    ["too short", [notify(NOTIFY.IKEV2_MESSAGE_ID_SYNC, new Uint8Array(11))]],
    ["too long", [notify(NOTIFY.IKEV2_MESSAGE_ID_SYNC, new Uint8Array(13))]],
    ["a leap to the end", [notify(NOTIFY.IKEV2_MESSAGE_ID_SYNC, concatBytes(NONCE, u32be(2 ** 31), u32be(0)))]],
    ["a leap of ours", [notify(NOTIFY.IKEV2_MESSAGE_ID_SYNC, concatBytes(NONCE, u32be(50), u32be(2 ** 32 - 1)))]],
  ])("%s: dropped, and everything goes on as before", (_, payloads) => {
    const { lab, client } = connected();
    expect(lab.deliver(ask(client, payloads))).toEqual([]);
    expect(lab.count("syncMalformed")).toBe(1);
    lab.answer(dpd(client, 2));
  });

  test("a peer that has not announced it: a message outside the window", () => {
    const { lab, client } = connected([]);
    expect(lab.deliver(ask(client, [sync()]))).toEqual([]);
    expect(lab.count("messageIdOutsideWindow")).toBe(1);
    lab.answer(dpd(client, 2));
  });

  test("forged: counted, and nothing more", () => {
    const { lab, client } = connected();
    const forged = ask(client, [sync()]);
    forged[forged.length - 1] = (forged.at(-1) ?? 0) ^ 1;
    expect(lab.deliver(forged)).toEqual([]);
    expect(lab.deliver(client.seal(EXCHANGE.INFORMATIONAL, 0, false, []))).toEqual([]);
    lab.answer(dpd(client, 2));
  });

  test("while a Child SA of the peer's is being installed: asked again later", () => {
    const { lab, client } = connected();
    lab.install = "silent";
    const request = client.createChildRequest(childWish(CLIENT, DVIPA), null);
    expect(lab.deliver(request.bytes)).toEqual([]);
    expect(lab.deliver(ask(client, [sync()]))).toEqual([]);
    expect(lab.count("syncWhileBusy")).toBe(1);
    lab.step({ kind: "childInstalled", nowMs: lab.nowMs, saId: lab.installed[1]?.id ?? "" });
    lab.answer(ask(client, [sync()]));
  });
});

describe("we synchronise", () => {
  const order = (lab: Lab): Uint8Array => {
    const [ours, ...others] = lab.command({ kind: "synchroniseIke", ikeSaId: ikeId(lab) });
    if (ours === undefined || others.length > 0) throw new Error("one request was to be sent");
    return ours;
  };
  const reply = (client: Initiator, changes: Partial<MessageIdSync>): Uint8Array =>
    client.seal(EXCHANGE.INFORMATIONAL, 0, true, [sync(changes)]);

  test("a message with ID 0; both go on from what the answer says", () => {
    const { lab, client } = connected();
    const request = order(lab);
    expect(new DataView(request.buffer).getUint32(20)).toBe(0);
    const asked = said(client.open(request));
    expect(asked).toMatchObject({ nextSent: 1, nextReceived: 2 });
    lab.deliver(reply(client, { nonce: asked?.nonce ?? NONCE, nextSent: 30, nextReceived: 20 }));
    expect(lab.count("messageIdsSynchronised")).toBe(1);
    lab.answer(dpd(client, 30));
    const [ours] = lab.command({ kind: "rekeyChild", saId: lab.installed[0]?.id ?? "" });
    expect(new DataView((ours ?? new Uint8Array(28)).buffer).getUint32(20)).toBe(20);
  });

  test("until the answer is there, nothing else of the peer is taken: it would come again under another ID", () => {
    const { lab, client } = connected();
    const asked = said(client.open(order(lab)));
    expect(lab.deliver(dpd(client, 2))).toEqual([]);
    expect(lab.count("requestBeforeSync")).toBe(1);
    lab.deliver(reply(client, { nonce: asked?.nonce ?? NONCE, nextSent: 3, nextReceived: 1 }));
    expect(lab.deliver(dpd(client, 2))).toEqual([]);
    lab.answer(dpd(client, 3));
  });

  test("an answer with another nonce, or lower IDs, is none; the right one still is", () => {
    const { lab, client } = connected();
    const asked = said(client.open(order(lab)));
    const nonce = asked?.nonce ?? NONCE;
    lab.deliver(reply(client, { nextSent: 30, nextReceived: 20 }));
    lab.deliver(reply(client, { nonce, nextSent: 30, nextReceived: 0 }));
    lab.deliver(reply(client, { nonce, nextSent: 1, nextReceived: 20 }));
    lab.deliver(client.seal(EXCHANGE.INFORMATIONAL, 0, true, []));
    expect([lab.count("syncAnswerWrong"), lab.count("messageIdsSynchronised")]).toEqual([4, 0]);
    lab.deliver(reply(client, { nonce, nextSent: 2, nextReceived: 1 }));
    expect(lab.count("messageIdsSynchronised")).toBe(1);
  });

  test("repeated with a new nonce and a higher ID each time, then given up", () => {
    const { lab, client } = connected();
    const first = said(client.open(order(lab)));
    const repeated = lab.pass(30_000).map((bytes) => said(client.open(bytes)));
    expect(repeated.length).toBeGreaterThan(1);
    const all = [first, ...repeated].map((one) => one?.nextSent ?? 0);
    expect(all).toEqual(all.map((_, i) => i + 1));
    expect(new Set([first, ...repeated].map((one) => Buffer.from(one?.nonce ?? []).toString("hex"))).size).toBe(
      all.length,
    );
    lab.pass(600_000);
    expect(lab.states).toEqual([]);
  });

  test("a peer that cannot: nothing is sent", () => {
    const { lab } = connected([]);
    expect(lab.command({ kind: "synchroniseIke", ikeSaId: ikeId(lab) })).toEqual([]);
    expect(lab.count("syncNotSupported")).toBe(1);
  });
});

describe("between two cores", () => {
  const reached = (): World => {
    const world = new World();
    world.command(world.a, { kind: "initiate", peerName: "b", dvipa: null });
    world.flush();
    return world;
  };
  const synchronise = (world: World, end: End): void =>
    world.command(end, { kind: "synchroniseIke", ikeSaId: end.up[0]?.id ?? "" });
  const rekeyed = (world: World, end: End): void => {
    world.command(end, { kind: "rekeyChild", saId: end.children()[0]?.saId ?? "" });
    world.pass(20_000);
    expect(world.disagreements()).toEqual([]);
  };

  test("the initiator announces it; both can still ask each other", () => {
    const world = reached();
    for (const end of [world.a, world.b, world.a]) {
      synchronise(world, end);
      world.flush();
      for (const other of [world.a, world.b]) rekeyed(world, other);
    }
    expect([world.a, world.b].map(({ counts }) => counts.get("ike.messageIdsSynchronised"))).toEqual([3, 3]);
  });

  test("the answer is lost: asked anew", () => {
    const world = reached();
    synchronise(world, world.a);
    world.deliver(0);
    world.wire.splice(0);
    world.pass(20_000);
    expect(world.b.counts.get("ike.messageIdsSynchronised")).toBe(2);
    expect(world.a.counts.get("ike.messageIdsSynchronised")).toBe(1);
    for (const end of [world.a, world.b]) rekeyed(world, end);
  });

  test("a request of the other end that is under way begins anew", () => {
    const world = reached();
    world.command(world.b, { kind: "rekeyChild", saId: world.b.children()[0]?.saId ?? "" });
    world.wire.splice(0);
    synchronise(world, world.a);
    world.pass(20_000);
    expect(world.disagreements()).toEqual([]);
    expect(world.b.counts.get("ike.childRekeyed")).toBe(1);
  });

  test("an IKE SA that was rekeyed can do it too, with its very first message", () => {
    const world = reached();
    world.command(world.a, { kind: "rekeyIke", ikeSaId: world.a.up[0]?.id ?? "" });
    world.pass(20_000);
    synchronise(world, world.b);
    world.flush();
    expect(world.a.counts.get("ike.messageIdsSynchronised")).toBe(1);
    for (const end of [world.a, world.b]) rekeyed(world, end);
  });
});

test("the wire form is that of RFC 6311 §6.3", () => {
  const payload = syncNotify({ nonce: NONCE, nextSent: 0x01020304, nextReceived: 0x05060708 });
  expect(payload).toMatchObject({ protocol: PROTOCOL.NONE, type: 16422, spi: new Uint8Array(0) });
  expect([...payload.data]).toEqual([1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8]);
});
