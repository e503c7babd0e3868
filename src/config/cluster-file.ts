import { readFile, stat } from "node:fs/promises";
import { type Document, LineCounter, isCollection, isMap, isNode, isScalar, parseDocument } from "yaml";
import type { z } from "zod";
import { EsplexError, messageOf } from "../core/errors.ts";
import { type ClusterConfig, clusterFile } from "./cluster-schema.ts";
import { type Problem, inconsistencies } from "./consistency.ts";

const MAX_FILE_BYTES = 1024 * 1024;
const MAX_PROBLEMS_SHOWN = 50;
const MAX_FOUND_LENGTH = 60;

/** Reads and checks a cluster file. Throws `config.unreadable` or `config.invalid`. */
export async function readClusterFile(path: string): Promise<ClusterConfig> {
  let text: string;
  try {
    const { size } = await stat(path);
    if (size > MAX_FILE_BYTES) {
      throw new EsplexError("config.invalid", `${path}: ${size} bytes; allowed: at most ${MAX_FILE_BYTES}`);
    }
    text = await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof EsplexError) throw error;
    throw new EsplexError("config.unreadable", `cluster file ${path}: ${messageOf(error)}`);
  }
  return parseCluster(text, path);
}

/**
 * Checks the text of a cluster file. Throws `config.invalid` whose message has one line per problem, all of them at once:
 * `FILE:LINE:COLUMN: KEY: found …; allowed: …`.
 */
export function parseCluster(text: string, fileName: string): ClusterConfig {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, stringKeys: true });
  if (document.errors.length > 0) {
    throw invalid(
      document.errors.map(({ pos, message }) => {
        const { line, col } = lines.linePos(pos[0]);
        return `${fileName}:${line}:${col}: not YAML: ${message}`;
      }),
    );
  }
  const raw = plain(document, fileName);
  const parsed = clusterFile.safeParse(raw);
  const broken = parsed.success ? [] : parsed.error.issues.flatMap((issue) => problemsOf(issue, raw));
  const problems = [...broken, ...inconsistencies(raw)].map((problem) => ({
    problem,
    ...place(document, lines, problem),
  }));
  problems.sort((a, b) => a.line - b.line || a.col - b.col);
  if (parsed.success && problems.length === 0) return parsed.data;
  throw invalid(
    problems.map(({ problem: { path, found, allowed }, line, col }) => {
      const key = keyText(path);
      return `${fileName}:${line}:${col}: ${key === "" ? "the file" : key}: found ${found}; allowed: ${allowed}`;
    }),
  );
}

function plain(document: Document, fileName: string): unknown {
  try {
    // Aliases are of no use in a cluster file, and a few nested ones can fill the memory.
    return document.toJS({ maxAliasCount: 0 });
  } catch (error) {
    throw invalid([`${fileName}:1:1: the file: found an alias (${messageOf(error)}); allowed: plain values`]);
  }
}

function invalid(lines: readonly string[]): EsplexError {
  const shown = lines.slice(0, MAX_PROBLEMS_SHOWN);
  const more = lines.length > shown.length ? [`… and ${lines.length - shown.length} more`] : [];
  return new EsplexError("config.invalid", [...shown, ...more].join("\n"), { problems: lines.length });
}

function problemsOf(issue: z.core.$ZodIssue, raw: unknown): Problem[] {
  const path = issue.path.filter((part) => typeof part !== "symbol");
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => ({ path: [...path, key], found: "an unknown key", allowed: issue.message }));
  }
  return [{ path, found: foundText(path, valueAt(raw, path)), allowed: issue.message }];
}

function valueAt(raw: unknown, path: readonly (string | number)[]): unknown {
  let value = raw;
  for (const part of path) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, part)) return undefined;
    value = (value as Record<string | number, unknown>)[part];
  }
  return value;
}

/** A value for the message. Never what stands where the key belongs: somebody may have put the key itself there. */
function foundText(path: readonly (string | number)[], value: unknown): string {
  if (value === undefined) return "nothing";
  if (value === null) return "an empty value";
  if (path.includes("psk") || path.includes("key"))
    return `a ${Array.isArray(value) ? "list" : typeof value} (not shown)`;
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "object") return "a section";
  const text = JSON.stringify(value) ?? "something else";
  return text.length > MAX_FOUND_LENGTH ? `${text.slice(0, MAX_FOUND_LENGTH)}…` : text;
}

/** `dvipas[0].address` */
function keyText(path: readonly (string | number)[]): string {
  return path.map((part, i) => (typeof part === "number" ? `[${part}]` : i === 0 ? part : `.${part}`)).join("");
}

/** Where the key stands; for a missing one, the section that lacks it. */
function place(document: Document, lines: LineCounter, { path }: Problem): { line: number; col: number } {
  let node: unknown = document.contents;
  let offset = 0;
  for (const part of path) {
    if (isNode(node)) offset = node.range?.[0] ?? offset;
    if (isMap(node)) {
      const pair = node.items.find(({ key }) => isScalar(key) && String(key.value) === String(part));
      if (pair === undefined) break;
      if (isScalar(pair.key)) offset = pair.key.range?.[0] ?? offset;
      node = pair.value;
    } else if (isCollection(node)) {
      node = node.get(part, true);
      if (isNode(node)) offset = node.range?.[0] ?? offset;
    } else break;
  }
  return lines.linePos(offset);
}
