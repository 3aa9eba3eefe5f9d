// How a run looks wherever it is drawn: by colour, and by dash and pattern for those who do
// not see the colour.

const SHOWN = { ink: "--routed", dash: [], width: 2.25, pattern: "solid" };
const BY_ROUTER = {
  mixtral: { ink: "--mixtral", dash: [7, 4], width: 1.75, pattern: "hatched" },
  deepseek: { ink: "--deepseek", dash: [2, 3], width: 1.75, pattern: "dotted" },
};
const OTHERS = [
  { ink: "--other-1", dash: [10, 3, 2, 3], width: 1.75, pattern: "crossed" },
  { ink: "--other-2", dash: [4, 2], width: 1.75, pattern: "barred" },
  { ink: "--other-3", dash: [12, 4], width: 1.75, pattern: "plain" },
  { ink: "--other-4", dash: [1, 2], width: 1.75, pattern: "striped" },
];

/** Styles of runs by key; the shown one first. No two are alike as long as there are enough. */
export function stylesOf(runs, shown) {
  const styles = new Map();
  const taken = new Set();
  for (const run of runs) {
    let style = run.key === shown ? SHOWN : BY_ROUTER[run.view.router];
    if (!style || taken.has(style)) style = OTHERS.find((other) => !taken.has(other)) ?? OTHERS.at(-1);
    taken.add(style);
    styles.set(run.key, style);
  }
  return styles;
}

export const labelOf = (run) => run.view.name || run.view.router || `run ${run.key}`;
