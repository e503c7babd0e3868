/** The matrix of `test/support/peer-matrix.ts` with strongSwan; `rekey*.test.ts` and `initiate.test.ts` rekey with it. */
import { describe } from "vitest";
import { forgetAfterEach, testMatrix, usePeer } from "../support/peer-matrix.ts";

const peer = usePeer("strongswan", 32);
forgetAfterEach(peer);

describe("strongSwan", () => {
  testMatrix(peer);
});
