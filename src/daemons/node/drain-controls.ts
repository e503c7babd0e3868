import { EsplexError } from "../../core/errors.ts";
import type { ControlHandlers } from "../control.ts";
import type { Distributor } from "./distributor.ts";

/** What an operator may order about a distributor's targets. */
export function drainControls(distributor: Pick<Distributor, "drain" | "targetStatus">): ControlHandlers {
  return {
    drain: ({ target, isDraining }) => {
      const names = distributor
        .targetStatus()
        .map(({ name }) => name)
        .sort();
      if (typeof target !== "string" || !names.includes(target)) {
        throw new EsplexError("config.invalid", `no such target; the targets here: ${names.join(", ")}`);
      }
      if (typeof isDraining !== "boolean") throw new EsplexError("config.invalid", "isDraining is missing");
      distributor.drain(target, isDraining);
    },
  };
}
