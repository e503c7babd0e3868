/** The matrix of `test/support/peer-matrix.ts` with OpenIKED. */
import { describe } from "vitest";
import { forgetAfterEach, testMatrix, usePeer } from "../support/peer-matrix.ts";

const peer = usePeer("openiked", 32);
forgetAfterEach(peer);

describe("OpenIKED", () => testMatrix(peer));
