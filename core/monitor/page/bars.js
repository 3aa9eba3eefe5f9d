// Final bars: loss, energy and time of every run after the same number of tokens. A run that
// is not over is compared as far as all have come.

import { byId, element, setText } from "./dom.js";
import { clock, digits, isKnown, short, si, signed } from "./format.js";
import { labelOf } from "./styles.js";

/** The most tokens that all runs have; 0 when one has none. */
export function commonTokens(store, runs) {
  const totals = runs.map((run) => store.column(run, "steps", "tokens").at(-1) ?? 0);
  return totals.length ? Math.min(...totals) : 0;
}

/** A column where a run had so many tokens, null where it is not known there. */
export function valueAt(store, run, name, tokens) {
  const at = store.column(run, "steps", "tokens").findLastIndex((have) => have <= tokens * (1 + 1e-9));
  return at < 0 ? null : store.column(run, "steps", name)[at];
}

/** Likewise of what is looked at now and then, as a held-out loss is: its last value up to there. */
function lastAt(store, run, name, tokens) {
  const at = store.column(run, "steps", "tokens").findLastIndex((have) => have <= tokens * (1 + 1e-9));
  return store.column(run, "steps", name).slice(0, at + 1).findLast(isKnown) ?? null;
}

/** Loss at a point: held-out where all have it, else train. */
export function lossAt(store, runs, tokens) {
  const heldout = runs.map((run) => lastAt(store, run, "heldout", tokens));
  return heldout.every(isKnown) ? ["held-out loss", heldout] : ["train loss", runs.map((run) => lastAt(store, run, "train", tokens))];
}

export function showBars(store, runs, styles) {
  const tokens = commonTokens(store, runs);
  const over = runs.every((run) => run.view.state === "ended");
  setText(byId("bars-at"), tokens > 0 ? `${short(tokens)} tokens${over ? "" : ", so far"}` : "");
  const [lossName, losses] = lossAt(store, runs, tokens);
  const joules = runs.map((run) => valueAt(store, run, "joules", tokens));
  const seconds = runs.map((run) => valueAt(store, run, "t", tokens));
  byId("bars").replaceChildren(
    group(lossName, runs, styles, losses, (value) => digits(value, 4), "loss"),
    group("energy", runs, styles, joules, (value) => si(value, "J"), "energy"),
    group("time", runs, styles, seconds, clock, "time"),
  );
}

function group(title, runs, styles, values, format, name) {
  const most = Math.max(...values.filter(isKnown), 0);
  const first = values[0];
  return element(
    "div.bars",
    { testid: `bars-${name}` },
    element("h3", {}, title),
    ...runs.map((run, i) => {
      const value = values[i];
      const fill = element("span.fill", { "data-pattern": styles.get(run.key).pattern });
      fill.style.width = isKnown(value) && most > 0 ? `${(100 * value) / most}%` : "0";
      fill.style.setProperty("--ink", `var(${styles.get(run.key).ink})`);
      const against = i > 0 && isKnown(value) && isKnown(first) && first !== 0 ? `${signed((100 * (value - first)) / first, 2)}\u202f%` : "";
      return element(
        "p.bar-row",
        {},
        element("span.who", { title: labelOf(run) }, labelOf(run)),
        element("span.track", {}, fill),
        element("b", {}, isKnown(value) ? format(value) : name === "energy" ? "not metered" : "unknown"),
        element("small", {}, against),
      );
    }),
  );
}
