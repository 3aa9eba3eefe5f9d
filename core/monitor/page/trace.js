// The route of every token of a text: its experts in one layer, and its energy.

import { byId, element, fillSelect, setText } from "./dom.js";
import { digits, isKnown, percent, si } from "./format.js";
import { get } from "./stream.js";
import { nameOf, titleOf, visible } from "./topology.js";

const MOST_TOKENS = 512;
const HUES = 8;

export class Traces {
  constructor() {
    this.run = null;
    this.version = null;
    this.traces = [];
    byId("trace-select").addEventListener("change", () => this.draw());
    byId("trace-layer").addEventListener("change", () => this.draw());
  }

  /** Fetches the traces when there are new ones. */
  async show(run) {
    this.run = run;
    const version = `${run.key}:${run.view.id}:${run.view.traces_version}`;
    byId("trace-panel").hidden = run.view.traces_version === 0;
    if (version === this.version || run.view.traces_version === 0) return;
    this.version = version;
    try {
      const answer = await get("/api/traces");
      if (this.version !== version) return;
      this.traces = answer.runs.find((one) => one.key === run.key)?.traces ?? [];
    } catch {
      this.version = null; // the next frame tries again
      return;
    }
    fillSelect(
      byId("trace-select"),
      this.traces.map((trace, i) => [i, trace.id]).toReversed(),
    );
    const layers = [...new Set(this.traces.flatMap((trace) => trace.tokens?.flatMap((token) => token.layers?.map((route) => route.layer) ?? []) ?? []))];
    fillSelect(
      byId("trace-layer"),
      layers.sort((a, b) => a - b).map((layer) => [layer, titleOf(this.layer(layer))]),
    );
    this.draw();
  }

  layer(number) {
    return this.run.layers.find((layer) => layer.layer === number) ?? { layer: number, names: [] };
  }

  draw() {
    const trace = this.traces[Number(byId("trace-select").value)];
    const number = Number(byId("trace-layer").value);
    if (!trace) return;
    const layer = this.layer(number);
    const tokens = trace.tokens ?? [];
    byId("trace").replaceChildren(...tokens.slice(0, MOST_TOKENS).map((token) => chip(token, layer)));
    const joules = tokens.map((token) => token.joules?.value).filter(isKnown);
    const parts = [`${tokens.length} tokens`];
    if (tokens.length > MOST_TOKENS) parts.push(`the first ${MOST_TOKENS} shown`);
    if (joules.length) {
      const quality = tokens.find((token) => isKnown(token.joules?.value)).joules.quality;
      parts.push(`${si(joules.reduce((sum, one) => sum + one, 0), "J")} in experts, ${quality}`);
    } else parts.push("no energy per token: needs a calibration");
    setText(byId("trace-note"), parts.join(" \u00b7 "));
  }
}

function chip(token, layer) {
  const route = token.layers?.find((one) => one.layer === layer.layer);
  const experts = route?.experts ?? [];
  const routes = experts.map((expert, i) => `${nameOf(layer, expert)} (#${expert}) ${percent(route.weights?.[i])}`);
  if (isKnown(route?.u)) routes.push(`u = ${digits(route.u)}`);
  const tag = experts.map((expert) => `#${expert}`).join(" ") || "no expert";
  return element(
    "span.chip",
    { title: routes.join("\n"), "data-hue": experts.length ? experts[0] % HUES : null },
    element("span.text", {}, visible(token.text)),
    element("span.tag", {}, tag),
    isKnown(token.joules?.value) ? element("span.joules", {}, si(token.joules.value, "J", 2)) : null,
  );
}
