import { randomBytes } from "node:crypto";
import { describe, expect, test } from "vitest";
import { Repetitions } from "../../../src/ike/repetitions.ts";

const fresh = (): Repetitions => new Repetitions((lengthBytes) => new Uint8Array(randomBytes(lengthBytes)));
const remote = { address: "203.0.113.7", port: 500 };
const spi = (): Uint8Array => new Uint8Array(randomBytes(8));

describe("requests that come a second time", () => {
  test("the first is none; one too soon neither; later ones are, each after a pause", () => {
    const seen = fresh();
    const spiI = spi();
    const times = [0, 399, 400, 401, 799, 800, 60_800, 120_801, 121_201];
    expect(times.map((nowMs) => seen.isRepeated(nowMs, remote, spiI))).toEqual(
      [false, false, true, false, false, true, true, false, true], // 120,801: after more than a minute it is the first again
    );
  });

  test("another SPI, port or address is another request", () => {
    const seen = fresh();
    const spiI = spi();
    seen.isRepeated(0, remote, spiI);
    expect(seen.isRepeated(500, remote, spi())).toBe(false);
    expect(seen.isRepeated(500, { ...remote, port: 501 }, spiI)).toBe(false);
    expect(seen.isRepeated(500, { ...remote, address: "2001:db8::7" }, spiI)).toBe(false);
    expect(seen.isRepeated(500, remote, spiI)).toBe(true);
  });

  test("a flood of other requests passes for no repetition, and most of what is remembered outlives it", () => {
    const FLOOD = 20_000;
    const CLIENTS = 200;
    const seen = fresh();
    const clients = Array.from({ length: CLIENTS }, spi);
    for (const spiI of clients) seen.isRepeated(0, remote, spiI);
    let mistaken = 0;
    for (let i = 0; i < FLOOD; i++) {
      const stranger = { address: `198.51.100.${i % 254}`, port: 1024 + (i % 60_000) };
      if (seen.isRepeated(500 + i / 100, stranger, spi())) mistaken++;
    }
    expect(mistaken).toBe(0);
    // A place of 65,536 is taken by one of 20,000 with a chance of 26 %.
    expect(clients.filter((spiI) => seen.isRepeated(1000, remote, spiI)).length).toBeGreaterThan(CLIENTS / 2);
  });
});
