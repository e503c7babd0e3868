/** The matrix of `test/support/peer-matrix.ts` with OpenIKED, and rekeying from both sides. */
import { describe } from "vitest";
import { connectionOf, forgetAfterEach, testMatrix, usePeer } from "../support/peer-matrix.ts";
import { testRekeys } from "../support/peer-rekey.ts";

/** OpenIKED has no command that rekeys: it begins at 85 to 95 % of these. */
const SHORT = { childSeconds: 20, ikeSeconds: 30 };
const shortLived = { name: "short-lived", auth: "psk", mode: "tunnel", ipVersion: 6, ...SHORT } as const;

const peer = usePeer("openiked", 32, [shortLived]);
forgetAfterEach(peer);

describe("OpenIKED", () => {
  testMatrix(peer);
  testRekeys(peer, connectionOf(["psk", "transport", 4]), shortLived);
});
