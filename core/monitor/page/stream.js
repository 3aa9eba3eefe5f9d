// The connection to the server: the whole state first, then frames; after a loss of either, anew.

const SILENCE = 12000; // ms: the server gives a sign of life every 5 s
const RETRY = 1000;

/** Keeps the store fed. on.change() after news, on.state("connecting" | "open" | "lost" | "refused"). */
export function connect(store, on) {
  let source = null;
  let heard = Date.now();
  let loading = null;
  let again = false;

  const load = async () => {
    const [snapshot, history] = await Promise.all([get("/api/snapshot"), get("/api/history")]);
    store.load(snapshot, history);
    on.change();
  };
  /** One reload at a time, and not more than one a second: what is asked for meanwhile comes after it. */
  const reload = () => {
    again = loading !== null;
    loading ??= load()
      .catch(() => undefined)
      .then(() => new Promise((resolve) => setTimeout(resolve, RETRY)))
      .then(() => {
        loading = null;
        if (again) reload();
      });
  };
  const open = async () => {
    heard = Date.now();
    try {
      await load();
    } catch (error) {
      on.state(error.refused ? "refused" : "lost");
      setTimeout(open, RETRY);
      return;
    }
    source = new EventSource("/api/stream");
    source.addEventListener("hello", (event) => {
      heard = Date.now();
      on.state("open");
      if (JSON.parse(event.data).boot !== store.boot) reload();
    });
    source.addEventListener("alive", () => {
      heard = Date.now();
    });
    source.addEventListener("frame", (event) => {
      heard = Date.now();
      if (store.frame(JSON.parse(event.data)) === "state") reload();
      on.change();
    });
    source.addEventListener("error", lose);
  };
  const lose = () => {
    if (!source) return;
    source.close();
    source = null;
    on.state("lost");
    setTimeout(open, RETRY);
  };
  setInterval(() => {
    if (Date.now() - heard > SILENCE) lose();
  }, 1000);
  on.state("connecting");
  open();
}

export async function get(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw Object.assign(new Error(`${address}: ${answer.status}`), { refused: answer.status === 401 });
  return answer.json();
}
