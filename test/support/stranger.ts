import { randomBytes } from "node:crypto";
import { CLIENT_ADDRESS } from "../../netns/layout.ts";
import type { LabNetwork } from "../../netns/network.ts";
import { noise, sendDatagrams } from "./hostile.ts";

/** A stranger's address on the client network, on the bridge itself. */
export const STRANGER = "192.0.2.66";

/** Nobody listens there; only the stranger's own policy looks at it. */
const PORT = 9999;

/** Far ahead of any real one: a number that the client has used would be dropped for that alone. */
let lastForged = 1_000_000;

/** An ESP packet that its receiver must not believe. */
export interface ForgedEsp {
  /** Source address that the packet claims. */
  readonly source: string;
  readonly destination: string;
  readonly spi: number;
  /** `short`: no IV and no ICV (null algorithms), 20 bytes of ESP: less than any suite of ours needs. */
  readonly form: "whole" | "short";
}

/** Puts the stranger, who can also pretend to be the client, on the client network's bridge. */
export async function addStranger(network: LabNetwork): Promise<void> {
  // Answers no ARP for the client, and asks with its own address: the lie is in the packets only.
  await network.run("net", [
    "sysctl",
    "-q",
    "-w",
    "net.ipv4.conf.all.arp_ignore=1",
    "net.ipv4.conf.all.arp_announce=2",
  ]);
  await network.run("net", ["ip", "address", "add", `${STRANGER}/24`, "dev", "client"]);
  await network.run("net", ["ip", "address", "add", `${CLIENT_ADDRESS}/32`, "dev", "lo"]);
}

/** Sends forged packets: datagrams of a node's (the stranger's) that its own kernel protects with a made-up SA. */
export async function sendForgedEsp(network: LabNetwork, packet: ForgedEsp, count = 1, node = "net"): Promise<void> {
  const { source, destination, spi, form } = packet;
  const key = `0x${randomBytes(20).toString("hex")}`;
  const algorithms =
    form === "whole" ? `aead rfc4106(gcm(aes)) ${key} 128` : `enc ecb(cipher_null) "" auth digest_null ""`;
  const ends = `src ${source} dst ${destination}`;
  const lastNumber = lastForged;
  lastForged += count;
  const lines = [
    `state add ${ends} proto esp spi ${spi} reqid 66 mode transport replay-oseq ${lastNumber} ${algorithms}`,
    `policy add ${ends} proto udp dport ${PORT} dir out tmpl proto esp reqid 66 mode transport`,
  ];
  await network.run(node, ["ip", "-batch", "-"], { input: lines.map((line) => `xfrm ${line}\n`).join("") });
  try {
    const hex = form === "whole" ? noise("forged", 300).toString("hex") : "";
    const datagram = { sourceAddress: source, address: destination, port: PORT, hex };
    await sendDatagrams(network, node, Array<typeof datagram>(count).fill(datagram));
  } finally {
    await network.run(node, ["ip", "xfrm", "policy", "flush"]);
    await network.run(node, ["ip", "xfrm", "state", "flush"]);
  }
}
