import { execaSync } from "execa";
import { describe } from "vitest";

/**
 * `describe` for tests that need real ESP: tried, not guessed. With `REQUIRE_ESP=1` a missing ESP is a failure of every
 * test in it, never a skip.
 */
export const describeWithEsp = process.env["REQUIRE_ESP"] === "1" || hasEsp() ? describe : describe.skip;

function hasEsp(): boolean {
  const namespace = `esplex-${process.pid}-probe`;
  const env = { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` };
  if (execaSync("ip", ["netns", "add", namespace], { reject: false, env }).failed) return false;
  const state = "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1000 mode transport";
  // A key of zeros for a state that no packet meets.
  const algorithm = ["aead", "rfc4106(gcm(aes))", `0x${"00".repeat(20)}`, "128"];
  const args = ["-n", namespace, ...state.split(" "), ...algorithm];
  const { failed } = execaSync("ip", args, { reject: false, env });
  execaSync("ip", ["netns", "delete", namespace], { reject: false, env });
  return !failed;
}
