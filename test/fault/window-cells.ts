/** What a cell of the table holds fixed. */
export interface Cell {
  readonly window: number;
  readonly esn: boolean;
  readonly targets: number;
  /** Rates of the targets, `10:1:1`; one part for each of them. */
  readonly skew: string;
  readonly load: Load;
}

export type Load = "bulk" | "request";

const WINDOWS = [32, 64, 128, 1024, 4096];
/** With ESN: strongSwan and the kernel take this window both ways; ESN is what such a window is for. */
const ESN_WINDOW = 4096;
const TARGETS = [2, 3, 4];
const FASTEST = [1, 10, 100];
const LOADS: readonly Load[] = ["bulk", "request"];
/** Windows below and above what three bursting senders need, where all skews and loads are tried. */
const THOROUGH_WINDOWS = [128, 1024];
const THOROUGH_TARGETS = 3;

/** `covering`: every window with every number of targets, and every skew and load at two windows. `quick`: a few of all. */
export function chooseCells(extent: "quick" | "covering" | "all"): Cell[] {
  const all = WINDOWS.flatMap((window) =>
    TARGETS.flatMap((targets) =>
      FASTEST.flatMap((fastest) => LOADS.map((load) => cellOf(window, targets, fastest, load))),
    ),
  );
  if (extent === "all") return all;
  const skewed = cellOf(1024, THOROUGH_TARGETS, 100, "bulk");
  const plain = all.filter(({ skew, load }) => load === "bulk" && skew.startsWith("10:"));
  if (extent === "quick") {
    return [...plain.filter(({ targets }) => targets === THOROUGH_TARGETS), skewed];
  }
  return all.filter(
    (cell) => plain.includes(cell) || (THOROUGH_WINDOWS.includes(cell.window) && cell.targets === THOROUGH_TARGETS),
  );
}

/** Cells that one lab can try one after the other, as lists. */
export function byLab(cells: readonly Cell[]): Cell[][] {
  return [...Map.groupBy(cells, ({ window, targets }) => `${window} ${targets}`).values()];
}

function cellOf(window: number, targets: number, fastest: number, load: Load): Cell {
  const skew = [fastest, ...Array.from({ length: targets - 1 }, () => 1)].join(":");
  return { window, esn: window === ESN_WINDOW, targets, skew, load };
}
