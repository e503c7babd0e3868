import { describe, expect, test } from "vitest";
import { toHex } from "../../src/core/bytes.ts";
import { DEFAULT_IKE_SETTINGS } from "../../src/ike/settings.ts";
import { EXCHANGE, NOTIFY } from "../../src/ike/wire/constants.ts";
import { decodeMessage, encodeMessage } from "../../src/ike/wire/message.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import { childWish, deleteChild, deleteIke, type Initiator } from "./initiator.ts";
import { CLIENT, connect, DVIPA, initiator, Lab, PATH, PATH_4500 } from "./lab.ts";

/** Answers a request of the responder's. */
function reply(
  client: Initiator,
  request: Uint8Array | undefined,
  payloads: Parameters<Initiator["seal"]>[3] = [],
): Uint8Array {
  if (request === undefined) throw new Error("no request");
  const { header } = decodeMessage(request);
  expect(header).toMatchObject({ isResponse: false, fromInitiator: false, exchange: EXCHANGE.INFORMATIONAL });
  return client.seal(EXCHANGE.INFORMATIONAL, header.messageId, true, payloads);
}

describe("requests of the peer", () => {
  test("DPD: SK{} is answered with SK{}, again with the same bytes", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const request = client.request(EXCHANGE.INFORMATIONAL, []);
    const answer = lab.answer(request, PATH_4500);
    expect(client.open(answer)).toEqual([]);
    expect(toHex(lab.answer(request, PATH_4500))).toBe(toHex(answer));
    expect(lab.count("requestRepeated")).toBe(1);
  });

  test("answers go to where the request came from, and so do our own requests from then on", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const effects = lab.step({
      kind: "datagram",
      nowMs: lab.nowMs,
      bytes: client.request(EXCHANGE.INFORMATIONAL, []),
      ...PATH,
    });
    expect(effects.find((effect) => effect.kind === "send")).toMatchObject(PATH);
    lab.pass(30_000);
    expect(lab.effects.filter((effect) => effect.kind === "send").at(-1)).toMatchObject(PATH);
  });

  /** The peer rekeys its Child SA while the kernels are slow. */
  function rekeying(): { lab: Lab; client: Initiator; report: () => Uint8Array[] } {
    const lab = new Lab();
    const { client, child } = connect(lab);
    lab.install = "silent";
    expect(lab.deliver(client.createChildRequest(childWish(CLIENT, DVIPA), child).bytes)).toEqual([]);
    const report = (): Uint8Array[] => {
      const effects = lab.step({ kind: "childInstalled", nowMs: lab.nowMs, saId: lab.installed[1]?.id ?? "" });
      return effects.flatMap((effect) => (effect.kind === "send" ? [effect.bytes] : []));
    };
    return { lab, client, report };
  }

  test("DELETE before the answer to a rekey, once (OpenIKED): waits for its turn", () => {
    const { lab, client, report } = rekeying();
    const request = client.request(EXCHANGE.INFORMATIONAL, [deleteIke]);
    expect(lab.deliver(request)).toEqual([]);
    expect(lab.count("requestEarly")).toBe(1);
    expect(lab.states).toEqual(["established"]);
    const exchanges = report().map((bytes) => decodeMessage(bytes).header.exchange);
    expect(exchanges).toEqual([EXCHANGE.CREATE_CHILD_SA, EXCHANGE.INFORMATIONAL]);
    expect(lab.states).toEqual(["closed"]);
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "remove:0", "remove:1"]);
  });

  test("DELETE before the answer to a rekey that the kernels never report: taken when the time for it is over", () => {
    const { lab, client } = rekeying();
    lab.deliver(client.request(EXCHANGE.INFORMATIONAL, [deleteIke]));
    const { installMs } = DEFAULT_IKE_SETTINGS.timing;
    expect(lab.pass(installMs)).toHaveLength(2);
    expect(lab.states).toEqual(["closed"]);
  });

  test("of requests that come too early one is kept, no forged one, no fragment, and none of another exchange", () => {
    const { lab, client, report } = rekeying();
    const early = client.request(EXCHANGE.INFORMATIONAL, []);
    const { messageId } = decodeMessage(early).header;
    const forged = early.with(-1, (early.at(-1) ?? 0) ^ 1);
    expect(lab.deliver(forged)).toEqual([]);
    expect(lab.deliver(client.seal(EXCHANGE.IKE_AUTH, messageId, false, []))).toEqual([]);
    expect(lab.count("unexpectedExchange")).toBe(1);
    client.nextId = messageId;
    const fragments = client.fragments(EXCHANGE.INFORMATIONAL, [deleteIke], 576);
    expect(fragments.map((fragment) => lab.deliver(fragment))).toEqual([[]]);
    expect([lab.count("requestEarly"), lab.count("messageIdOutsideWindow")]).toEqual([0, 1]);
    lab.deliver(early);
    lab.deliver(client.seal(EXCHANGE.INFORMATIONAL, messageId, false, [deleteIke]));
    expect([lab.count("requestEarly"), lab.count("messageIdOutsideWindow")]).toEqual([1, 2]);
    expect(report()).toHaveLength(2);
    expect(lab.states).toEqual(["established"]);
    expect(lab.deliver(early)).toHaveLength(1);
    expect(lab.count("requestRepeated")).toBe(1);
  });

  test("DELETE of the Child SA, then of the IKE SA", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const [answer] = client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)])));
    expect(answer).toMatchObject({ kind: "delete", protocol: 3 });
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
    // Again, and of an SA that never was: nothing to name.
    expect(client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)])))).toEqual([]);
    expect(lab.count("deleteOfUnknownChild")).toBe(1);
    const request = client.request(EXCHANGE.INFORMATIONAL, [deleteIke]);
    const last = lab.answer(request);
    expect(client.open(last)).toEqual([]);
    expect(lab.states).toEqual(["closed"]);
    expect(toHex(lab.answer(request))).toBe(toHex(last));
    expect(lab.deliver(client.request(EXCHANGE.INFORMATIONAL, []))).toEqual([]);
    lab.pass(30_000);
    expect(lab.states).toEqual([]);
    expect(lab.wakeAtMs).toBeNull();
  });

  test("DELETE of the IKE SA takes its children along", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteIke]));
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
  });

  test("error and status notifies are counted, and do no harm", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const told = [notify(NOTIFY.INVALID_SELECTORS), notify(NOTIFY.INVALID_SPI), notify(60_000)];
    expect(client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, told)))).toEqual([]);
    expect(lab.count("errorReportedByPeer")).toBe(2);
    expect(lab.states).toEqual(["established"]);
  });

  test("closed SAs are bounded: the oldest forgets its answer", () => {
    const lab = new Lab({ limits: { closed: 2 } });
    for (let i = 0; i < 4; i++) {
      const { client } = connect(lab);
      lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteIke]));
    }
    expect(lab.states).toEqual(["closed", "closed"]);
  });
});

