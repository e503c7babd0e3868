import { describe, expect, test } from "vitest";
import { toHex, u16be, u32be } from "../../src/core/bytes.ts";
import type { IkePeerConfig } from "../../src/ike/environment.ts";
import { hostSelector } from "../../src/ike/selectors.ts";
import { EXCHANGE, NOTIFY, notifyName, PROTOCOL } from "../../src/ike/wire/constants.ts";
import { decodeMessage } from "../../src/ike/wire/message.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import { findNotify, findPayload, requirePayload, type Payload } from "../../src/ike/wire/payload.ts";
import { childWish, deleteChild, type ChildWish, type Initiator, type InitiatorChild } from "./initiator.ts";
import { CLIENT, connect, DVIPA, ESP_CBC, ESP_GCM, Lab, MODP_SUITE, peerConfig } from "./lab.ts";

const LOWEST = new Uint8Array(32);
const SOFT_EARLIEST = 0.8;
const SOFT_LATEST = 0.9;

const wish = (changes: Partial<ChildWish> = {}): ChildWish => childWish(CLIENT, DVIPA, changes);
const spiText = (spi: number): string => spi.toString(16).padStart(8, "0");

/** Our request, which there must be exactly one of. */
function only(sent: readonly Uint8Array[]): Uint8Array {
  const [first] = sent;
  if (first === undefined || sent.length > 1) throw new Error(`${sent.length} datagrams where one was expected`);
  return first;
}

function exchangeOf(bytes: Uint8Array): number {
  return decodeMessage(bytes).header.exchange;
}

/** Answers a request of ours with these payloads; returns what we then send. */
function reply(lab: Lab, client: Initiator, request: Uint8Array, payloads: readonly Payload[]): Uint8Array[] {
  const { exchange, messageId } = decodeMessage(request).header;
  return lab.deliver(client.seal(exchange, messageId, true, payloads));
}

/** Passes time until something is sent: one datagram. */
function passUntilSent(lab: Lab, limitMs: number): Uint8Array {
  for (let passedMs = 0; passedMs < limitMs; passedMs += 100) {
    const sent = lab.pass(100);
    if (sent.length > 0) return only(sent);
  }
  throw new Error(`nothing was sent for ${limitMs} ms`);
}

/** The SPIs that a request of ours deletes. */
function deletedBy(client: Initiator, request: Uint8Array): string[] {
  const found = findPayload(client.open(request), "delete");
  return (found?.spis ?? []).map(toHex);
}

function rekey(lab: Lab, index = 0): Uint8Array {
  return only(lab.command({ kind: "rekeyChild", saId: lab.installed[index]?.id ?? "" }));
}

function expectSameKeys(lab: Lab, index: number, child: InitiatorChild): void {
  const sa = lab.installed[index];
  const hex = (bytes: Uint8Array | undefined): string => toHex(bytes ?? new Uint8Array(0));
  expect(hex(sa?.inbound.encryptionKey.expose())).toBe(hex(child.toResponder.encryptionKey.expose()));
  expect(hex(sa?.outbound.encryptionKey.expose())).toBe(hex(child.toInitiator.encryptionKey.expose()));
  expect([sa?.inbound.spi, sa?.outbound.spi]).toEqual([child.spiOut, child.spiIn]);
}

const childStates = (lab: Lab): (string | undefined)[] =>
  (lab.responder.snapshot().ikeSas.find(({ state }) => state === "established")?.children ?? []).map(
    ({ state }) => state,
  );

