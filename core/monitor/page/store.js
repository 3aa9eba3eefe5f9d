// The runs as the server told of them: newest values, histories, topologies. Histories are
// bounded as on the server: when one is full, neighbours are merged in pairs.

const MOST_ROWS = 2048;
const RECENT_ROWS = 1200;

export class Store {
  constructor() {
    this.boot = null;
    this.seq = 0;
    this.clock = 0; // the server's clock less ours, in ms
    this.stats = {};
    this.runs = new Map(); // by key, in the order of the server
    this.columns = { steps: [], power: [] };
  }

  /** Takes in the answers of /api/snapshot and /api/history. */
  load(snapshot, history) {
    const before = this.runs;
    this.boot = snapshot.boot;
    this.seq = Math.min(snapshot.seq, history.seq);
    this.columns = { steps: history.step_columns, power: history.power_columns };
    this.head(snapshot);
    this.runs = new Map();
    for (const { topology, ...view } of snapshot.runs) {
      const rows = history.runs.find((run) => run.key === view.key) ?? { steps: [], power: [], recent_power: [] };
      // The same layers stay the same object: what is drawn from them is then kept.
      const old = before.get(view.key);
      const layers = old && old.layersVersion === view.topology_version && old.view.id === view.id ? old.layers : topology;
      this.runs.set(view.key, {
        key: view.key,
        view,
        layers,
        layersVersion: view.topology_version,
        steps: rows.steps,
        power: rows.power,
        recent: rows.recent_power,
      });
    }
  }

  /** Takes in a frame. Returns what to ask the server for anew: "state" after a gap, or "". */
  frame(frame) {
    if (frame.boot !== this.boot) return "state";
    const gap = frame.seq > this.seq + 1;
    this.head(frame);
    if (frame.seq <= this.seq) return "";
    this.seq = frame.seq;
    let stale = gap;
    for (const { view, steps, power } of frame.runs) {
      const run = this.runs.get(view.key);
      if (!run || run.layersVersion !== view.topology_version) {
        stale = true;
        if (!run) continue;
      }
      run.view = view;
      append(run.steps, steps, MOST_ROWS);
      append(run.power, power, MOST_ROWS);
      append(run.recent, power, Infinity);
      if (run.recent.length > 2 * RECENT_ROWS) run.recent.splice(0, run.recent.length - RECENT_ROWS);
    }
    return stale ? "state" : "";
  }

  head({ now, stats }) {
    this.clock = Date.parse(now) - Date.now();
    this.stats = stats;
  }

  /** A column of a run's history: column(run, "steps", "train"). */
  column(run, of, name) {
    const at = this.columns[of === "recent" ? "power" : of].indexOf(name);
    return run[of].map((row) => row[at]);
  }

  /** Seconds since a run's last line, by the server's clock. */
  age(run) {
    return run.view.updated ? (Date.now() + this.clock - Date.parse(run.view.updated)) / 1000 : null;
  }
}

/** Appends rows that are newer than the last (t is the first column). */
function append(rows, more, most) {
  for (const row of more) {
    if (rows.length && row[0] <= rows.at(-1)[0]) continue;
    rows.push(row);
  }
  if (rows.length <= most) return;
  // Of each old pair the newer row stays; the newest quarter keeps its detail.
  const detailed = Math.floor(rows.length / 4);
  const old = rows.slice(0, rows.length - detailed).filter((_, i) => i % 2 === 1);
  rows.splice(0, rows.length - detailed, ...old);
}
