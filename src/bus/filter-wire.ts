import { isIP } from "node:net";
import { z } from "zod";
import {
  FILTER_RULE_NAME,
  MAX_FILTER_PORTS,
  MAX_FILTER_RULES,
  MAX_FILTER_SOURCES,
  type DvipaFilter,
} from "../sa/filter.ts";
import { u16 } from "./fields.ts";

/** An address, or one with a prefix length: these texts go into a ruleset. */
const source = z
  .string()
  .max(49)
  .refine((text) => {
    const [, address = "", , prefix = "0"] = /^([0-9a-f.:]+)(\/(0|[1-9]\d{0,2}))?$/.exec(text) ?? [];
    const version = isIP(address);
    return version !== 0 && Number(prefix) <= (version === 4 ? 32 : 128);
  });

const ports = z
  .array(
    z
      .strictObject({ first: u16.min(1), last: u16.min(1) })
      .refine(({ first, last }: { first: number; last: number }) => first <= last),
  )
  .max(MAX_FILTER_PORTS);

/** A DVIPA's filter as it travels. */
export const dvipaFilter: z.ZodType<DvipaFilter> = z.strictObject({
  at: z.enum(["target", "distributor"]),
  rules: z
    .array(
      z.strictObject({
        name: z.string().regex(FILTER_RULE_NAME),
        sources: z.array(source).max(MAX_FILTER_SOURCES),
        protocol: z.number().int().min(1).max(255).nullable(),
        sourcePorts: ports,
        ports,
        action: z.enum(["accept", "drop"]),
        log: z.boolean(),
      }),
    )
    .max(MAX_FILTER_RULES),
  policy: z.enum(["accept", "drop"]),
  log: z.boolean(),
});
