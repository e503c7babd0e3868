import { randomBytes } from "node:crypto";
import { describe, expect, test } from "vitest";
import { CookieJar } from "../../../src/ike/cookie.ts";

const PERIOD_MS = 1000;
const subject = {
  nonceI: new Uint8Array(16).fill(1),
  spiI: new Uint8Array(8).fill(2),
  remote: { address: "192.0.2.1", port: 500 },
};
const jar = () => new CookieJar((lengthBytes) => new Uint8Array(randomBytes(lengthBytes)), PERIOD_MS);

describe("cookies (RFC 7296 §2.6)", () => {
  test("bound to nonce, SPI, address and port", () => {
    const cookies = jar();
    const cookie = cookies.issue(0, subject);
    expect(cookies.verify(0, subject, cookie)).toBe(true);
    const others = [
      { ...subject, nonceI: new Uint8Array(16) },
      { ...subject, spiI: new Uint8Array(8) },
      { ...subject, remote: { address: "192.0.2.2", port: 500 } },
      { ...subject, remote: { address: "192.0.2.1", port: 501 } },
    ];
    for (const other of others) expect(cookies.verify(0, other, cookie)).toBe(false);
    expect(cookies.verify(0, subject, cookie.subarray(1))).toBe(false);
    expect(cookies.verify(0, subject, new Uint8Array(0))).toBe(false);
    expect(jar().verify(0, subject, cookie)).toBe(false);
  });

  test("valid for one to two periods, not after a long silence", () => {
    const cookies = jar();
    const cookie = cookies.issue(0, subject);
    expect(cookies.verify(PERIOD_MS, subject, cookie)).toBe(true);
    expect(cookies.verify(2 * PERIOD_MS, subject, cookie)).toBe(false);
    const silent = jar();
    const old = silent.issue(0, subject);
    expect(silent.verify(10 * PERIOD_MS, subject, old)).toBe(false);
  });
});
