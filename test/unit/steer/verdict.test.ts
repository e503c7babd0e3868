import fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import { icvMark } from "../../../src/sa/authenticity.ts";
import type { SharedSa } from "../../../src/sa/spec.ts";
import { RoundRobin } from "../../../src/steer/choose.ts";
import { ConnectionTable } from "../../../src/steer/connection-table.ts";
import { decide, InboundSas, type SteeringTables } from "../../../src/steer/verdict.ts";
import { espPacket, espPayload, ipv4Packet, sampleSa, tcpSegment, type TcpFlags } from "../sa/esp-builder.ts";
import { inUdp } from "../sa/udp-builder.ts";
import { ahPacket, ahPayload } from "../sa/ah-builder.ts";
import { ipv6Packet, options, type Extension } from "../sa/ipv6-builder.ts";

let sa: SharedSa;
let tables: SteeringTables;
let targets: string[];

beforeEach(() => {
  sa = sampleSa({ kind: "aes-gcm-16", keyBits: 128 }, "transport");
  targets = ["t1", "t2", "t3"];
  const turn = new RoundRobin();
  const sas = new InboundSas();
  sas.add(sa);
  tables = {
    sas,
    connections: new ConnectionTable(),
    isDistributed: (_dvipa, port) => port === 80,
    chooseTarget: () => {
      const target = turn.next(targets);
      return target === null ? "noTarget" : { target };
    },
  };
});

/** With one bit of this byte turned. */
function flipped(packet: Uint8Array, at: number): Uint8Array {
  const other = packet.slice();
  other[at] = (other[at] ?? 0) ^ 0x10;
  return other;
}

const segment = (port: number, flags: TcpFlags, destination = 80): Uint8Array =>
  espPacket(sa, tcpSegment(port, destination, flags), 6);

