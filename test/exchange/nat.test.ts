import { describe, expect, test } from "vitest";
import type { IkePeerConfig } from "../../src/ike/environment.ts";
import type { Endpoint, Path } from "../../src/ike/events.ts";
import { hostSelector } from "../../src/ike/selectors.ts";
import { EXCHANGE, NOTIFY, notifyName } from "../../src/ike/wire/constants.ts";
import { notify } from "../../src/ike/wire/notify.ts";
import type { Payload } from "../../src/ike/wire/payload.ts";
import { childWish, type ChildWish, type Initiator, type InitiatorChild } from "./initiator.ts";
import { CLIENT, DVIPA, initiator, Lab, peerConfig } from "./lab.ts";
import { World } from "./two-cores.ts";

// 10.0.0.5 ── NAT ── 198.51.100.7 (CLIENT) ── 192.0.2.10 (DVIPA)

const INNER = "10.0.0.5";
const from = (port: number, localPort = 4500): Path => ({
  local: { address: DVIPA, port: localPort },
  remote: { address: CLIENT, port },
});
const NATTED = from(31_000);
const TUNNEL = { transport: false, tsi: [hostSelector(INNER)] } as const;
const natPeer = (changes: Partial<IkePeerConfig> = {}): IkePeerConfig =>
  peerConfig({ address: "any", remoteSubnets: ["10.0.0.0/24"], ...changes });
const natLab = (...peers: IkePeerConfig[]): Lab => new Lab({ peers: peers.length === 0 ? [natPeer()] : peers });

function summary(payloads: readonly Payload[]): string {
  return payloads.map((payload) => (payload.kind === "notify" ? notifyName(payload.type) : payload.kind)).join(" ");
}

interface Behind {
  readonly identity?: string;
  readonly path?: Path;
  /** Where the client believes to be. */
  readonly natFrom?: Endpoint;
}

/** IKE_SA_INIT on port 500 and IKE_AUTH on `path`, from behind the NAT. */
function authenticate(
  lab: Lab,
  wish: Partial<ChildWish> = TUNNEL,
  { identity = "moon.lab", path = NATTED, natFrom = { address: INNER, port: 500 } }: Behind = {},
): { client: Initiator; said: string; child: () => InitiatorChild } {
  const client = initiator({ identity });
  client.readInit(lab.answer(client.initRequest({ natFrom }), { ...from(30_500, 500) }));
  const request = client.authRequest(childWish(INNER, DVIPA, wish));
  const answer = lab.answer(request.bytes, path);
  return { client, said: summary(client.open(answer)), child: () => client.readAuth(answer, request) };
}

describe("a peer behind a NAT", () => {
  test("gets its Child SA in UDP, to the port that IKE_AUTH came from", () => {
    const lab = natLab();
    expect(authenticate(lab).said).toBe("idr auth sa tsi tsr");
    expect(lab.installed).toMatchObject([
      { mode: "tunnel", peer: CLIENT, peerUdpPort: 31_000, remoteSelectors: [hostSelector(INNER)] },
    ]);
    expect(lab.count("natRefused")).toBe(0);
  });

  test("without a NAT nothing is in UDP, on port 4500 neither", () => {
    const lab = natLab();
    authenticate(
      lab,
      { transport: false, tsi: [hostSelector(CLIENT)] },
      { natFrom: { address: CLIENT, port: 30_500 } },
    );
    expect(lab.installed).toMatchObject([{ peerUdpPort: null }]);
  });

  test("that stays on port 500: the IKE SA is up, the Child SA refused, and the log says why", () => {
    const lab = natLab();
    expect(authenticate(lab, TUNNEL, { path: from(30_500, 500) }).said).toBe("idr auth NO_PROPOSAL_CHOSEN");
    expect(lab.count("natRefused")).toBe(1);
    const reasons = lab.effects.flatMap((effect) => (effect.kind === "log" ? [String(effect.fields["reason"])] : []));
    expect(reasons.some((reason) => /NAT.*port 4500/.test(reason))).toBe(true);
    expect(lab.installed).toEqual([]);
  });

  test("asks for transport mode and gets a tunnel; refused where it may have no tunnel", () => {
    const lab = natLab();
    expect(authenticate(lab, { ...TUNNEL, transport: true }).said).toBe("idr auth sa tsi tsr");
    expect(lab.installed).toMatchObject([{ mode: "tunnel" }]);
    expect(lab.count("natTransportDeclined")).toBe(1);
    const strict = natLab(natPeer({ modes: ["transport"] }));
    expect(authenticate(strict, { ...TUNNEL, transport: true }).said).toBe("idr auth NO_PROPOSAL_CHOSEN");
    expect(strict.installed).toEqual([]);
  });

  test("rekeys, asking for transport mode again: a tunnel in UDP to where the request came from", () => {
    const lab = natLab();
    const { client, child } = authenticate(lab);
    const request = client.createChildRequest(childWish(INNER, DVIPA, { ...TUNNEL, transport: true }), child());
    client.readCreateChild(lab.answer(request.bytes, from(31_007)), request);
    expect(lab.installed).toMatchObject([{ peerUdpPort: 31_000 }, { mode: "tunnel", peerUdpPort: 31_007 }]);
    expect(moves(lab)).toEqual([31_007]);
  });
});

