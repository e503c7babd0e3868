import type { Lab } from "../../netns/lab.ts";
import { CLIENT_ADDRESS, DVIPA } from "../../netns/layout.ts";
import { requestName } from "../../netns/traffic.ts";

/**
 * Positive control of a whole run: the bridge repeats ESP packets of d1 and t1 to the client, and sends some packets of the DVIPA in
 * clear. A checker that says nothing then is worth nothing.
 */
export async function plantFaultsOnWire(lab: Lab, say: (line: string) => void): Promise<void> {
  const { port } = lab.network.interfaceOf("client", "client");
  const senders = ["d1", "t1"].map((node) => lab.network.interfaceOf(node, "client").port);
  await lab.network.run("net", ["nft", "-f", "-"], {
    input: `table netdev planted {
      chain repeat {
        type filter hook ingress devices = { ${senders.join(", ")} } priority 1; policy accept;
        ip saddr ${DVIPA} meta l4proto esp dup to "${port}"
      }
    }\n`,
  });
  await Promise.all(lab.targets.map(() => requestName(lab)));
  await lab.network.run("net", ["nft", "delete", "table", "netdev", "planted"]);
  await lab.network.run("net", ["ip", "address", "add", `${DVIPA}/32`, "dev", "client"]);
  await lab.network.run("net", ["ip", "route", "add", CLIENT_ADDRESS, "dev", "client", "src", DVIPA]);
  await lab.network.try("net", ["ping", "-n", "-c", "2", "-W", "1", "-I", DVIPA, CLIENT_ADDRESS]);
  await lab.network.run("net", ["ip", "address", "delete", `${DVIPA}/32`, "dev", "client"]);
  say("planted: repeated packets and cleartext");
}
