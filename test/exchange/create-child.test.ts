import { describe, expect, test } from "vitest";
import { toHex } from "../../src/core/bytes.ts";
import type { IkeEffect } from "../../src/ike/events.ts";
import { EXCHANGE, NOTIFY, notifyName } from "../../src/ike/wire/constants.ts";
import { findNotify, type Payload } from "../../src/ike/wire/payload.ts";
import { hostSelector } from "../../src/ike/selectors.ts";
import { childWish, deleteChild, type ChildWish, type InitiatorChild } from "./initiator.ts";
import { CBC_SUITE, CLIENT, connect, DVIPA, ESP_CBC, ESP_GCM, GCM_SUITE, Lab, MODP_SUITE, PATH_4500 } from "./lab.ts";

const wish = (changes: Partial<ChildWish> = {}): ChildWish => childWish(CLIENT, DVIPA, changes);
const notifies = (payloads: readonly Payload[]): string[] =>
  payloads.flatMap((payload) => (payload.kind === "notify" ? [notifyName(payload.type)] : []));

function expectSameKeys(lab: Lab, index: number, child: InitiatorChild): void {
  const sa = lab.installed[index];
  expect(toHex(sa?.inbound.encryptionKey.expose() ?? new Uint8Array(0))).toBe(
    toHex(child.toResponder.encryptionKey.expose()),
  );
  expect(toHex(sa?.outbound.encryptionKey.expose() ?? new Uint8Array(0))).toBe(
    toHex(child.toInitiator.encryptionKey.expose()),
  );
  expect([sa?.inbound.spi, sa?.outbound.spi]).toEqual([child.spiOut, child.spiIn]);
}

describe("rekey of a Child SA by the peer", () => {
  for (const group of [null, 31, 19, 14]) {
    test(`${group === null ? "without PFS" : `with PFS, group ${group}`}: make before break`, () => {
      const lab = new Lab();
      const { client, child } = connect(lab);
      // I → R  SK{N(REKEY_SA) N(USE_TRANSPORT_MODE) SA Ni [KEi] TSi TSr}
      const request = client.createChildRequest(wish({ group }), child);
      // R → I  SK{N(USE_TRANSPORT_MODE) SA Nr [KEr] TSi TSr}
      const heir = client.readCreateChild(lab.answer(request.bytes, PATH_4500), request);
      expectSameKeys(lab, 1, heir);
      expect(lab.installed.map(({ reqid }) => reqid)).toEqual([1, 1]);
      expect(lab.saLog).toEqual(["install:0:now", "install:1:hold"]);
      // I → R  SK{D(old)}   R → I  SK{D(our half of old)}
      const [answer] = client.open(
        lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)]), PATH_4500),
      );
      expect(answer).toMatchObject({ kind: "delete", protocol: 3 });
      expect(answer?.kind === "delete" && toHex(answer.spis[0] ?? new Uint8Array(0))).toBe(
        child.spiOut.toString(16).padStart(8, "0"),
      );
      expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "use:1", "remove:0"]);
      lab.pass(10_000);
      expect(lab.saLog.filter((entry) => entry === "use:1")).toHaveLength(1);
    });
  }

  test("a packet of the peer on the new one: sent on at once, and once", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const request = client.createChildRequest(wish(), child);
    client.readCreateChild(lab.answer(request.bytes), request);
    const heard = (index: number): IkeEffect[] =>
      lab.step({ kind: "childHeard", nowMs: lab.nowMs, saId: lab.installed[index]?.id ?? "" });
    heard(0);
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold"]);
    expect(heard(1)).toMatchObject([{ kind: "useOutbound", saId: lab.installed[1]?.id }, { kind: "wakeAt" }]);
    expect(heard(1)).toEqual([]);
    lab.deliver(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)]));
    lab.pass(10_000);
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "use:1", "remove:0"]);
  });

  test("a packet on an SA that is unknown, or gone: nothing happens", () => {
    const lab = new Lab();
    connect(lab);
    const saId = lab.installed[0]?.id ?? "";
    lab.command({ kind: "deletePeer", peerName: "client" });
    for (const id of [saId, "none"]) expect(lab.step({ kind: "childHeard", nowMs: lab.nowMs, saId: id })).toEqual([]);
  });

  test("a peer that does not delete the old one: sent on after the hold", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const request = client.createChildRequest(wish(), child);
    client.readCreateChild(lab.answer(request.bytes), request);
    lab.pass(4999);
    expect(lab.saLog).not.toContain("use:1");
    lab.pass(1);
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "use:1"]);
    lab.deliver(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)]));
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "use:1", "remove:0"]);
  });

  test("a chain of rekeys, each of the newest", () => {
    const lab = new Lab();
    const connected = connect(lab);
    let { child } = connected;
    const { client } = connected;
    for (let i = 1; i <= 3; i++) {
      const request = client.createChildRequest(wish({ suites: [ESP_CBC] }), child);
      const heir = client.readCreateChild(lab.answer(request.bytes), request);
      lab.deliver(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)]));
      child = heir;
    }
    expect(lab.saLog.slice(1)).toEqual([1, 2, 3].flatMap((n) => [`install:${n}:hold`, `use:${n}`, `remove:${n - 1}`]));
    expect(lab.responder.snapshot().ikeSas[0]?.children).toMatchObject([{ state: "active", reqid: 1 }]);
  });

  test("an unknown SA: N(CHILD_SA_NOT_FOUND) with its SPI", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const answer = client.open(lab.answer(client.createChildRequest(wish(), { spiIn: 0xdeadbeef }).bytes));
    const told = findNotify(answer, NOTIFY.CHILD_SA_NOT_FOUND);
    expect(told?.protocol).toBe(3);
    expect(toHex(told?.spi ?? new Uint8Array(0))).toBe("deadbeef");
  });

  test("one that is replaced already, or that we are deleting: N(TEMPORARY_FAILURE)", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const request = client.createChildRequest(wish(), child);
    const heir = client.readCreateChild(lab.answer(request.bytes), request);
    expect(notifies(client.open(lab.answer(client.createChildRequest(wish(), child).bytes)))).toEqual([
      "TEMPORARY_FAILURE",
    ]);
    lab.command({ kind: "deleteChild", saId: lab.installed[1]?.id ?? "" });
    expect(notifies(client.open(lab.answer(client.createChildRequest(wish(), heir).bytes)))).toEqual([
      "TEMPORARY_FAILURE",
    ]);
  });

  test("a rekey into another mode is refused", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const answer = client.open(lab.answer(client.createChildRequest(wish({ transport: false }), child).bytes));
    expect(notifies(answer)).toEqual(["NO_PROPOSAL_CHOSEN"]);
  });

  test("the installation fails: N(TEMPORARY_FAILURE), the old one stays in use", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    lab.install = "fail";
    expect(notifies(client.open(lab.answer(client.createChildRequest(wish(), child).bytes)))).toEqual([
      "TEMPORARY_FAILURE",
    ]);
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "remove:1"]);
    expect(lab.responder.snapshot().ikeSas[0]?.children).toMatchObject([{ state: "active" }]);
    lab.install = "ok";
    const again = client.createChildRequest(wish(), child);
    client.readCreateChild(lab.answer(again.bytes), again);
    expect(lab.saLog.at(-1)).toBe("install:2:hold");
  });

  test("the old one goes by our DELETE while the new one is being installed: the new one is used at once", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    lab.install = "silent";
    lab.deliver(client.createChildRequest(wish(), child).bytes);
    // R → I  SK{D}, our own request, answered by the peer while its own one waits
    const [ours] = lab.command({ kind: "deleteChild", saId: lab.installed[0]?.id ?? "" });
    expect(client.open(ours ?? new Uint8Array(0))).toMatchObject([{ kind: "delete" }]);
    lab.deliver(client.seal(EXCHANGE.INFORMATIONAL, 0, true, [deleteChild(child.spiIn)]));
    lab.step({ kind: "childInstalled", nowMs: lab.nowMs, saId: lab.installed[1]?.id ?? "" });
    expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "remove:0", "use:1"]);
  });
});