describe("rekey of a Child SA by us", () => {
  const CASES: readonly [string, Partial<ChildWish>, boolean][] = [
    ["transport, GCM, PFS", {}, true],
    ["transport, GCM, the peer wants no PFS", {}, false],
    ["tunnel, CBC, PFS", { transport: false, suites: [ESP_CBC] }, true],
    ["extended numbers", { numbers: [1] }, true],
  ];
  for (const [what, changes, pfs] of CASES) {
    test(`${what}: installed everywhere, then sent on, then the old one is deleted`, () => {
      const lab = new Lab();
      const { client, child } = connect(lab, {}, changes);
      // R → I  SK{N(REKEY_SA) [N(USE_TRANSPORT_MODE)] SA TSi TSr Ni KEi}
      const request = rekey(lab);
      const asked = client.open(request);
      const rekeys = findNotify(asked, NOTIFY.REKEY_SA);
      expect([rekeys?.protocol, toHex(rekeys?.spi ?? new Uint8Array(0))]).toEqual([
        PROTOCOL.ESP,
        spiText(child.spiOut),
      ]);
      expect(requirePayload(asked, "tsi").selectors).toEqual([{ kind: "range", selector: hostSelector(DVIPA) }]);
      expect(requirePayload(asked, "tsr").selectors).toEqual([{ kind: "range", selector: hostSelector(CLIENT) }]);
      expect(lab.saLog).toEqual(["install:0:now"]);
      // I → R  SK{[N(USE_TRANSPORT_MODE)] SA Nr [KEr] TSi TSr}
      const heir = client.answerChild(request, { pfs });
      expect([heir.child.suite, heir.child.esn]).toEqual([child.suite, child.esn]);
      // R → I  SK{D(old)}, after the switch
      const deletion = only(lab.deliver(heir.response));
      expectSameKeys(lab, 1, heir.child);
      expect(lab.installed[1]).toMatchObject({ reqid: lab.installed[0]?.reqid, mode: lab.installed[0]?.mode });
      expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "use:1"]);
      expect(deletedBy(client, deletion)).toEqual([spiText(child.spiOut)]);
      expect(childStates(lab)).toEqual(["closing", "active"]);
      // I → R  SK{D(their half of old)}
      expect(reply(lab, client, deletion, [deleteChild(child.spiIn)])).toEqual([]);
      expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "use:1", "remove:0"]);
      expect(childStates(lab)).toEqual(["active"]);
      lab.pass(20_000);
      expect(lab.saLog).toHaveLength(4);
    });
  }

  test("neither switch nor DELETE before the kernels have the new one", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const request = rekey(lab);
    lab.install = "silent";
    expect(lab.deliver(client.answerChild(request).response)).toEqual([]);
    expect(lab.pass(9_000)).toEqual([]);
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold"]);
    expect(childStates(lab)).toEqual(["active", "installing"]);
    lab.step({ kind: "childInstalled", nowMs: lab.nowMs, saId: lab.installed[1]?.id ?? "" });
    expect(lab.saLog.at(-1)).toBe("use:1");
  });

  test("a chain of rekeys, each of the newest, by turns from both ends", () => {
    const lab = new Lab();
    const connected = connect(lab);
    let { child } = connected;
    const { client } = connected;
    for (let i = 0; i < 4; i++) {
      if (i % 2 === 0) {
        const heir = client.answerChild(rekey(lab, i));
        reply(lab, client, only(lab.deliver(heir.response)), [deleteChild(child.spiIn)]);
        child = heir.child;
      } else {
        const request = client.createChildRequest(wish(), child);
        const heir = client.readCreateChild(lab.answer(request.bytes), request);
        lab.deliver(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)]));
        child = heir;
      }
    }
    expect(lab.saLog.slice(1)).toEqual(
      [1, 2, 3, 4].flatMap((n) => [`install:${n}:hold`, `use:${n}`, `remove:${n - 1}`]),
    );
    expect(childStates(lab)).toEqual(["active"]);
  });

  test("ordered twice: one request; one that is closing is left alone", () => {
    const lab = new Lab();
    connect(lab);
    const saId = lab.installed[0]?.id ?? "";
    rekey(lab);
    expect(lab.command({ kind: "rekeyChild", saId })).toEqual([]);
    const other = new Lab();
    connect(other);
    const closing = other.installed[0]?.id ?? "";
    other.command({ kind: "deleteChild", saId: closing });
    expect(other.command({ kind: "rekeyChild", saId: closing })).toEqual([]);
    expect(other.pass(5_000).every((bytes) => exchangeOf(bytes) === EXCHANGE.INFORMATIONAL)).toBe(true);
    other.command({ kind: "rekeyChild", saId: "x" });
    expect(other.count("commandForUnknownSa")).toBe(1);
  });

  test("a wrong guess of the group: asked again with the one that the peer wants, which the next heir starts with", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const first = rekey(lab);
    expect(findPayload(client.open(first), "ke")?.group).toBe(31);
    const second = only(reply(lab, client, first, [notify(NOTIFY.INVALID_KE_PAYLOAD, u16be(14))]));
    expect(findPayload(client.open(second), "ke")?.group).toBe(14);
    const heir = client.answerChild(second);
    reply(lab, client, only(lab.deliver(heir.response)), [deleteChild(child.spiIn)]);
    expectSameKeys(lab, 1, heir.child);
    expect(findPayload(client.open(rekey(lab, 1)), "ke")?.group).toBe(14);
  });

  test("a peer that wants another group each time is not asked for ever", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const second = only(reply(lab, client, rekey(lab), [notify(NOTIFY.INVALID_KE_PAYLOAD, u16be(14))]));
    expect(reply(lab, client, second, [notify(NOTIFY.INVALID_KE_PAYLOAD, u16be(19))])).toEqual([]);
    expect(lab.pass(2_400)).toEqual([]);
    expect(exchangeOf(passUntilSent(lab, 2_600))).toBe(EXCHANGE.CREATE_CHILD_SA);
  });

  test("the installation fails: the peer's half is deleted again, the old one stays, and it is tried again", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const request = rekey(lab);
    lab.install = "fail";
    const deletion = only(lab.deliver(client.answerChild(request).response));
    expect(deletedBy(client, deletion)).toEqual([spiText(lab.installed[1]?.inbound.spi ?? 0)]);
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "remove:1"]);
    expect(childStates(lab)).toEqual(["active"]);
    reply(lab, client, deletion, []);
    lab.install = "ok";
    const again = passUntilSent(lab, 5_000);
    only(lab.deliver(client.answerChild(again).response));
    expect(lab.saLog.at(-1)).toBe("use:2");
  });

  test("no report of the installation in time: as if it had failed", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const request = rekey(lab);
    lab.install = "silent";
    lab.deliver(client.answerChild(request).response);
    const [deletion] = lab.pass(10_000);
    expect(deletedBy(client, deletion ?? new Uint8Array(0))).toEqual([spiText(lab.installed[1]?.inbound.spi ?? 0)]);
    expect(lab.saLog.at(-1)).toBe("remove:1");
    lab.step({ kind: "childInstalled", nowMs: lab.nowMs, saId: lab.installed[1]?.id ?? "" });
    expect(lab.saLog.filter((entry) => entry === "remove:1")).toHaveLength(2);
  });

  const WRONG: readonly [string, (answer: readonly Payload[]) => readonly Payload[]][] = [
    ["tunnel for transport mode", (answer) => answer.filter(({ kind }) => kind !== "notify")],
    [
      "wider selectors",
      (answer) => answer.map((p) => (p.kind === "tsr" ? { ...p, selectors: [range("0.0.0.0")] } : p)),
    ],
    ["no selectors", (answer) => answer.filter(({ kind }) => kind !== "tsi")],
    ["no nonce", (answer) => answer.filter(({ kind }) => kind !== "nonce")],
    ["no KE", (answer) => answer.filter(({ kind }) => kind !== "ke")],
    [
      "a KE value that is none",
      (answer) => answer.map((p) => (p.kind === "ke" ? { ...p, value: new Uint8Array(32) } : p)),
    ],
    ["two proposals", (answer) => editProposals(answer, (all) => [...all, ...all])],
    ["another cipher", (answer) => editProposals(answer, ([only_]) => (only_ ? [withKeyBits(only_, 256)] : []))],
    [
      "all groups",
      (answer) =>
        editProposals(answer, (all) =>
          all.map((one) => ({ ...one, transforms: [...one.transforms, { type: 4, id: 19, attributes: [] }] })),
        ),
    ],
  ];
  for (const [what, edit] of WRONG) {
    test(`an answer with ${what}: what the peer made is deleted, the old one stays`, () => {
      const lab = new Lab();
      const { client } = connect(lab);
      const request = rekey(lab);
      const spi = requirePayload(client.open(request), "sa").proposals[0]?.spi;
      const deletion = only(lab.deliver(client.answerChild(request, { edit }).response));
      expect(deletedBy(client, deletion)).toEqual([toHex(spi ?? new Uint8Array(0))]);
      expect(lab.saLog).toEqual(["install:0:now"]);
      expect(childStates(lab)).toEqual(["active"]);
    });
  }

  test("an answer that cannot be read ends the IKE SA", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const broken: Payload = { kind: "unknown", type: 33, critical: false, body: Uint8Array.of(1) };
    const goodbye = only(reply(lab, client, rekey(lab), [broken]));
    expect(client.open(goodbye)).toMatchObject([{ kind: "delete", protocol: PROTOCOL.IKE }]);
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
  });

  test("no answer at all: the peer is dead", () => {
    const lab = new Lab();
    connect(lab);
    rekey(lab);
    lab.pass(63_000);
    expect(lab.states).toEqual([]);
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
  });
});

