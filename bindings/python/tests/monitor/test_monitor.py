"""The console from Python and from the command line, without a browser."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import genesis_moe as gm
from genesis_moe import cli
from monitor.conftest import play, written
from monitor.pretend import Pretend

TOKEN = "a-token-of-many-letters"


def fetch(url: str, **headers: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
        return json.load(answer)


def test_lines_are_shown() -> None:
    with gm.monitor("127.0.0.1:0") as console:
        play(console, Pretend(steps=3), end=True)
        (run,) = fetch(console.url + "api/snapshot")["runs"]
        assert (run["name"], run["state"], run["step"]) == ("hamiltonian, budget 1.25", "ended", 3)
        assert run["limit_watts"] == 700
        metrics = urllib.request.urlopen(console.url + "metrics").read().decode()
        assert 'genesis_moe_tokens_total{phase="train"} 12288' in metrics
        with pytest.raises(gm.InvalidArgumentError, match="line: "):
            console.log({"kind": "step", "t": "soon"})
    assert repr(console) == "<Monitor, stopped>"
    console.stop()
    with pytest.raises(gm.InvalidHandleError, match="monitor: is stopped"):
        console.log("{}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"address": "0.0.0.0:0"}, "allow_remote"),
        ({"address": "0.0.0.0:0", "allow_remote": True}, "token"),
        ({"address": "0.0.0.0:0", "allow_remote": True, "token": "short"}, "at least 16"),
        ({"address": "nonsense"}, "host:port"),
        ({"address": "127.0.0.1:0", "interval_seconds": 0.001}, "interval"),
        ({"address": "127.0.0.1:0", "runs": ["/nowhere.jsonl"]}, "nowhere"),
    ],
)
def test_refusals(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(gm.InvalidArgumentError, match=said):
        gm.monitor(**arguments)


def test_a_token_is_asked_for() -> None:
    with gm.monitor("127.0.0.1:0", token=TOKEN) as console:
        for headers in ({}, {"Authorization": "Bearer " + TOKEN[:-1]}):
            with pytest.raises(urllib.error.HTTPError) as refused:
                fetch(console.url + "api/snapshot", **headers)
            assert refused.value.code == 401
        assert fetch(console.url + "api/snapshot", Authorization=f"Bearer {TOKEN}")["runs"] == []
        assert TOKEN not in console.url


def test_the_command(tmp_path: Path) -> None:
    path = written(tmp_path / "run.jsonl", Pretend(steps=3))
    command = [sys.executable, "-m", "genesis_moe", "monitor", str(path), "--address", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = re.search(r"http://\S+", process.stdout.readline())
            assert url is not None
            (run,) = fetch(url[0] + "api/snapshot")["runs"]
            assert run["mode"] == "replayed"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "at least one file"), (["/nowhere.jsonl", "--address", "127.0.0.1:0"], "nowhere")],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["monitor", *arguments])
    assert stopped.value.code == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_contrast(root: Path, theme: str) -> None:
    """Every colour of text has a contrast of at least 4.5 on panels and on raised parts (WCAG AA)."""
    css = (root / "core/monitor/page/console.css").read_text()
    block = re.search(rf':root\[data-theme="{theme}"\] {{(.*?)}}', css, re.S)
    assert block is not None
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", block[1]))
    auto = re.search(r'data-theme="auto"\] {(.*?)}', css, re.S)
    assert auto is not None
    if theme == "light":  # the same colours when the system asks for light
        assert set(re.findall(r"--([\w-]+): (#\w{6});", auto[1])) <= set(colours.items())

    def luminance(name: str) -> float:
        channels = [int(colours[name][at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for text in ("text", "text-2", "text-3", "energy", "routed", "limit", "good", "bad"):
        for ground in ("surface", "raised", "ground"):
            bright, dim = sorted((luminance(text), luminance(ground)), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (text, ground)
    lines = ("second", "mixtral", "deepseek", "other-1", "other-2", "other-3", "other-4", "idle", "focus")
    for line in lines:  # what is drawn and means something: 3 (WCAG 1.4.11)
        bright, dim = sorted((luminance(line), luminance("surface")), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 3, line
