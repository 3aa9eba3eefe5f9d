// What happened, newest first.

import { byId, element } from "./dom.js";
import { clock } from "./format.js";

const MARKS = {
  meter_lost: ["!", "meter lost"],
  meter_back: ["\u2713", "meter back"],
  counter_reset: ["!", "counter reset"],
  counter_wrapped: ["\u21bb", "counter wrapped"],
  meter_disagrees: ["!", "meter disagrees"],
  split: ["+", "split"],
  promotion: ["\u2191", "promotion"],
  death: ["\u00d7", "death"],
  note: ["\u00b7", "note"],
};

export function showEvents(events) {
  const root = byId("events");
  const key = JSON.stringify(events ?? []);
  if (root.dataset.key === key) return;
  root.dataset.key = key;
  const items = (events ?? []).toReversed().map((event) => {
    const [mark, word] = MARKS[event.event] ?? ["\u00b7", event.event];
    return element(
      "li",
      { "data-event": event.event },
      element("span.mark", { "aria-hidden": "true" }, mark),
      element("time", {}, clock(event.t)),
      element("b", {}, word),
      element("span", {}, event.message),
    );
  });
  root.replaceChildren(...(items.length ? items : [element("li.empty", {}, "Nothing out of the ordinary.")]));
}
