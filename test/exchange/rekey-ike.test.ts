import { describe, expect, test } from "vitest";
import { u16be } from "../../src/core/bytes.ts";
import { EXCHANGE, NOTIFY, notifyName, PROTOCOL } from "../../src/ike/wire/constants.ts";
import { decodeMessage } from "../../src/ike/wire/message.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import { findNotify, findPayload, requirePayload, type Payload } from "../../src/ike/wire/payload.ts";
import { childWish, deleteChild, deleteIke, type ChildWish, type Initiator } from "./initiator.ts";
import { CBC_SUITE, CLIENT, connect, DVIPA, GCM_SUITE, Lab, MODP_SUITE, peerConfig } from "./lab.ts";

const LOWEST = new Uint8Array(32);
const wish = (changes: Partial<ChildWish> = {}): ChildWish => childWish(CLIENT, DVIPA, changes);

function only(sent: readonly Uint8Array[]): Uint8Array {
  const [first] = sent;
  if (first === undefined || sent.length > 1) throw new Error(`${sent.length} datagrams where one was expected`);
  return first;
}

/** Passes time until something is sent: one datagram. */
function passUntilSent(lab: Lab, limitMs: number): Uint8Array {
  for (let passedMs = 0; passedMs < limitMs; passedMs += 100) {
    const sent = lab.pass(100);
    if (sent.length > 0) return only(sent);
  }
  throw new Error(`nothing was sent for ${limitMs} ms`);
}

function reply(lab: Lab, client: Initiator, request: Uint8Array, payloads: readonly Payload[]): Uint8Array[] {
  const { exchange, messageId } = decodeMessage(request).header;
  return lab.deliver(client.seal(exchange, messageId, true, payloads));
}

function rekey(lab: Lab): Uint8Array {
  const up = lab.responder.snapshot().ikeSas.find(({ state }) => state === "established");
  return only(lab.command({ kind: "rekeyIke", ikeSaId: up?.id ?? "" }));
}

const isDeleteIke = (client: Initiator, request: Uint8Array): boolean =>
  client.open(request).some((payload) => payload.kind === "delete" && payload.protocol === PROTOCOL.IKE);

/** The IKE SA works in both directions, and has the Child SA: both ends rekey it once. */
function expectWorks(lab: Lab, peer: Initiator, spiIn: number, index: number): void {
  const request = peer.createChildRequest(wish(), { spiIn });
  const heir = peer.readCreateChild(lab.answer(request.bytes), request);
  peer.open(lab.answer(peer.request(EXCHANGE.INFORMATIONAL, [deleteChild(spiIn)])));
  const ours = only(lab.command({ kind: "rekeyChild", saId: lab.installed[index + 1]?.id ?? "" }));
  const deletion = only(lab.deliver(peer.answerChild(ours).response));
  reply(lab, peer, deletion, [deleteChild(heir.spiIn)]);
  expect(lab.saLog.slice(-3)).toEqual([`install:${index + 2}:hold`, `use:${index + 2}`, `remove:${index + 1}`]);
}

