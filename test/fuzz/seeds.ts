import { readdirSync, readFileSync } from "node:fs";
import { fromHex } from "../../src/core/bytes.ts";
import { Secret } from "../../src/core/secret.ts";
import type { HmacName } from "../../src/crypto/prf.ts";
import { openedContent, openMessage, type SealingKey } from "../../src/ike/wire/encrypted.ts";
import { decodeMessage } from "../../src/ike/wire/message.ts";
import { decodePayloads, type Payload } from "../../src/ike/wire/payload.ts";

const VECTORS = new URL("../vectors/ike/", import.meta.url);

/** A chain of payloads as it stood inside of the encryption. */
export interface Chain {
  readonly firstType: number;
  readonly bytes: Uint8Array;
}

/** What the vectors of other implementations give the fuzzer to start from. */
export interface IkeSeeds {
  /** Whole messages. */
  readonly messages: readonly Uint8Array[];
  /** Opened with the keys that stand beside the messages. */
  readonly chains: readonly Chain[];
  /** In DER. */
  readonly certificates: readonly Uint8Array[];
}

interface SealingKeyText {
  readonly kind: SealingKey["kind"];
  readonly key: string;
  readonly salt?: string;
  readonly integrity?: HmacName;
  readonly integrityKey?: string;
}

interface AuthVector {
  readonly authority: string;
  readonly keys: { readonly initiator: SealingKeyText; readonly responder: SealingKeyText };
  readonly init: { readonly request: string; readonly response: string };
  readonly auth: readonly { readonly from: "initiator" | "responder"; readonly hex: string }[];
}

/** Reads every committed message of strongSwan, libreswan and OpenIKED; the files name their sources. */
export function readIkeSeeds(): IkeSeeds {
  const captured = files(".hex").flatMap((text) =>
    text.split("\n").flatMap((line) => (line === "" || line.startsWith("#") ? [] : [lastWord(line)])),
  );
  const vectors = files(".json", "auth-").map((text) => JSON.parse(text) as AuthVector);
  const keyed = files(".json", "strongswan-keys-").map((text) => JSON.parse(text) as { messages: { hex: string }[] });
  const chains = vectors.flatMap(chainsOf);
  const messages = [
    ...captured,
    ...keyed.flatMap((vector) => vector.messages.map(({ hex }) => hex)),
    ...vectors.flatMap(({ init, auth }) => [init.request, init.response, ...auth.map(({ hex }) => hex)]),
  ].map(fromHex);
  return {
    messages,
    chains,
    certificates: [
      ...vectors.map(({ authority }) => fromHex(authority)),
      ...chains.flatMap(({ firstType, bytes }) => certificatesOf(decodePayloads(firstType, bytes))),
    ],
  };
}

function files(end: string, start = ""): string[] {
  const names = readdirSync(VECTORS).filter((name) => name.startsWith(start) && name.endsWith(end));
  return names.sort().map((name) => readFileSync(new URL(name, VECTORS), "utf8"));
}

function lastWord(line: string): string {
  return line.slice(line.lastIndexOf(" ") + 1);
}

function chainsOf({ keys, auth }: AuthVector): Chain[] {
  return auth.flatMap(({ from, hex }) => {
    const bytes = fromHex(hex);
    const [sealed] = decodeMessage(bytes).payloads;
    if (sealed?.kind !== "encrypted") return [];
    const opened = openMessage(bytes, sealed, keyFrom(keys[from]));
    return [{ firstType: opened.firstType, bytes: openedContent(opened).slice() }];
  });
}

function keyFrom({ kind, key, salt, integrity, integrityKey }: SealingKeyText): SealingKey {
  const secret = (hex = ""): Secret => new Secret(fromHex(hex));
  if (kind !== "aes-cbc") return { kind, key: secret(key), salt: secret(salt) };
  return {
    kind,
    key: secret(key),
    integrity: integrity ?? "hmac-sha2-256",
    integrityKey: secret(integrityKey),
  };
}

function certificatesOf(payloads: readonly Payload[]): Uint8Array[] {
  return payloads.flatMap((payload) => (payload.kind === "cert" ? [payload.data] : []));
}

/** What openssl has made, in DER. */
export interface CertificateSeeds {
  readonly authority: Uint8Array;
  readonly leaf: Uint8Array;
  readonly intermediate: Uint8Array;
  readonly revocationList: Uint8Array;
}

export function readCertificateSeeds(): CertificateSeeds {
  const text = readFileSync(new URL("../vectors/x509/openssl.json", import.meta.url), "utf8");
  const read = JSON.parse(text) as Record<keyof CertificateSeeds, string>;
  return {
    authority: fromHex(read.authority),
    leaf: fromHex(read.leaf),
    intermediate: fromHex(read.intermediate),
    revocationList: fromHex(read.revocationList),
  };
}