describe("requests of our own", () => {
  test("silence: a DPD; its answer starts the silence anew", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    expect(lab.pass(29_999)).toEqual([]);
    const [dpd] = lab.pass(1);
    expect(client.open(dpd ?? new Uint8Array(0))).toEqual([]);
    lab.deliver(reply(client, dpd));
    expect(lab.pass(29_999)).toEqual([]);
    const [second] = lab.pass(1);
    expect(decodeMessage(second ?? new Uint8Array(0)).header.messageId).toBe(1);
  });

  test("no answer: the same bytes six times, then the IKE SA goes with its children", () => {
    const lab = new Lab();
    connect(lab);
    const sent = lab.pass(30_000 + 62_999).map(toHex);
    expect(sent).toHaveLength(6);
    expect(new Set(sent).size).toBe(1);
    expect(lab.states).toEqual(["established"]);
    lab.pass(1);
    expect(lab.states).toEqual([]);
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
    expect(lab.count("peerDead")).toBe(1);
  });

  test("a request of the peer's does not stop the DPD that is on its way, its answer does", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const [dpd] = lab.pass(30_000);
    client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [])));
    lab.deliver(reply(client, dpd));
    expect(lab.pass(20_000)).toEqual([]);
  });

  test("deleteChild: DELETE with our SPI; the SA goes when the peer answers", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const saId = lab.installed[0]?.id ?? "";
    const [request] = lab.command({ kind: "deleteChild", saId });
    const [payload] = client.open(request ?? new Uint8Array(0));
    expect(payload?.kind === "delete" && toHex(payload.spis[0] ?? new Uint8Array(0))).toBe(
      child.spiOut.toString(16).padStart(8, "0"),
    );
    expect(lab.responder.snapshot().ikeSas[0]?.children).toMatchObject([{ state: "closing" }]);
    expect(lab.command({ kind: "deleteChild", saId })).toEqual([]);
    expect(lab.saLog).toEqual(["install:0:now"]);
    lab.deliver(reply(client, request, [deleteChild(child.spiIn)]));
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
    expect(lab.states).toEqual(["established"]);
  });

  test("both sides delete the same SA at once: neither answer names it (RFC 7296 §1.4.1)", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const [request] = lab.command({ kind: "deleteChild", saId: lab.installed[0]?.id ?? "" });
    expect(client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)])))).toEqual([]);
    lab.deliver(reply(client, request));
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
  });

  test("one request at a time: the second waits for the first's answer", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const more = client.createChildRequest(childWish(CLIENT, DVIPA), null);
    client.readCreateChild(lab.answer(more.bytes), more);
    const [first] = lab.command({ kind: "deleteChild", saId: lab.installed[0]?.id ?? "" });
    expect(lab.command({ kind: "deleteChild", saId: lab.installed[1]?.id ?? "" })).toEqual([]);
    const [second] = lab.deliver(reply(client, first));
    expect(decodeMessage(second ?? new Uint8Array(0)).header.messageId).toBe(1);
    lab.deliver(reply(client, second));
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "remove:0", "remove:1"]);
  });

  for (const how of ["deleteAll", "deleteIke", "deletePeer"] as const) {
    test(`${how}: the children go at once, the IKE SA with the answer`, () => {
      const lab = new Lab();
      const { client } = connect(lab);
      const ikeSaId = lab.responder.snapshot().ikeSas[0]?.id ?? "";
      const command =
        how === "deleteIke"
          ? { kind: how, ikeSaId }
          : how === "deletePeer"
            ? { kind: how, peerName: "client" }
            : { kind: how };
      const [request] = lab.command(command);
      expect(client.open(request ?? new Uint8Array(0))).toEqual([deleteIke]);
      expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
      expect(lab.states).toEqual(["deleting"]);
      // The peer may still ask, and may delete it itself.
      expect(client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [])))).toEqual([]);
      lab.deliver(reply(client, request));
      expect(lab.states).toEqual([]);
      expect(lab.wakeAtMs).toBeNull();
    });
  }

  test("a dead peer does not keep a deleted IKE SA alive", () => {
    const lab = new Lab();
    connect(lab);
    lab.command({ kind: "deleteAll" });
    lab.pass(63_000);
    expect(lab.states).toEqual([]);
  });

  test("a new Child SA that is being installed when everything is deleted is removed too", () => {
    const lab = new Lab({ install: "silent" });
    const client = initiator();
    client.readInit(lab.answer(client.initRequest()));
    lab.deliver(client.authRequest(childWish(CLIENT, DVIPA)).bytes);
    lab.command({ kind: "deleteAll" });
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
  });

  test("a command for an SA that is not there", () => {
    const lab = new Lab();
    for (const command of [
      { kind: "deleteChild", saId: "x" },
      { kind: "deleteIke", ikeSaId: "x" },
      { kind: "deletePeer", peerName: "x" },
      { kind: "deleteAll" },
    ] as const) {
      expect(lab.command(command)).toEqual([]);
    }
    expect(lab.count("commandForUnknownSa")).toBe(4);
  });
});

