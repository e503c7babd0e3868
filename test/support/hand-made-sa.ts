import { randomBytes } from "node:crypto";
import { CLIENT_ADDRESS, DVIPA } from "../../netns/layout.ts";
import type { LabNetwork } from "../../netns/network.ts";

const FROM_DVIPA = `src ${DVIPA} dst ${CLIENT_ADDRESS} proto esp spi 0x1002`;
const TO_DVIPA = `src ${CLIENT_ADDRESS} dst ${DVIPA} proto esp spi 0x1001`;

/**
 * A transport-mode SA pair between client and d1 without any daemon: the DVIPA on d1's interface, states and policies by
 * hand. For tests of the lab's own counters. The key goes through stdin.
 */
export class HandMadeSa {
  readonly #network: LabNetwork;
  readonly #rest: string;

  private constructor(network: LabNetwork) {
    this.#network = network;
    const key = `0x${randomBytes(20).toString("hex")}`;
    this.#rest = `reqid 1 mode transport replay-window 32 aead rfc4106(gcm(aes)) ${key} 128`;
  }

  static async install(network: LabNetwork): Promise<HandMadeSa> {
    const sa = new HandMadeSa(network);
    await network.run("d1", ["ip", "address", "add", `${DVIPA}/32`, "dev", "cli0"]);
    const states = [TO_DVIPA, FROM_DVIPA].map((name) => `state add ${name} ${sa.#rest}`);
    await sa.#xfrm("client", [...states, ...policies(CLIENT_ADDRESS, DVIPA)]);
    await sa.#xfrm("d1", [...states, ...policies(DVIPA, CLIENT_ADDRESS)]);
    return sa;
  }

  /** Makes d1's next packet carry the number `next`: what must never happen in a cluster. */
  async setNextNumber(next: number): Promise<void> {
    await this.#xfrm("d1", [
      `state delete ${FROM_DVIPA}`,
      `state add ${FROM_DVIPA} ${this.#rest} replay-oseq ${next - 1}`,
    ]);
  }

  async #xfrm(node: string, lines: readonly string[]): Promise<void> {
    await this.#network.run(node, ["ip", "-batch", "-"], { input: lines.map((line) => `xfrm ${line}\n`).join("") });
  }
}

function policies(own: string, other: string): string[] {
  const template = "tmpl proto esp reqid 1 mode transport";
  return [
    `policy add src ${own} dst ${other} dir out ${template}`,
    `policy add src ${other} dst ${own} dir in ${template}`,
  ];
}
