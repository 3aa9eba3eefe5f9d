// Several runs side by side: a table against one of them, and their curves.

import { byId, choice, element, fillSelect, setText } from "./dom.js";
import { clock, digits, isKnown, short, si, signed } from "./format.js";
import { Curves, lossFormat } from "./curves.js";
import { Chart, legend } from "./chart.js";
import { commonTokens, lossAt, valueAt } from "./bars.js";
import { labelOf, stylesOf } from "./styles.js";
import { clockTicks } from "./ticks.js";

const AXIS_LABELS = [
  ["tokens", "Tokens"],
  ["time", "Time"],
  ["joules", "Energy"],
];

export class Compare {
  constructor(again) {
    this.axis = "tokens";
    this.loss = new Curves("compare-loss", { label: "Loss of every run", format: lossFormat });
    this.joules = new Curves("compare-joules", { label: "Cumulative energy of every run", format: (value) => si(value, "J"), zero: true, empty: "No run was metered" });
    this.power = new Chart(byId("compare-power-chart"), { label: "Power of every run", x: clock, y: (value) => si(value, "W"), xTicks: clockTicks, zero: true, empty: "No run was metered" });
    choice(byId("compare-x"), AXIS_LABELS, this.axis, (axis) => {
      this.axis = axis;
      again();
    });
    byId("reference").addEventListener("change", again);
  }

  show(store) {
    const runs = [...store.runs.values()].filter((run) => run.view.state !== "waiting");
    const usual = runs.find((run) => run.view.router === "mixtral") ?? runs[0];
    fillSelect(
      byId("reference"),
      runs.map((run) => [run.key, labelOf(run)]),
    );
    if (usual && !byId("reference").dataset.touched) {
      byId("reference").value = usual.key;
      byId("reference").dataset.touched = "1";
    }
    const reference = runs.find((run) => String(run.key) === byId("reference").value) ?? usual;
    const styles = stylesOf(runs, runs.find((run) => run.view.router === "hamiltonian")?.key ?? runs[0]?.key);
    const tokens = commonTokens(store, runs);
    setText(byId("compare-note"), tokens > 0 ? `after ${short(tokens)} tokens, the most that all have` : "");
    this.table(store, runs, reference, styles, tokens);
    const [kind] = lossAt(store, runs, tokens);
    this.loss.show(store, runs, styles, kind.startsWith("held-out") ? "heldout" : "train", this.axis);
    this.joules.show(store, runs, styles, "joules", this.axis === "joules" ? "tokens" : this.axis);
    const power = runs.map((run) => ({ label: labelOf(run), ...styles.get(run.key), x: store.column(run, "power", "t"), y: store.column(run, "power", "watts") }));
    this.power.set(power);
    legend(
      byId("compare-power-legend"),
      power.map((one) => ({ ...one, value: "" })),
    );
  }

  table(store, runs, reference, styles, tokens) {
    const [kind, losses] = lossAt(store, runs, tokens);
    const columns = [
      [kind, losses, (value) => digits(value, 4), true],
      ["J/token", runs.map((run) => ratio(valueAt(store, run, "joules", tokens), tokens)), (value) => si(value, "J"), true],
      ["energy", runs.map((run) => valueAt(store, run, "joules", tokens)), (value) => si(value, "J"), true],
      ["time", runs.map((run) => valueAt(store, run, "t", tokens)), clock, true],
      ["routing a step", runs.map((run) => run.view.routing.median_seconds), (value) => si(value, "s"), true],
      ["experts a token", runs.map((run) => valueAt(store, run, "mean_active", tokens)), (value) => digits(value), false],
      ["MaxVio", runs.map((run) => valueAt(store, run, "max_violation", tokens)), (value) => digits(value, 2), true],
    ];
    const at = runs.indexOf(reference);
    const rows = runs.map((run, i) => {
      const swatch = element("span.key", { "data-pattern": styles.get(run.key).pattern, "aria-hidden": "true" });
      swatch.style.setProperty("--ink", `var(${styles.get(run.key).ink})`);
      return element(
        "tr",
        {},
        element("th", { scope: "row" }, swatch, labelOf(run), element("small", {}, describe(run))),
        ...columns.map(([, values, format, less]) => cell(values, i, at, format, less)),
      );
    });
    byId("compare-table").replaceChildren(
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "run"), ...columns.map(([name]) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, ...rows),
    );
  }
}

const ratio = (value, by) => (isKnown(value) && by > 0 ? value / by : null);

function describe(run) {
  const { router, mode, state, synthetic, meter } = run.view;
  const words = [router, mode === "replayed" ? "replay" : state, synthetic ? "synthetic energy" : meter.source === "none" ? "no meter" : meter.source];
  return words.filter(Boolean).join(" \u00b7 ");
}

/** A number, how it differs from the reference's, and whether it is the least. */
function cell(values, i, reference, format, less) {
  const value = values[i];
  if (!isKnown(value)) return element("td.unknown", {}, "not known");
  const base = values[reference];
  const differs = i !== reference && isKnown(base) && base !== 0;
  const known = values.filter(isKnown);
  const best = less && known.length > 1 && value === Math.min(...known);
  return element(
    "td",
    {},
    element("b", {}, format(value)),
    element("small", {}, differs ? `${signed((100 * (value - base)) / base, 2)}\u202f%` : i === reference ? "reference" : ""),
    best ? element("span.best", {}, "least") : null,
  );
}
