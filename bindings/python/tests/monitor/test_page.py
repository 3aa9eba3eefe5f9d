"""The console's page in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

import genesis_moe as gm
from monitor.conftest import play, written
from monitor.pretend import Pretend, deepseek, mixtral

Visit = Callable[..., Page]


def test_figures_and_the_limit_line(console: gm.Monitor, visit: Visit) -> None:
    run = Pretend(steps=20)
    play(console, run)
    page = visit(console)
    expect(page.get_by_test_id("run-name")).to_have_text(run.name)
    expect(page.get_by_test_id("status")).to_have_text("Live")
    expect(page.get_by_test_id("limit-watts")).to_have_text("700\u202fW")
    expect(page.locator("#power-chart canvas")).to_have_attribute("data-limit", "700")
    expect(page.get_by_test_id("per-token-unit")).to_have_text("mJ")
    expect(page.get_by_test_id("per-token-quality")).to_have_text("measured")
    expect(page.get_by_test_id("latency-unit")).to_have_text("ms")
    expect(page.get_by_test_id("residual")).to_contain_text("miss the meter by")
    expect(page.locator(".banner")).to_have_count(0)
    # The line follows the meter: a limit that was lowered meanwhile is the one shown.
    lowered = run.step(21)
    lowered["energy"]["devices"][0]["limit_watts"] = 450.0
    console.log(lowered)
    expect(page.get_by_test_id("limit-watts")).to_have_text("450\u202fW")
    expect(page.locator("#power-chart canvas")).to_have_attribute("data-limit", "450")


def test_experts_are_routed_or_idle(console: gm.Monitor, visit: Visit) -> None:
    run = Pretend(steps=3)
    play(console, run)
    page = visit(console)
    step = run.step(4)
    for tokens, states in (([9, 0, 9, 9, 9, 9, 9, 9], "IDLE"), ([0, 9, 0, 0, 0, 0, 0, 0], "ROUTED")):
        step["t"] += 1
        step["layers"][1]["tokens"] = tokens
        console.log(step)
        card = page.get_by_test_id("expert-1-1")
        expect(card).to_have_attribute("data-state", states)
        expect(card.locator(".state")).to_have_text(states)  # in words too
    expect(page.get_by_test_id("expert-1-0")).to_have_attribute("data-state", "IDLE")


def growing(run: Pretend, *, slots: int) -> None:
    """A run whose layers have more slots than experts, with the lines that fill them."""
    head = run.head

    def with_free() -> Any:
        for line in head():
            if line["kind"] == "run":
                for layer in line["layers"]:
                    layer["free"] = list(range(slots, run.experts))
            yield line

    run.head = with_free  # type: ignore[method-assign]


def split(t: float, layer: int, expert: int, child: int) -> dict[str, Any]:
    message = f"expert {expert} of layer {layer} split: its child takes slot {child}"
    return {
        "kind": "event",
        "t": t,
        "event": "split",
        "layer": layer,
        "expert": expert,
        "child": child,
        "message": message,
    }


def test_experts_that_split_stand_with_their_clan(console: gm.Monitor, visit: Visit) -> None:
    run = Pretend(steps=3, named=False)
    growing(run, slots=5)
    lines = list(run.lines())
    for line in lines:
        for layer in line.get("layers", []) if line["kind"] == "step" else []:
            layer["tokens"] = [9, 9, 9, 9, 9, 0, 0, 0]
        if line["kind"] not in ("end", "trace"):
            console.log(line)
    page = visit(console)
    expect(page.get_by_test_id("topology-summary")).to_contain_text("10 of 10 experts routed")
    expect(page.get_by_test_id("topology-summary")).to_contain_text("6 slots free")
    expect(page.get_by_test_id("expert-0-5")).to_have_count(0)
    for event in (split(2.0, 0, 1, 5), split(2.1, 0, 5, 6)):
        console.log(event)
    step = run.step(4)
    step["layers"][0]["tokens"] = [9, 4, 9, 9, 9, 3, 2, 0]
    console.log(step)
    first = page.locator(".layer").first
    expect(page.get_by_test_id("expert-0-6").locator(".clan")).to_contain_text("split from #5")
    numbers = first.locator(".card .number")
    expect(numbers).to_have_text(["#0", "#1", "#5", "#6", "#2", "#3", "#4"])  # a clan stands together
    expect(first.locator(".card.child")).to_have_count(2)
    expect(page.get_by_test_id("expert-0-6").locator(".meter.load .value")).to_have_text(
        "0.31\u00d7"
    )  # of 45/7
    expect(first.locator(".aside")).to_contain_text("7 of 7 routed \u00b7 1 slot free")
    expect(page.get_by_test_id("events")).to_contain_text("its child takes slot 6")
    gone = {"kind": "event", "t": 3.0, "layer": 0, "message": "m"}
    console.log({**gone, "event": "promotion", "expert": 6})
    console.log({**gone, "event": "death", "expert": 5})
    step["layers"][0]["tokens"] = [9, 4, 9, 9, 9, 0, 2, 0]
    console.log({**step, "t": step["t"] + 1})
    expect(numbers).to_have_text(["#0", "#1", "#2", "#3", "#4", "#6"])
    expect(first.locator(".card.child")).to_have_count(0)


def test_before_a_run_nothing_is_shown_as_one(console: gm.Monitor, visit: Visit) -> None:
    page = visit(console)
    expect(page.get_by_test_id("status")).to_have_text("Waiting for the first line")
    expect(page.get_by_test_id("waiting")).to_be_visible()
    expect(page.locator("#run-view")).to_be_hidden()
    play(console, Pretend(steps=3))
    expect(page.get_by_test_id("power-value")).to_be_visible()
    expect(page.get_by_test_id("waiting")).to_be_hidden()


def test_what_a_baseline_did_not_save_is_negative(console: gm.Monitor, visit: Visit) -> None:
    play(console, Pretend(steps=20, joules_per_token=0.039))
    page = visit(console)
    expect(page.get_by_test_id("saved-value")).to_contain_text("\u2212")
    expect(page.get_by_test_id("saved-note")).to_have_text("more than mixtral")
    expect(page.get_by_test_id("saved")).to_have_attribute("data-direction", "more")
    expect(page.get_by_test_id("saved-quality")).to_have_text("measured")
    expect(page.get_by_test_id("efficiency-value")).to_contain_text("\u2212")


def test_without_a_meter_nothing_is_claimed(console: gm.Monitor, visit: Visit) -> None:
    play(
        console,
        Pretend(steps=5, source="none", quality="", baseline=None, calibrated=False, limit_watts=None),
    )
    page = visit(console)
    for tile in ("power", "per-token", "efficiency", "saved"):
        expect(page.get_by_test_id(f"{tile}-value")).to_have_text("\u2014")
        expect(page.get_by_test_id(f"{tile}-quality")).to_have_text("")
    expect(page.get_by_test_id("limit-watts")).to_have_text("not reported")
    expect(page.get_by_test_id("saved-note")).to_have_text("needs a baseline that was measured")


def test_a_meter_that_is_lost(console: gm.Monitor, visit: Visit) -> None:
    play(console, Pretend(steps=20, lost_from=12))
    page = visit(console)
    expect(page.get_by_test_id("power-value")).to_have_text("\u2014")
    expect(page.get_by_test_id("power-note")).to_contain_text("Meter lost: gpu0")
    expect(page.get_by_test_id("saved-value")).to_have_text("\u2014")
    expect(page.get_by_test_id("saved-note")).to_have_text("part of the run was not metered")
    expect(page.get_by_test_id("events")).to_contain_text("meter lost")
    expect(page.get_by_test_id("footer-meter")).to_contain_text("at least 1.2")


@pytest.mark.parametrize("source", ["mock", "replay"])
def test_synthetic_energy_says_so(console: gm.Monitor, visit: Visit, source: str) -> None:
    play(console, Pretend(steps=5, source=source, quality="synthetic"))
    page = visit(console)
    expect(page.get_by_test_id("banner-synthetic")).to_contain_text(f"source {source}")
    expect(page.get_by_test_id("power-quality")).to_have_text("synthetic")


def test_a_replay_says_so(console: gm.Monitor, visit: Visit, tmp_path: Path) -> None:
    console.open(written(tmp_path / "run.jsonl", Pretend(steps=20)))
    page = visit(console)
    expect(page.get_by_test_id("banner-replay")).to_contain_text("2026-11-23 09:30 UTC")
    expect(page.get_by_test_id("status")).to_have_text("Replay, ended")
    page.mouse.wheel(0, 3000)
    expect(page.get_by_test_id("banner-replay")).to_be_in_viewport()


def test_it_comes_back_after_a_restart(visit: Visit) -> None:
    console = gm.monitor("127.0.0.1:0", interval_seconds=0.1)
    address = console.url.removeprefix("http://").rstrip("/")
    play(console, Pretend(name="before", steps=5))
    page = visit(console, quiet=False)  # a browser logs that it could not connect
    expect(page.get_by_test_id("run-name")).to_have_text("before")
    console.stop()
    expect(page.get_by_test_id("status")).to_contain_text("Connection lost")
    with gm.monitor(address, interval_seconds=0.1) as again:
        run = Pretend(name="after", steps=7)
        play(again, run)
        expect(page.get_by_test_id("run-name")).to_have_text("after")
        expect(page.get_by_test_id("status")).to_have_text("Live")
        console_step = run.step(8)
        again.log(console_step)
        expect(page.get_by_test_id("fact-step")).to_have_text("8")


def test_runs_beside_each_other(console: gm.Monitor, visit: Visit, tmp_path: Path) -> None:
    console.open(written(tmp_path / "m.jsonl", mixtral(steps=30)))
    console.open(written(tmp_path / "d.jsonl", deepseek(steps=40)))
    play(console, Pretend(steps=20))
    page = visit(console)
    expect(page.get_by_test_id("bars-at")).to_have_text("81.9\u202fk tokens, so far")  # of the shortest
    expect(page.get_by_test_id("bars-loss").locator(".bar-row")).to_have_count(3)
    page.keyboard.press("2")
    table = page.get_by_test_id("compare-table")
    expect(table.locator("tbody tr")).to_have_count(3)
    expect(table.locator("tbody tr", has_text="mixtral top-2")).to_contain_text("reference")
    expect(page.get_by_test_id("banner-replay")).to_be_visible()
    page.get_by_role("button", name="Time").click()
    expect(page.locator("#compare-loss-chart canvas")).not_to_have_attribute("data-points", "0")


def test_many_experts_fit(console: gm.Monitor, visit: Visit) -> None:
    run = Pretend(layers=60, experts=128, steps=4)
    play(console, run)
    page = visit(console)
    expect(page.get_by_test_id("topology-summary")).to_contain_text("of 7680 experts")
    cells = page.get_by_test_id("cells")
    cells.focus()
    page.keyboard.press("ArrowRight")
    before = page.locator(".words .aside").first.text_content() or ""
    page.keyboard.press("ArrowDown")
    expect(page.locator(".words .aside").first).not_to_have_text(before)
    expect(page.get_by_test_id("expert-state")).to_have_text("ROUTED")


# Lets the page have its first frame, then feeds its stream of events faster than a server would; that nothing comes
# from there any more is no reason to connect anew.
TAP = """
const every = window.setInterval;
window.setInterval = (check, period) => (period === 1000 ? 0 : every(check, period));
window.EventSource = class extends EventSource {
  constructor(address) {
    super(address);
    window.tapped = this;
    this.addEventListener("frame", (event) => {
      const [run] = JSON.parse(event.data).runs;
      if (!run.steps.length || !run.power.length) return;
      window.lastFrame = event.data;
      this.close();
    });
  }
};
"""

# Frames as they would come for a while at 4 Hz, each with other numbers of all experts. The page draws in between.
FEED = """
async (count) => {
  const frame = JSON.parse(window.lastFrame);
  const [run] = frame.runs;
  const grid = () => btoa(String.fromCharCode(...Array.from({ length: 2 * 7680 }, () => Math.random() * 256)));
  const grids = Array.from({ length: 16 }, grid);
  const [step, power] = [run.steps.at(-1), run.power.at(-1)];
  for (let i = 1; i <= count; i++) {
    frame.seq++;
    frame.now = new Date().toISOString();
    run.view.t += 0.25;
    run.view.step++;
    run.view.updated = frame.now;
    Object.assign(run.view.grids, { now: grids[i % 16], run: grids[(i + 5) % 16], energy: grids[(i + 9) % 16] });
    run.steps = [step.map((value, c) => (c === 0 ? run.view.t : c < 3 ? value + i : value * (1 + Math.random())))];
    run.power = [[run.view.t, 400 + 100 * Math.random(), power[2]]];
    window.lastFrame = JSON.stringify(frame);
    window.tapped.dispatchEvent(new MessageEvent("frame", { data: window.lastFrame }));
    if (i % 40 === 0) await new Promise(requestAnimationFrame);
  }
  return run.view.step;
}
"""


def test_an_hour_of_many_experts_does_not_fill_the_memory(console: gm.Monitor, visit: Visit) -> None:
    run = Pretend(layers=60, experts=128, steps=2)
    play(console, run)
    page = visit(console, init_script=TAP)
    expect(page.get_by_test_id("topology-summary")).to_contain_text("of 7680 experts")
    console.log(run.step(3))
    # Not wait_for_function: what it asks again and again is an eval, which the page's policy forbids. Steps go on, as
    # the stream may not have been open yet when the first was told.
    for step in range(4, 100):
        if page.evaluate("window.lastFrame !== undefined"):
            break
        console.log(run.step(step))
        page.wait_for_timeout(200)
    session = page.context.new_cdp_session(page)

    def heap() -> float:
        session.send("HeapProfiler.collectGarbage")
        return float(session.send("Runtime.getHeapUsage")["usedSize"]) / 1e6

    hour, used = 3600 * 4, []
    for _ in range(4):
        step = page.evaluate(FEED, hour // 4)
        expect(page.get_by_test_id("fact-step")).to_have_text(f"{step:,}")
        used.append(heap())
    print(f"heap after each quarter: {used} MB")
    assert max(used) < 50, used
    assert used[3] < used[1] + 5, used  # histories are full by then, and stay so


@pytest.mark.parametrize("width", [360, 768, 1440, 2560])
def test_it_fits_every_width(console: gm.Monitor, visit: Visit, width: int) -> None:
    play(console, Pretend(steps=5))
    page = visit(console, viewport={"width": width, "height": 900})
    expect(page.get_by_test_id("limit-watts")).to_have_text("700\u202fW")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_names_are_never_markup(console: gm.Monitor, visit: Visit) -> None:
    evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    run = Pretend(name=evil, steps=3)
    for line in run.lines():
        if line["kind"] == "names":
            line["names"] = [evil] * 8
        if line["kind"] == "trace":
            line["tokens"][0]["text"] = evil
        console.log(line)
    page = visit(console)
    expect(page.get_by_test_id("run-name")).to_contain_text("<img src=x")
    expect(page.get_by_test_id("expert-0-0").locator(".name")).to_contain_text("<img src=x")
    expect(page.get_by_test_id("trace").locator(".chip").first).to_contain_text("<img")
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0


def test_colours_by_choice(console: gm.Monitor, visit: Visit) -> None:
    play(console, Pretend(steps=3))
    page = visit(console, color_scheme="dark")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(ground)
    page.keyboard.press("t")  # dark
    assert page.evaluate(ground) == dark
    page.keyboard.press("t")  # light
    assert page.evaluate(ground) != dark
    page.reload()
    expect(page.locator("#theme")).to_have_text("Light")


# Of each piece of text that is shown: its contrast to what it stands on, opacity of both counted, and what it must be:
# 3 where it is large (24 px, or 18.66 px and bold), else 4.5 (WCAG 2.2, 1.4.3). What is disabled is exempt.
CONTRASTS = """
() => {
  const rgba = (text) => {
    const found = text.match(/[\\d.]+%?/g).map((part) => parseFloat(part) * (part.endsWith("%") ? 2.55 : 1));
    return { c: found.slice(0, 3), a: found[3] ?? 1 };
  };
  const over = (top, c) => top.c.map((value, i) => top.a * value + (1 - top.a) * c[i]);
  const luminance = (c) => {
    const [r, g, b] = c.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest("script, noscript, :disabled, .visually-hidden, .skip:not(:focus), option")) continue;
    const path = [];
    for (let at = element; at; at = at.parentElement) path.unshift(at);
    let ground = [255, 255, 255];
    let alpha = 1;
    for (const at of path) {
      const style = getComputedStyle(at);
      alpha *= parseFloat(style.opacity);
      const paint = rgba(style.backgroundColor);
      ground = over({ c: paint.c, a: paint.a * alpha }, ground);
    }
    const style = getComputedStyle(element);
    const ink = rgba(style.color);
    const text = over({ c: ink.c, a: ink.a * alpha }, ground);
    const [dim, bright] = [luminance(text), luminance(ground)].sort((a, b) => a - b);
    const size = parseFloat(style.fontSize);
    const wanted = size >= 24 || (size >= 18.66 && parseInt(style.fontWeight) >= 700) ? 3 : 4.5;
    const what = `${element.className || element.tagName}: ${node.data.trim()}`;
    found.push([(bright + 0.05) / (dim + 0.05), wanted, what]);
  }
  return found;
}
"""


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_all_text_can_be_read(console: gm.Monitor, visit: Visit, tmp_path: Path, theme: str) -> None:
    """In the run and in the comparison, with a loss of the meter, banners, idle experts and children of a split."""
    console.open(written(tmp_path / "m.jsonl", mixtral(steps=30)))
    run = Pretend(steps=20, lost_from=12, source="mock", quality="synthetic", experts=9)
    growing(run, slots=8)
    play(console, run)
    console.log(split(5.0, 0, 1, 8))
    page = visit(console, color_scheme=theme)
    expect(page.get_by_test_id("expert-0-8").locator(".clan")).to_contain_text("split from")
    expect(page.locator(".banner")).to_have_count(1)
    seen = 0
    for key, ready in (("1", "power-note"), ("2", "compare-table")):
        page.keyboard.press(key)
        expect(page.get_by_test_id(ready)).to_be_visible()
        contrasts = page.evaluate(CONTRASTS)
        poor = [(round(contrast, 2), text) for contrast, wanted, text in contrasts if contrast < wanted]
        assert not poor
        seen += len(contrasts)
    assert seen > 200


FOCUSED = """
() => {
  const at = document.activeElement;
  if (at === document.body) return null;
  const style = getComputedStyle(at);
  const box = at.getBoundingClientRect();
  return {
    name: at.id || at.dataset.value || at.dataset.testid || at.getAttribute("aria-label") || at.textContent.trim(),
    ring: style.outlineStyle !== "none" ? parseFloat(style.outlineWidth) : 0,
    seen: box.bottom > 0 && box.top < innerHeight && box.right > 0,
  };
}
"""


def walk(page: Page, key: str, most: int = 60) -> list[str]:
    """What has the focus, key after key, until the page is left."""
    names: list[str] = []
    for _ in range(most):
        page.keyboard.press(key)
        at = page.evaluate(FOCUSED)
        if at is None:
            return names
        assert at["ring"] >= 2, f"no ring around {at['name']}"
        assert at["seen"], f"{at['name']} is out of sight"
        names.append(at["name"])
    return names


def test_by_keyboard(console: gm.Monitor, visit: Visit, tmp_path: Path) -> None:
    console.open(written(tmp_path / "m.jsonl", mixtral(steps=30)))
    play(console, Pretend(layers=20, steps=40))
    page = visit(console)
    expect(page.get_by_test_id("cells")).to_be_visible()
    names = walk(page, "Tab")
    wanted = [
        "Skip to the numbers", "show-run", "show-compare", "run-select", "fullscreen", "theme",
        "Power over time, with the power limit", "now", "run", "energy", "cells", "train", "heldout",
        "Loss by tokens", "Cumulative energy by tokens", "trace-select", "trace-layer", "Metrics", "JSON",
    ]  # fmt: skip
    assert [name for name in names if name in wanted] == wanted, names
    assert set(names) - set(wanted) <= {"events", "trace"}, "only what scrolls"
    assert len(names) < 60, "a trap"
    assert walk(page, "Shift+Tab", len(names)) == names[::-1]
    page.keyboard.press("Enter")  # the first is the link that skips
    assert page.evaluate("document.activeElement.id") == "content"
    chart = page.get_by_role("img", name="Power over time")
    chart.focus()
    page.keyboard.press("Home")
    readout = page.locator("#power-chart .readout")
    first = readout.text_content()
    page.keyboard.press("ArrowRight")
    expect(readout).not_to_have_text(first or "")
    page.keyboard.press("Escape")
    expect(readout).to_be_hidden()