function range(startAddress: string) {
  return { kind: "range" as const, selector: { ...hostSelector(CLIENT), startAddress } };
}

type Proposals = Extract<Payload, { kind: "sa" }>["proposals"];

function editProposals(answer: readonly Payload[], edit: (all: Proposals) => Proposals): readonly Payload[] {
  return answer.map((payload) =>
    payload.kind === "sa" ? { ...payload, proposals: edit(payload.proposals) } : payload,
  );
}

function withKeyBits(proposal: Proposals[number], value: number): Proposals[number] {
  const transforms = proposal.transforms.map((one) =>
    one.type === 1 ? { ...one, attributes: [{ type: 14, value }] } : one,
  );
  return { ...proposal, transforms };
}

describe("refusals of our rekey", () => {
  test("TEMPORARY_FAILURE: a pause that doubles, and after three minutes the IKE SA is closed", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    let request = rekey(lab);
    const startMs = lab.nowMs;
    const pausesMs: number[] = [];
    while (exchangeOf(request) === EXCHANGE.CREATE_CHILD_SA && pausesMs.length < 50) {
      const refusedAtMs = lab.nowMs;
      let next = reply(lab, client, request, [notify(NOTIFY.TEMPORARY_FAILURE)]);
      while (next.length === 0 || decodedKind(client, next) === "dpd") {
        if (next[0] !== undefined) reply(lab, client, next[0], []);
        next = lab.pass(100);
      }
      request = only(next);
      pausesMs.push(lab.nowMs - refusedAtMs);
    }
    for (const [i, pauseMs] of pausesMs.slice(0, -1).entries()) {
      const fullMs = Math.min(60_000, 5_000 * 2 ** i);
      expect(pauseMs).toBeGreaterThanOrEqual(fullMs / 2);
      expect(pauseMs).toBeLessThanOrEqual(fullMs + 100);
    }
    expect(client.open(request)).toMatchObject([{ kind: "delete", protocol: PROTOCOL.IKE }]);
    expect(lab.nowMs - startMs).toBeGreaterThanOrEqual(180_000);
    expect(lab.nowMs - startMs).toBeLessThan(240_100);
  });

  test("TEMPORARY_FAILURE, then success: the old one is deleted as usual", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    expect(reply(lab, client, rekey(lab), [notify(NOTIFY.TEMPORARY_FAILURE)])).toEqual([]);
    const again = passUntilSent(lab, 5_000);
    only(lab.deliver(client.answerChild(again).response));
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "use:1"]);
  });

  test("CHILD_SA_NOT_FOUND: deleted in silence, and a new one from scratch", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const told = { ...notify(NOTIFY.CHILD_SA_NOT_FOUND), protocol: PROTOCOL.ESP, spi: u32be(child.spiOut) };
    const request = only(reply(lab, client, rekey(lab), [told]));
    const asked = client.open(request);
    expect(findNotify(asked, NOTIFY.REKEY_SA)).toBeUndefined();
    const fresh = client.answerChild(request);
    expect(lab.deliver(fresh.response)).toEqual([]);
    expectSameKeys(lab, 1, fresh.child);
    expect(lab.saLog).toEqual(["install:0:now", "remove:0", "install:1:now"]);
  });

  for (const type of [NOTIFY.NO_PROPOSAL_CHOSEN, NOTIFY.NO_ADDITIONAL_SAS, NOTIFY.TS_UNACCEPTABLE] as const) {
    test(`${notifyName(type)}: the old one stays until its end, and it is tried again`, () => {
      const lab = new Lab({ peers: [peerConfig({ childLifetime: { timeMs: 100_000, bytes: null, packets: null } })] });
      const { client } = connect(lab);
      reply(lab, client, rekey(lab), [notify(type)]);
      expect(childStates(lab)).toEqual(["active"]);
      const again = passUntilSent(lab, 5_000);
      expect(exchangeOf(again)).toBe(EXCHANGE.CREATE_CHILD_SA);
      reply(lab, client, again, [notify(type)]);
      expect(lab.count(`refusedByPeer.${notifyName(type)}`)).toBe(2);
    });
  }

  test("numbers that nobody knows share one counter: a peer must not make up names that stay for ever", () => {
    const lab = new Lab({ peers: [peerConfig({ childLifetime: { timeMs: 100_000, bytes: null, packets: null } })] });
    const { client } = connect(lab);
    reply(lab, client, rekey(lab), [notify(8_000)]);
    reply(lab, client, passUntilSent(lab, 5_000), [notify(8_001)]);
    expect(lab.count("refusedByPeer.other")).toBe(2);
  });

  test("INVALID_SYNTAX ends the IKE SA", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    reply(lab, client, rekey(lab), [notify(NOTIFY.INVALID_SYNTAX)]);
    expect(lab.states).toEqual([]);
  });
});

