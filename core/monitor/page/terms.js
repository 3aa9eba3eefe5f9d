// The three terms of the routing energy and their sum, each with its course over the run.

import { byId, element, setText } from "./dom.js";
import { digits, isKnown, UNKNOWN } from "./format.js";
import { colour } from "./theme.js";
import { sharpCanvas } from "./canvas.js";

const TERMS = [
  ["h", "H", "their sum", "--text"],
  ["bind", "Binding", "how well experts match", "--routed"],
  ["entropy", "Entropy", "uncertainty, cooled", "--second"],
  ["cost", "Cost", "overload", "--energy"],
];

export class Terms {
  constructor() {
    this.rows = TERMS.map(([name, label, meaning, ink]) => {
      const value = element("b", { testid: `term-${name}` });
      const canvas = element("canvas.spark", { "aria-hidden": "true" });
      const row = { name, value, values: [], root: element("div.term", {}, element("p", {}, element("span", {}, label), element("small", {}, meaning)), canvas, value) };
      row.redraw = sharpCanvas(canvas, (context, width, height) => spark(context, width, height, row.values, colour(ink)));
      return row;
    });
    this.empty = element("p.empty", {}, "No router has been asked for its report yet.");
    byId("terms").replaceChildren(...this.rows.map((row) => row.root), this.empty);
  }

  show(terms, column) {
    const none = this.rows.every(({ name }) => !isKnown(terms[name]));
    this.empty.hidden = !none;
    for (const row of this.rows) {
      row.root.hidden = none;
      row.values = column(row.name).filter(isKnown);
      setText(row.value, isKnown(terms[row.name]) ? digits(terms[row.name]) : UNKNOWN);
      row.redraw();
    }
  }
}

function spark(context, width, height, values, ink) {
  if (values.length < 2) return;
  const [low, high] = values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const y = (value) => height - 3 - ((value - low) / (high - low || 1)) * (height - 6);
  context.strokeStyle = ink;
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.beginPath();
  values.forEach((value, i) => context.lineTo((i / (values.length - 1)) * (width - 4), y(value)));
  context.stroke();
  context.fillStyle = ink;
  context.beginPath();
  context.arc(width - 4, y(values.at(-1)), 2.5, 0, 2 * Math.PI);
  context.fill();
}