describe("what anybody may say without proof (RFC 7296 §1.5, §2.21.4)", () => {
  const SPI = 0xc0ffee00;

  test("an encrypted request for an IKE SA that is not there: its own header comes back with N(INVALID_IKE_SPI), limited", () => {
    const { client } = connect(new Lab());
    const restarted = new Lab({ limits: { errorRepliesPerSecond: 2 } });
    const request = client.request(EXCHANGE.INFORMATIONAL, []);
    const { header, payloads } = decodeMessage(restarted.answer(request));
    const asked = decodeMessage(request).header;
    expect(header).toMatchObject({ isResponse: true, fromInitiator: false, messageId: asked.messageId });
    expect([toHex(header.spiI), toHex(header.spiR)]).toEqual([toHex(asked.spiI), toHex(asked.spiR)]);
    expect(payloads).toEqual([notify(NOTIFY.INVALID_IKE_SPI)]);
    expect(restarted.deliver(request)).toHaveLength(1);
    expect(restarted.deliver(request)).toEqual([]);
    expect(restarted.count("errorReplyLimit")).toBe(1);
    restarted.nowMs += 1_000;
    expect(restarted.deliver(request)).toHaveLength(1);
  });

  test("a response, or a request in clear, for an IKE SA that is not there: not answered", () => {
    const { client } = connect(new Lab());
    const restarted = new Lab();
    expect(restarted.deliver(client.seal(EXCHANGE.INFORMATIONAL, 0, true, []))).toEqual([]);
    const { header } = decodeMessage(client.request(EXCHANGE.INFORMATIONAL, []));
    expect(restarted.deliver(encodeMessage(header, []))).toEqual([]);
    expect(restarted.count("unknownSpi")).toBe(2);
  });

  test("N(INVALID_IKE_SPI) in clear, instead of the answer to our request: counted, the request goes on", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const [dpd] = lab.pass(30_000);
    const { messageId } = decodeMessage(dpd ?? new Uint8Array(0)).header;
    const fields = { spiI: client.spiI, spiR: client.spiR, fromInitiator: true, isResponse: true, messageId };
    const hint = encodeMessage({ ...fields, exchange: EXCHANGE.INFORMATIONAL }, [notify(NOTIFY.INVALID_IKE_SPI)]);
    expect(lab.deliver(hint)).toEqual([]);
    expect(lab.count("invalidIkeSpiHeard")).toBe(1);
    expect(lab.pass(1_000)).toEqual([dpd]);
    lab.deliver(reply(client, dpd));
    expect(lab.states).toEqual(["established"]);
  });

  test("ESP for an SA that is not there: the peer that we have an IKE SA with is told and deletes it, now and then", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const esp = (spi: number, peer = CLIENT): Uint8Array[] =>
      lab
        .step({ kind: "unknownEsp", nowMs: lab.nowMs, protocol: "esp", peer, dvipa: DVIPA, spi })
        .flatMap((effect) => (effect.kind === "send" ? [effect.bytes] : []));
    expect(esp(SPI, "198.51.100.99")).toEqual([]);
    expect(esp(lab.installed[0]?.inbound.spi ?? 0)).toEqual([]);
    const [request] = esp(SPI);
    const spi = Uint8Array.of(0xc0, 0xff, 0xee, 0x00);
    expect(client.open(request ?? new Uint8Array(0))).toEqual([
      notify(NOTIFY.INVALID_SPI, spi),
      { kind: "delete", protocol: 3, spis: [spi] },
    ]);
    lab.deliver(reply(client, request));
    for (let i = 0; i < 1_000; i++) expect(esp(SPI + i)).toEqual([]);
    lab.pass(10_000);
    expect(esp(SPI)).toHaveLength(1);
    expect(lab.saLog).toEqual(["install:0:now"]);
  });
});