function decodedKind(client: Initiator, sent: readonly Uint8Array[]): "dpd" | "other" {
  const [first] = sent;
  return first !== undefined && exchangeOf(first) === EXCHANGE.INFORMATIONAL && client.open(first).length === 0
    ? "dpd"
    : "other";
}

describe("lifetimes", () => {
  const withLife = (changes: Partial<IkePeerConfig["childLifetime"]>): Lab =>
    new Lab({ peers: [peerConfig({ childLifetime: { timeMs: null, bytes: null, packets: null, ...changes } })] });

  /** Passes time, answering every DPD, until something else is sent. */
  function passUntilAsked(lab: Lab, client: Initiator, limitMs: number): Uint8Array | null {
    const endMs = lab.nowMs + limitMs;
    while (lab.nowMs < endMs) {
      const sent = lab.pass(Math.min(1_000, endMs - lab.nowMs));
      for (const bytes of sent) {
        if (decodedKind(client, [bytes]) !== "dpd") return bytes;
        reply(lab, client, bytes, []);
      }
    }
    return null;
  }

  test("time: rekeyed between 80 and 90 %, at another moment each time, and the heir lives as long again", () => {
    const LIFE_MS = 100_000;
    const moments = new Set<number>();
    for (let i = 0; i < 8; i++) {
      const lab = withLife({ timeMs: LIFE_MS });
      const { client, child } = connect(lab);
      for (const [born, old] of [
        [lab.nowMs, child],
        [0, null],
      ] as const) {
        const bornMs = old === null ? lab.nowMs : born;
        const request = passUntilAsked(lab, client, LIFE_MS);
        const atMs = lab.nowMs - bornMs;
        expect(atMs).toBeGreaterThanOrEqual(SOFT_EARLIEST * LIFE_MS);
        expect(atMs).toBeLessThanOrEqual(SOFT_LATEST * LIFE_MS + 1_000);
        moments.add(atMs);
        if (request === null) throw new Error("no rekey");
        const heir = client.answerChild(request);
        reply(lab, client, only(lab.deliver(heir.response)), [deleteChild(old?.spiIn ?? 0)]);
      }
    }
    expect(moments.size).toBeGreaterThan(4);
  });

  test("time: at the hard limit it is gone at once, and the peer hears of it", () => {
    const LIFE_MS = 60_000;
    const lab = withLife({ timeMs: LIFE_MS });
    const { client, child } = connect(lab);
    const bornMs = lab.nowMs;
    let request = passUntilAsked(lab, client, LIFE_MS);
    while (request !== null && exchangeOf(request) === EXCHANGE.CREATE_CHILD_SA) {
      // A rekey that is on the wire at the end holds the DELETE up until it is answered.
      const [next] = reply(lab, client, request, [notify(NOTIFY.NO_ADDITIONAL_SAS)]);
      request = next ?? passUntilAsked(lab, client, bornMs + LIFE_MS - lab.nowMs);
    }
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
    expect(lab.nowMs - bornMs).toBe(LIFE_MS);
    expect(deletedBy(client, request ?? new Uint8Array(0))).toEqual([spiText(child.spiOut)]);
    expect(lab.count("childExpired")).toBe(1);
    expect(lab.states).toEqual(["established"]);
  });

  for (const what of ["bytes", "packets"] as const) {
    test(`${what}: rekeyed at the soft limit, once; gone at the hard one`, () => {
      const lab = withLife({ [what]: 1_000n });
      const { client } = connect(lab);
      const saId = lab.installed[0]?.id ?? "";
      const use = (amount: bigint): Uint8Array[] => {
        const used = { bytes: 0n, packets: 0n, [what]: amount };
        return lab
          .step({ kind: "childUsed", nowMs: lab.nowMs, saId, ...used })
          .flatMap((effect) => (effect.kind === "send" ? [effect.bytes] : []));
      };
      expect(use(799n)).toEqual([]);
      const request = only(use(900n));
      expect(use(910n)).toEqual([]);
      reply(lab, client, request, [notify(NOTIFY.TEMPORARY_FAILURE)]);
      // The pause counts, however often the use is reported.
      expect(use(920n)).toEqual([]);
      expect(deletedBy(client, only(use(1_000n)))).toHaveLength(1);
      expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
      use(1_001n);
      expect(lab.count("commandForUnknownSa")).toBe(1);
    });
  }

  test("without limits nothing happens", () => {
    const lab = withLife({});
    const { client } = connect(lab);
    expect(passUntilAsked(lab, client, 3_600_000)).toBeNull();
    lab.step({
      kind: "childUsed",
      nowMs: lab.nowMs,
      saId: lab.installed[0]?.id ?? "",
      bytes: 1n << 60n,
      packets: 1n << 60n,
    });
    expect(childStates(lab)).toEqual(["active"]);
  });
});

