import { describe, expect, test } from "vitest";
import { toHex, u32be } from "../../src/core/bytes.ts";
import { suitesFor } from "../../src/ike/exchange/child.ts";
import { ESN, EXCHANGE, NOTIFY, PROTOCOL } from "../../src/ike/wire/constants.ts";
import { findNotify, requirePayload, type Payload } from "../../src/ike/wire/payload.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import type { SaHalf } from "../../src/sa/spec.ts";
import { AH_SUITES, DEFAULT_ESP_SUITES, suiteName, type AhSuite } from "../../src/sa/suite.ts";
import { childWish, deleteChild, type ChildWish, type Initiator, type InitiatorChild } from "./initiator.ts";
import { CLIENT, connect, DVIPA, ESP_GCM, Lab, PATH_4500, peerConfig } from "./lab.ts";
import { World } from "./two-cores.ts";

const AH: AhSuite = { kind: "ah", integrity: "hmac-sha2-256" };
const AH_512: AhSuite = { kind: "ah", integrity: "hmac-sha2-512" };
/** An SPI that the peer gives to an SA of either protocol. */
const SAME_SPI = 0xc0ffee00;

const labWith = (...espSuites: NonNullable<ReturnType<typeof peerConfig>["espSuites"]>[number][]): Lab =>
  new Lab({ peers: [peerConfig({ espSuites })] });
const wish = (changes: Partial<ChildWish>): ChildWish => childWish(CLIENT, DVIPA, changes);

function expectKeys(half: SaHalf | undefined, keys: InitiatorChild["toResponder"]): void {
  expect(half?.encryptionKey.lengthBytes).toBe(0);
  expect(half?.integrityKey === null).toBe(false);
  expect(toHex(half?.integrityKey?.expose() ?? new Uint8Array(0))).toBe(
    toHex(keys.integrityKey?.expose() ?? new Uint8Array(1)),
  );
}

/** Asks for another Child SA, or an heir, and reads the answer. */
function ask(
  lab: Lab,
  client: Initiator,
  changes: Partial<ChildWish>,
  replaces: InitiatorChild | null = null,
): InitiatorChild {
  const request = client.createChildRequest(wish(changes), replaces);
  return client.readCreateChild(lab.answer(request.bytes, PATH_4500), request);
}

const inform = (lab: Lab, client: Initiator, ...payloads: Payload[]): Payload[] =>
  client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, payloads), PATH_4500));

