/** Lines of the log on outputs that are full, slow or broken. */
import { expect, test } from "vitest";
import { LogOutput } from "../../../src/core/log-output.ts";
import { until } from "../bus/authority.ts";

/** An output that takes `roomBytes` and then refuses with `code`. */
class Fake {
  roomBytes: number;
  code = "ENOSPC";
  text = "";
  lost = 0;
  tries = 0;
  readonly output = new LogOutput(
    (bytes) => this.#take(bytes),
    (lines) => (this.lost += lines),
  );

  constructor(roomBytes: number) {
    this.roomBytes = roomBytes;
  }

  #take(bytes: Buffer): number {
    this.tries++;
    const taken = Math.min(bytes.length, this.roomBytes);
    if (taken === 0) throw Object.assign(new Error(this.code), { code: this.code });
    this.text += bytes.toString("utf8", 0, taken);
    this.roomBytes -= taken;
    return taken;
  }
}

test("what a full disk refuses is counted; once there is room again, lines go on, each on its own", () => {
  const fake = new Fake(8);
  for (const line of ["one\n", "two two\n", "three\n"]) fake.output.write(line);
  expect(fake.text).toBe("one\ntwo ");
  expect(fake.lost).toBe(2);
  const { tries } = fake;
  fake.output.drain();
  expect(fake.tries).toBe(tries);
  fake.roomBytes = 100;
  fake.output.write("four\n");
  fake.output.write("five\n");
  expect(fake.text).toBe("one\ntwo \nfour\nfive\n");
  expect(fake.lost).toBe(2);
});

test("lines wait for a reader that stands still, in order and within a limit", async () => {
  const fake = new Fake(6);
  fake.code = "EAGAIN";
  const long = `${"x".repeat(1023)}\n`;
  fake.output.write("one\n");
  fake.output.write("two\n");
  for (let i = 0; i < 1100; i++) fake.output.write(long);
  expect(fake.text).toBe("one\ntw");
  // 1 MiB waits.
  expect(fake.lost).toBe(77);
  fake.roomBytes = Number.POSITIVE_INFINITY;
  await until(() => fake.text.length > 6, "another try");
  expect(fake.text).toBe(`one\ntwo\n${long.repeat(1100 - 77)}`);
  fake.output.write("last\n");
  expect(fake.text).toMatch(/\nlast\n$/);
});