describe("rekey of the IKE SA by us", () => {
  for (const suite of [CBC_SUITE, GCM_SUITE, MODP_SUITE]) {
    test(`group ${suite.group}: the heir has the children, the old one is deleted with its last request`, () => {
      const lab = new Lab();
      const { client, child } = connect(lab, { suites: [suite] });
      // R → I  SK{SA(SPI) Ni KEi}   I → R  SK{SA(SPI) Nr KEr}
      const { response, heir } = client.answerIke(rekey(lab));
      expect(heir.suite).toEqual(suite);
      // R → I  SK{D} on the old one
      const goodbye = only(lab.deliver(response));
      expect(isDeleteIke(client, goodbye)).toBe(true);
      expect(lab.states).toEqual(["deleting", "established"]);
      expect(reply(lab, client, goodbye, [])).toEqual([]);
      expect(lab.states).toEqual(["established"]);
      expect(lab.saLog).toEqual(["install:0:now"]);
      expectWorks(lab, heir, child.spiIn, 0);
      // Again, as the initiator of the IKE SA.
      const second = heir.answerIke(rekey(lab));
      reply(lab, heir, only(lab.deliver(second.response)), []);
      expect(lab.states).toEqual(["established"]);
      second.heir.open(lab.answer(second.heir.request(EXCHANGE.INFORMATIONAL, [])));
      lab.answer(second.heir.request(EXCHANGE.INFORMATIONAL, [deleteIke]));
      expect(lab.saLog.at(-1)).toBe("remove:2");
    });
  }

  test("the peer rekeys an IKE SA that we have made by a rekey", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const { response, heir } = client.answerIke(rekey(lab));
    reply(lab, client, only(lab.deliver(response)), []);
    const { bytes, finish } = heir.rekeyIkeRequest(GCM_SUITE);
    const third = finish(lab.answer(bytes));
    heir.open(lab.answer(heir.request(EXCHANGE.INFORMATIONAL, [deleteIke])));
    expectWorks(lab, third, child.spiIn, 0);
  });

  test("a wrong guess of the group: asked again with the one that the peer wants", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const first = rekey(lab);
    const second = only(reply(lab, client, first, [notify(NOTIFY.INVALID_KE_PAYLOAD, u16be(19))]));
    expect(findPayload(client.open(second), "ke")?.group).toBe(19);
    const { response, heir } = client.answerIke(second);
    expect(heir.suite?.group).toBe(19);
    expect(isDeleteIke(client, only(lab.deliver(response)))).toBe(true);
  });

  test("a peer that may have one suite only is offered that one", () => {
    const lab = new Lab({ peers: [peerConfig({ ikeSuites: [CBC_SUITE] })] });
    const { client } = connect(lab);
    const request = rekey(lab);
    const groups = requirePayload(client.open(request), "sa").proposals[0]?.transforms.filter(({ type }) => type === 4);
    expect(groups).toHaveLength(1);
    expect(reply(lab, client, request, [notify(NOTIFY.INVALID_KE_PAYLOAD, u16be(19))])).toEqual([]);
    expect(lab.states).toEqual(["established"]);
  });

  for (const type of [NOTIFY.TEMPORARY_FAILURE, NOTIFY.NO_PROPOSAL_CHOSEN, NOTIFY.NO_ADDITIONAL_SAS] as const) {
    test(`${notifyName(type)}: the old one goes on, and it is tried again`, () => {
      const lab = new Lab();
      const { client } = connect(lab);
      expect(reply(lab, client, rekey(lab), [notify(type)])).toEqual([]);
      expect(lab.pass(2_400)).toEqual([]);
      const again = passUntilSent(lab, 2_600);
      expect(decodeMessage(again).header.exchange).toBe(EXCHANGE.CREATE_CHILD_SA);
      only(lab.deliver(client.answerIke(again).response));
      expect(lab.states).toEqual(["deleting", "established"]);
    });
  }

  test("TEMPORARY_FAILURE for minutes: the IKE SA is closed", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const startMs = lab.nowMs;
    let request = rekey(lab);
    while (!isDeleteIke(client, request)) {
      const isRekey = decodeMessage(request).header.exchange === EXCHANGE.CREATE_CHILD_SA;
      const next = reply(lab, client, request, isRekey ? [notify(NOTIFY.TEMPORARY_FAILURE)] : []);
      request = next[0] ?? passUntilSent(lab, 61_000);
      expect(lab.nowMs - startMs).toBeLessThan(300_000);
    }
    expect(lab.nowMs - startMs).toBeGreaterThanOrEqual(180_000);
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
  });

  const WRONG: readonly [string, (answer: readonly Payload[]) => readonly Payload[]][] = [
    ["no nonce", (answer) => answer.filter(({ kind }) => kind !== "nonce")],
    ["a zero SPI", (answer) => answer.map((p) => (p.kind === "sa" ? withSpi(p, new Uint8Array(8)) : p))],
    ["a short SPI", (answer) => answer.map((p) => (p.kind === "sa" ? withSpi(p, new Uint8Array(4).fill(1)) : p))],
    ["a bad KE value", (answer) => answer.map((p) => (p.kind === "ke" ? { ...p, value: new Uint8Array(32) } : p))],
    ["another group", (answer) => answer.map((p) => (p.kind === "ke" ? { ...p, group: 19 } : p))],
  ];
  for (const [what, edit] of WRONG) {
    test(`an answer with ${what}: the peer's new IKE SA is out of reach, so all is closed`, () => {
      const lab = new Lab();
      const { client } = connect(lab);
      const goodbye = only(lab.deliver(client.answerIke(rekey(lab), { edit }).response));
      expect(isDeleteIke(client, goodbye)).toBe(true);
      expect(lab.states).toEqual(["deleting"]);
      expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
    });
  }

  test("by time: between 80 and 90 % of its life; closed at the end of it", () => {
    const LIFE_MS = 200_000;
    const lab = new Lab({ peers: [peerConfig({ ikeLifetimeMs: LIFE_MS })] });
    const { client } = connect(lab);
    const bornMs = lab.nowMs;
    let rekeyedAtMs: number | null = null;
    let request = passUntilSent(lab, 31_000);
    while (!isDeleteIke(client, request)) {
      const isRekey = decodeMessage(request).header.exchange === EXCHANGE.CREATE_CHILD_SA;
      if (isRekey) rekeyedAtMs ??= lab.nowMs - bornMs;
      const next = reply(lab, client, request, isRekey ? [notify(NOTIFY.NO_ADDITIONAL_SAS)] : []);
      request = next[0] ?? passUntilSent(lab, 31_000);
    }
    expect(rekeyedAtMs).toBeGreaterThanOrEqual(0.8 * LIFE_MS);
    expect(rekeyedAtMs).toBeLessThanOrEqual(0.9 * LIFE_MS + 100);
    expect(lab.nowMs - bornMs).toBeLessThanOrEqual(LIFE_MS + 100);
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
    expect(lab.count("ikeExpired")).toBe(1);
  });

  test("what waits to be asked about children goes over to the heir", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const request = rekey(lab);
    expect(lab.command({ kind: "deleteChild", saId: lab.installed[0]?.id ?? "" })).toEqual([]);
    const { response, heir } = client.answerIke(request);
    const sent = lab.deliver(response);
    expect(sent).toHaveLength(2);
    const [goodbye, deletion] = sent;
    expect(isDeleteIke(client, goodbye ?? new Uint8Array(0))).toBe(true);
    reply(lab, heir, deletion ?? new Uint8Array(0), [deleteChild(child.spiIn)]);
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
  });

  test("a command for one that is not there is counted", () => {
    const lab = new Lab();
    expect(lab.command({ kind: "rekeyIke", ikeSaId: "x" })).toEqual([]);
    expect(lab.count("commandForUnknownSa")).toBe(1);
  });

  test("not before our rekey of a Child SA is through", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const first = only(lab.command({ kind: "rekeyChild", saId: lab.installed[0]?.id ?? "" }));
    const ikeSaId = lab.responder.snapshot().ikeSas[0]?.id ?? "";
    expect(lab.command({ kind: "rekeyIke", ikeSaId })).toEqual([]);
    const deletion = only(lab.deliver(client.answerChild(first).response));
    expect(reply(lab, client, deletion, [deleteChild(child.spiIn)])).toEqual([]);
    const second = passUntilSent(lab, 200);
    expect(findPayload(client.open(second), "tsi")).toBeUndefined();
    expect(requirePayload(client.open(second), "sa").proposals[0]?.protocol).toBe(PROTOCOL.IKE);
  });
});

