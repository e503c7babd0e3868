/** `node netns/lab-cli.ts up|down DIRECTORY PREFIX TARGETS IP-VERSION`: called by `lab.sh` only. */
import { rm } from "node:fs/promises";
import { Lab } from "./lab.ts";
import { planNodes } from "./layout.ts";
import { LabNetwork } from "./network.ts";

const [action, directory, prefix, targets, ipVersion] = process.argv.slice(2);
if (directory === undefined || prefix === undefined || targets === undefined) throw new Error("call netns/lab.sh");

if (action === "up") {
  const lab = await Lab.create({
    directory,
    prefix,
    targets: Number(targets),
    versions: { service: ipVersion === "6" ? 6 : 4 },
  });
  try {
    await lab.startCluster();
    await lab.startClient();
  } catch (error) {
    await lab.destroy();
    throw error;
  }
} else if (action === "down") {
  await LabNetwork.existing(prefix, planNodes(Number(targets))).destroy();
  await rm(directory, { recursive: true, force: true });
} else {
  throw new Error("call netns/lab.sh");
}