describe("a peer asks for AH", () => {
  for (const suite of AH_SUITES) {
    for (const mode of ["transport", "tunnel"] as const) {
      for (const esn of [false, true]) {
        test(`${suiteName(suite)}, ${mode} mode, ${esn ? "extended" : "32-bit"} numbers: integrity keys and nothing else`, () => {
          const lab = labWith(suite);
          const numbers = [esn ? ESN.YES : ESN.NO];
          const { child } = connect(lab, {}, { suites: [suite], transport: mode === "transport", numbers });
          const [sa] = lab.installed;
          expect(sa).toMatchObject({ suite, mode, esn, dvipa: DVIPA, peer: CLIENT });
          expect([sa?.inbound.spi, sa?.outbound.spi]).toEqual([child.spiOut, child.spiIn]);
          expectKeys(sa?.inbound, child.toResponder);
          expectKeys(sa?.outbound, child.toInitiator);
          const [answer] = requirePayload(child.payloads, "sa").proposals;
          expect(answer).toMatchObject({ protocol: PROTOCOL.AH, spi: u32be(child.spiOut) });
          expect(answer?.transforms.map(({ type }) => type)).toEqual([3, 5]);
        });
      }
    }
  }

  test("that its configuration does not list: N(NO_PROPOSAL_CHOSEN); ESP behind it is taken", () => {
    const lab = new Lab();
    const { client, child } = connect(lab, {}, { suites: [AH, ESP_GCM] });
    expect(lab.installed).toMatchObject([{ suite: ESP_GCM }]);
    const refused = client.open(lab.answer(client.createChildRequest(wish({ suites: [AH] }), child).bytes, PATH_4500));
    expect(refused).toMatchObject([{ kind: "notify", type: NOTIFY.NO_PROPOSAL_CHOSEN }]);
  });

  test("where only AH is listed: ESP is refused", () => {
    const lab = labWith(AH);
    const { client } = connect(lab, {}, { suites: [AH] });
    const refused = client.open(
      lab.answer(client.createChildRequest(wish({ suites: [ESP_GCM] }), null).bytes, PATH_4500),
    );
    expect(refused).toMatchObject([{ kind: "notify", type: NOTIFY.NO_PROPOSAL_CHOSEN }]);
  });

  test("rekeyed with REKEY_SA of AH: same tunnel; the old one is deleted with a payload of AH", () => {
    const lab = labWith(AH, ESP_GCM);
    const { client, child } = connect(lab, {}, { suites: [AH] });
    const heir = ask(lab, client, { suites: [AH], group: 31 }, child);
    expect(lab.installed.map(({ suite, reqid }) => [suiteName(suite), reqid])).toEqual([
      [suiteName(AH), 1],
      [suiteName(AH), 1],
    ]);
    expectKeys(lab.installed[1]?.inbound, heir.toResponder);
    expect(inform(lab, client, deleteChild(child.spiIn, PROTOCOL.AH))).toEqual([
      { kind: "delete", protocol: PROTOCOL.AH, spis: [u32be(child.spiOut)] },
    ]);
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "use:1", "remove:0"]);
  });

  test("an heir of the other protocol is refused: a tunnel's policies name one", () => {
    const lab = labWith(AH, ESP_GCM);
    const { client, child } = connect(lab, {}, { suites: [ESP_GCM] });
    const request = client.createChildRequest(wish({ suites: [AH] }), child);
    const answer = client.open(lab.answer(request.bytes, PATH_4500));
    expect(answer).toMatchObject([{ kind: "notify", type: NOTIFY.NO_PROPOSAL_CHOSEN }]);
    expect(ask(lab, client, { suites: [AH, ESP_GCM] }, child).suite).toEqual(ESP_GCM);
  });
});

