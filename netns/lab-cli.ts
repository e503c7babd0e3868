/** `node netns/lab-cli.ts up DIRECTORY PREFIX TARGETS | down DIRECTORY PREFIX TARGETS`: called by `lab.sh` only. */
import { rm } from "node:fs/promises";
import { Lab } from "./lab.ts";
import { planNodes } from "./layout.ts";
import { LabNetwork } from "./network.ts";

const [action, directory, prefix, targets] = process.argv.slice(2);
if (directory === undefined || prefix === undefined || targets === undefined) throw new Error("call netns/lab.sh");

if (action === "up") {
  const lab = await Lab.create({ directory, prefix, targets: Number(targets) });
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
