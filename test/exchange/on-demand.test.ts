/** Traffic wants an SA: who is reached, how often, and when it is left alone. */
import { describe, expect, it } from "vitest";
import type { IkePeerConfig } from "../../src/ike/environment.ts";
import type { EspSuite } from "../../src/sa/suite.ts";
import { CLIENT, DVIPA, Lab, peerConfig, PATH } from "./lab.ts";
import { World } from "./two-cores.ts";

const ON_DEMAND: IkePeerConfig["initiate"] = { start: "onDemand", dvipa: null, mode: "transport" };
const DEMAND = { kind: "demand", dvipa: DVIPA, destination: CLIENT } as const;
/** What a peer that nobody hears costs: six IKE_SA_INIT with doubled pauses. */
const ATTEMPT_MS = 64_000;

describe("a peer with `onDemand`", () => {
  it("is not reached before traffic wants it, then once however often that is said", () => {
    const world = new World({ a: { initiate: ON_DEMAND } });
    world.command(world.a, { kind: "initiateAll" });
    world.pass(60_000);
    expect(world.a.up).toEqual([]);
    for (let i = 0; i < 20; i++) world.command(world.a, DEMAND);
    expect(world.wire).toHaveLength(1);
    world.flush();
    // The larval state of the kernel may outlive the negotiation.
    world.command(world.a, DEMAND);
    world.flush();
    expect(world.a.children()).toHaveLength(1);
    expect(world.disagreements()).toEqual([]);
    expect(world.a.counts.get("ike.demanded")).toBe(1);
    expect(world.a.counts.get("ike.demandRepeated")).toBe(20);
  });

  it("is left alone after its SA has ended, until traffic wants it again", () => {
    const world = new World({ a: { initiate: ON_DEMAND } });
    world.command(world.a, DEMAND);
    world.flush();
    world.command(world.b, { kind: "deleteAll" });
    world.pass(120_000);
    expect(world.a.up).toEqual([]);
    world.command(world.a, DEMAND);
    world.flush();
    expect(world.a.children()).toHaveLength(1);
  });

  it("gets its Child SA over the IKE SA that is there", () => {
    const world = new World({ a: { initiate: ON_DEMAND } });
    world.command(world.a, DEMAND);
    world.flush();
    const [child] = world.a.children();
    world.command(world.b, { kind: "deleteChild", saId: world.b.children()[0]?.saId ?? "" });
    world.flush();
    expect(world.a.children()).toEqual([]);
    world.command(world.a, DEMAND);
    world.flush();
    expect(world.a.up).toHaveLength(1);
    expect(world.a.children()).toHaveLength(1);
    expect(world.a.children()[0]?.saId).not.toBe(child?.saId);
  });

  it("that refuses the Child SA is not asked for it again with each packet", () => {
    const ours: EspSuite[] = [{ kind: "aes-gcm-16", keyBits: 128 }];
    const theirs = [...ours];
    const world = new World({ a: { initiate: ON_DEMAND, espSuites: ours }, b: { espSuites: theirs } });
    world.command(world.a, DEMAND);
    world.flush();
    theirs[0] = { kind: "chacha20-poly1305" };
    world.command(world.b, { kind: "deleteChild", saId: world.b.children()[0]?.saId ?? "" });
    world.flush();
    let asked = 0;
    // A packet each second, for a minute.
    for (let second = 0; second < 60; second++) {
      world.command(world.a, DEMAND);
      asked += world.wire.length;
      world.flush();
      world.pass(1_000);
    }
    expect(asked).toBeGreaterThan(5);
    expect(asked).toBeLessThanOrEqual(25);
    expect(world.a.up).toHaveLength(1);
  });

  it("that does not answer is tried again by traffic alone, and after longer and longer pauses", () => {
    const lab = new Lab({ peers: [peerConfig({ initiate: ON_DEMAND })] });
    const begun: number[] = [];
    // A packet each second, for twenty minutes.
    for (let second = 0; second < 1_200; second++) {
      const before = lab.count("demanded");
      lab.command(DEMAND);
      if (lab.count("demanded") > before) begun.push(second);
      lab.pass(1_000);
    }
    const pauses = begun.slice(1).map((second, i) => (second - (begun[i] ?? 0)) * 1_000 - ATTEMPT_MS);
    expect(begun.length).toBeGreaterThan(5);
    expect(Math.min(...pauses.slice(4))).toBeGreaterThanOrEqual(25_000);
    expect(Math.max(...pauses)).toBeLessThanOrEqual(62_000);
    // Without traffic nobody is tried.
    lab.pass(ATTEMPT_MS);
    const tried = lab.count("initiated");
    lab.pass(600_000);
    expect(lab.count("initiated")).toBe(tried);
  });
});

describe("traffic that nobody may ask an SA for", () => {
  it.each([
    ["to another address", ON_DEMAND, { destination: "198.51.100.8" }],
    ["from another DVIPA", ON_DEMAND, { dvipa: "192.0.2.11" }],
    ["to a peer that is reached on command only", { ...ON_DEMAND, start: "none" as const }, {}],
    ["to a peer of another DVIPA", { ...ON_DEMAND, dvipa: "192.0.2.11" }, {}],
  ])("%s is refused", (_, initiate, changes) => {
    const lab = new Lab({ peers: [peerConfig({ initiate })] });
    expect(lab.command({ ...DEMAND, ...changes })).toEqual([]);
    expect(lab.count("demandRefused")).toBe(1);
  });

  it("behind the peer is what the Child SA will protect: the subnets in tunnel mode", () => {
    const tunnel = { initiate: { ...ON_DEMAND, mode: "tunnel" as const }, remoteSubnets: ["10.1.0.0/16"] };
    const lab = new Lab({ peers: [peerConfig(tunnel)] });
    expect(lab.command({ ...DEMAND, destination: "10.2.0.1" })).toEqual([]);
    expect(lab.command({ ...DEMAND, destination: "10.1.255.255" })).toHaveLength(1);
    expect(lab.responder.onDemand()).toMatchObject([
      { dvipa: DVIPA, peer: PATH.remote.address, mode: "tunnel", remote: [{ startAddress: "10.1.0.0" }] },
    ]);
  });
});

describe("a reload that takes `auto` from a peer", () => {
  it("ends the attempts, and leaves the SA", () => {
    const peers = [peerConfig({ initiate: { start: "auto", dvipa: null, mode: "transport" } })];
    const lab = new Lab({ peers });
    lab.command({ kind: "initiateAll" });
    lab.pass(200_000);
    expect(lab.count("initiated")).toBeGreaterThan(1);
    peers[0] = peerConfig();
    // An attempt may be under way: it goes on, and some more follow, as after a command.
    lab.command({ kind: "initiateAll" });
    lab.pass(10 * ATTEMPT_MS);
    const tried = lab.count("initiated");
    lab.pass(600_000);
    expect(lab.count("initiated")).toBe(tried);
  });
});
