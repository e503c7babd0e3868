import { connect, createServer } from "node:net";
import { once } from "node:events";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { silentLog } from "../../../src/core/log.ts";
import { callControl, serveControl, type ControlArguments } from "../../../src/daemons/control.ts";
import { type Part, startParts } from "../../../src/daemons/parts.ts";

/** A client that says nothing is cut off after 5 s. */
const LONGER_THAN_A_REQUEST_MS = 5500;

let directory = "";
beforeAll(async () => void (directory = await mkdtemp(join(tmpdir(), "esplex-control-"))));
afterAll(() => rm(directory, { recursive: true, force: true }));

async function ask(path: string, text: string): Promise<string> {
  const socket = connect(path);
  socket.setEncoding("utf8");
  let answer = "";
  socket.on("data", (chunk: string) => (answer += chunk));
  socket.end(text);
  await once(socket, "close");
  return answer;
}

test("commands are answered, nonsense too, and the socket is the owner's alone", async () => {
  const path = join(directory, "new", "control.sock");
  const handlers = {
    status: () => ({ next: 1n << 40n }),
    slow: () => Promise.resolve(5),
    echo: (args: ControlArguments) => args,
    broken: () => {
      throw new Error("no luck");
    },
  };
  const server = await serveControl(path, handlers, silentLog);
  expect(await callControl(path, "status")).toEqual({ next: "1099511627776" });
  expect(await callControl(path, "slow")).toBe(5);
  expect(await callControl(path, "echo", { sa: "x" })).toEqual({ sa: "x" });
  expect(await callControl(path, "echo")).toEqual({});
  expect(await ask(path, '{"command":"echo","arguments":5}\n')).toBe('{"result":{}}\n');
  await expect(callControl(path, "broken")).rejects.toThrow(/no luck/);
  await expect(callControl(path, "toString")).rejects.toThrow(/known: status, slow, echo, broken/);
  for (const text of ["\n", "nonsense\n", "[]\n", "5\n", '{"command":5}\n'])
    expect(await ask(path, text)).toContain("error");
  expect(await ask(path, "x".repeat(10_000))).toContain("too long");
  expect(await ask(path, '{"command"')).toBe("");
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  await expect(serveControl(path, {}, silentLog)).rejects.toMatchObject({ code: "config.invalid" });
  await server.close();
  await expect(callControl(path, "status")).rejects.toThrow(/is the daemon running/);
});

test("a command may take longer than its request", async () => {
  const path = join(directory, "patient.sock");
  const server = await serveControl(path, { slow: () => delay(LONGER_THAN_A_REQUEST_MS, "done") }, silentLog);
  expect(await callControl(path, "slow")).toBe("done");
  await server.close();
});

test("the socket of a killed process is replaced", async () => {
  const path = join(directory, "stale.sock");
  // A socket file whose owner is gone: made by binding, and left behind by renaming it before the close.
  const dead = createServer().listen(path);
  await once(dead, "listening");
  const { rename } = await import("node:fs/promises");
  await rename(path, `${path}.kept`);
  dead.close();
  await once(dead, "close");
  await rename(`${path}.kept`, path);
  const server = await serveControl(path, { status: () => 1 }, silentLog);
  expect(await callControl(path, "status")).toBe(1);
  await server.close();
});

test("parts start in order and stop in reverse; a failed start stops what had started", async () => {
  const log: string[] = [];
  const part = (name: string, fails = false): Part => ({
    name,
    start: () => {
      log.push(`start ${name}`);
      return fails ? Promise.reject(new Error("no")) : Promise.resolve();
    },
    stop: () => {
      log.push(`stop ${name}`);
      return name === "b" ? Promise.reject(new Error("stuck")) : Promise.resolve();
    },
  });
  const stop = await startParts([part("a"), part("b"), part("c")], silentLog);
  await stop();
  expect(log).toEqual(["start a", "start b", "start c", "stop c", "stop b", "stop a"]);
  log.length = 0;
  await expect(startParts([part("a"), part("x", true), part("c")], silentLog)).rejects.toThrow("no");
  expect(log).toEqual(["start a", "start x", "stop a"]);
});