describe("a further Child SA", () => {
  test("gets its own reqid for other selectors", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const http = { ...hostSelector(DVIPA), protocol: 6, startPort: 80, endPort: 80 };
    const request = client.createChildRequest(wish({ tsr: [http] }), null);
    expectSameKeys(lab, 1, client.readCreateChild(lab.answer(request.bytes), request));
    expect(lab.installed.map(({ reqid }) => reqid)).toEqual([1, 2]);
    expect(lab.saLog).toEqual(["install:0:now", "install:1:now"]);
  });

  test("a wrong guess of the PFS group: N(INVALID_KE_PAYLOAD) with the wanted one", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const request = client.createChildRequest(wish({ group: 19 }), null);
    // The offer says 19 only, the KE payload says 31: built by hand from the good request's payloads.
    const good = client.createChildRequest(wish({ group: 31 }), null);
    expect(request.bytes.length).not.toBe(good.bytes.length);
    client.nextId -= 2;
    const wrong = client.request(EXCHANGE.CREATE_CHILD_SA, wrongGuess());
    const told = findNotify(client.open(lab.answer(wrong)), NOTIFY.INVALID_KE_PAYLOAD);
    expect(toHex(told?.data ?? new Uint8Array(0))).toBe("0013");
  });

  test("beyond the limit: N(NO_ADDITIONAL_SAS); a rekey is still possible", () => {
    const lab = new Lab({ limits: { childSasPerIkeSa: 1 } });
    const { client, child } = connect(lab);
    expect(notifies(client.open(lab.answer(client.createChildRequest(wish(), null).bytes)))).toEqual([
      "NO_ADDITIONAL_SAS",
    ]);
    const rekey = client.createChildRequest(wish(), child);
    expect(client.readCreateChild(lab.answer(rekey.bytes), rekey).suite).toEqual(ESP_GCM);
  });

  const REFUSED: readonly [string, Partial<ChildWish>, string][] = [
    ["wrong selectors", { tsr: [hostSelector("192.0.2.11")] }, "TS_UNACCEPTABLE"],
    ["no proposal", { suites: [{ kind: "aes-gcm-16", keyBits: 192 as 128 }] }, "NO_PROPOSAL_CHOSEN"],
  ];
  for (const [what, changes, reason] of REFUSED) {
    test(`${what}: N(${reason}), and the IKE SA goes on`, () => {
      const lab = new Lab();
      const { client } = connect(lab);
      expect(notifies(client.open(lab.answer(client.createChildRequest(wish(changes), null).bytes)))).toEqual([reason]);
      const request = client.createChildRequest(wish(), null);
      client.readCreateChild(lab.answer(request.bytes), request);
    });
  }

  test("a payload is missing: N(INVALID_SYNTAX) ends the IKE SA with its children", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    expect(notifies(client.open(lab.answer(client.request(EXCHANGE.CREATE_CHILD_SA, []))))).toEqual(["INVALID_SYNTAX"]);
    expect(lab.states).toEqual(["closed"]);
    expect(lab.saLog).toEqual(["install:0:now", "remove:0"]);
  });
});

