// The console: wires the connection to what is shown.

import { Chart, legend } from "./chart.js";
import { showBars } from "./bars.js";
import { Compare } from "./compare.js";
import { Curves, lossFormat } from "./curves.js";
import { byId, choice, element, fillSelect, setText } from "./dom.js";
import { showEvents } from "./events.js";
import { clock, count, digits, isKnown, percent, short, si } from "./format.js";
import { showParts } from "./parts.js";
import { Store } from "./store.js";
import { connect } from "./stream.js";
import { labelOf, stylesOf } from "./styles.js";
import { Terms } from "./terms.js";
import { themeButton } from "./theme.js";
import { clockTicks } from "./ticks.js";
import { Tiles } from "./tiles.js";
import { Topology } from "./topology.js";
import { Traces } from "./trace.js";

const STALE = 10; // seconds without a line after which a running run is said to be silent

const store = new Store();
const tiles = new Tiles();
const terms = new Terms();
const topology = new Topology();
const traces = new Traces();
const power = new Chart(byId("power-chart"), { label: "Power over time, with the power limit", x: clock, y: (value) => si(value, "W"), xTicks: clockTicks, zero: true, empty: "No power reading yet" });
const loss = new Curves("loss", { label: "Loss by tokens", format: lossFormat });
const joules = new Curves("joules", { label: "Cumulative energy by tokens", format: (value) => si(value, "J"), zero: true, empty: "No energy is metered" });
const compare = new Compare(() => show());

let connection = "connecting";
let view = "run";
let shown = null; // the key of the run on show; null: the newest that is live, else the first
let lossKind = null; // null: held-out where there is one
let wanted = false;
let current; // the run on show

/** Draws once a frame of the screen, however much news there is. */
function show() {
  if (wanted) return;
  wanted = true;
  requestAnimationFrame(() => {
    wanted = false;
    draw();
  });
}

function draw() {
  const runs = [...store.runs.values()];
  const run = store.runs.get(shown) ?? runs.findLast((one) => one.view.mode !== "replayed" && one.view.state !== "waiting") ?? runs[0];
  current = run;
  fillSelect(
    byId("run-select"),
    runs.map((one) => [one.key, labelOf(one)]),
  );
  byId("picker").hidden = runs.length < 2;
  byId("show-compare").disabled = runs.length < 2;
  if (runs.length < 2 && view === "compare") choose("run");
  drawStatus(run);
  drawFooter(run);
  byId("waiting").hidden = Boolean(run);
  if (!run) return;
  byId("run-select").value = run.key;
  drawBanners(run, runs);
  drawHead(run);
  byId("run-view").hidden = view !== "run";
  byId("compare-view").hidden = view !== "compare";
  // Where runs can be picked, the picker says which one it is.
  byId("run-name").classList.toggle("visually-hidden", runs.length > 1);
  byId("facts").hidden = view === "compare";
  if (view === "compare") compare.show(store);
  else drawRun(run, runs);
}

function drawRun(run, runs) {
  // The run on show first: it is drawn on top and the others are compared with it.
  const all = [run, ...runs.filter((one) => one !== run && one.view.state !== "waiting")];
  const styles = stylesOf(all, run.key);
  tiles.show(run.view);
  drawPower(run);
  terms.show(run.view.terms, (name) => store.column(run, "steps", name));
  topology.set(run.layers, run.view);
  drawLoss(run, all, styles);
  joules.show(store, all, styles, "joules");
  showBars(store, all, styles);
  showParts(run.view.components);
  showEvents(run.view.events);
  traces.show(run);
}

function drawPower(run) {
  // Live: the last minutes. Over: all of it.
  const rows = run.view.mode !== "replayed" && run.view.state === "running" ? "recent" : run.power.length > run.recent.length ? "power" : "recent";
  const limit = run.view.limit_watts;
  power.set([{ label: "power", ink: "--energy", width: 2, fill: true, x: store.column(run, rows, "t"), y: store.column(run, rows, "watts") }], limit);
  const items = [{ label: "all devices", ink: "--energy", value: si(run.view.watts.value, "W"), testid: "power-now" }];
  items.push({ label: "limit", ink: "--limit", dash: [7, 4], value: isKnown(limit) ? si(limit, "W") : "not reported", testid: "limit-watts" });
  const devices = run.view.devices ?? [];
  if (devices.length > 1 && devices.length <= 8)
    items.push(...devices.map((device) => ({ label: device.device, ink: "--text-3", value: si(device.watts.value, "W"), testid: `power-${device.device}` })));
  legend(byId("power-legend"), items);
}

function drawLoss(run, all, styles) {
  const kinds = ["train", "heldout"].filter((kind) => all.some((one) => store.column(one, "steps", kind).some(isKnown)));
  const kind = kinds.includes(lossKind) ? lossKind : kinds.at(-1) ?? "train";
  const root = byId("loss-kind");
  if (root.dataset.kinds !== kinds.join()) {
    root.dataset.kinds = kinds.join();
    const labels = { train: "Train", heldout: "Held-out" };
    choice(root, kinds.length > 1 ? kinds.map((one) => [one, labels[one]]) : [], kind, (chosen) => {
      lossKind = chosen;
      show();
    });
  }
  loss.show(store, all, styles, kind);
}