function moves(lab: Lab): number[] {
  return lab.effects.flatMap((effect) => (effect.kind === "moveChild" ? [effect.peerUdpPort] : []));
}

describe("a peer whose NAT gives it another port", () => {
  test("is followed by a fresh, authentic message, not by a repeated or forged one", () => {
    const lab = natLab();
    const { client } = authenticate(lab);
    const dpd = client.request(EXCHANGE.INFORMATIONAL, []);
    lab.answer(dpd, NATTED);
    // Repeated from elsewhere: answered there, believed no more.
    lab.answer(dpd, from(666));
    const forged = client.request(EXCHANGE.INFORMATIONAL, []);
    const last = forged.length - 1;
    forged[last] = (forged[last] ?? 0) ^ 1;
    expect(lab.deliver(forged, from(667))).toEqual([]);
    expect(moves(lab)).toEqual([]);
    forged[last] ^= 1;
    lab.answer(forged, from(31_001));
    expect(moves(lab)).toEqual([31_001]);
    expect(lab.responder.snapshot().ikeSas).toMatchObject([{ remote: { port: 31_001 } }]);
    // What we ask goes there too.
    lab.pass(30_000);
    expect(lab.effects.filter((effect) => effect.kind === "send").at(-1)).toMatchObject({ remote: { port: 31_001 } });
  });

  test("is followed by its answer to our own request", () => {
    const lab = natLab();
    const { client } = authenticate(lab);
    lab.pass(30_000);
    const answer = client.seal(EXCHANGE.INFORMATIONAL, 0, true, []);
    lab.deliver(answer, from(31_002));
    expect(moves(lab)).toEqual([31_002]);
    lab.deliver(answer, from(31_003));
    expect(moves(lab)).toEqual([31_002]);
  });

  test("is not followed to another address", () => {
    const lab = natLab();
    const { client } = authenticate(lab);
    const elsewhere: Path = { ...NATTED, remote: { address: "198.51.100.8", port: 31_000 } };
    expect(lab.deliver(client.request(EXCHANGE.INFORMATIONAL, []), elsewhere)).toEqual([]);
    expect(lab.count("addressChanged")).toBe(1);
  });

  test("moves while a Child SA is being installed: that one goes to the new port as well", () => {
    const lab = natLab();
    const { client } = authenticate(lab);
    lab.pass(30_000);
    lab.install = "silent";
    const wish = childWish(INNER, DVIPA, { ...TUNNEL, tsi: [hostSelector("10.0.0.6")] });
    expect(lab.deliver(client.createChildRequest(wish, null).bytes, NATTED)).toEqual([]);
    // The answer to our DPD is on its way meanwhile.
    lab.deliver(client.seal(EXCHANGE.INFORMATIONAL, 0, true, []), from(31_005));
    expect(moves(lab)).toEqual([31_005]);
    lab.step({ kind: "childInstalled", nowMs: lab.nowMs, saId: lab.installed[1]?.id ?? "" });
    expect(moves(lab)).toEqual([31_005, 31_005]);
  });
});

