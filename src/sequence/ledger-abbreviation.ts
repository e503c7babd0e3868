import { EsplexError } from "../core/errors.ts";

/** The kinds of record that come often, and what stands for them when the rest of the record is abbreviated too. */
const SHORT_KINDS = new Map([
  ["grant", "g"],
  ["burnt", "b"],
  ["ceiling", "c"],
]);
const LONG_KINDS = new Map([...SHORT_KINDS].map(([long, short]) => [short, long]));

/** As `String` writes a number below 10^20: what is read back has the same digits. */
const NUMBER = /^(?:0|[1-9]\d{0,19})$/;
const DIFFERENCE = /^[+-][1-9]\d{0,19}$/;
/** Numbers of so many digits are exact as a `number`. */
const EXACT_DIGITS = 15;

/**
 * Writes a record by its difference from the last one of its kind, and reads it back: `g = t2 = +8 +8 +1` is a grant on the same line
 * under the same epoch, to `t2`, 8 numbers further, 1 ms later. `=` stands for the same word, `+N` and `-N` for that much more or
 * less; other words stand as they are. Nothing before a `start` counts. Writer and reader have one each, and see every record in order.
 */
export class LedgerAbbreviation {
  readonly #last = new Map<string, readonly string[]>();

  shorten(record: string): string {
    const words = record.split(" ");
    const before = this.#before(words);
    const short = SHORT_KINDS.get(words[0] ?? "");
    if (short === undefined || before?.length !== words.length) return record;
    let text = short;
    for (let i = 1; i < words.length; i++) text += ` ${shortWord(words[i] ?? "", before[i] ?? "")}`;
    return text;
  }

  /** Throws `store.corrupt`. */
  expand(text: string): string {
    const short = text.split(" ");
    const kind = LONG_KINDS.get(short[0] ?? "");
    if (kind === undefined) {
      this.#before(short);
      return text;
    }
    const before = this.#last.get(kind);
    if (before?.length !== short.length) throw malformed(`no ${kind} before it fits "${text.slice(0, 60)}"`);
    const words = short.map((word, i) => (i === 0 ? kind : longWord(word, before[i] ?? "")));
    this.#last.set(kind, words);
    return words.join(" ");
  }

  /** The last record of the kind; this one takes its place. */
  #before(words: readonly string[]): readonly string[] | undefined {
    const [kind = ""] = words;
    if (kind === "start") this.#last.clear();
    if (!SHORT_KINDS.has(kind)) return undefined;
    const before = this.#last.get(kind);
    this.#last.set(kind, words);
    return before;
  }
}

function shortWord(word: string, before: string): string {
  if (word === before) return "=";
  if (!NUMBER.test(word) || !NUMBER.test(before)) return word;
  const isExact = word.length <= EXACT_DIGITS && before.length <= EXACT_DIGITS;
  const difference = isExact ? Number(word) - Number(before) : BigInt(word) - BigInt(before);
  return difference > 0 ? `+${difference}` : `${difference}`;
}

function longWord(word: string, before: string): string {
  if (word === "=") return before;
  if (!DIFFERENCE.test(word)) return word;
  const isExact = word.length <= EXACT_DIGITS && before.length < EXACT_DIGITS;
  const sum = NUMBER.test(before)
    ? `${isExact ? Number(before) + Number(word) : BigInt(before) + BigInt(word)}`
    : "no number";
  if (!NUMBER.test(sum)) throw malformed(`"${word}" does not fit "${before.slice(0, 30)}"`);
  return sum;
}

function malformed(why: string): EsplexError {
  return new EsplexError("store.corrupt", why);
}