describe("decide", () => {
  it("gives new connections to the targets in turn and keeps each where it is", () => {
    const first = ["t1", "t2", "t3", "t1"];
    first.forEach((target, i) => {
      expect(decide(segment(1000 + i, { syn: true }), tables, 0)).toMatchObject({
        kind: "forward",
        target,
        isNew: true,
      });
    });
    first.forEach((target, i) => {
      expect(decide(segment(1000 + i, { ack: true }), tables, 1)).toMatchObject({
        kind: "forward",
        target,
        isNew: false,
      });
    });
  });

  it("sends a repeated SYN where the first one went", () => {
    decide(segment(1000, { syn: true }), tables, 0);
    expect(decide(segment(1000, { syn: true }), tables, 1)).toMatchObject({ target: "t1", isNew: false });
  });

  it("chooses afresh when a port is used again after its target closed, and not for a FIN or RST of anybody", () => {
    decide(segment(1000, { syn: true }), tables, 0);
    const [connection] = tables.connections.list();
    if (connection === undefined) throw new Error("no entry");
    tables.connections.answered(connection, { target: "t1", presence: "open", askedMs: 0 }, 0);
    decide(segment(1000, { fin: true, ack: true }), tables, 1);
    decide(segment(1000, { rst: true }), tables, 1);
    expect(decide(segment(1000, { syn: true }), tables, 2)).toMatchObject({ target: "t1", isNew: false });
    tables.connections.closed(connection, "t1", 3);
    expect(decide(segment(1000, { ack: true }), tables, 4)).toMatchObject({ target: "t1" });
    expect(decide(segment(1000, { syn: true }), tables, 5)).toMatchObject({ target: "t2", isNew: true });
  });

  it("drops a SYN when no application listens, and when the table is full of living connections", () => {
    const syn = segment(1000, { syn: true });
    expect(decide(syn, { ...tables, chooseTarget: () => "noListener" }, 0)).toEqual({
      kind: "drop",
      reason: "noListener",
    });
    const none = {
      provisionalIdleMs: 1,
      doubtAfterMs: 1,
      provisionalGraceMs: 1,
      confirmedIdleMs: 1,
      closingIdleMs: 1,
      arrivalMs: 1,
    };
    const connections = new ConnectionTable({
      ...none,
      maxEntries: 0,
      maxProvisionalPerPeer: 1,
      maxDoubtedPerPeer: 1,
      maxOpenedPerTarget: 1,
    });
    expect(decide(syn, { ...tables, connections }, 0)).toEqual({ kind: "drop", reason: "tableFull" });
  });

  it("says what this host opens and hands over: the same connections to the same targets", () => {
    const opened = { ...tables, isOpenedHere: (dvipa: string) => dvipa === sa.dvipa };
    expect(decide(segment(1000, { syn: true }), opened, 0)).toMatchObject({ target: "t1", isNew: true, opened: true });
    expect(decide(segment(1000, { ack: true }), opened, 1)).toMatchObject({ target: "t1", isNew: false, opened: true });
    expect(decide(segment(1000, { ack: true }), tables, 1)).toMatchObject({ target: "t1", opened: false });
  });

  it("has what ends at this host's own address decrypted here, and the connection inside handed over", () => {
    const gateway: SharedSa = { ...sampleSa({ kind: "aes-gcm-16", keyBits: 128 }, "tunnel"), gateway: "192.0.2.1" };
    tables.sas.add(gateway);
    const packet = (flags: TcpFlags, inner = gateway.dvipa): Uint8Array => {
      const carried = ipv4Packet(gateway.peer, inner, 6, tcpSegment(1000, 80, flags));
      return ipv4Packet(gateway.peer, "192.0.2.1", 50, espPayload(gateway, carried, 4, 1));
    };
    expect(decide(packet({ syn: true }), tables, 0)).toMatchObject({ target: "t1", isNew: true, opened: true });
    expect(decide(packet({ ack: true }), tables, 1)).toMatchObject({ target: "t1", isNew: false, opened: true });
    expect(decide(packet({ syn: true }, "192.0.2.1"), tables, 2)).toMatchObject({ reason: "notDistributed" });
    // To the DVIPA itself the same SPI names another SA, in transport mode.
    tables.sas.remove(gateway);
    expect(decide(packet({ ack: true }), tables, 3)).toMatchObject({ kind: "drop", reason: "unknownSpi" });
    expect(decide(segment(1000, { syn: true }), tables, 3)).toMatchObject({ opened: false });
  });

  it("keeps connections of a target that is gone from the choice", () => {
    decide(segment(1000, { syn: true }), tables, 0);
    targets = ["t2", "t3"];
    expect(decide(segment(1000, { ack: true }), tables, 1)).toMatchObject({ target: "t1" });
    expect(decide(segment(1001, { syn: true }), tables, 1)).toMatchObject({ target: "t2" });
  });

  it("gives the answers to a connection that a target has opened to that target, whatever its port, and nobody else's", () => {
    const opened = { client: sa.peer, clientPort: 8080, dvipa: sa.dvipa, port: 40_000 };
    tables.connections.opened(opened, "t2", 0);
    const answer = { syn: true, ack: true };
    expect(decide(segment(8080, answer, 40_000), tables, 1)).toMatchObject({ target: "t2", isNew: false });
    expect(decide(segment(8080, { ack: true }, 40_000), tables, 2)).toMatchObject({ target: "t2", isNew: false });
    expect(decide(segment(8081, answer, 40_000), tables, 3)).toMatchObject({ reason: "notDistributed" });
    expect(decide(segment(8080, answer, 40_001), tables, 3)).toMatchObject({ reason: "notDistributed" });
    tables.connections.closed(opened, "t2", 4);
    tables.connections.expire(100_000);
    expect(decide(segment(8080, { ack: true }, 40_000), tables, 100_000)).toMatchObject({ reason: "notDistributed" });
  });

  it.each([
    ["a segment of no known connection", "noConnection", () => segment(1000, { ack: true })],
    ["a SYN+ACK", "noConnection", () => segment(1000, { syn: true, ack: true })],
    ["a port that is not distributed", "notDistributed", () => segment(1000, { syn: true }, 22)],
    ["ICMP", "notTcp", () => espPacket(sa, new Uint8Array(64), 1)],
  ])("leaves %s to the own kernel", (_what, reason, packet) => {
    expect(decide(packet(), tables, 0)).toMatchObject({ kind: "local", reason });
  });

  it("drops what belongs to no SA, comes from elsewhere, or is cut short", () => {
    const stranger = sampleSa(sa.suite, "transport", 0xc0000001);
    expect(decide(espPacket(stranger, tcpSegment(1, 80, { syn: true }), 6), tables, 0)).toMatchObject({
      kind: "drop",
      reason: "unknownSpi",
      unknown: { spi: 0xc0000001 },
    });
    const spoofed = espPacket(sa, tcpSegment(1, 80, { syn: true }), 6, { source: "192.0.2.66" });
    expect(decide(spoofed, tables, 0)).toEqual({ kind: "drop", reason: "wrongSource" });
    const header = new Uint8Array([0xc0, 0xff, 0xee, 0x01, 0, 0, 0, 1, 0, 0]);
    expect(decide(ipv4Packet(sa.peer, sa.dvipa, 50, header), tables, 0)).toEqual({ kind: "drop", reason: "tooShort" });
    expect(tables.connections.size).toBe(0);
  });

  it("drops a SYN when no target can take it, so that the client tries again", () => {
    targets = [];
    expect(decide(segment(1000, { syn: true }), tables, 0)).toEqual({ kind: "drop", reason: "noTarget" });
    targets = ["t2"];
    expect(decide(segment(1000, { syn: true }), tables, 0)).toMatchObject({ kind: "forward", target: "t2" });
  });

  it("passes no packet twice, and none that a node has authenticated, before it looks at any table", () => {
    const numbered = (number: number, flags: TcpFlags): Uint8Array =>
      espPacket(sa, tcpSegment(1000, 80, flags), 6, { sequence: number });
    const first = numbered(7, { syn: true });
    const way = decide(first, tables, 0);
    if (way.kind !== "forward") throw new Error("not forwarded");
    expect(way.esp.sequence).toBe(7);
    way.replay.passed(7, way.target, icvMark(way.esp), 0);
    expect(decide(first, tables, 1)).toEqual({ kind: "drop", reason: "replayed" });
    expect(decide(flipped(first, first.length - 30), tables, 1)).toEqual({ kind: "drop", reason: "forged" });
    const [connection] = tables.connections.list();
    if (connection === undefined) throw new Error("no entry");
    tables.connections.answered(connection, { target: "t1", presence: "open", askedMs: 1 }, 1);
    tables.connections.closed(connection, "t1", 2);
    way.replay.close(2);
    way.replay.answered("t1", 1_000, { highest: 7n, bits: new Uint8Array([1]), bornSeconds: 1n });
    // The SYN of a closed connection would else be the port's next one, on another target.
    expect(decide(numbered(7, { syn: true }), tables, 1_000)).toEqual({ kind: "drop", reason: "replayed" });
    expect(tables.connections.list()).toMatchObject([{ target: "t1", state: "closing" }]);
    way.replay.passed(2_000, "t2", 0, 1_000);
    way.replay.close(1_000);
    way.replay.answered("t2", 2_000, { highest: 2_000n, bits: new Uint8Array([1]), bornSeconds: 1n });
    expect(decide(numbered(8, { ack: true }), tables, 2_000)).toEqual({ kind: "drop", reason: "tooOld" });
    expect(decide(numbered(1_999, { ack: true }), tables, 2_000)).toMatchObject({ kind: "forward", target: "t1" });
  });

  it("passes the real packet on although a forged one with its number was passed before, and no other", () => {
    const real = espPacket(sa, tcpSegment(1000, 80, { syn: true }), 6, { sequence: 7 });
    const forged = flipped(real, real.length - 1);
    const way = decide(forged, tables, 0);
    if (way.kind !== "forward") throw new Error("not forwarded");
    way.replay.passed(7, way.target, icvMark(way.esp), 0);
    expect(decide(forged, tables, 1)).toEqual({ kind: "drop", reason: "forged" });
    const again = decide(real, tables, 1);
    expect(again).toMatchObject({ kind: "forward", target: "t1" });
    if (again.kind !== "forward") throw new Error("not forwarded");
    again.replay.passed(7, again.target, icvMark(again.esp), 1);
    expect(decide(real, tables, 2)).toEqual({ kind: "drop", reason: "replayed" });
    // Also when its node is lost before it has said whether it received it.
    again.replay.abandon("t1", 3);
    expect(decide(real, tables, 4)).toEqual({ kind: "drop", reason: "replayed" });
    expect(decide(forged, tables, 4)).toEqual({ kind: "drop", reason: "forged" });
  });

  it("steers an IPv6 SA, and drops header chains without end", () => {
    const v6: SharedSa = {
      ...sampleSa(sa.suite, "transport", 0xc0000006),
      dvipa: "2001:db8::100",
      peer: "2001:db8::10",
    };
    tables.sas.add(v6);
    const syn = (extensions: readonly Extension[], source = v6.peer): Uint8Array =>
      ipv6Packet(source, v6.dvipa, 50, espPayload(v6, tcpSegment(1000, 80, { syn: true }), 6), extensions);
    const endless = Array.from({ length: 30 }, () => options(60));
    expect(decide(syn(endless), tables, 0)).toEqual({ kind: "drop", reason: "extensionHeaders" });
    expect(decide(syn([], "2001:db8::66"), tables, 0)).toEqual({ kind: "drop", reason: "wrongSource" });
    expect(tables.connections.size).toBe(0);
    expect(decide(syn([options(60)]), tables, 0)).toMatchObject({ kind: "forward", target: "t1", isNew: true });
    expect(decide(syn([]), tables, 1)).toMatchObject({ kind: "forward", target: "t1", isNew: false });
  });

  it("forgets an SA that was removed", () => {
    tables.sas.remove(sa);
    expect(decide(segment(1000, { syn: true }), tables, 0)).toMatchObject({ kind: "drop", reason: "unknownSpi" });
  });

  it("steers ESP in UDP, from whatever port, as if it were bare", () => {
    const natted: SharedSa = { ...sampleSa(sa.suite, "tunnel", 0xc0000007), peerUdpPort: 40_000 };
    tables.sas.add(natted);
    const bare = espPacket(natted, tcpSegment(1000, 80, { syn: true }), 6);
    const way = decide(inUdp(bare, { sourcePort: 40_001 }), tables, 0);
    expect(way).toMatchObject({ kind: "forward", target: "t1", isNew: true });
    expect(way.kind === "forward" && way.stripped?.subarray(20)).toEqual(bare.subarray(20));
    const ping = decide(inUdp(espPacket(natted, new Uint8Array(64), 1)), tables, 0);
    expect(ping).toMatchObject({ kind: "local", reason: "notTcp" });
    expect(ping.kind === "local" && ping.stripped?.[9]).toBe(50);
    expect(decide(inUdp(bare, { source: "192.0.2.66" }), tables, 0)).toEqual({ kind: "drop", reason: "wrongSource" });
  });

  it("drops ESP in UDP for an SA that is bare, bare ESP for one in UDP, and UDP of no SA", () => {
    const natted: SharedSa = { ...sampleSa(sa.suite, "tunnel", 0xc0000007), peerUdpPort: 40_000 };
    tables.sas.add(natted);
    const syn = tcpSegment(1000, 80, { syn: true });
    expect(decide(espPacket(natted, syn, 6), tables, 0)).toEqual({ kind: "drop", reason: "missingUdp" });
    expect(decide(inUdp(espPacket(sa, syn, 6)), tables, 0)).toEqual({ kind: "drop", reason: "unexpectedUdp" });
    const unknown = inUdp(espPacket(sampleSa(sa.suite, "transport", 0xc0000009), syn, 6));
    expect(decide(unknown, tables, 0)).toMatchObject({ reason: "unknownSpi", unknown: { spi: 0xc0000009 } });
    expect(tables.connections.size).toBe(0);
  });

  it("steers AH, and never takes an SA of ESP for one of AH with the same SPI", () => {
    const ah = sampleSa({ kind: "ah", integrity: "hmac-sha2-256" }, "transport");
    expect(ah.inbound.spi).toBe(sa.inbound.spi);
    const syn = ahPacket(ah, tcpSegment(1000, 80, { syn: true }), 6);
    expect(decide(syn, tables, 0)).toMatchObject({ kind: "drop", reason: "unknownSpi" });
    tables.sas.add(ah);
    const steered = decide(syn, tables, 0);
    expect(steered).toMatchObject({ kind: "forward", target: "t1", isNew: true });
    expect(steered.kind === "forward" && steered.sa).toBe(ah);
    // The SA of ESP is still there under the same SPI, and stays when the other one goes.
    const other = decide(segment(1001, { syn: true }), tables, 0);
    expect(other.kind === "forward" && other.sa).toBe(sa);
    const spoofed = ahPacket(ah, tcpSegment(1, 80, { syn: true }), 6, { source: "192.0.2.66" });
    expect(decide(spoofed, tables, 0)).toEqual({ kind: "drop", reason: "wrongSource" });
    tables.sas.remove(ah);
    expect(decide(syn, tables, 1)).toMatchObject({ kind: "drop", reason: "unknownSpi" });
    expect(decide(segment(1000, { ack: true }), tables, 1)).toMatchObject({ kind: "forward", target: "t1", sa });
  });

  it("drops AH in front of ESP, and a header length that is not the SA's, each with its reason", () => {
    const ah = sampleSa({ kind: "ah", integrity: "hmac-sha2-512" }, "transport");
    tables.sas.add(ah);
    const bundle = ahPacket(ah, espPayload(sa, tcpSegment(1000, 80, { syn: true }), 6), 50);
    expect(decide(bundle, tables, 0)).toEqual({ kind: "drop", reason: "nested" });
    const twice = ahPacket(ah, ahPayload(ah, tcpSegment(1000, 80, { syn: true }), 6), 51);
    expect(decide(twice, tables, 0)).toEqual({ kind: "drop", reason: "nested" });
    const shorter: SharedSa = { ...ah, suite: { kind: "ah", integrity: "hmac-sha2-256" } };
    const cut = ahPacket(shorter, tcpSegment(1000, 80, { syn: true }), 6);
    expect(decide(cut, tables, 0)).toEqual({ kind: "drop", reason: "tooShort" });
    expect(decide(ahPacket(ah, new Uint8Array(64), 1), tables, 0)).toMatchObject({ kind: "local", reason: "notTcp" });
    expect(tables.connections.size).toBe(0);
  });

  it("tells SAs of different DVIPAs with one SPI apart, and forgets one without the other", () => {
    const other: SharedSa = { ...sampleSa(sa.suite, "transport", sa.inbound.spi), dvipa: "192.0.2.101" };
    const syn = (of: SharedSa): Uint8Array => espPacket(of, tcpSegment(1000, 80, { syn: true }), 6);
    expect(decide(syn(other), tables, 0)).toMatchObject({ kind: "drop", reason: "unknownSpi" });
    tables.sas.add(other);
    expect(decide(syn(other), tables, 0)).toMatchObject({ kind: "forward", sa: { id: other.id } });
    expect(decide(syn(sa), tables, 0)).toMatchObject({ kind: "forward", sa: { id: sa.id } });
    tables.sas.remove(sa);
    expect(decide(syn(sa), tables, 0)).toMatchObject({ kind: "drop", reason: "unknownSpi" });
    expect(decide(syn(other), tables, 0)).toMatchObject({ kind: "forward", sa: { id: other.id } });
  });

  it("survives noise", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 120 }), (bytes) => {
        expect(["drop", "local", "forward"]).toContain(decide(bytes, tables, 0).kind);
      }),
    );
  });
});
