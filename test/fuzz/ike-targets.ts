import { coreTarget } from "./core-target.ts";
import { decoderTargets } from "./decoders.ts";
import type { Target } from "./target.ts";

/** What a positive control breaks. */
export type Plant = "none" | "throw" | "loop";

/** Everything that `fuzz -- ike` tries, in turn. The core comes as often as all decoders together: it is what peers reach. */
export function fuzzTargets(plant: Plant): Target[] {
  const decoders = decoderTargets();
  const core = coreTarget();
  const targets = decoders.flatMap((decoder) => [decoder, core]);
  return plant === "none" ? targets : targets.map((target) => planted(target, plant));
}

/** Shorter messages than this have no whole SA payload. */
const PLANT_BYTES = 100;

/** With the bug of a decoder that reads, or counts down to, more bytes than there are. */
function planted(target: Target, plant: "throw" | "loop"): Target {
  if (target.name !== "wire.message") return target;
  return {
    ...target,
    run: (bytes) => {
      if (bytes.length < PLANT_BYTES && plant === "throw") throw new TypeError("planted");
      for (let left = PLANT_BYTES; left !== 0 && bytes.length < PLANT_BYTES;) left = 1 + bytes.length;
      return target.run(bytes);
    },
  };
}
