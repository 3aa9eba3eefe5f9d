"""Every program in the README is run as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def programs(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    assert found, f"README.md has no {language} program"
    return found


def run(command: list[str], **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("number", range(4))
def test_python(number: int, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(programs("python")[number])
    output = run([sys.executable, str(tmp_path / "program.py")])
    if number == 0:
        loss, active, violation = map(float, re.findall(r"-?\d+\.\d+", output))
        assert 0 < loss < 5 and 1 <= active <= 2 and violation >= 0


def test_the_package_has_the_same_program() -> None:
    text = (ROOT / "bindings" / "python" / "README.md").read_text()
    assert re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) == programs("python")[:1]


@pytest.mark.parametrize(("language", "compiler"), [("c", "cc -std=c99"), ("cpp", "c++ -std=c++17")])
def test_compiled(language: str, compiler: str, tmp_path: Path) -> None:
    source, program = tmp_path / f"layer.{language}", str(tmp_path / "layer")
    source.write_text(programs(language)[0])
    library = str(ROOT / "build" / "libgenesis_moe.so")
    flags = ["-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{ROOT}/include", f"-Wl,-rpath,{ROOT}/build"]
    run([*compiler.split(), *flags, str(source), library, "-o", program])
    # silu(1) * 2 = 1.4621 for both outputs of token 0; -silu(6) * 8 = -47.8813 for token 1.
    assert run([program]).split() == ["1.4621", "1.4621", "-47.8813", "-47.8813"]


def test_go(tmp_path: Path) -> None:
    (tmp_path / "main.go").write_text(programs("go")[0])
    output = run(["go", "run", str(tmp_path / "main.go")], env={**os.environ, "GOFLAGS": ""})
    assert output == "experts [0 1 0] loads [2 1]\n"
