// Router, experts, other and idle, which add up to the meter; and how far the calibrated
// parts are from it.

import { byId, element, setText } from "./dom.js";
import { isKnown, percent, provenance, si } from "./format.js";

const PARTS = [
  ["experts_joules", "Experts", "solid", "--energy"],
  ["router_joules", "Router", "hatched", "--routed"],
  ["other_joules", "Other", "dotted", "--second"],
  ["idle_joules", "Idle", "plain", "--other-3"],
];

export function showParts(components) {
  const root = byId("parts");
  if (!components) {
    setText(byId("parts-note"), "");
    root.replaceChildren(element("p.empty", {}, "Not divided in the last step: that needs a meter and a calibration of this machine."));
    return;
  }
  const sum = PARTS.reduce((sum, [name]) => sum + Math.max(components[name].value ?? 0, 0), 0);
  const quality = PARTS.map(([name]) => components[name].quality).find((one) => one && one !== "measured") ?? "measured";
  setText(byId("parts-note"), `of the last step, ${quality}`);
  const bar = element(
    "div.stack",
    { "aria-hidden": "true" },
    ...PARTS.map(([name, , pattern, ink]) => {
      const fill = element("span.fill", { "data-pattern": pattern });
      fill.style.width = sum > 0 ? `${(100 * Math.max(components[name].value ?? 0, 0)) / sum}%` : "0";
      fill.style.setProperty("--ink", `var(${ink})`);
      return fill;
    }),
  );
  const rows = PARTS.map(([name, label, pattern, ink]) => {
    const swatch = element("span.key", { "data-pattern": pattern, "aria-hidden": "true" });
    swatch.style.setProperty("--ink", `var(${ink})`);
    const value = components[name];
    return element(
      "div",
      { title: provenance(value, "J") },
      element("dt", {}, swatch, label),
      element("dd", {}, si(value.value, "J"), element("small", {}, isKnown(value.value) && sum > 0 ? percent(value.value / sum) : "")),
    );
  });
  const residual = components.residual_joules;
  const note = isKnown(residual.value) ? `The calibrated parts miss the meter by ${si(residual.value, "J")}.` : "";
  root.replaceChildren(bar, element("dl.parts", {}, ...rows), element("p.note", { testid: "residual" }, note));
}
