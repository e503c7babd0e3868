/** Child SAs of one tunnel beside each other: a peer that authenticates anew makes the new one before it breaks the old one. */
import { describe, expect, test } from "vitest";
import { EXCHANGE } from "../../src/ike/wire/constants.ts";
import { childWish, deleteChild, deleteIke } from "./initiator.ts";
import { CLIENT, connect, DVIPA, initiator, Lab, PATH, PATH_4500 } from "./lab.ts";
import { World } from "./two-cores.ts";

const BOTH = ["install:0:now", "install:1:hold"];
const LINGER_MS = 2_000;

/** The order of what is sent and what happens to SAs, and for how long those that go are received on. */
function order(lab: Lab, from: number): string[] {
  return lab.effects.slice(from).flatMap((effect) => {
    if (effect.kind === "send") return ["send"];
    if (effect.kind === "useOutbound") return [`use ${lab.installed.findIndex(({ id }) => id === effect.saId)}`];
    if (effect.kind === "removeChild") return [`remove after ${effect.afterMs}`];
    return [];
  });
}

function heard(lab: Lab, index: number): void {
  lab.step({ kind: "childHeard", nowMs: lab.nowMs, saId: lab.installed[index]?.id ?? "" });
}

function childStates(lab: Lab): string[] {
  return lab.responder.snapshot().ikeSas.flatMap(({ children }) => children.map(({ state }) => state));
}

describe("a second Child SA of a tunnel that the peer makes", () => {
  test("beside another IKE SA: sent on when that is deleted, before the peer has the answer", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    connect(lab);
    expect(lab.saLog).toEqual(BOTH);
    expect(lab.installed.map(({ reqid }) => reqid)).toEqual([1, 1]);
    expect(childStates(lab)).toEqual(["active", "held"]);
    const before = lab.effects.length;
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteIke]), PATH_4500);
    expect(order(lab, before)).toEqual(["use 1", `remove after ${LINGER_MS}`, "send"]);
    lab.pass(20_000);
    expect(lab.saLog).toEqual([...BOTH, "use:1", "remove:0"]);
    expect(childStates(lab)).toEqual(["active"]);
  });

  test("on the same IKE SA: sent on when the first one is deleted", () => {
    const lab = new Lab();
    const { client, child } = connect(lab);
    const request = client.createChildRequest(childWish(CLIENT, DVIPA), null);
    client.readCreateChild(lab.answer(request.bytes, PATH_4500), request);
    const before = lab.effects.length;
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteChild(child.spiIn)]), PATH_4500);
    expect(order(lab, before)).toEqual(["use 1", `remove after ${LINGER_MS}`, "send"]);
  });

  test("sent on at the peer's first packet, and once", () => {
    const lab = new Lab();
    connect(lab);
    connect(lab);
    heard(lab, 0);
    expect(lab.saLog).toEqual(BOTH);
    heard(lab, 1);
    heard(lab, 1);
    expect(lab.saLog).toEqual([...BOTH, "use:1"]);
  });

  test("neither a packet nor a DELETE: sent on after the hold, the older one stays", () => {
    const lab = new Lab();
    connect(lab);
    connect(lab);
    lab.pass(4_999);
    expect(lab.saLog).toEqual(BOTH);
    lab.pass(1);
    expect(lab.saLog).toEqual([...BOTH, "use:1"]);
    expect(childStates(lab)).toEqual(["active", "active"]);
  });

  test("the younger one goes first: the older one is sent on again", () => {
    const lab = new Lab();
    connect(lab);
    const { client } = connect(lab);
    heard(lab, 1);
    const before = lab.effects.length;
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteIke]), PATH_4500);
    expect(order(lab, before)).toEqual(["use 0", `remove after ${LINGER_MS}`, "send"]);
  });

  test("the younger one goes before it was sent on: nothing else happens", () => {
    const lab = new Lab();
    connect(lab);
    const { client } = connect(lab);
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteIke]), PATH_4500);
    lab.pass(10_000);
    expect(lab.saLog).toEqual([...BOTH, "remove:1"]);
  });

  test("of three, the one that is not sent on goes: the others stay what they are", () => {
    const lab = new Lab();
    connect(lab);
    const { client } = connect(lab);
    connect(lab);
    expect(childStates(lab)).toEqual(["active", "held", "held"]);
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteIke]), PATH_4500);
    expect(childStates(lab)).toEqual(["active", "held"]);
    expect(lab.saLog.filter((entry) => entry.startsWith("use"))).toEqual([]);
  });

  test("the older one goes while the younger one is installed: that is sent on at once", () => {
    const lab = new Lab();
    const { client } = connect(lab);
    lab.install = "silent";
    const second = initiator();
    second.readInit(lab.answer(second.initRequest()));
    lab.deliver(second.authRequest(childWish(CLIENT, DVIPA)).bytes, PATH_4500);
    expect(lab.saLog).toEqual(BOTH);
    lab.answer(client.request(EXCHANGE.INFORMATIONAL, [deleteIke]), PATH_4500);
    expect(lab.saLog).toEqual([...BOTH, "remove:0"]);
    lab.step({ kind: "childInstalled", nowMs: lab.nowMs, saId: lab.installed[1]?.id ?? "" });
    expect(lab.saLog).toEqual([...BOTH, "remove:0", "use:1"]);
  });

  test("while the first one is being installed: one tunnel, and the second one is held", () => {
    const lab = new Lab({ install: "silent" });
    for (const client of [initiator(), initiator()]) {
      client.readInit(lab.answer(client.initRequest()));
      lab.deliver(client.authRequest(childWish(CLIENT, DVIPA)).bytes, PATH);
    }
    expect(lab.saLog).toEqual(BOTH);
    expect(lab.installed.map(({ reqid }) => reqid)).toEqual([1, 1]);
    // The first one fails: nothing is left that the second one could be beside.
    const [first, second] = lab.installed;
    lab.step({ kind: "childInstallFailed", nowMs: lab.nowMs, saId: first?.id ?? "", reason: "planted" });
    lab.step({ kind: "childInstalled", nowMs: lab.nowMs, saId: second?.id ?? "" });
    expect(lab.saLog).toEqual([...BOTH, "remove:0", "use:1"]);
  });

  test("we delete the older IKE SA: the younger one is sent on", () => {
    const lab = new Lab();
    connect(lab);
    connect(lab);
    const before = lab.effects.length;
    lab.command({ kind: "deleteIke", ikeSaId: lab.responder.snapshot().ikeSas[0]?.id ?? "" });
    expect(order(lab, before)).toEqual(["use 1", `remove after ${LINGER_MS}`, "send"]);
  });
});

describe("a second Child SA of a tunnel that we make", () => {
  test("is sent on at once: the peer has it", () => {
    const world = new World();
    // Both begin at once.
    world.command(world.b, { kind: "initiate", peerName: "a", dvipa: null });
    world.command(world.a, { kind: "initiate", peerName: "b", dvipa: null });
    world.flush();
    expect(world.disagreements()).toEqual([]);
    // At each end the peer's came first, and our own is its twin.
    for (const { kernel } of [world.a, world.b]) {
      expect([...kernel.values()].map(({ outbound }) => outbound)).toEqual(["now", "now"]);
    }
  });
});
