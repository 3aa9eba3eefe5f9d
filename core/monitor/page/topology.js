// The layers and experts of a run: cards with names where there are few, else a grid of cells.
// Whether an expert is ROUTED or IDLE is told by form and word, its load by colour too.

import { byId, choice, element, setText } from "./dom.js";
import { digits, isKnown, percent } from "./format.js";
import { decodeGrids } from "./grids.js";
import { ExpertCards } from "./cards.js";
import { ExpertCells } from "./cells.js";

const METRICS = [
  ["now", "Load now"],
  ["run", "Load of the run"],
  ["energy", "Energy share"],
];
const MOST_CARDS = 96; // more are not read one by one

export class Topology {
  constructor() {
    this.metric = "now";
    this.root = byId("topology");
    this.layers = null;
    choice(byId("topology-metric"), METRICS, this.metric, (metric) => {
      this.metric = metric;
      this.show();
    });
  }

  /** layers: what changes rarely, of a snapshot; view: the newest frame. */
  set(layers, view) {
    this.view = view;
    this.grids = decodeGrids(view.grids);
    if (this.layers !== layers) {
      this.layers = layers;
      this.build();
    }
    this.show();
  }

  build() {
    const experts = this.layers.reduce((sum, layer) => sum + layer.experts, 0);
    if (experts === 0) {
      this.shape = null;
      this.root.replaceChildren(element("p.empty", {}, "No expert has been routed to yet."));
      return;
    }
    const Shape = experts <= MOST_CARDS ? ExpertCards : ExpertCells;
    this.shape = new Shape(this.root, this.layers);
  }

  show() {
    if (!this.shape || !this.view) return;
    this.shape.show(this.grids, this.metric, this.view.layers);
    const routed = this.grids.now.reduce((sum, load) => sum + (load > 0), 0);
    const free = this.layers.reduce((sum, layer) => sum + layer.experts - livingOf(layer), 0);
    const active = isKnown(this.view.mean_active) ? `, ${digits(this.view.mean_active)} experts a token` : "";
    setText(byId("topology-summary"), `${routed} of ${this.grids.now.length - free} experts routed in the last step${active}${slotsFree(free)}`);
  }
}

/** What can be said of one expert, in the order in which people ask. */
export function describeExpert(layer, expert, place, grids) {
  const load = grids.now[place] ?? 0;
  const clan = layer.clans?.[expert] ?? -1;
  return {
    name: nameOf(layer, expert),
    state: load > 0 ? "ROUTED" : isFree(layer, expert) ? "FREE" : "IDLE",
    load: `${digits(load, 2)}\u00d7`,
    run: `${digits(grids.run[place] ?? 0, 2)}\u00d7`,
    energy: grids.energy ? percent(grids.energy[place]) : null,
    quality: grids.quality,
    clan: clan >= 0 ? `split from #${clan} ${layer.names?.[clan] || ""}`.trim() : "",
    prefers: layer.prefers?.[expert]?.map(visible) ?? [],
  };
}

/** Whether a slot waits for an expert. */
export const isFree = (layer, expert) => layer.free?.includes(expert) ?? false;

/** How many experts a layer has, without the slots that wait for one. */
export const livingOf = (layer) => layer.experts - (layer.free?.length ?? 0);

export const slotsFree = (free) => (free ? ` \u00b7 ${free} ${free === 1 ? "slot" : "slots"} free` : "");

/**
 * The experts of a layer, each clan together: one that was split from another behind it, deeper
 * by one. What a clan is said to come from in a circle, or from a free slot, begins one of its own.
 */
export function families(layer) {
  const parentOf = (expert) => {
    const parent = layer.clans?.[expert] ?? -1;
    return parent >= 0 && parent < layer.experts && parent !== expert && !isFree(layer, parent) ? parent : -1;
  };
  const children = Array.from({ length: layer.experts }, () => []);
  const roots = [];
  for (let expert = 0; expert < layer.experts; expert++) {
    if (isFree(layer, expert)) continue;
    const parent = parentOf(expert);
    (parent < 0 ? roots : children[parent]).push(expert);
  }
  const found = [];
  const seen = new Set();
  const visit = (from) => {
    const left = [[from, 0]];
    while (left.length > 0) {
      const [expert, depth] = left.pop();
      if (seen.has(expert)) continue;
      seen.add(expert);
      found.push({ expert, depth });
      for (const child of children[expert].toReversed()) left.push([child, depth + 1]);
    }
  };
  roots.forEach(visit);
  for (let expert = 0; expert < layer.experts; expert++) if (!isFree(layer, expert) && !seen.has(expert)) visit(expert);
  return found;
}

export const nameOf = (layer, expert) => layer.names?.[expert] || (isFree(layer, expert) ? `slot ${expert}` : `expert ${expert}`);

export const titleOf = (layer) => (layer.name ? `Layer ${layer.layer} \u00b7 ${layer.name}` : `Layer ${layer.layer}`);

/** Blanks of a token made visible. */
export const visible = (text) => text.replaceAll(" ", "\u2423").replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5");
