// Loss and cumulative energy of the run beside those of the others.

import { Chart, legend } from "./chart.js";
import { byId } from "./dom.js";
import { clock, digits, isKnown, short, si } from "./format.js";
import { labelOf } from "./styles.js";
import { clockTicks, ticks } from "./ticks.js";

export const AXES = {
  tokens: { column: "tokens", format: short, xTicks: ticks },
  time: { column: "t", format: clock, xTicks: clockTicks },
  joules: { column: "joules", format: (value) => si(value, "J"), xTicks: ticks },
};

/** A chart of one column of every run, with its legend; axis names one of AXES. */
export class Curves {
  constructor(name, { label, format, zero = false, empty }) {
    this.format = format;
    this.legend = byId(`${name}-legend`);
    this.name = name;
    this.chart = new Chart(byId(`${name}-chart`), { label, x: short, y: format, zero, empty });
  }

  show(store, runs, styles, column, axis = "tokens") {
    const { column: across, format, xTicks } = AXES[axis];
    Object.assign(this.chart.options, { x: format, xTicks });
    const series = runs.map((run) => {
      const [x, y] = [store.column(run, "steps", across), store.column(run, "steps", column)];
      // A loss that is evaluated now and then is a line through its points.
      const at = x.map((_, i) => i).filter((i) => isKnown(x[i]) && isKnown(y[i]));
      return { label: labelOf(run), ...styles.get(run.key), x: at.map((i) => x[i]), y: at.map((i) => y[i]) };
    });
    const drawn = column === "train" ? series.flatMap(smoothed) : series;
    this.chart.set(drawn);
    legend(
      this.legend,
      series.map((one, i) => ({
        ...one,
        value: one.y.length ? this.format(one.y.at(-1)) : "none",
        testid: `${this.name}-last-${i}`,
      })),
    );
  }
}

/** The loss of single batches is noise around its course: shown faint behind a running mean. */
function smoothed(series) {
  const span = Math.min(Math.floor(series.y.length / 20), 50);
  if (span < 3) return [series];
  let mean = 0;
  const y = series.y.map((value, i) => (mean += (value - mean) / Math.min(i + 1, span)));
  return [{ ...series, y }, { ...series, faint: true, width: 1 }];
}

export const lossFormat = (value) => digits(value, 4);
