import { describe, expect, it } from "vitest";
import { TargetChoice } from "../../../src/daemons/node/target-choice.ts";
import type { Distribution } from "../../../src/steer/choose.ts";

const DVIPA = "192.0.2.100";
const ROUND_ROBIN: Distribution = { method: "roundRobin", weights: {}, affinitySeconds: 0 };
const key = (port = 80): { client: string; clientPort: number; dvipa: string; port: number } => ({
  client: "192.0.2.10",
  clientPort: 1000,
  dvipa: DVIPA,
  port,
});

/** t1 and t2 listen on port 80, t2 on 81 as well, t3 nowhere. */
function choice(reachable = ["t1", "t2", "t3"], distribution = ROUND_ROBIN): TargetChoice {
  return new TargetChoice(new Map([[DVIPA, distribution]]), {
    reachable: () => reachable,
    loadOf: (target, _dvipa, port) => (target === "t2" ? 0.5 : target === "t1" && port === 80 ? 0 : null),
    connectionsOf: () => 0,
  });
}

describe("a new connection", () => {
  it("goes to a target whose application listens on its port", () => {
    const all = choice();
    const chosen = (port: number): unknown[] => [0, 0, 0].map((nowMs) => all.choose(key(port), nowMs));
    expect(chosen(80)).toEqual([{ target: "t1" }, { target: "t2" }, { target: "t1" }]);
    expect(chosen(81)).toEqual([{ target: "t2" }, { target: "t2" }, { target: "t2" }]);
  });

  it("goes nowhere when nobody listens, or nobody can be reached", () => {
    expect(choice(["t1", "t3"]).choose(key(81), 0)).toBe("noListener");
    expect(choice([]).choose(key(), 0)).toBe("noTarget");
  });

  it("does not go to a target that drains, not even by affinity, until that is over", () => {
    const all = choice(["t1", "t2"], { ...ROUND_ROBIN, affinitySeconds: 60 });
    expect(all.choose(key(), 0)).toEqual({ target: "t1" });
    all.drain("t1", true);
    expect([all.isDraining("t1"), all.isDraining("t2")]).toEqual([true, false]);
    expect(all.choose(key(), 1)).toEqual({ target: "t2" });
    all.drain("t2", true);
    expect(all.choose(key(), 2)).toBe("noTarget");
    all.drain("t1", false);
    expect(all.choose(key(), 3)).toEqual({ target: "t1" });
  });
});
