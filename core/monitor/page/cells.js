// Experts as cells of a canvas, a row a layer: for 128 experts x 60 layers. One expert is
// described in words beside it: the one pointed at, or moved to by the arrow keys, else
// the busiest.

import { element, setText } from "./dom.js";
import { digits } from "./format.js";
import { colour } from "./theme.js";
import { font, sharpCanvas, typeScale } from "./canvas.js";
import { describeExpert, isFree, livingOf, nameOf, slotsFree, titleOf } from "./topology.js";

const SHADES = 24;
const GUTTER = 34; // for the numbers of the layers, at a scale of 1

export class ExpertCells {
  constructor(root, layers) {
    this.layers = layers;
    this.starts = [];
    this.columns = 0;
    let place = 0;
    for (const layer of layers) {
      this.starts.push(place);
      place += layer.experts;
      this.columns = Math.max(this.columns, layer.experts);
    }
    this.chosen = null; // [row, expert]
    this.canvas = element("canvas.cells", {
      tabindex: 0,
      role: "img",
      "aria-label": "Experts by layer. Arrow keys move between experts; the one reached is described after the grid.",
      testid: "cells",
    });
    this.gutter = GUTTER;
    this.canvas.style.height = `${Math.max(layers.length * (layers.length > 40 ? 9 : layers.length > 16 ? 13 : 22), 120) + 22}px`;
    this.words = new Words();
    this.legend = element("p.cell-legend");
    root.replaceChildren(element("div.cells-box", {}, element("div", {}, this.canvas, this.legend), this.words.root));
    this.redraw = sharpCanvas(this.canvas, (context, width, height) => this.draw(context, width, height));
    this.canvas.addEventListener("pointermove", (event) => this.choose(this.at(event.offsetX, event.offsetY)));
    this.canvas.addEventListener("pointerleave", () => this.choose(null));
    this.canvas.addEventListener("blur", () => this.choose(null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  show(grids, metric, terms) {
    [this.grids, this.metric, this.terms] = [grids, metric, terms];
    this.describe();
    this.words.rank(this.layers, terms);
    this.redraw();
  }

  describe() {
    if (!this.grids) return;
    const [row, expert] = this.chosen ?? this.busiest();
    const layer = this.layers[row];
    this.words.show(layer, expert, describeExpert(layer, expert, this.starts[row] + expert, this.grids), this.terms[row], !this.chosen);
    const what = { now: "load in the last step", run: "load over the run", energy: "share of the layer's energy" }[this.metric];
    setText(
      this.legend,
      this.metric === "energy" && !this.grids.energy
        ? "Energy is not attributed to experts in this run."
        : `Columns are experts, rows are layers. A dot is IDLE; a square is ROUTED, the brighter the higher its ${what}; an outlined one has more than twice its share.${this.grown()}`,
    );
  }

  /** What the legend says where experts have split, or can. */
  grown() {
    const split = this.layers.some((layer) => layer.clans?.some((parent) => parent >= 0));
    const free = this.layers.some((layer) => layer.free?.length);
    return `${split ? " A notched one was split from another." : ""}${free ? " A gap is a slot without an expert." : ""}`;
  }

  busiest() {
    let best = 0;
    for (let i = 1; i < this.grids.now.length; i++) if (this.grids.now[i] > this.grids.now[best]) best = i;
    let row = this.starts.length - 1;
    while (row > 0 && this.starts[row] > best) row--;
    return [row, best - this.starts[row]];
  }

  draw(context, width, height) {
    if (!this.grids) return;
    this.gutter = Math.round(GUTTER * typeScale());
    this.cell = { w: (width - this.gutter) / this.columns, h: (height - 22) / this.layers.length };
    const { w, h } = this.cell;
    const gap = Math.min(w, h) > 5 ? 1 : 0.5;
    const ramp = shades(this.metric === "energy" ? "--energy" : "--routed");
    const values = this.metric === "energy" ? this.grids.energy : this.grids[this.metric];
    const idle = colour("--idle");
    context.font = font(10);
    context.textBaseline = "middle";
    this.layers.forEach((layer, row) => {
      const y = row * h;
      if (h >= 11 || row % 5 === 0) {
        context.fillStyle = colour("--text-3");
        context.textAlign = "right";
        context.fillText(String(layer.layer), this.gutter - 8, y + h / 2);
      }
      for (let expert = 0; expert < layer.experts; expert++) {
        const place = this.starts[row] + expert;
        const x = this.gutter + expert * w;
        if (isFree(layer, expert)) continue;
        if (!(this.grids.now[place] > 0)) {
          const dot = Math.max(1, Math.min(w, h) * 0.22);
          context.fillStyle = idle;
          context.fillRect(x + (w - dot) / 2, y + (h - dot) / 2, dot, dot);
          continue;
        }
        // Balance is the middle of the scale for both: an equal share of the layer's energy too.
        const share = values ? (this.metric === "energy" ? values[place] * livingOf(layer) : values[place]) : 0;
        context.fillStyle = ramp[Math.min(SHADES - 1, Math.floor((share / 2) ** 1.3 * SHADES))];
        context.fillRect(x + gap / 2, y + gap / 2, w - gap, h - gap);
        if ((layer.clans?.[expert] ?? -1) >= 0 && Math.min(w, h) >= 9) {
          context.fillStyle = colour("--surface");
          context.beginPath();
          context.moveTo(x, y);
          context.lineTo(x + Math.min(w, h) * 0.45, y);
          context.lineTo(x, y + Math.min(w, h) * 0.45);
          context.fill();
        }
        if (share > 2) {
          context.strokeStyle = colour("--text");
          context.lineWidth = 1;
          context.strokeRect(x + gap / 2 + 0.5, y + gap / 2 + 0.5, w - gap - 1, h - gap - 1);
        }
      }
    });
    context.fillStyle = colour("--text-3");
    context.textAlign = "center";
    const every = [1, 2, 4, 8, 16, 32, 64].find((n) => n * w >= this.gutter) ?? 128;
    for (let expert = 0; expert < this.columns; expert += every) context.fillText(String(expert), this.gutter + (expert + 0.5) * w, height - 10);
    if (this.chosen) {
      const [row, expert] = this.chosen;
      context.strokeStyle = colour("--focus");
      context.lineWidth = 2;
      context.strokeRect(this.gutter + expert * w - 1, row * h - 1, w + 2, h + 2);
    }
  }

  at(x, y) {
    if (!this.cell) return null;
    const row = Math.floor(y / this.cell.h);
    const expert = Math.floor((x - this.gutter) / this.cell.w);
    return this.layers[row] && expert >= 0 && expert < this.layers[row].experts ? [row, expert] : null;
  }

  choose(place) {
    this.chosen = place;
    this.describe();
    this.redraw();
  }

  key(event) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (event.key === "Escape") this.choose(null);
    if (!step || !this.grids) return;
    event.preventDefault();
    const [row, expert] = this.chosen ?? this.busiest();
    const to = Math.min(Math.max(row + step[0], 0), this.layers.length - 1);
    this.words.root.firstChild.setAttribute("aria-live", "polite");
    this.choose([to, Math.min(Math.max(expert + step[1], 0), this.layers[to].experts - 1)]);
  }
}

/** What is said of one expert, beside the grid. */
class Words {
  constructor() {
    this.which = element("p.aside");
    this.name = element("p.name", { testid: "expert-name" });
    this.state = element("p.state", { testid: "expert-state" });
    this.facts = element("dl");
    this.prefers = element("p.prefers");
    this.loads = element("dl", { testid: "uneven-layers" });
    this.root = element(
      "aside.words",
      {},
      element("div", { "aria-label": "One expert", role: "group" }, this.which, this.name, this.state, this.facts, this.prefers),
      element("h3", {}, "Least balanced layers, by MaxVio"),
      this.loads,
    );
  }

  /** The layers whose busiest expert is furthest from balance. */
  rank(layers, terms) {
    const worst = terms
      .map((one, row) => [row, one.max_violation ?? -1, one.active])
      .filter(([, violation]) => violation >= 0)
      .sort((a, b) => b[1] - a[1])
      .slice(0, 6);
    this.loads.replaceChildren(
      ...worst.map(([row, violation, active]) =>
        element("div", {}, element("dt", {}, `Layer ${layers[row].layer}`), element("dd", {}, `${digits(violation, 2)} \u00b7 ${active} routed`)),
      ),
    );
  }

  show(layer, expert, facts, terms, busiest) {
    setText(this.which, `${busiest ? "Busiest now: layer" : "Layer"} ${layer.layer}, expert ${expert}`);
    this.which.title = titleOf(layer);
    setText(this.name, nameOf(layer, expert));
    this.state.dataset.state = facts.state;
    setText(this.state, facts.state);
    const rows = [
      ["Load now", facts.load],
      ["Load of the run", facts.run],
      ["Energy share", facts.energy === null ? "not attributed" : `${facts.energy} ${facts.quality}`],
      ["Layer", terms ? `${terms.active} of ${livingOf(layer)} routed${slotsFree(layer.experts - livingOf(layer))}` : ""],
      ["MaxVio", digits(terms?.max_violation, 2)],
      ["Clan", facts.clan],
    ].filter(([, value]) => value);
    this.facts.replaceChildren(...rows.map(([label, value]) => element("div", {}, element("dt", {}, label), element("dd", {}, value))));
    this.prefers.replaceChildren(...facts.prefers.map((token) => element("code", {}, token)));
  }
}

const ramps = new Map();

/** Shades from the surface to the full colour. */
function shades(name) {
  const key = colour("--surface") + colour(name);
  if (!ramps.has(key)) {
    const [from, to] = [rgb(colour("--cell-low")), rgb(colour(name))];
    ramps.set(
      key,
      Array.from({ length: SHADES }, (_, i) => {
        const share = 0.12 + (0.88 * i) / (SHADES - 1);
        return `rgb(${from.map((low, c) => Math.round(low + (to[c] - low) * share)).join(" ")})`;
      }),
    );
  }
  return ramps.get(key);
}

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
