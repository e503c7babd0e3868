/** Lays rows out in columns under their headings, as text for a terminal. No rows: says so. */
export function formatTable(title: string, headings: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return `${title}: none\n`;
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...rows.map((row) => (row[column] ?? "").length)),
  );
  const line = (cells: readonly string[]): string =>
    `  ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ")}`.trimEnd();
  return [`${title}:`, line(headings), ...rows.map(line)].join("\n") + "\n";
}
