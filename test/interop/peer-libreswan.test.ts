/** The matrix of `test/support/peer-matrix.ts` with libreswan, and rekeying from both sides. */
import { describe } from "vitest";
import { connectionOf, forgetAfterEach, testMatrix, usePeer } from "../support/peer-matrix.ts";
import { testRekeys } from "../support/peer-rekey.ts";

const peer = usePeer("libreswan", 128);
forgetAfterEach(peer);

describe("libreswan", () => {
  testMatrix(peer);
  testRekeys(peer, connectionOf(["psk", "transport", 4]), connectionOf(["ecdsa", "tunnel", 6]));
});
