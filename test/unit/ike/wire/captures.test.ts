import { describe, expect, test } from "vitest";
import { toHex } from "../../../../src/core/bytes.ts";
import { detectNat } from "../../../../src/ike/nat.ts";
import { chooseIke } from "../../../../src/ike/proposal.ts";
import { ikeSuiteName } from "../../../../src/ike/suite.ts";
import { EXCHANGE, NOTIFY } from "../../../../src/ike/wire/constants.ts";
import { decodeHeader } from "../../../../src/ike/wire/header.ts";
import { outlineInit } from "../../../../src/ike/wire/init-outline.ts";
import { decodeMessage, encodeMessage } from "../../../../src/ike/wire/message.ts";
import { notify } from "../../../../src/ike/wire/notify.ts";
import { findNotify, requirePayload } from "../../../../src/ike/wire/payload.ts";
import { capturedMessages } from "../vectors.ts";

const messages = capturedMessages();

describe("messages of strongSwan, libreswan and OpenIKED", () => {
  for (const { name, bytes } of messages) {
    test(`${name} decodes, and encodes to the same bytes`, () => {
      const message = decodeMessage(bytes);
      expect(toHex(encodeMessage(message.header, message.payloads))).toBe(toHex(bytes));
    });
  }
});

/** What each peer's first message leads to when the responder allows everything. */
const CHOICES: Readonly<Record<string, string>> = {
  "ss-psk-transport #0": "AES_CBC_128/HMAC_SHA2_256_128/PRF_HMAC_SHA2_256 31",
  "ls-psk-transport #0": "AES_GCM_16_256/PRF_HMAC_SHA2_512 14",
  "ls-psk-transport #2": "AES_GCM_16_256/PRF_HMAC_SHA2_512 31",
  "oi-psk-transport #0": "AES_GCM_16_128/PRF_HMAC_SHA2_256 31",
};

describe("IKE_SA_INIT requests of others", () => {
  test("their outlines are what a whole decoding finds, with a cookie too", () => {
    const requests = messages.flatMap(({ bytes, from }) => {
      const message = decodeMessage(bytes);
      return message.header.exchange === EXCHANGE.IKE_SA_INIT && from === "initiator" ? [message] : [];
    });
    expect(requests.length).toBeGreaterThan(3);
    for (const { header, payloads } of requests) {
      const cookie = notify(NOTIFY.COOKIE, Uint8Array.of(1, 2, 3));
      for (const all of [payloads, [cookie, ...payloads]]) {
        const bytes = encodeMessage(header, all);
        expect(outlineInit(decodeHeader(bytes), bytes)).toEqual({
          nonce: requirePayload(all, "nonce").nonce,
          cookie: findNotify(all, NOTIFY.COOKIE)?.data ?? null,
        });
      }
    }
  });

  for (const { name, bytes, from, sourcePort, destinationPort } of messages) {
    const { header, payloads } = decodeMessage(bytes);
    if (header.exchange !== EXCHANGE.IKE_SA_INIT || from !== "initiator") continue;
    test(`${name}: a suite is chosen, the KE payload's group is taken, no NAT is seen`, () => {
      const ke = requirePayload(payloads, "ke");
      const { suite } = chooseIke(requirePayload(payloads, "sa"), ke.group, 0, null);
      expect(suite.group).toBe(ke.group);
      const wanted = CHOICES[name];
      if (wanted !== undefined) expect(`${ikeSuiteName(suite)} ${suite.group}`).toBe(wanted);
      const path = {
        local: { address: "10.0.0.2", port: destinationPort },
        remote: { address: "10.0.0.1", port: sourcePort },
      };
      expect(detectNat(payloads, header, path)).toEqual({ peer: false, us: false });
      expect(detectNat(payloads, header, { ...path, remote: { ...path.remote, port: 1024 } })).toEqual({
        peer: true,
        us: false,
      });
    });
  }
});
