/**
 * IKE_AUTH with certificates as strongSwan, libreswan and OpenIKED wrote it, and the answers of ours that they accepted: the
 * same functions check both sides.
 */
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { HmacName } from "../../../src/crypto/prf.ts";
import { fromHex } from "../../../src/core/bytes.ts";
import { EsplexError } from "../../../src/core/errors.ts";
import { Secret } from "../../../src/core/secret.ts";
import type { AuthContext, Side } from "../../../src/ike/auth/octets.ts";
import { readHashNotify } from "../../../src/ike/auth/signature-hashes.ts";
import { verifyPeer, type PeerProof } from "../../../src/ike/auth/verify.ts";
import type { IkeKeys } from "../../../src/ike/keys.ts";
import { Reassembly } from "../../../src/ike/reassembly.ts";
import type { IkeSuite } from "../../../src/ike/suite.ts";
import { openedContent, openedPayloads, openMessage, type SealingKey } from "../../../src/ike/wire/encrypted.ts";
import { decodeMessage } from "../../../src/ike/wire/message.ts";
import { requirePayload, type Payload } from "../../../src/ike/wire/payload.ts";
import { CertificateCache } from "../../../src/x509/certificate-cache.ts";
import { parseCertificate } from "../../../src/x509/certificate.ts";
import type { TrustStore } from "../../../src/x509/chain.ts";

const DIRECTORY = new URL("../../vectors/ike/", import.meta.url);

/** Keys of one direction, in hex. */
type SealingText =
  | { readonly kind: "aes-gcm-16"; readonly key: string; readonly salt: string }
  | { readonly kind: "aes-cbc"; readonly key: string; readonly integrity: HmacName; readonly integrityKey: string };

interface AuthVector {
  readonly source: string;
  readonly wallClockMs: number;
  readonly suite: IkeSuite;
  readonly authority: string;
  readonly keys: { readonly [K in "pi" | "pr"]: string } & {
    readonly [S in Side]: SealingText;
  };
  readonly init: { readonly request: string; readonly response: string };
  readonly auth: readonly { readonly from: Side; readonly hex: string }[];
}

const secret = (hex: string): Secret => new Secret(fromHex(hex));

function contextOf({ suite, keys, init }: AuthVector): AuthContext {
  const sealing = (text: SealingText): SealingKey => {
    const key = secret(text.key);
    return text.kind === "aes-gcm-16"
      ? { kind: text.kind, key, salt: secret(text.salt) }
      : { kind: text.kind, key, integrity: text.integrity, integrityKey: secret(text.integrityKey) };
  };
  const ikeKeys: IkeKeys = {
    d: secret(""),
    initiator: sealing(keys.initiator),
    responder: sealing(keys.responder),
    pi: secret(keys.pi),
    pr: secret(keys.pr),
  };
  const request = fromHex(init.request);
  const response = fromHex(init.response);
  const asked = decodeMessage(request).payloads;
  const { nonce: nonceI } = requirePayload(asked, "nonce");
  const { nonce: nonceR } = requirePayload(decodeMessage(response).payloads, "nonce");
  return { suite, keys: ikeKeys, init: { request, response, nonceI, nonceR, peerHashes: readHashNotify(asked) } };
}

/** What is inside of one side's IKE_AUTH, whole or in fragments. */
function payloadsFrom(vector: AuthVector, context: AuthContext, side: Side): Payload[] {
  const reassembly = new Reassembly();
  for (const { from, hex } of vector.auth) {
    if (from !== side) continue;
    const bytes = fromHex(hex);
    const { header, payloads } = decodeMessage(bytes);
    const [sealed] = payloads;
    if (sealed?.kind !== "encrypted" && sealed?.kind !== "encryptedFragment") throw new Error("not sealed");
    const opened = openMessage(bytes, sealed, context.keys[side]);
    if (sealed.kind === "encrypted") return openedPayloads(opened);
    const part = { innerType: sealed.innerType, content: openedContent(opened) };
    const whole = reassembly.add(0, header.messageId, sealed, part);
    if (typeof whole === "object") return openedPayloads(whole);
  }
  throw new Error(`no IKE_AUTH of the ${side}`);
}

/** Who signed how; fails as the product would. */
function proofOf(
  vector: AuthVector,
  side: Side,
  change: (payload: Payload) => Payload = (payload) => payload,
): PeerProof {
  const context = contextOf(vector);
  const payloads = payloadsFrom(vector, context, side).map(change);
  const identity = requirePayload(payloads, side === "initiator" ? "idi" : "idr");
  const trust: TrustStore = {
    anchors: [parseCertificate(fromHex(vector.authority))],
    revocationLists: [],
    revocation: "relaxed",
    otherUsages: [],
    known: new CertificateCache(),
  };
  const decoy = { psk: secret("00"), trust };
  return verifyPeer(context, { side, identity, payloads }, { kind: "certificate", trust }, decoy, vector.wallClockMs);
}

/** How each peer signs, and how we answered. */
const SCHEMES: Readonly<Record<string, { readonly initiator: string; readonly responder: string }>> = {
  "auth-libreswan-ecdsa": { initiator: "ecdsa sha512", responder: "ecdsa sha256" },
  "auth-libreswan-rsa": { initiator: "rsa-pss sha512", responder: "rsa-pss sha256" },
  "auth-openiked-ecdsa": { initiator: "ecdsa sha256", responder: "ecdsa sha256" },
  "auth-openiked-rsa": { initiator: "rsa-pkcs1 sha256", responder: "rsa-pkcs1 sha256" },
  "auth-strongswan-ed25519": { initiator: "ed25519", responder: "ed25519" },
  "auth-strongswan-rsa": { initiator: "rsa-pkcs1 sha256", responder: "rsa-pkcs1 sha256" },
};
const files = readdirSync(DIRECTORY).filter((name) => /^auth-.*\.json$/.test(name));

test("every vector is looked at", () => {
  expect(files.map((name) => name.slice(0, -5)).sort()).toEqual(Object.keys(SCHEMES).sort());
});

describe.each(Object.entries(SCHEMES))("%s", (name, schemes) => {
  const vector = JSON.parse(readFileSync(new URL(`${name}.json`, DIRECTORY), "utf8")) as AuthVector;

  test.each(["initiator", "responder"] as const)("the %s proves who it is", (side) => {
    expect(proofOf(vector, side).method).toMatch(new RegExp(`^${schemes[side]} with `));
  });

  test.each(["initiator", "responder"] as const)("a changed signature or identity of the %s proves nothing", (side) => {
    const refusal = (change: (payload: Payload) => Payload): unknown => {
      try {
        return proofOf(vector, side, change);
      } catch (error) {
        return error instanceof EsplexError ? error.details["reason"] : error;
      }
    };
    const flipped = (data: Uint8Array): Uint8Array => data.with(data.length - 1, (data.at(-1) ?? 0) ^ 1);
    expect(
      refusal((payload) => (payload.kind === "auth" ? { ...payload, data: flipped(payload.data) } : payload)),
    ).toBe("wrongSignature");
    const idKind = side === "initiator" ? "idi" : "idr";
    expect(
      refusal((payload) => (payload.kind === idKind ? { ...payload, data: flipped(payload.data) } : payload)),
    ).toBe("wrongSignature");
  });
});
