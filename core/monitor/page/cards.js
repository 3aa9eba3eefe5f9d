// Experts as cards, a row a layer: for models whose experts can be read one by one.

import { element, setText } from "./dom.js";
import { digits, isKnown } from "./format.js";
import { describeExpert, families, livingOf, slotsFree, titleOf } from "./topology.js";

export class ExpertCards {
  constructor(root, layers) {
    this.layers = layers;
    this.rows = layers.map((layer) => {
      const facts = element("p.aside");
      const cards = families(layer).map(({ expert, depth }) => new Card(layer, expert, depth));
      const list = element("ul.cards", {}, ...cards.map((card) => card.root));
      return { facts, cards, root: element("div.layer", {}, element("h3", {}, titleOf(layer)), facts, list) };
    });
    root.replaceChildren(...this.rows.map((row) => row.root));
  }

  show(grids, metric, terms) {
    let start = 0;
    this.layers.forEach((layer, i) => {
      const { facts, cards } = this.rows[i];
      setText(facts, factsOf(terms[i], layer));
      for (const card of cards) {
        const place = start + card.expert;
        card.show(describeExpert(layer, card.expert, place, grids), grids, place, metric);
      }
      start += layer.experts;
    });
  }
}

/** What is said beside the name of a layer. */
export function factsOf(terms, layer) {
  if (!terms) return "";
  const parts = [`${terms.active} of ${livingOf(layer)} routed${slotsFree(layer.experts - livingOf(layer))}`];
  if (isKnown(terms.mean_active)) parts.push(`${digits(terms.mean_active)} a token`);
  if (isKnown(terms.max_violation)) parts.push(`MaxVio ${digits(terms.max_violation, 2)}`);
  return parts.join(" \u00b7 ");
}

class Card {
  constructor(layer, expert, depth) {
    this.expert = expert;
    this.state = element("span.state");
    this.name = element("span.name");
    this.clan = element("span.clan");
    this.load = meter("load");
    this.energy = meter("energy");
    this.root = element(
      depth > 0 ? "li.card.child" : "li.card",
      { testid: `expert-${layer.layer}-${expert}` },
      element("p.top", {}, this.state, element("span.number", {}, `#${expert}`)),
      element("p.who", {}, this.name, this.clan),
      this.load.root,
      this.energy.root,
    );
  }

  show(facts, grids, place, metric) {
    this.root.dataset.state = facts.state;
    setText(this.state, facts.state);
    setText(this.name, facts.name);
    setText(this.clan, facts.clan);
    this.root.title = [facts.name, facts.clan, facts.prefers.length ? `prefers ${facts.prefers.join("  ")}` : ""].filter(Boolean).join("\n");
    const overRun = metric === "run";
    this.load.show(overRun ? "run" : "load", (overRun ? grids.run : grids.now)[place] / 2, overRun ? facts.run : facts.load);
    this.energy.root.hidden = facts.energy === null;
    if (facts.energy !== null) this.energy.show("energy", grids.energy[place], `${facts.energy}`);
    this.root.classList.toggle("by-energy", metric === "energy");
  }
}

/** A bar with a word and a number. That of the load has its middle at balance. */
function meter(kind) {
  const word = element("span.word");
  const fill = element("span.fill");
  const number = element("span.value");
  return {
    root: element(`p.meter.${kind}`, {}, word, element("span.track", {}, fill), number),
    show(label, share, text) {
      setText(word, label);
      setText(number, text);
      fill.style.width = `${Math.min(Math.max(share, 0), 1) * 100}%`;
    },
  };
}
