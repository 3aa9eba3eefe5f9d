"""The documentation's programs are run, and its error messages are what those programs print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text()
CASES = re.findall(r"^## (.+?)\n.*?```python\n(.*?)```\n\n```text\n(.*?)\n```", TROUBLESHOOTING, re.M | re.S)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.mark.parametrize("program", sorted(p.name for p in (ROOT / "examples" / "python").glob("*.py")))
def test_example(program: str) -> None:
    done = run(str(ROOT / "examples" / "python" / program))
    assert done.returncode == 0, done.stderr
    differences = [float(found) for found in re.findall(r"differ(?:s)? by (\S+)", done.stdout)]
    assert all(difference < 1e-5 for difference in differences), done.stdout
    if losses := [float(found) for found in re.findall(r"loss (\d+\.\d+)", done.stdout)]:
        assert losses[-1] <= losses[0] and losses[-1] < 10, done.stdout


def test_printed_output_is_what_the_example_prints() -> None:
    page = (ROOT / "docs" / "start" / "python.md").read_text()
    quoted = re.findall(r"^    (step .+)$", page, re.M)
    assert len(quoted) >= 3
    printed = run(str(ROOT / "examples" / "python" / "layer.py")).stdout.splitlines()
    number = re.compile(r"\d+(?:\.\d+)?")
    for line in quoted:
        found = [other for other in printed if other[:8] == line[:8]]  # "step 100"
        assert found, f"docs/start/python.md: {line!r} is not among\n" + "\n".join(printed)
        assert number.sub("N", found[0]) == number.sub("N", line)
        theirs, ours = (
            [float(n) for n in number.findall(text.split("  loads ")[0])] for text in (line, found[0])
        )
        # Processors round differently, and training carries that on.
        assert theirs == pytest.approx(ours, rel=0.1), f"docs/start/python.md: now it prints {found[0]!r}"


@pytest.mark.parametrize(("title", "program", "message"), CASES, ids=[case[0] for case in CASES])
def test_message(title: str, program: str, message: str) -> None:
    printed = run("-c", program).stderr.replace("genesis_moe.errors.", "")
    assert message in printed, (
        f"{title}: docs/troubleshooting.md is out of date; now it prints\n{printed[-600:]}"
    )


def test_every_case_has_its_program_and_message() -> None:
    titles = re.findall(r"^## (.+)$", TROUBLESHOOTING, re.M)
    assert titles.pop() == "Which kernels the experts have on a GPU"  # is no error
    assert [case[0] for case in CASES] == titles and len(titles) >= 9


def test_every_metric_is_documented() -> None:
    source = (ROOT / "core" / "energy" / "metrics" / "run.go").read_text()
    wanted = re.findall(r'(counter|gauge|histogram)\("([a-z_]+)", "([^"]+)"', source)
    documented = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    assert len(wanted) >= 20
    for kind, name, text in wanted:
        assert re.search(rf"^\| `{name}` \| {kind} \| .* \| {re.escape(text)} \| ", documented, re.M), name