describe("both ends rekey the same SA at once (RFC 7296 §2.8.1)", () => {
  /** Both requests are on the wire, and the peer's has come to us and was answered. */
  function collide(lab: Lab, theirNonce?: Uint8Array) {
    const { client, child } = connect(lab);
    const ours = rekey(lab);
    const theirs = client.createChildRequest(wish(), child, theirNonce);
    const theirHeir = client.readCreateChild(lab.answer(theirs.bytes), theirs);
    return { client, child, ours, theirHeir };
  }

  test("ours has the lowest nonce: we delete ours, the peer the old one", () => {
    const lab = new Lab();
    const { client, child, ours, theirHeir } = collide(lab);
    const ourHeir = client.answerChild(ours, { nonce: LOWEST });
    const deletion = only(lab.deliver(ourHeir.response));
    expect(deletedBy(client, deletion)).toEqual([spiText(ourHeir.child.spiOut)]);
    reply(lab, client, deletion, [deleteChild(ourHeir.child.spiIn)]);
    const [answer] = client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)])));
    expect(answer?.kind === "delete" && toHex(answer.spis[0] ?? new Uint8Array(0))).toBe(spiText(child.spiOut));
    // 0: the old one, 1: the peer's heir, 2: ours.
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "install:2:hold", "remove:2", "use:1", "remove:0"]);
    expectSameKeys(lab, 1, theirHeir);
    expect(childStates(lab)).toEqual(["active"]);
    expect(lab.count("childRekeyCollisionLost")).toBe(1);
  });

  test("the peer has the lowest nonce: we delete the old one, the peer its own", () => {
    const lab = new Lab();
    const { client, child, ours, theirHeir } = collide(lab, LOWEST);
    const ourHeir = client.answerChild(ours);
    const deletion = only(lab.deliver(ourHeir.response));
    expect(deletedBy(client, deletion)).toEqual([spiText(child.spiOut)]);
    expect(childStates(lab)).toEqual(["closing", "redundant", "active"]);
    reply(lab, client, deletion, [deleteChild(child.spiIn)]);
    // Nobody sends on the peer's heir, however long it takes.
    lab.pass(10_000);
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(theirHeir.spiIn)]));
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "install:2:hold", "use:2", "remove:0", "remove:1"]);
    expectSameKeys(lab, 2, ourHeir.child);
    expect(childStates(lab)).toEqual(["active"]);
    expect(lab.count("childRekeyCollisionWon")).toBe(1);
  });

  test("a peer that forgets to delete its redundant heir: we do after a minute", () => {
    const lab = new Lab();
    const { client, child, ours, theirHeir } = collide(lab, LOWEST);
    reply(lab, client, only(lab.deliver(client.answerChild(ours).response)), [deleteChild(child.spiIn)]);
    let sent = passUntilSent(lab, 60_100);
    while (deletedBy(client, sent).length === 0) {
      reply(lab, client, sent, []);
      sent = passUntilSent(lab, 60_100);
      expect(lab.nowMs).toBeLessThan(1_000_000 + 60_200);
    }
    expect(lab.nowMs).toBeLessThan(1_000_000 + 60_200);
    expect(deletedBy(client, sent)).toEqual([spiText(theirHeir.spiOut)]);
  });

  test("a peer that takes its own heir for the winner and deletes ours: its heir is sent on", () => {
    const lab = new Lab();
    const { client, child, ours } = collide(lab, LOWEST);
    const ourHeir = client.answerChild(ours);
    reply(lab, client, only(lab.deliver(ourHeir.response)), [deleteChild(child.spiIn)]);
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(ourHeir.child.spiIn)]));
    expect(lab.saLog.slice(-2)).toEqual(["use:1", "remove:2"]);
    expect(childStates(lab)).toEqual(["active"]);
  });

  for (const order of ["ours first", "the peer's first"] as const) {
    for (const lowest of ["ours", "the peer's"] as const) {
      test(`both heirs are being installed, ${order}; ${lowest} has the lowest nonce`, () => {
        const lab = new Lab();
        const { client, child } = connect(lab);
        lab.install = "silent";
        const ours = rekey(lab);
        const ourHeir = client.answerChild(ours, lowest === "ours" ? { nonce: LOWEST } : {});
        const theirs = client.createChildRequest(wish(), child, lowest === "ours" ? undefined : LOWEST);
        lab.deliver(order === "ours first" ? ourHeir.response : theirs.bytes);
        lab.deliver(order === "ours first" ? theirs.bytes : ourHeir.response);
        const spiOf = (index: number): number => lab.installed[index]?.inbound.spi ?? 0;
        expect(lab.installed).toHaveLength(3);
        const sent = [1, 2].flatMap((index) =>
          lab
            .step({ kind: "childInstalled", nowMs: lab.nowMs, saId: lab.installed[index]?.id ?? "" })
            .flatMap((effect) => (effect.kind === "send" ? [effect.bytes] : [])),
        );
        const answer = sent.find((bytes) => decodeMessage(bytes).header.isResponse);
        const deletion = sent.find((bytes) => !decodeMessage(bytes).header.isResponse);
        if (answer === undefined || deletion === undefined) throw new Error("an answer and a DELETE were expected");
        const theirHeir = client.readCreateChild(answer, theirs);
        const oursIndex = order === "ours first" ? 1 : 2;
        expect(deletedBy(client, deletion)).toEqual([spiText(spiOf(lowest === "ours" ? oursIndex : 0))]);
        reply(lab, client, deletion, []);
        lab.answer(
          client.request(EXCHANGE.INFORMATIONAL, [deleteChild(lowest === "ours" ? child.spiIn : theirHeir.spiIn)]),
        );
        const stays = lowest === "ours" ? 3 - oursIndex : oursIndex;
        expect(lab.saLog.filter((entry) => entry.startsWith("use"))).toEqual([`use:${stays}`]);
        expect(childStates(lab)).toEqual(["active"]);
        lab.pass(20_000);
        expect(childStates(lab)).toEqual(["active"]);
      });
    }
  }

  test("our request was lost, the peer's rekey is complete: CHILD_SA_NOT_FOUND is ignored", () => {
    const lab = new Lab();
    const { client, child, ours } = collide(lab);
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)]));
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "use:1", "remove:0"]);
    const told = { ...notify(NOTIFY.CHILD_SA_NOT_FOUND), protocol: PROTOCOL.ESP, spi: u32be(child.spiOut) };
    expect(reply(lab, client, ours, [told])).toEqual([]);
    lab.pass(20_000);
    expect(lab.saLog).toHaveLength(4);
    expect(childStates(lab)).toEqual(["active"]);
  });

  test("the peer answers TEMPORARY_FAILURE and goes on with its own rekey", () => {
    const lab = new Lab();
    const { client, child, ours } = collide(lab);
    expect(reply(lab, client, ours, [notify(NOTIFY.TEMPORARY_FAILURE)])).toEqual([]);
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)]));
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "use:1", "remove:0"]);
    expect(lab.pass(20_000)).toEqual([]);
  });

  test("the peer's request comes when we are deleting the old one: TEMPORARY_FAILURE; later: CHILD_SA_NOT_FOUND", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const deletion = only(lab.deliver(client.answerChild(rekey(lab)).response));
    const refused = client.open(lab.answer(client.createChildRequest(wish(), child).bytes));
    expect(findNotify(refused, NOTIFY.TEMPORARY_FAILURE)).toBeDefined();
    reply(lab, client, deletion, [deleteChild(child.spiIn)]);
    const late = client.open(lab.answer(client.createChildRequest(wish(), child).bytes));
    expect(findNotify(late, NOTIFY.CHILD_SA_NOT_FOUND)).toBeDefined();
  });

  test("the peer deletes the SA that we are rekeying: answered with our half; a success after it is used at once", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const ours = rekey(lab);
    const [answer] = client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)])));
    expect(answer?.kind === "delete" && toHex(answer.spis[0] ?? new Uint8Array(0))).toBe(spiText(child.spiOut));
    expect(lab.deliver(client.answerChild(ours).response)).toEqual([]);
    expect(lab.saLog).toEqual(["install:0:now", "remove:0", "install:1:hold", "use:1"]);
  });

  test("the peer rekeys the IKE SA while our rekey of a Child SA is under way: TEMPORARY_FAILURE", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const ours = rekey(lab);
    const refused = client.open(lab.answer(client.rekeyIkeRequest(MODP_SUITE).bytes));
    expect(findNotify(refused, NOTIFY.TEMPORARY_FAILURE)).toBeDefined();
    lab.install = "silent";
    lab.deliver(client.answerChild(ours).response);
    const again = client.open(lab.answer(client.rekeyIkeRequest(MODP_SUITE).bytes));
    expect(findNotify(again, NOTIFY.TEMPORARY_FAILURE)).toBeDefined();
  });

  // strongSwan names the heir that it has just answered with when an operator orders a rekey at that moment.
  test("the peer rekeys our heir that is being installed: TEMPORARY_FAILURE", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const ours = rekey(lab);
    lab.install = "silent";
    const heir = client.answerChild(ours);
    lab.deliver(heir.response);
    const refused = client.open(lab.answer(client.createChildRequest(wish(), heir.child).bytes));
    expect(findNotify(refused, NOTIFY.TEMPORARY_FAILURE)).toBeDefined();
    lab.step({ kind: "childInstalled", nowMs: lab.nowMs, saId: lab.installed[1]?.id ?? "" });
    expect(lab.saLog.at(-1)).toBe("use:1");
  });

  test("the peer deletes our heir that is being installed: answered, never used, and rekeyed again later", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const ours = rekey(lab);
    lab.install = "silent";
    const heir = client.answerChild(ours);
    lab.deliver(heir.response);
    const [answer] = client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(heir.child.spiIn)])));
    expect(answer?.kind === "delete" && toHex(answer.spis[0] ?? new Uint8Array(0))).toBe(spiText(heir.child.spiOut));
    lab.step({ kind: "childInstalled", nowMs: lab.nowMs, saId: lab.installed[1]?.id ?? "" });
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "remove:1", "remove:1"]);
    expect(childStates(lab)).toEqual(["active"]);
    expect(exchangeOf(passUntilSent(lab, 5_000))).toBe(EXCHANGE.CREATE_CHILD_SA);
  });

  test("everything is deleted while our heir is being installed: both go", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const ours = rekey(lab);
    lab.install = "silent";
    lab.deliver(client.answerChild(ours).response);
    lab.command({ kind: "deleteAll" });
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "remove:0", "remove:1"]);
  });

  test("the heir has what the old one had", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    lab.deliver(client.answerChild(rekey(lab)).response);
    const [old, heir] = lab.installed;
    const same = [
      "dvipa",
      "peer",
      "peerName",
      "mode",
      "suite",
      "reqid",
      "localSelectors",
      "remoteSelectors",
      "esn",
    ] as const;
    for (const key of same) expect(heir?.[key]).toEqual(old?.[key]);
    expect(heir?.suite).toEqual(ESP_GCM);
  });
});
