import { describe, expect, it } from "vitest";
import { Tunnels } from "../../../src/daemons/node/tunnels.ts";
import { sampleSa } from "../sa/esp-builder.ts";

const suite = { kind: "aes-gcm-16", keyBits: 128 } as const;

describe("Tunnels", () => {
  it("gives SAs with the same ends, mode, protocol and selectors one reqid, others another", () => {
    const tunnels = new Tunnels();
    const first = sampleSa(suite, "transport");
    const rekeyed = sampleSa(suite, "transport");
    const other = sampleSa(suite, "tunnel");
    const ah = sampleSa({ kind: "ah", integrity: "hmac-sha2-256" }, "transport");
    const reqid = tunnels.take(first);
    expect(tunnels.take(rekeyed)).toBe(reqid);
    expect(tunnels.take(other)).not.toBe(reqid);
    expect(tunnels.take({ ...sampleSa(suite, "tunnel"), gateway: "192.0.2.1" })).not.toBe(tunnels.take(other));
    // A policy names one protocol.
    expect(tunnels.take(ah)).not.toBe(reqid);
  });

  it("ends a tunnel with its last SA", () => {
    const tunnels = new Tunnels();
    const first = sampleSa(suite, "transport");
    const rekeyed = sampleSa(suite, "transport");
    const reqid = tunnels.take(first);
    tunnels.take(rekeyed);
    expect(tunnels.release(first)).toBeNull();
    expect(tunnels.release(rekeyed)).toBe(reqid);
    expect(tunnels.release(rekeyed)).toBeNull();
  });

  it("never gives two living tunnels one reqid", () => {
    const tunnels = new Tunnels();
    const sas = Array.from({ length: 50 }, (_, i) => ({ ...sampleSa(suite, "transport"), peer: `198.51.100.${i}` }));
    expect(new Set(sas.map((sa) => tunnels.take(sa))).size).toBe(50);
  });
});
