/** The matrix of `test/support/peer-matrix.ts` with libreswan. */
import { describe } from "vitest";
import { forgetAfterEach, testMatrix, usePeer } from "../support/peer-matrix.ts";

const peer = usePeer("libreswan", 128);
forgetAfterEach(peer);

describe("libreswan", () => testMatrix(peer));
