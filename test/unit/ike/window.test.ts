import { describe, expect, test } from "vitest";
import { DEFAULT_IKE_SETTINGS } from "../../../src/ike/settings.ts";
import { OwnRequests, RequestWindow } from "../../../src/ike/window.ts";

const { timing } = DEFAULT_IKE_SETTINGS;
const bytes = (...values: number[]) => Uint8Array.from(values);

describe("the peer's requests", () => {
  test("new, in progress, repeated, altered, outside", () => {
    const window = new RequestWindow(1);
    expect(window.classify(0, bytes(1)).kind).toBe("outside");
    expect(window.classify(2, bytes(1)).kind).toBe("outside");
    expect(window.classify(1, bytes(1)).kind).toBe("new");
    window.begin(1, bytes(1));
    expect(window.classify(1, bytes(1)).kind).toBe("inProgress");
    expect(window.isBusy).toBe(true);
    expect(window.classify(2, bytes(2)).kind).toBe("early");
    expect(window.classify(3, bytes(3)).kind).toBe("outside");
    window.finish([bytes(9)]);
    expect(window.isBusy).toBe(false);
    expect(window.classify(1, bytes(1))).toEqual({ kind: "repeated", response: [bytes(9)] });
    expect(window.classify(1, bytes(2)).kind).toBe("altered");
    expect(window.classify(2, bytes(2)).kind).toBe("new");
    window.begin(2, bytes(2));
    expect(window.classify(1, bytes(1)).kind).toBe("outside");
  });

  test("an answer without a request, or twice, is our bug", () => {
    const window = new RequestWindow(0);
    expect(() => window.finish([bytes(1)])).toThrow("invariant");
    window.begin(0, bytes(1));
    window.finish([bytes(1)]);
    expect(() => window.finish([bytes(1)])).toThrow("invariant");
    expect(() => window.begin(0, bytes(1))).toThrow("invariant");
  });
});

describe("our requests", () => {
  test("one at a time, repeated with doubling pauses, then given up", () => {
    const own = new OwnRequests();
    own.enqueue({ kind: "dpd" });
    own.enqueue({ kind: "deleteIke" });
    expect(own.next()).toEqual({ kind: "dpd" });
    expect(own.start(0, timing, { kind: "dpd" }, (messageId) => [bytes(messageId)])).toEqual([bytes(0)]);
    expect(own.next()).toBeNull();
    expect(() => own.start(0, timing, { kind: "dpd" }, (messageId) => [bytes(messageId)])).toThrow("invariant");
    const sentAtMs: number[] = [];
    for (let i = 1; i < timing.attempts; i++) {
      const nowMs = own.nextAtMs ?? 0;
      expect(own.due(nowMs - 1, timing)).toBeNull();
      expect(own.due(nowMs, timing)).toEqual([bytes(0)]);
      sentAtMs.push(nowMs);
    }
    expect(sentAtMs).toEqual([1000, 3000, 7000, 15_000, 31_000]);
    expect(own.due(62_999, timing)).toBeNull();
    expect(own.due(63_000, timing)).toBe("giveUp");
  });

  test("the answer frees the wire for the next, with the next ID", () => {
    const own = new OwnRequests();
    own.enqueue({ kind: "dpd" });
    own.enqueue({ kind: "deleteChild", saId: "x" });
    expect(own.next()).toEqual({ kind: "dpd" });
    own.start(0, timing, { kind: "dpd" }, (messageId) => [bytes(messageId)]);
    expect(own.has(({ kind }) => kind === "dpd")).toBe(true);
    expect(own.has(({ kind }) => kind === "deleteChild")).toBe(true);
    expect(own.expects(0)).toBe(true);
    expect(own.expects(1)).toBe(false);
    expect(own.answered()).toEqual({ kind: "dpd" });
    expect(own.expects(0)).toBe(false);
    const next = { kind: "deleteChild", saId: "x" } as const;
    expect(own.next()).toEqual(next);
    expect(own.start(0, timing, next, (messageId) => [bytes(messageId)])).toEqual([bytes(1)]);
    expect(own.idle).toBe(false);
    own.clear();
    expect(own.idle).toBe(true);
  });
});
