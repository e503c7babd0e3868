/** The parts of `npm run fault -- lease-crash` that judge: each is shown to find what it is there for. */
import { describe, expect, it } from "vitest";
import { streamChunks } from "../../../netns/app-stream.ts";
import { burntBound, burntByFailures } from "../../fault/burnt.ts";
import { judgeTransfer } from "../../fault/client-load.ts";
import { shuffledFaults } from "../../fault/faults.ts";
import { SeededRandom } from "../../fault/random.ts";

const BYTES = 1000;
const body = Buffer.concat([...streamChunks("t1", BYTES)]);
const flipped = Buffer.from(body);
flipped[100] = (flipped[100] ?? 0) ^ 1;

describe("a download", () => {
  it.each([
    { name: "whole", exitCode: 0, node: "t1", body, is: "finished" },
    { name: "cut, and curl says so", exitCode: 28, node: "t1", body: body.subarray(0, 300), is: "failedCleanly" },
    { name: "refused", exitCode: 7, node: "", body: Buffer.alloc(0), is: "failedCleanly" },
    { name: "with a wrong bit", exitCode: 0, node: "t1", body: flipped, is: "corrupted" },
    { name: "cut behind a wrong bit", exitCode: 28, node: "t1", body: flipped.subarray(0, 300), is: "corrupted" },
    { name: "of another node", exitCode: 0, node: "t2", body, is: "corrupted" },
    { name: "short without an error", exitCode: 0, node: "t1", body: body.subarray(0, 300), is: "corrupted" },
  ])("$name: $is", ({ exitCode, node, body: received, is }) => {
    expect(judgeTransfer({ exitCode, node, body: received }, BYTES)).toBe(is);
  });
});

describe("faults", () => {
  it("come in the same order from the same seed, each kind in every deck", () => {
    const [first, again, other] = [5, 5, 6].map((seed) => shuffledFaults(new SeededRandom(seed), ["t1", "t2", "t3"]));
    expect(again).toEqual(first);
    expect(other).not.toEqual(first);
    const kinds = new Set(first?.map(({ kind }) => kind));
    expect([...kinds].sort()).toEqual(["cutLink", "failedWrite", "killCoupling", "killDistributor", "killTarget"]);
  });
});

describe("burnt numbers (C6)", () => {
  it("are those of failures, and what nobody accounts for", () => {
    const burnt = { replaced: 1000, released: 500, retired: 70, nodeRestart: 1, lostGrant: 2, serviceCrash: 4 };
    expect(burntByFailures({ burnt, outstanding: 8 })).toBe(15);
  });

  it("are bounded by what was outstanding and one persisted window", () => {
    // A sole holder's 3/2 * 8192, and 3/2 of a lease of two at the others.
    const all = 12_288 + 3 * 255;
    expect(burntBound([], 4, 1024)).toBe(all);
    expect(burntBound([{ kind: "killTarget", node: "t1" }], 4, 1024)).toBe(all + 12_288);
    expect(burntBound([{ kind: "cutLink", node: "cf" }], 4, 1024)).toBe(2 * all);
    expect(burntBound([{ kind: "killCoupling", node: "cf" }], 4, 1024)).toBe(2 * all + 98_304);
  });
});
