from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

import genesis_moe as gm
from monitor.pretend import Pretend

expect.set_options(timeout=20_000)  # machines that are shared by many are slow at times


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium: the one that GENESIS_MOE_CHROMIUM names, or one on the PATH."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("GENESIS_MOE_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on this machine: `make setup-browser` installs one where apt is")
    with sync_playwright() as playwright:
        # Without a sandbox of its own, as the tests may run as root in a container.
        started = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"], timeout=120_000
        )
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a console's page; at the end no error was logged and nothing was asked of other hosts."""
    complaints: list[str] = []
    contexts = []

    def open_page(
        console: gm.Monitor, *, quiet: bool = True, init_script: str = "", **context_options: Any
    ) -> Page:
        url = console.url  # asked for now: the console may be stopped while the page is open
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **context_options})
        contexts.append(context)
        page = context.new_page()
        if init_script:
            page.add_init_script(init_script)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if quiet:
            page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on(
            "request",
            lambda asked: None if asked.url.startswith(url) else complaints.append(asked.url),
        )
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def console() -> Iterator[gm.Monitor]:
    with gm.monitor("127.0.0.1:0", interval_seconds=0.1) as started:
        yield started


def play(console: gm.Monitor, run: Pretend, *, end: bool = False) -> None:
    """Shows a run that never was, as one that is going on."""
    for line in run.lines():
        if end or line["kind"] != "end":
            console.log(line)


def written(path: Path, run: Pretend) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in run.lines()))
    return path
