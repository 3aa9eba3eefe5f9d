// The five figures that are read from across the room.

import { byId, element, setText } from "./dom.js";
import { digits, isKnown, percent, plusMinus, provenance, si, signed, split } from "./format.js";

export class Tiles {
  constructor() {
    this.power = new Tile("power", "Power");
    this.perToken = new Tile("per-token", "Energy per token");
    this.efficiency = new Tile("efficiency", "Efficiency");
    this.latency = new Tile("latency", "Routing latency");
    this.saved = new Tile("saved", "Energy saved");
    byId("tiles").replaceChildren(...[this.power, this.perToken, this.efficiency, this.latency, this.saved].map((tile) => tile.root));
  }

  show(view) {
    this.showPower(view);
    this.showPerToken(view.joules_per_token, view.lost);
    this.showSaving(view);
    this.showLatency(view.routing);
  }

  showPower({ watts, limit_watts: limit, lost, meter, devices }) {
    const share = isKnown(watts.value) && isKnown(limit) ? watts.value / limit : null;
    let note = isKnown(limit) ? `of ${si(limit, "W")} limit` : "no power limit is reported";
    if (share !== null) note = `${percent(share)} ${note}`;
    if (devices?.length > 1) note += `, ${devices.length} devices`;
    if (lost?.length) note = `Meter lost: ${lost.map((event) => event.device || "device").join(", ")} does not answer`;
    else if (meter.source === "none") note = `No meter. ${meter.note || ""}`.trim();
    this.power.set({ number: split(watts.value, "W"), quality: watts.quality, note, title: provenance(watts, "W"), share, alarm: Boolean(lost?.length) });
  }

  showPerToken({ run, net, step }, lost) {
    // What a lost meter counted is not of all the tokens.
    if (lost?.length) return this.perToken.set({ number: split(null, "J"), note: "part of the run was not metered" });
    const notes = [];
    if (isKnown(net.value)) notes.push(`${si(net.value, "J")} net of idle`);
    if (isKnown(step.value)) notes.push(`${si(step.value, "J")} last step${step.low_resolution ? ", low resolution" : ""}`);
    if (run.incomplete) notes.push("incomplete: part of the run was not metered");
    if (!isKnown(run.value)) notes.push("no energy is metered");
    this.perToken.set({ number: split(run.value, "J"), more: plusMinus(run, "J"), quality: run.quality, note: notes.join(" \u00b7 "), title: provenance(run, "J") });
  }

  showSaving({ saved, baselines, lost }) {
    const [best] = saved ?? [];
    // Joules that were not metered would count as saved.
    const incomplete = best?.saved_kilojoules.incomplete || lost?.length;
    const efficiency = incomplete ? null : best?.efficiency_percent;
    const kilojoules = incomplete ? null : best?.saved_kilojoules;
    const blank = incomplete
      ? "part of the run was not metered"
      : baselines?.length
        ? "waiting for energy per token"
        : "needs a baseline that was measured";
    const against = best ? `against ${best.baseline}` : blank;
    this.efficiency.set({
      number: isKnown(efficiency?.value) ? [signed(efficiency.value), "%"] : split(null, ""),
      quality: efficiency?.quality,
      note: isKnown(efficiency?.value) ? against : blank,
      title: provenance(efficiency, "%"),
    });
    const joules = isKnown(kilojoules?.value) ? 1000 * kilojoules.value : null;
    const [number, unit] = split(joules === null ? null : Math.abs(joules), "J");
    const sign = joules > 0 ? "+" : joules < 0 ? "\u2212" : "";
    const word = joules > 0 ? "less than" : joules < 0 ? "more than" : "the same as";
    const baseline = baselines?.find((one) => one.name === best?.baseline);
    const why = baseline?.differences?.length ? `; differs in ${baseline.differences.join(", ")}` : "";
    this.saved.set({
      number: joules === null ? split(null, "") : [sign + number, unit],
      quality: kilojoules?.quality,
      note: joules === null ? blank : `${word} ${best.baseline}${why}`,
      title: joules === null ? blank : `${provenance({ ...kilojoules, value: joules, uncertainty: isKnown(kilojoules.uncertainty) ? 1000 * kilojoules.uncertainty : null }, "J")}`,
      direction: joules > 0 ? "less" : joules < 0 ? "more" : "",
    });
  }

  showLatency({ median_seconds: median, p99_seconds: p99, decision_seconds: decision, share }) {
    const notes = [];
    if (isKnown(p99)) notes.push(`p99 ${si(p99, "s")}`);
    if (isKnown(share)) notes.push(`${percent(share)} of a step`);
    if (isKnown(decision)) notes.push(`${si(decision, "s")} a decision`);
    if (!isKnown(median)) notes.push("routers are not timed");
    this.latency.set({ number: split(median, "s"), more: isKnown(median) ? "a step" : null, note: notes.join(" \u00b7 "), title: "median over the last 256 steps, all layers" });
  }
}

class Tile {
  constructor(name, label) {
    this.number = element("span.number", { testid: `${name}-value` });
    this.unit = element("span.unit", { testid: `${name}-unit` });
    this.more = element("span.more");
    this.quality = element("span.quality", { testid: `${name}-quality` });
    this.note = element("p.note", { testid: `${name}-note` });
    this.fill = element("span.fill");
    this.track = element("span.track", { "aria-hidden": "true" }, this.fill);
    this.root = element(
      `article.tile.${name}`,
      { testid: name },
      element("header", {}, element("h2", {}, label), this.quality),
      element("p.figure", {}, this.number, this.unit, this.more),
      this.note,
      this.track,
    );
  }

  set({ number: [number, unit], more = null, quality = "", note, title = "", share = null, direction = "", alarm = false }) {
    setText(this.number, number);
    setText(this.unit, unit);
    setText(this.more, more ?? "");
    setText(this.quality, quality ?? "");
    this.quality.dataset.quality = quality ?? "";
    setText(this.note, note);
    this.root.title = title;
    this.root.dataset.direction = direction;
    this.root.classList.toggle("alarm", alarm);
    this.track.hidden = share === null;
    if (share !== null) this.fill.style.width = `${Math.min(Math.max(share, 0), 1) * 100}%`;
  }
}
