/** The first segments of connections that a target opens, with a queue that the test fills. */
import { beforeEach, describe, expect, it } from "vitest";
import { Counters } from "../../../src/core/counters.ts";
import { Openings } from "../../../src/daemons/node/openings.ts";
import type { QueueOptions } from "../../../src/net/nfqueue.ts";
import type { ConnectionKey } from "../../../src/steer/connection-table.ts";
import { ipv4Packet, tcpSegment } from "../sa/esp-builder.ts";
import { ipv6Packet } from "../sa/ipv6-builder.ts";
import { FakeClock, settle } from "./fake-clock.ts";

const DVIPA = "192.0.2.100";
const PEER = "192.0.2.10";
const syn = (port: number): Uint8Array => ipv4Packet(DVIPA, PEER, 6, tcpSegment(port, 8080, { syn: true }));
const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

let counters: Counters;
let openings: Openings;
let queue: QueueOptions;
let opened: number;
let verdicts: string[];
let asked: ConnectionKey[];
let answer: (connection: ConnectionKey) => Promise<boolean>;

beforeEach(async () => {
  counters = new Counters();
  verdicts = [];
  asked = [];
  opened = 0;
  answer = () => Promise.resolve(true);
  openings = new Openings({
    ask: (connection) => {
      asked.push(connection);
      return answer(connection);
    },
    open: (options) => {
      queue = options;
      opened += 1;
      return Promise.resolve({
        verdict: (id: number, verdict: string) => void verdicts.push(`${id} ${verdict}`),
        close: () => Promise.resolve(),
      });
    },
    clock: new FakeClock(),
    counters,
    log,
  });
  await openings.start();
});

const take = (id: number, payload: Uint8Array): void =>
  queue.onPacket({ id, payload, lengthBytes: payload.length, mark: 0, indev: 0 });

describe("the first segment of a connection", () => {
  it("waits until the distributor knows of it", async () => {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    answer = () => promise;
    take(1, syn(40_000));
    await settle();
    expect(asked).toEqual([{ client: PEER, clientPort: 8080, dvipa: DVIPA, port: 40_000 }]);
    expect(verdicts).toEqual([]);
    resolve(true);
    await settle();
    expect(verdicts).toEqual(["1 accept"]);
  });

  it("is dropped when the distributor refuses, or does not answer", async () => {
    answer = () => Promise.resolve(false);
    take(1, syn(40_000));
    await settle();
    answer = () => Promise.reject(new Error("out of reach"));
    take(2, syn(40_000));
    await settle();
    expect(verdicts).toEqual(["1 drop", "2 drop"]);
    expect(counters.get("opening.refused")).toBe(1);
    expect(counters.get("opening.unanswered")).toBe(1);
  });

  it("is asked for once while it waits", async () => {
    answer = () => new Promise(() => {});
    take(1, syn(40_000));
    take(2, syn(40_000));
    take(3, syn(40_001));
    await settle();
    expect(asked.map(({ port }) => port)).toEqual([40_000, 40_001]);
    expect(verdicts).toEqual(["2 drop"]);
  });

  it("is one of no more than so many that wait", async () => {
    answer = () => new Promise(() => {});
    for (let at = 0; at < 2_000; at++) take(at, syn(10_000 + at));
    await settle();
    expect(asked).toHaveLength(1_024);
    expect(verdicts).toHaveLength(2_000 - 1_024);
    expect(counters.get("opening.tooMany")).toBe(2_000 - 1_024);
  });

  it("is read from IPv6, and dropped when there is no TCP header in it", async () => {
    take(1, ipv6Packet("2001:db8::100", "2001:db8::10", 6, tcpSegment(40_000, 8080, { syn: true })));
    for (const bytes of [new Uint8Array(), syn(1).subarray(0, 30), ipv4Packet(DVIPA, PEER, 17, new Uint8Array(40))])
      take(2, bytes);
    await settle();
    expect(asked).toEqual([{ client: "2001:db8::10", clientPort: 8080, dvipa: "2001:db8::100", port: 40_000 }]);
    expect(verdicts).toEqual(["2 drop", "2 drop", "2 drop", "1 accept"]);
  });

  it("has one queue, however often it is started", async () => {
    await Promise.all([openings.start(), openings.start()]);
    expect(opened).toBe(1);
  });
});