function wrongGuess(): Payload[] {
  const nonce: Payload = { kind: "nonce", nonce: new Uint8Array(32).fill(9) };
  const transforms = [
    { type: 1, id: 20, attributes: [{ type: 14, value: 128 }] },
    { type: 4, id: 19, attributes: [] },
    { type: 5, id: 0, attributes: [] },
  ];
  const ts = (kind: "tsi" | "tsr", address: string): Payload => ({
    kind,
    selectors: [{ kind: "range", selector: hostSelector(address) }],
  });
  return [
    { kind: "sa", proposals: [{ number: 1, protocol: 3, spi: Uint8Array.of(0xc1, 2, 3, 4), transforms }] },
    nonce,
    { kind: "ke", group: 31, value: new Uint8Array(32).fill(9) },
    ts("tsi", CLIENT),
    ts("tsr", DVIPA),
  ];
}

describe("rekey of the IKE SA by the peer", () => {
  for (const suite of [CBC_SUITE, GCM_SUITE, MODP_SUITE]) {
    test(`to group ${suite.group}: the children move, the old SA is deleted`, () => {
      const lab = new Lab();
      const { client, child } = connect(lab);
      // I → R  SK{SA(SPI) Ni KEi}   R → I  SK{SA(SPI) Nr KEr}
      const { bytes, finish } = client.rekeyIkeRequest(suite);
      const heir = finish(lab.answer(bytes));
      expect(lab.states).toEqual(["rekeyed", "established"]);
      // I → R  SK{D} on the old one
      expect(
        client.open(lab.answer(client.request(EXCHANGE.INFORMATIONAL, [{ kind: "delete", protocol: 1, spis: [] }]))),
      ).toEqual([]);
      expect(lab.saLog).toEqual(["install:0:now"]);
      // The new one works from message ID 0: rekey the child, delete it.
      const request = heir.createChildRequest(wish(), child);
      heir.readCreateChild(lab.answer(request.bytes), request);
      heir.open(lab.answer(heir.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)])));
      expect(lab.saLog).toEqual(["install:0:now", "install:1:hold", "use:1", "remove:0"]);
      lab.pass(30_000);
      expect(lab.states).toEqual(["established"]);
    });
  }

  test("without the peer's DELETE the old one ends after its time; the children stay", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const { bytes, finish } = client.rekeyIkeRequest(GCM_SUITE);
    const heir = finish(lab.answer(bytes));
    lab.pass(29_000);
    heir.open(lab.answer(heir.request(EXCHANGE.INFORMATIONAL, [])));
    lab.pass(29_000);
    heir.open(lab.answer(heir.request(EXCHANGE.INFORMATIONAL, [])));
    lab.pass(2000);
    expect(lab.states).toEqual(["established"]);
    expect(lab.saLog).toEqual(["install:0:now"]);
  });

  test("nothing new on the old one: N(TEMPORARY_FAILURE)", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    const { bytes, finish } = client.rekeyIkeRequest(GCM_SUITE);
    finish(lab.answer(bytes));
    expect(notifies(client.open(lab.answer(client.createChildRequest(wish(), null).bytes)))).toEqual([
      "TEMPORARY_FAILURE",
    ]);
  });

  test("while we delete a child: N(TEMPORARY_FAILURE)", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    lab.command({ kind: "deleteChild", saId: lab.installed[0]?.id ?? "" });
    expect(notifies(client.open(lab.answer(client.rekeyIkeRequest(GCM_SUITE).bytes)))).toEqual(["TEMPORARY_FAILURE"]);
    expect(lab.states).toEqual(["established"]);
  });
});