function withSpi(sa: Extract<Payload, { kind: "sa" }>, spi: Uint8Array): Payload {
  return { ...sa, proposals: sa.proposals.map((one) => ({ ...one, spi })) };
}

describe("collisions with our rekey of the IKE SA (RFC 7296 §2.8.2, §2.25.2)", () => {
  /** Both requests are on the wire; the peer's has come to us and was answered. */
  function collide(lab: Lab, theirNonce?: Uint8Array) {
    const { client, child } = connect(lab);
    const ours = rekey(lab);
    const theirs = client.rekeyIkeRequest(CBC_SUITE, theirNonce);
    const theirHeir = theirs.finish(lab.answer(theirs.bytes));
    expect(lab.states).toEqual(["rekeyed", "established"]);
    return { client, child, ours, theirHeir };
  }

  test("ours has the lowest nonce: we delete our heir, the peer the old one; its heir has the children", () => {
    const lab = new Lab();
    const { client, child, ours, theirHeir } = collide(lab);
    const { response, heir } = client.answerIke(ours, { nonce: LOWEST });
    const goodbye = only(lab.deliver(response));
    expect(isDeleteIke(heir, goodbye)).toBe(true);
    reply(lab, heir, goodbye, []);
    client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteIke])));
    lab.pass(25_000);
    expect(lab.states).toEqual(["closed", "established"]);
    expect(lab.count("ikeRekeyCollisionLost")).toBe(1);
    expectWorks(lab, theirHeir, child.spiIn, 0);
  });

  test("the peer has the lowest nonce: we delete the old one, the peer its heir; ours has the children", () => {
    const lab = new Lab();
    const { client, child, ours, theirHeir } = collide(lab, LOWEST);
    const { response, heir } = client.answerIke(ours);
    const goodbye = only(lab.deliver(response));
    expect(isDeleteIke(client, goodbye)).toBe(true);
    reply(lab, client, goodbye, []);
    theirHeir.open(lab.answer(theirHeir.request(EXCHANGE.INFORMATIONAL, [deleteIke])));
    expect(lab.saLog).toEqual(["install:0:now"]);
    expect(lab.count("ikeRekeyCollisionWon")).toBe(1);
    expectWorks(lab, heir, child.spiIn, 0);
    lab.pass(25_000);
    expect(lab.states.filter((state) => state === "established")).toHaveLength(1);
  });

  test("the peer did not notice ours, and closes the old one: ours is forgotten", () => {
    const lab = new Lab();
    const { client, child, theirHeir } = collide(lab, LOWEST);
    client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteIke])));
    expect(lab.states).toEqual(["closed", "established"]);
    expect(lab.pass(20_000)).toEqual([]);
    expectWorks(lab, theirHeir, child.spiIn, 0);
  });

  test("the peer answers ours with TEMPORARY_FAILURE: ours is forgotten", () => {
    const lab = new Lab();
    const { client, child, ours, theirHeir } = collide(lab, LOWEST);
    expect(reply(lab, client, ours, [notify(NOTIFY.TEMPORARY_FAILURE)])).toEqual([]);
    expectWorks(lab, theirHeir, child.spiIn, 0);
  });

  test("nothing of ours begins on the peer's heir before it is decided, then what waited goes out", () => {
    const lab = new Lab();
    const { client, ours, theirHeir } = collide(lab, LOWEST);
    expect(lab.command({ kind: "rekeyChild", saId: lab.installed[0]?.id ?? "" })).toEqual([]);
    reply(lab, client, ours, [notify(NOTIFY.TEMPORARY_FAILURE)]);
    const sent = lab.effects.filter((effect) => effect.kind === "send").at(-1);
    if (sent === undefined) throw new Error("nothing was sent");
    expect(findNotify(theirHeir.open(sent.bytes), NOTIFY.REKEY_SA)).toBeDefined();
  });

  test("the same, when nobody answers ours any more", () => {
    const lab = new Lab();
    const { theirHeir } = collide(lab, LOWEST);
    lab.command({ kind: "rekeyChild", saId: lab.installed[0]?.id ?? "" });
    const sent = lab.pass(63_500);
    const last = sent.findLast((bytes) => decodeMessage(bytes).header.exchange === EXCHANGE.CREATE_CHILD_SA);
    expect(findNotify(theirHeir.open(last ?? new Uint8Array(0)), NOTIFY.REKEY_SA)).toBeDefined();
    expect(lab.states).toContain("established");
  });

  test("ours won while the peer makes a Child SA on its heir: refused there, the children come over", () => {
    const lab = new Lab();
    const { client, child, ours, theirHeir } = collide(lab, LOWEST);
    lab.install = "silent";
    lab.deliver(theirHeir.createChildRequest(wish(), child).bytes);
    const { response, heir } = client.answerIke(ours);
    const sent = lab.deliver(response);
    expect(findNotify(theirHeir.open(sent[0] ?? new Uint8Array(0)), NOTIFY.TEMPORARY_FAILURE)).toBeDefined();
    expect(isDeleteIke(client, sent[1] ?? new Uint8Array(0))).toBe(true);
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "remove:1"]);
    lab.install = "ok";
    expectWorks(lab, heir, child.spiIn, 1);
  });

  test("requests for Child SAs while ours is on the wire: TEMPORARY_FAILURE; a DELETE is answered as usual", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const ours = rekey(lab);
    for (const rekeys of [null, child]) {
      const refused = client.open(lab.answer(client.createChildRequest(wish(), rekeys).bytes));
      expect(findNotify(refused, NOTIFY.TEMPORARY_FAILURE)).toBeDefined();
    }
    const [answer] = client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)])));
    expect(answer).toMatchObject({ kind: "delete", protocol: PROTOCOL.ESP });
    only(lab.deliver(client.answerIke(ours).response));
    expect(lab.states).toEqual(["deleting", "established"]);
  });

  test("the peer closes the IKE SA that we are rekeying: answered, everything ends", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    rekey(lab);
    expect(client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteIke])))).toEqual([]);
    expect(lab.states).toEqual(["closed"]);
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
  });

  test("the peer rekeys the old one that we are closing: TEMPORARY_FAILURE", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    lab.deliver(client.answerIke(rekey(lab)).response);
    const refused = client.open(lab.answer(client.rekeyIkeRequest(GCM_SUITE).bytes));
    expect(findNotify(refused, NOTIFY.TEMPORARY_FAILURE)).toBeDefined();
  });
});
