import { expect, it } from "vitest";
import { Namespace } from "../support/namespace.ts";

// One namespace: a socket with the smallest buffer, and more events than it holds.

it("an overrun of events is reported, and neither ends the process nor the events", async () => {
  await using n = await Namespace.create("overrun");
  const said = await n.exec(process.execPath, ["test/netns/net/overrun-program.ts"]);
  const { overruns, eventsAfter } = JSON.parse(said) as { overruns: number; eventsAfter: number };
  expect(overruns).toBeGreaterThan(0);
  expect(eventsAfter).toBeGreaterThan(0);
});