function drawHead(run) {
  const { view: now } = run;
  setText(byId("run-name"), labelOf(run));
  document.title = `${isKnown(now.watts.value) ? si(now.watts.value, "W") : labelOf(run)} \u00b7 genesis-moe`;
  const finite = Object.entries(now.losses ?? {});
  const facts = [
    ["router", now.router],
    ["step", now.step === null ? "" : count(now.step)],
    ["tokens", now.tokens ? short(now.tokens) : ""],
    ["tokens/s", isKnown(now.tokens_per_second) ? short(now.tokens_per_second) : ""],
    ["elapsed", now.t ? clock(now.t) : ""],
    ["done", isKnown(now.progress) ? percent(now.progress, 3) : ""],
    ...finite.map(([name, value]) => [`${name === "heldout" ? "held-out" : name} loss`, isKnown(value) ? digits(value, 4) : "NOT FINITE"]),
  ].filter(([, value]) => value);
  const root = byId("facts");
  const key = facts.map(([name]) => name).join();
  if (root.dataset.key !== key) {
    root.dataset.key = key;
    root.replaceChildren(...facts.map(([name]) => element("div", {}, element("dt", {}, name), element("dd", { testid: `fact-${name.replaceAll(" ", "-")}` }))));
  }
  facts.forEach(([, value], i) => setText(root.children[i].lastChild, value));
}

/** What must be known before any number is read stays on top, whatever is scrolled. */
function drawBanners(run, runs) {
  const considered = view === "compare" ? runs : [run];
  const banners = [];
  const replayed = considered.filter((one) => one.view.mode === "replayed");
  if (replayed.length) {
    const names = replayed.map((one) => `${labelOf(one)}${one.view.started ? `, recorded ${one.view.started.slice(0, 16).replace("T", " ")} UTC` : ""}`);
    banners.push(["replay", "Replay", `Nothing here happens now: ${names.join("; ")}.`]);
  }
  const made = considered.filter((one) => one.view.synthetic);
  if (made.length) banners.push(["synthetic", "Synthetic energy", `No sensor measured these joules: ${made.map((one) => `${labelOf(one)} (source ${one.view.meter.source})`).join("; ")}.`]);
  const key = JSON.stringify(banners);
  const root = byId("banners");
  if (root.dataset.key === key) return;
  root.dataset.key = key;
  root.replaceChildren(...banners.map(([kind, title, text]) => element(`p.banner.${kind}`, { role: "note", testid: `banner-${kind}` }, element("b", {}, title), element("span", {}, text))));
}

function drawStatus(run) {
  const [state, text] = statusOf(run);
  const status = byId("status");
  setText(status, text);
  status.dataset.state = state;
}

function statusOf(run) {
  if (connection === "refused") return ["lost", "A token is needed: open /?token=\u2026"];
  if (connection === "lost") return ["lost", "Connection lost, retrying"];
  if (connection === "connecting") return ["connecting", "Connecting"];
  if (!run || run.view.state === "waiting") return ["waiting", "Waiting for the first line"];
  if (run.view.state === "ended") return ["ended", run.view.mode === "replayed" ? "Replay, ended" : "Ended"];
  if (run.view.mode === "replayed") return ["replay", "Replaying"];
  const age = store.age(run);
  if (age !== null && age > STALE) return ["stale", `Silent for ${clock(age)}`];
  return ["live", run.view.mode === "followed" ? "Live, from a file" : "Live"];
}

function drawFooter(run) {
  if (run) {
    const { meter } = run.view;
    const parts = [`Energy source: ${meter.source || "none"}${meter.quality ? `, ${meter.quality}` : ""}`];
    if (isKnown(meter.update_period_seconds)) parts.push(`sensor updates every ${si(meter.update_period_seconds, "s", 2)}`);
    if (meter.note) parts.push(meter.note);
    const total = run.view.total_joules;
    const least = total.incomplete || run.view.lost?.length ? "at least " : "";
    if (isKnown(total.value)) parts.push(`${least}${si(total.value, "J")} in all`);
    setText(byId("footer-meter"), parts.join(" \u00b7 "));
  }
  const { lines = 0, bad_lines: bad = 0, dropped_frames: dropped = 0 } = store.stats;
  const parts = [`${count(lines)} lines`];
  if (bad) parts.push(`${count(bad)} unreadable`);
  if (dropped) parts.push(`${count(dropped)} frames dropped for slow viewers`);
  if (run?.view.library) parts.push(`genesis-moe ${run.view.library}`);
  setText(byId("footer-server"), parts.join(" \u00b7 "));
}

function choose(which) {
  view = which;
  byId("show-run").setAttribute("aria-pressed", String(which === "run"));
  byId("show-compare").setAttribute("aria-pressed", String(which === "compare"));
  show();
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen().catch(() => undefined);
}

byId("show-run").addEventListener("click", () => choose("run"));
byId("show-compare").addEventListener("click", () => choose("compare"));
byId("run-select").addEventListener("change", (event) => {
  shown = Number(event.target.value);
  show();
});
const nextTheme = themeButton(byId("theme"));
byId("fullscreen").addEventListener("click", fullScreen);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("select, input")) return;
  if (event.key === "1") choose("run");
  else if (event.key === "2" && !byId("show-compare").disabled) choose("compare");
  else if (event.key === "t") nextTheme();
  else if (event.key === "f") fullScreen();
});
// What the age of the last line says changes without news.
setInterval(() => drawStatus(current), 1000);

connect(store, {
  change: show,
  state(to) {
    connection = to;
    show();
  },
});
