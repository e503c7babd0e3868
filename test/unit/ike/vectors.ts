import { readdirSync, readFileSync } from "node:fs";
import { fromHex } from "../../../src/core/bytes.ts";
import type { EspSuite } from "../../../src/sa/suite.ts";
import type { IkeSuite } from "../../../src/ike/suite.ts";

const DIRECTORY = new URL("../../vectors/ike/", import.meta.url);

/** One IKE message of a capture of other implementations. */
export interface CapturedMessage {
  /** `ss-psk-transport #0`: capture and place in it. */
  readonly name: string;
  readonly from: "initiator" | "responder";
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly bytes: Uint8Array;
}

/** Every captured message; the files' first lines name their source. */
export function capturedMessages(): CapturedMessage[] {
  const files = readdirSync(DIRECTORY).filter((name) => name.endsWith(".hex"));
  return files.sort().flatMap((file) => {
    const lines = readFileSync(new URL(file, DIRECTORY), "utf8").split("\n");
    const messages = lines.filter((line) => line !== "" && !line.startsWith("#"));
    return messages.map((line, i) => {
      const [from, source, destination, hex] = line.split(" ");
      return {
        name: `${file.slice(0, -4)} #${i}`,
        from: from === "initiator" ? "initiator" : "responder",
        sourcePort: Number(source),
        destinationPort: Number(destination),
        bytes: fromHex(hex ?? ""),
      };
    });
  });
}

interface IkeSaKeys {
  readonly sharedSecret: string;
  readonly d: string;
  readonly ai?: string;
  readonly ar?: string;
  readonly ei: string;
  readonly er: string;
  readonly pi: string;
  readonly pr: string;
}

/** A session with strongSwan, whose log told the keys. */
export interface KeyVector {
  readonly psk: string;
  readonly suite: IkeSuite;
  readonly espSuite: EspSuite;
  readonly ikeSas: readonly IkeSaKeys[];
  readonly auth: { readonly initiator: string; readonly responder: string };
  readonly children: readonly {
    readonly sharedSecret: string | null;
    readonly encryptionInitiator: string;
    readonly encryptionResponder: string;
    readonly integrityInitiator: string;
    readonly integrityResponder: string;
  }[];
  readonly messages: readonly { readonly from: "initiator" | "responder"; readonly hex: string }[];
}

export function keyVector(name: string): KeyVector {
  return JSON.parse(readFileSync(new URL(`${name}.json`, DIRECTORY), "utf8")) as KeyVector;
}