describe("two peers behind NATs", () => {
  const sun = natPeer();
  const other = natPeer({ name: "other", remoteIdentity: "mars.lab" });
  const mars = { identity: "mars.lab", path: from(32_000), natFrom: { address: "10.0.0.6", port: 500 } };

  test("behind the same one: both have their SA, each with its port and its tunnel", () => {
    const lab = natLab(sun, other);
    authenticate(lab);
    authenticate(lab, { ...TUNNEL, tsi: [hostSelector("10.0.0.6")] }, mars);
    expect(lab.installed).toMatchObject([
      { peer: CLIENT, peerUdpPort: 31_000, reqid: 1 },
      { peer: CLIENT, peerUdpPort: 32_000, reqid: 2 },
    ]);
  });

  test.each([
    ["the same inner address", [hostSelector(INNER)]],
    ["a range that holds it", [{ ...hostSelector("10.0.0.0"), endAddress: "10.0.0.255" }]],
    ["one of its ports", [{ ...hostSelector(INNER), protocol: 6, startPort: 80, endPort: 80 }]],
  ])("with %s: the second is refused, the first keeps its traffic", (_, tsi) => {
    const lab = natLab(sun, other);
    authenticate(lab);
    expect(authenticate(lab, { ...TUNNEL, tsi }, mars).said).toBe("idr auth TS_UNACCEPTABLE");
    expect(lab.count("selectorsTaken")).toBe(1);
    expect(lab.saLog).toEqual(["install:0:now"]);
  });

  test("also while the first one's SA is still being installed, and when the second comes later with CREATE_CHILD_SA", () => {
    const lab = natLab(sun, other);
    const { client } = authenticate(lab, { ...TUNNEL, tsi: [hostSelector("10.0.0.6")] }, mars);
    lab.install = "silent";
    const first = initiator();
    first.readInit(lab.answer(first.initRequest({ natFrom: { address: INNER, port: 500 } }), from(30_500, 500)));
    expect(lab.deliver(first.authRequest(childWish(INNER, DVIPA, TUNNEL)).bytes, NATTED)).toEqual([]);
    const request = client.createChildRequest(childWish(INNER, DVIPA, TUNNEL), null);
    expect(summary(client.open(lab.answer(request.bytes, mars.path)))).toBe("TS_UNACCEPTABLE");
  });

  test("the same peer that connects anew has them again, with or without INITIAL_CONTACT", () => {
    const lab = natLab(sun, other);
    authenticate(lab);
    expect(authenticate(lab, TUNNEL, { path: from(33_000) }).said).toBe("idr auth sa tsi tsr");
    const client = initiator();
    client.readInit(lab.answer(client.initRequest({ natFrom: { address: INNER, port: 500 } }), from(30_500, 500)));
    const request = client.authRequest(childWish(INNER, DVIPA, TUNNEL), { payloads: [notify(NOTIFY.INITIAL_CONTACT)] });
    expect(summary(client.open(lab.answer(request.bytes, from(34_000))))).toBe("idr auth sa tsi tsr");
    expect(lab.states).toEqual(["established"]);
  });
});

describe("we behind a NAT", () => {
  const initiate = { kind: "initiate", peerName: "b", dvipa: null } as const;

  test("IKE moves to port 4500, the SA is a tunnel in UDP, and the NAT is kept open by us alone", () => {
    const world = new World();
    world.natPorts = 10_000;
    world.command(world.a, initiate);
    world.flush();
    expect(world.disagreements()).toEqual([]);
    expect([...world.a.kernel.values()]).toMatchObject([{ sa: { mode: "tunnel", peerUdpPort: 4500 } }]);
    expect([...world.b.kernel.values()]).toMatchObject([{ sa: { mode: "tunnel", peerUdpPort: 14_500 } }]);
    expect(world.a.up).toMatchObject([{ local: { port: 4500 }, remote: { port: 4500 } }]);
    const before = world.a.keepalives;
    world.pass(60_000);
    expect(world.a.keepalives - before).toBeGreaterThanOrEqual(2);
    expect(world.b.keepalives).toBe(0);
  });

  test("a mapping that changes is followed by the peer, with its SA; we follow nobody", () => {
    const world = new World();
    world.natPorts = 10_000;
    world.command(world.a, initiate);
    world.flush();
    world.natPorts = 20_000;
    world.pass(31_000);
    expect([...world.b.kernel.values()]).toMatchObject([{ sa: { peerUdpPort: 24_500 } }]);
    expect([...world.a.kernel.values()]).toMatchObject([{ sa: { peerUdpPort: 4500 } }]);
    expect(world.a.counts.get("ike.peerMoved")).toBeUndefined();
    expect(world.disagreements()).toEqual([]);
  });

  test("an authentic message from another port does not lead us astray", () => {
    const world = new World();
    world.natPorts = 10_000;
    world.command(world.a, initiate);
    world.flush();
    world.pass(31_000, true);
    const flying = world.wire.splice(0).map((one) => ({ ...one, from: { ...one.from, port: 666 } }));
    world.wire.push(...flying.filter(({ to }) => to.address === world.a.address));
    expect(world.wire.length).toBeGreaterThan(0);
    world.flush();
    expect(world.a.counts.get("ike.peerMoveIgnored")).toBeGreaterThan(0);
    expect(world.a.up).toMatchObject([{ remote: { port: 4500 } }]);
    expect([...world.a.kernel.values()]).toMatchObject([{ sa: { peerUdpPort: 4500 } }]);
  });

  test("without a NAT nothing moves and nobody sends keepalives", () => {
    const world = new World();
    world.command(world.a, initiate);
    world.pass(60_000);
    expect([...world.a.kernel.values()]).toMatchObject([{ sa: { mode: "transport", peerUdpPort: null } }]);
    expect(world.a.keepalives + world.b.keepalives).toBe(0);
  });
});
