import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { selectorBoxes } from "../../../src/daemons/node/filter-boxes.ts";
import type { TrafficSelector } from "../../../src/sa/spec.ts";

const selector = (first: string, last: string, protocol = 0): TrafficSelector => ({
  ...{ startAddress: first, endAddress: last, protocol, startPort: 0, endPort: 65_535 },
});

/** Of a box's text, as addresses of a world of 16. */
function intervals(text: string): [number, number][] {
  return text.split(" . ").map((part) => {
    const [first = "", last = first] = part.split("-");
    return [Number(first.split(".")[3]), Number(last.split(".")[3])];
  });
}

describe("selectorBoxes", () => {
  it("says selectors in nftables' words", () => {
    const local = [selector("192.0.2.100", "192.0.2.100"), selector("2001:db8::100", "2001:db8::100")];
    const remote = [selector("10.0.0.0", "10.0.0.255"), selector("2001:db8:1::", "2001:db8:1::ff", 6)];
    expect(selectorBoxes({ localSelectors: local, remoteSelectors: remote })).toEqual([
      { version: 4, text: "10.0.0.0-10.0.0.255 . 192.0.2.100" },
      { version: 6, text: "2001:db8:1::-2001:db8:1::ff . 2001:db8::100" },
    ]);
  });

  it("leaves out pairs that have no protocol in common", () => {
    const boxes = selectorBoxes({
      localSelectors: [selector("192.0.2.100", "192.0.2.100", 6)],
      remoteSelectors: [selector("10.0.0.1", "10.0.0.1", 17), selector("10.0.0.2", "10.0.0.2", 0)],
    });
    expect(boxes.map(({ text }) => text)).toEqual(["10.0.0.2 . 192.0.2.100"]);
  });

  it("has every pair of addresses that the selectors have, and each once", () => {
    const range = fc
      .tuple(fc.integer({ min: 0, max: 15 }), fc.integer({ min: 0, max: 15 }))
      .map(([a, b]) => selector(`10.0.0.${Math.min(a, b)}`, `10.0.0.${Math.max(a, b)}`));
    const list = fc.array(range, { minLength: 1, maxLength: 4 });
    const holds = ({ startAddress, endAddress }: TrafficSelector, host: number): boolean =>
      Number(startAddress.split(".")[3]) <= host && host <= Number(endAddress.split(".")[3]);
    fc.assert(
      fc.property(list, list, (localSelectors, remoteSelectors) => {
        const boxes = selectorBoxes({ localSelectors, remoteSelectors }).map(({ text }) => intervals(text));
        for (let source = 0; source < 16; source++) {
          for (let destination = 0; destination < 16; destination++) {
            const isWanted =
              remoteSelectors.some((one) => holds(one, source)) &&
              localSelectors.some((one) => holds(one, destination));
            const isIn = ([from, to]: [number, number][]): boolean =>
              from !== undefined &&
              to !== undefined &&
              from[0] <= source &&
              source <= from[1] &&
              to[0] <= destination &&
              destination <= to[1];
            expect(boxes.filter(isIn)).toHaveLength(isWanted ? 1 : 0);
          }
        }
      }),
      { numRuns: 60 },
    );
  });
});
