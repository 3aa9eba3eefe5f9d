"""The command genesis-moe."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import genesis_moe as gm
from genesis_moe import cli
from genesis_moe._doctor import summary


def test_doctor_in_words_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["library"] == gm.library_path()
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"library: {gm.library_path()}" in lines and f"version: {gm.__version__}" in lines
    assert not any("{" in line or "[" in line for line in lines)


def test_doctor_in_plain_words() -> None:
    found = {
        "version": "0.1.0",
        "library": "/lib/libgenesis_moe.so",
        "blas": {"name": "OpenBLAS", "path": "/lib/libopenblas.so"},
        "devices": {"cuda": {"count": 0}},
        "nvml": {"found": True},
        "packages": {"numpy": "2.0", "torch": None, "transformers": None, "ml_dtypes": "0.5"},
    }
    lines = summary(found)
    assert "found    a fast BLAS, OpenBLAS: /lib/libopenblas.so" in lines
    assert "missing  torch: the functions of NumPy arrays work; for layers: pip install 'torch>=2.6'" in lines
    assert [line.split()[0] for line in lines] == [
        "found", "found", "missing", "found", "found", "missing", "missing", "found"
    ]  # fmt: skip
    found["blas"] = {"name": "gonum", "path": "built in"}
    assert any(line.startswith("missing  a BLAS") and "GENESIS_MOE_BLAS" in line for line in summary(found))


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["doctor", "--help"], ["bench", "--help"], ["compare", "--help"], ["monitor", "--help"]],
)
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 0
    assert "usage: genesis-moe" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["dance"], ["bench"], ["bench", "dance"], ["doctor", "--loud"]])
def test_wrong_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: genesis-moe" in capsys.readouterr().err


def test_a_missing_library_is_said_and_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENESIS_MOE_LIBRARY", "/nowhere/libgenesis_moe.so")
    command = [sys.executable, "-m", "genesis_moe", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("genesis-moe: libgenesis_moe.so was not found")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["compare", "--demo"],
            "compare needs torch, which is not installed: pip install 'torch>=2.6'",
        ),
        (["mitosis"], "mitosis needs torch, which is not installed: pip install 'torch>=2.6'"),
        (
            ["bench", "layer"],
            "bench needs torch, which is not installed: pip install 'torch>=2.6' 'transformers>=5.7'",
        ),
        (["baseline", "no.jsonl", "--name", "n", "--out", "o"], "no.jsonl: No such file or directory"),
    ],
)
def test_what_is_missing_is_said_and_not_traced(arguments: list[str], message: str) -> None:
    code = f"import sys; sys.modules['torch'] = None; from genesis_moe.cli import main; main({arguments})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"genesis-moe: {message}\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"genesis-moe {gm.__version__}\n"
