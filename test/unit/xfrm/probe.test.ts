import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { refuseEspOffload } from "../../../src/xfrm/probe.ts";

it("refuses ESP offload by name, with the lines that keep it out", async () => {
  const directory = await mkdtemp(join(tmpdir(), "esplex-modules-"));
  try {
    expect(() => refuseEspOffload(directory)).not.toThrow();
    await mkdir(join(directory, "esp6_offload"));
    const details = { unload: "modprobe -r esp6_offload", modprobeConf: "install esp6_offload /bin/false" };
    expect(() => refuseEspOffload(directory)).toThrow(
      expect.objectContaining({ code: "kernel.offload", details: expect.objectContaining(details) as unknown }),
    );
  } finally {
    await rm(directory, { recursive: true });
  }
});
