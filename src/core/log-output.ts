import { constants, fstatSync, openSync, writeSync } from "node:fs";
import { Socket } from "node:net";

/** Bytes of lines that may wait for a slow reader. Our choice. */
const MAX_WAITING_BYTES = 1024 * 1024;
/** A reader that takes nothing is tried again after this long. */
const RETRY_MS = 50;
const NEWLINE = 0x0a;

/**
 * Where the log's lines go. Neither a full disk nor a reader that stands still may hold a daemon up or end it: a line that cannot
 * be written is lost and counted, and the next one is tried again. Nothing here keeps a process alive.
 */
export class LogOutput {
  readonly #writeSome: (bytes: Buffer) => number;
  readonly #lost: (lines: number) => void;
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #retry: NodeJS.Timeout | null = null;
  /** The last byte that was written stands inside a line. */
  #isTorn = false;

  /** `writeSome` takes the first bytes and says how many, or throws; EAGAIN means later. `lost` is told how many lines never left. */
  constructor(writeSome: (bytes: Buffer) => number, lost: (lines: number) => void) {
    this.#writeSome = writeSome;
    this.#lost = lost;
  }

  /** One line, with its end. */
  write(line: string): void {
    // After a line whose end was lost, what comes next begins a line of its own.
    const bytes = Buffer.from(this.#isTorn && this.#waiting.length === 0 ? `\n${line}` : line);
    if (this.#waitingBytes + bytes.length > MAX_WAITING_BYTES) {
      this.#lost(1);
      return;
    }
    this.#waiting.push(bytes);
    this.#waitingBytes += bytes.length;
    this.drain();
  }

  /** Writes what waits, as far as that goes now. */
  drain(): void {
    try {
      for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) this.#writeLine(first);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EAGAIN") this.#later();
      else this.#giveUp();
    }
  }

  #writeLine(line: Buffer): void {
    let rest = line;
    while (rest.length > 0) {
      const written = this.#writeSome(rest);
      this.#isTorn = rest[written - 1] !== NEWLINE;
      this.#waitingBytes -= written;
      rest = rest.subarray(written);
      if (rest.length > 0) this.#waiting[0] = rest;
    }
    this.#waiting.shift();
  }

  #later(): void {
    if (this.#retry !== null) return;
    this.#retry = setTimeout(() => {
      this.#retry = null;
      this.drain();
    }, RETRY_MS).unref();
  }

  #giveUp(): void {
    this.#lost(this.#waiting.length);
    this.#waiting = [];
    this.#waitingBytes = 0;
  }
}

/** Kept, for libuv closes what nobody holds. */
let heldSocket: Socket | null = null;

/** The process's stderr as an output that never blocks: `lost` is told how many lines could not be written. */
export function stderrOutput(lost: (lines: number) => void): LogOutput {
  const fd = neverBlocking(2);
  const output = new LogOutput((bytes) => writeSync(fd, bytes), lost);
  process.once("exit", () => output.drain());
  return output;
}

/** A descriptor for what `fd` is open on, whose writes do not wait for a reader. Files and terminals stay as they are. */
function neverBlocking(fd: number): number {
  try {
    const kind = fstatSync(fd);
    // Opened anew, so that others who write to the same pipe keep their own mode.
    if (kind.isFIFO()) return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK);
    // A socket cannot be opened anew; libuv makes it non-blocking as it takes it.
    if (kind.isSocket()) heldSocket ??= new Socket({ fd, readable: false }).unref();
  } catch {
    // What cannot be looked at may still be written, and if not, each line is counted.
  }
  return fd;
}
