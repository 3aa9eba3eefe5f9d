// A line chart: a handful of bounded series, an optional limit line, hatching where nothing
// was measured, and a cursor for pointer and keyboard whose readout is text.

import { element, setText } from "./dom.js";
import { isKnown } from "./format.js";
import { colour } from "./theme.js";
import { font, sharpCanvas, typeScale } from "./canvas.js";
import { ticks } from "./ticks.js";

const PADDING = { top: 10, right: 14, bottom: 24, left: 52 }; // at a scale of 1
const FONT_PIXELS = 11;

export class Chart {
  /**
   * options: label (what a screen reader is told), x and y (formats of numbers), xTicks, zero
   * (whether the axis starts at 0).
   */
  constructor(root, options) {
    this.options = { xTicks: ticks, zero: false, ...options };
    this.series = [];
    this.limit = null;
    this.cursor = null;
    this.canvas = element("canvas", { tabindex: 0, role: "img", "aria-label": options.label });
    this.readout = element("p.readout", { "aria-live": "off", hidden: true });
    root.replaceChildren(this.canvas, this.readout);
    this.redraw = sharpCanvas(this.canvas, (context, width, height) => this.draw(context, width, height));
    this.canvas.addEventListener("pointermove", (event) => this.point(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.move(null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("blur", () => this.move(null));
  }

  /** series: [{label, ink (CSS variable), dash, width, fill, faint, x: [], y: []}], the main one first. */
  set(series, limit = null) {
    this.series = series;
    this.limit = isKnown(limit) ? limit : null;
    this.canvas.dataset.limit = this.limit ?? "";
    this.canvas.dataset.points = series[0]?.x.length ?? 0;
    this.redraw();
  }

  draw(context, width, height) {
    this.size = typeScale();
    this.scale(width, height);
    const { bottom, left, right, top } = this.box;
    context.font = font(FONT_PIXELS);
    context.textBaseline = "middle";
    this.axes(context, width, height);
    if (!this.range) {
      context.fillStyle = colour("--text-3");
      context.textAlign = "center";
      context.fillText(this.options.empty ?? "Nothing yet", (left + right) / 2, (top + bottom) / 2);
      return;
    }
    context.save();
    context.beginPath();
    context.rect(left, top - 4, right - left, bottom - top + 8);
    context.clip();
    if (this.series[0]) this.hatchGaps(context, this.series[0]);
    for (const series of this.series.toReversed()) this.line(context, series);
    context.restore();
    if (this.limit !== null) this.limitLine(context);
    if (this.cursor !== null) this.crosshair(context);
  }

  /** Finds the ranges of both axes and where they lie. */
  scale(width, height) {
    const [left, right, top, bottom] = ["left", "right", "top", "bottom"].map((side) => Math.round(PADDING[side] * this.size));
    this.box = { left, right: width - right, top, bottom: height - bottom };
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const { x, y } of this.series) {
      for (let i = 0; i < x.length; i++) {
        if (!isKnown(x[i])) continue;
        x0 = Math.min(x0, x[i]);
        x1 = Math.max(x1, x[i]);
        if (!isKnown(y[i])) continue;
        y0 = Math.min(y0, y[i]);
        y1 = Math.max(y1, y[i]);
      }
    }
    if (this.limit !== null && y0 <= y1) y1 = Math.max(y1, this.limit * 1.02);
    this.range = x0 <= x1 && y0 <= y1;
    if (!this.range) return;
    if (this.options.zero) y0 = Math.min(0, y0);
    const room = (y1 - y0 || Math.abs(y1) || 1) * 0.06;
    this.domain = { x0, x1: x1 > x0 ? x1 : x0 + 1, y0: this.options.zero && y0 === 0 ? 0 : y0 - room, y1: y1 + room };
  }

  px = (x) => this.box.left + ((x - this.domain.x0) / (this.domain.x1 - this.domain.x0)) * (this.box.right - this.box.left);
  py = (y) => this.box.bottom - ((y - this.domain.y0) / (this.domain.y1 - this.domain.y0)) * (this.box.bottom - this.box.top);

  axes(context, width) {
    const { bottom, left, right, top } = this.box;
    context.strokeStyle = colour("--line");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(left, bottom + 0.5);
    context.lineTo(right, bottom + 0.5);
    context.stroke();
    if (!this.range) return;
    const { x0, x1, y0, y1 } = this.domain;
    context.fillStyle = colour("--text-3");
    context.textAlign = "right";
    for (const y of ticks(y0, y1, (bottom - top) / (36 * this.size))) {
      const at = Math.round(this.py(y)) + 0.5;
      if (at > bottom - 2) continue;
      context.strokeStyle = colour("--grid");
      context.beginPath();
      context.moveTo(left, at);
      context.lineTo(right, at);
      context.stroke();
      context.fillText(plain(this.options.y(y)), left - 8, at);
    }
    for (const x of this.options.xTicks(x0, x1, Math.min((right - left) / (90 * this.size), 10))) {
      const at = this.px(x);
      const text = plain(this.options.x(x));
      const half = context.measureText(text).width / 2;
      if (at + half > width || at - half < left - 20) continue;
      context.textAlign = "center";
      context.fillText(text, at, bottom + 13 * this.size);
    }
  }

  line(context, series) {
    const { x, y } = series;
    context.beginPath();
    let drawing = false;
    let start = 0;
    const runs = [];
    for (let i = 0; i < x.length; i++) {
      if (!isKnown(y[i]) || !isKnown(x[i])) {
        if (drawing) runs.push([start, i]);
        drawing = false;
        continue;
      }
      if (drawing) context.lineTo(this.px(x[i]), this.py(y[i]));
      else {
        context.moveTo(this.px(x[i]), this.py(y[i]));
        start = i;
      }
      drawing = true;
    }
    if (drawing) runs.push([start, x.length]);
    context.strokeStyle = colour(series.ink);
    context.lineWidth = series.width ?? 1.75;
    context.lineJoin = "round";
    context.globalAlpha = series.faint ? 0.35 : 1;
    context.setLineDash(series.dash ?? []);
    context.stroke();
    context.setLineDash([]);
    for (const [from, to] of runs) {
      // One reading between two gaps would be no line at all.
      if (to - from === 1) {
        context.fillStyle = colour(series.ink);
        context.fillRect(this.px(x[from]) - 1.5, this.py(y[from]) - 1.5, 3, 3);
      } else if (series.fill) this.area(context, series, from, to);
    }
    context.globalAlpha = 1;
  }

  area(context, { ink, x, y }, from, to) {
    const gradient = context.createLinearGradient(0, this.box.top, 0, this.box.bottom);
    gradient.addColorStop(0, colour(ink));
    gradient.addColorStop(1, `${colour(ink)}00`); // "transparent" is black, and greys what comes before it
    context.beginPath();
    context.moveTo(this.px(x[from]), this.box.bottom);
    for (let i = from; i < to; i++) context.lineTo(this.px(x[i]), this.py(y[i]));
    context.lineTo(this.px(x[to - 1]), this.box.bottom);
    context.globalAlpha = 0.22;
    context.fillStyle = gradient;
    context.fill();
    context.globalAlpha = 1;
  }

  /** Hatches where there are rows without a value: the meter was silent. */
  hatchGaps(context, { x, y }) {
    let last = null; // the newest row with a value
    let gap = false;
    const hatch = (from, to) => {
      const [a, b] = [this.px(from), Math.max(this.px(to), this.px(from) + 2)];
      context.save();
      context.beginPath();
      context.rect(a, this.box.top, b - a, this.box.bottom - this.box.top);
      context.clip();
      context.strokeStyle = colour("--hatch");
      context.lineWidth = 1;
      context.beginPath();
      const size = this.box.bottom - this.box.top;
      for (let s = a - size; s < b; s += 7) {
        context.moveTo(s, this.box.bottom);
        context.lineTo(s + size, this.box.top);
      }
      context.stroke();
      if (b - a > 74 * this.size) {
        context.fillStyle = colour("--text-2");
        context.textAlign = "center";
        context.fillText("no reading", (a + b) / 2, this.box.bottom - 12);
      }
      context.restore();
    };
    for (let i = 0; i < x.length; i++) {
      if (isKnown(y[i])) {
        if (gap && last !== null) hatch(last, x[i]);
        last = x[i];
        gap = false;
      } else gap = true;
    }
    if (gap && last !== null) hatch(last, x.at(-1));
  }

  limitLine(context) {
    const at = Math.round(this.py(this.limit)) + 0.5;
    context.strokeStyle = colour("--limit");
    context.lineWidth = 1.5;
    context.setLineDash([7, 4]);
    context.beginPath();
    context.moveTo(this.box.left, at);
    context.lineTo(this.box.right, at);
    context.stroke();
    context.setLineDash([]);
    const text = `limit ${this.options.y(this.limit)}`;
    const width = context.measureText(text).width;
    context.fillStyle = colour("--surface");
    context.fillRect(this.box.right - width - 10, at - 8 * this.size, width + 11, 16 * this.size);
    context.fillStyle = colour("--limit");
    context.textAlign = "right";
    context.fillText(text, this.box.right - 6, at);
  }

  crosshair(context) {
    const at = Math.round(this.px(this.cursor)) + 0.5;
    context.strokeStyle = colour("--text-3");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(at, this.box.top);
    context.lineTo(at, this.box.bottom);
    context.stroke();
    for (const series of this.series) {
      const i = nearest(series.x, this.cursor);
      if (i < 0 || !isKnown(series.y[i])) continue;
      context.fillStyle = colour(series.ink);
      context.beginPath();
      context.arc(this.px(series.x[i]), this.py(series.y[i]), 3.5, 0, 2 * Math.PI);
      context.fill();
    }
  }

  point(offset) {
    if (!this.range) return;
    const { left, right } = this.box;
    const share = Math.min(Math.max((offset - left) / (right - left), 0), 1);
    this.move(this.domain.x0 + share * (this.domain.x1 - this.domain.x0));
  }

  key(event) {
    const x = this.series[0]?.x ?? [];
    if (!this.range || x.length === 0) return;
    const here = this.cursor === null ? x.length - 1 : nearest(x, this.cursor);
    const pace = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: here - pace, ArrowRight: here + pace, Home: 0, End: x.length - 1 }[event.key];
    if (event.key === "Escape") this.move(null);
    if (to === undefined) return;
    event.preventDefault();
    this.readout.setAttribute("aria-live", "polite");
    this.move(x[Math.min(Math.max(to, 0), x.length - 1)]);
  }

  move(x) {
    this.cursor = x;
    this.readout.hidden = x === null;
    if (x !== null) {
      const parts = this.series
        .filter((series) => !series.faint)
        .map((series) => [series.label, series.y[nearest(series.x, x)]])
        .map(([label, y]) => `${label} ${isKnown(y) ? this.options.y(y) : "no reading"}`);
      setText(this.readout, `${this.options.x(x)}  ·  ${parts.join("  ·  ")}`);
      this.readout.classList.toggle("left", this.px(x) > (this.box.left + this.box.right) / 2);
    }
    this.redraw();
  }
}

/** Without zeros that say nothing: 2.000 is 2, 20.0 kJ is 20 kJ. */
const plain = (text) => text.replace(/\.(\d*?)0+(?!\d)/, (_, kept) => (kept ? `.${kept}` : ""));

/** The index whose x is nearest, -1 when there is none. x ascends. */
export function nearest(x, value) {
  let [low, high] = [0, x.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low > 0 && value - x[low - 1] < x[low] - value ? low - 1 : low === 0 && x.length === 0 ? -1 : low;
}

/** A legend in text, with the dash of each line beside its name. items: [{label, ink, dash, value, testid}]. */
export function legend(root, items) {
  const key = JSON.stringify(items.map(({ label, ink, dash }) => [label, ink, dash]));
  if (root.dataset.key !== key) {
    root.dataset.key = key;
    root.replaceChildren(
      ...items.map(({ label, ink, dash, testid }) => {
        const swatch = element("canvas.swatch", { "aria-hidden": "true" });
        const redraw = sharpCanvas(swatch, (context, width, height) => {
          context.strokeStyle = colour(ink);
          context.lineWidth = 2.5;
          context.setLineDash(dash ?? []);
          context.beginPath();
          context.moveTo(0, height / 2);
          context.lineTo(width, height / 2);
          context.stroke();
        });
        redraw();
        return element("span.entry", {}, swatch, element("span", {}, label), element("b", { testid }));
      }),
    );
  }
  items.forEach(({ value }, i) => setText(root.children[i].lastChild, value ?? ""));
}