describe("an SA of ESP and one of AH with the same SPI", () => {
  /** The first is ESP, the second AH. */
  function both(): { lab: Lab; client: Initiator; esp: InitiatorChild; ah: InitiatorChild } {
    const lab = labWith(ESP_GCM, AH);
    const { client, child: esp } = connect(lab, {}, { suites: [ESP_GCM], spi: SAME_SPI });
    const ah = ask(lab, client, { suites: [AH], spi: SAME_SPI });
    expect(lab.installed.map(({ outbound }) => outbound.spi)).toEqual([SAME_SPI, SAME_SPI]);
    return { lab, client, esp, ah };
  }

  test("are two tunnels, though their selectors are the same", () => {
    expect(both().lab.installed.map(({ reqid }) => reqid)).toEqual([1, 2]);
  });

  test("DELETE takes the one of its protocol, and answers with that", () => {
    const { lab, client, esp, ah } = both();
    expect(inform(lab, client, deleteChild(SAME_SPI, PROTOCOL.AH))).toEqual([
      { kind: "delete", protocol: PROTOCOL.AH, spis: [u32be(ah.spiOut)] },
    ]);
    expect(lab.saLog.at(-1)).toBe("remove:1");
    expect(inform(lab, client, deleteChild(SAME_SPI, PROTOCOL.AH))).toEqual([]);
    expect(inform(lab, client, deleteChild(SAME_SPI, PROTOCOL.ESP))).toEqual([
      { kind: "delete", protocol: PROTOCOL.ESP, spis: [u32be(esp.spiOut)] },
    ]);
    expect(lab.saLog.filter((entry) => entry.startsWith("remove"))).toEqual(["remove:1", "remove:0"]);
  });

  test("both in one message are answered with a payload each", () => {
    const { lab, client, esp, ah } = both();
    const answer = inform(lab, client, deleteChild(SAME_SPI, PROTOCOL.AH), deleteChild(SAME_SPI, PROTOCOL.ESP));
    expect(answer).toEqual([
      { kind: "delete", protocol: PROTOCOL.ESP, spis: [u32be(esp.spiOut)] },
      { kind: "delete", protocol: PROTOCOL.AH, spis: [u32be(ah.spiOut)] },
    ]);
  });

  test("REKEY_SA means the one of its protocol", () => {
    const { lab, client, ah } = both();
    const heir = ask(lab, client, { suites: [ESP_GCM, AH] }, ah);
    expect(heir.suite).toEqual(AH);
    expect(lab.installed.map(({ reqid }) => reqid)).toEqual([1, 2, 2]);
    const alone = labWith(ESP_GCM, AH);
    const connected = connect(alone, {}, { suites: [ESP_GCM], spi: SAME_SPI });
    const request = connected.client.createChildRequest(wish({ suites: [AH] }), { spiIn: SAME_SPI, suite: AH });
    const answer = connected.client.open(alone.answer(request.bytes, PATH_4500));
    expect(answer).toEqual([{ ...notify(NOTIFY.CHILD_SA_NOT_FOUND), protocol: PROTOCOL.AH, spi: u32be(SAME_SPI) }]);
  });

  test("a packet of the one that is not there is told to the peer, with its protocol", () => {
    const lab = labWith(ESP_GCM, AH);
    const { client, child } = connect(lab, {}, { suites: [ESP_GCM] });
    const hint = { kind: "unknownEsp", nowMs: lab.nowMs, peer: CLIENT, dvipa: DVIPA, spi: child.spiOut } as const;
    expect(lab.step({ ...hint, protocol: "esp" }).filter(({ kind }) => kind === "send")).toEqual([]);
    const [told] = lab
      .step({ ...hint, protocol: "ah" })
      .flatMap((effect) => (effect.kind === "send" ? [effect.bytes] : []));
    expect(client.open(told ?? new Uint8Array(0))).toEqual([
      notify(NOTIFY.INVALID_SPI, u32be(child.spiOut)),
      { kind: "delete", protocol: PROTOCOL.AH, spis: [u32be(child.spiOut)] },
    ]);
  });
});

describe("we ask for AH", () => {
  const rekeyed = (lab: Lab, index: number): Uint8Array => {
    const [request] = lab.command({ kind: "rekeyChild", saId: lab.installed[index]?.id ?? "" });
    return request ?? new Uint8Array(0);
  };

  test("an heir: REKEY_SA, proposal and DELETE are of AH", () => {
    const lab = labWith(AH_512, ESP_GCM);
    const { client, child } = connect(lab, {}, { suites: [AH_512] });
    const request = rekeyed(lab, 0);
    const asked = client.open(request);
    expect(findNotify(asked, NOTIFY.REKEY_SA)).toMatchObject({ protocol: PROTOCOL.AH, spi: u32be(child.spiOut) });
    const { proposals } = requirePayload(asked, "sa");
    expect(new Set(proposals.map(({ protocol }) => protocol))).toEqual(new Set([PROTOCOL.AH]));
    const heir = client.answerChild(request, { suites: [AH_512] });
    const [deletion] = lab.deliver(heir.response);
    expect(client.open(deletion ?? new Uint8Array(0))).toEqual([
      { kind: "delete", protocol: PROTOCOL.AH, spis: [u32be(child.spiOut)] },
    ]);
    expectKeys(lab.installed[1]?.outbound, heir.child.toInitiator);
  });

  test("and get ESP: refused, and what we asked for is deleted at the peer", () => {
    const lab = labWith(AH, ESP_GCM);
    const { client } = connect(lab, {}, { suites: [AH] });
    const request = rekeyed(lab, 0);
    const asEsp = (answer: readonly Payload[]): Payload[] =>
      answer.map((payload) =>
        payload.kind === "sa"
          ? { ...payload, proposals: payload.proposals.map((one) => ({ ...one, protocol: PROTOCOL.ESP })) }
          : payload,
      );
    const [deletion] = lab.deliver(client.answerChild(request, { suites: [AH], edit: asEsp }).response);
    expect(lab.installed).toHaveLength(1);
    const [gone] = client.open(deletion ?? new Uint8Array(0));
    expect(gone).toMatchObject({ kind: "delete", protocol: PROTOCOL.AH });
  });

  test("what no kernel takes is deleted at the peer as AH", () => {
    const lab = labWith(AH);
    const { client } = connect(lab, {}, { suites: [AH] });
    const request = rekeyed(lab, 0);
    lab.install = "fail";
    const [deletion] = lab.deliver(client.answerChild(request, { suites: [AH] }).response);
    const spi = u32be(lab.installed[1]?.inbound.spi ?? 0);
    expect(client.open(deletion ?? new Uint8Array(0))).toEqual([
      { kind: "delete", protocol: PROTOCOL.AH, spis: [spi] },
    ]);
  });

  test("what has reached its hard limit is deleted at the peer as AH", () => {
    const lab = new Lab({
      peers: [peerConfig({ espSuites: [AH], childLifetime: { timeMs: null, bytes: null, packets: 1000n } })],
    });
    const { client, child } = connect(lab, {}, { suites: [AH] });
    const saId = lab.installed[0]?.id ?? "";
    const used = lab.step({ kind: "childUsed", nowMs: lab.nowMs, saId, bytes: 0n, packets: 1000n });
    const [told] = used.flatMap((effect) => (effect.kind === "send" ? [effect.bytes] : []));
    expect(client.open(told ?? new Uint8Array(0))).toEqual([
      { kind: "delete", protocol: PROTOCOL.AH, spis: [u32be(child.spiOut)] },
    ]);
  });

  for (const [what, ours, theirs, agreed] of [
    ["AH alone", [AH_512], [AH, AH_512], AH_512],
    ["ESP first, and the peer has AH", [ESP_GCM, AH], [AH], AH],
    ["ESP first, and the peer has both", [ESP_GCM, AH], [AH, ESP_GCM], ESP_GCM],
  ] as const) {
    test(`as initiator: ${what}; rekeyed by both ends`, () => {
      const world = new World({ a: { espSuites: ours }, b: { espSuites: theirs } });
      world.command(world.a, { kind: "initiate", peerName: "b", dvipa: null });
      world.flush();
      for (const end of [world.a, world.b]) {
        world.command(end, { kind: "rekeyChild", saId: end.children()[0]?.saId ?? "" });
        world.pass(10_000);
        expect(world.disagreements()).toEqual([]);
        expect([...end.kernel.values()]).toMatchObject([{ sa: { suite: agreed } }]);
      }
    });
  }
});

describe("what a Child SA may have", () => {
  const both = { espSuites: [...DEFAULT_ESP_SUITES, ...AH_SUITES] };

  test("behind a NAT no AH: it covers the addresses and has no form in UDP", () => {
    expect(suitesFor(both, true, null)).toEqual(DEFAULT_ESP_SUITES);
    expect(suitesFor({ espSuites: null }, true, null)).toEqual(DEFAULT_ESP_SUITES);
    expect(suitesFor(both, false, null)).toEqual(both.espSuites);
  });

  test("as an heir only its own protocol", () => {
    expect(suitesFor(both, false, { sa: { suite: AH } })).toEqual(AH_SUITES);
    expect(suitesFor(both, false, { sa: { suite: ESP_GCM } })).toEqual(DEFAULT_ESP_SUITES);
  });
});
