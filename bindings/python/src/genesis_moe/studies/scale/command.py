"""The command line: `genesis-moe scale`, also `python -m genesis_moe.studies.scale`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from genesis_moe._extras import install_command
from genesis_moe.studies.compare.training import TrainingInterruptedError
from genesis_moe.studies.record import environment, read_json, write_atomically, write_json
from genesis_moe.studies.scale import gloo, traces
from genesis_moe.studies.scale.paper import evaluate, shares_for_gloo
from genesis_moe.studies.scale.summary import markdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("runs/scale"),
        help="folder of the study; a traces.json there is used, else the arms are trained first",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=gloo.ROUNDS, help="rounds of the measurement")
    parser.add_argument("--threads", type=int, default=2, help="threads of the training")
    parser.add_argument("--no-check", action="store_true", help="model only; measure nothing")
    parser.add_argument(
        "--from-json", type=Path, metavar="FILE", help="draw figures and table of a record anew"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carries out the command; returns the exit status: 130 when Ctrl-C stopped the training."""
    try:
        if arguments.from_json is not None:
            _show(read_json(arguments.from_json), arguments.from_json.parent)
            return 0
        if arguments.rounds < 1:
            raise ValueError(f"--rounds: {arguments.rounds}, want at least 1")
        _show(_study(arguments), arguments.out)
    except TrainingInterruptedError:
        print("genesis-moe scale: stopped; the same command goes on", file=sys.stderr)
        return 130
    except (ValueError, RuntimeError, OSError) as error:
        print(f"genesis-moe scale: {error}", file=sys.stderr)
        return 1
    return 0


def _study(arguments: argparse.Namespace) -> dict[str, Any]:
    path = arguments.out / "traces.json"
    if not path.exists():
        write_json(path, traces.record(arguments.out, threads=arguments.threads))
    recorded = read_json(path)
    found = recorded["traces"]
    check = None if arguments.no_check else gloo.check(shares_for_gloo(found), rounds=arguments.rounds)
    record = {
        "study": "scale",
        "environment": environment(),
        # The pairs themselves stay in their own file.
        "traces": {
            **{key: value for key, value in recorded.items() if key != "traces"},
            "traces": [{key: value for key, value in trace.items() if key != "halves"} for trace in found],
        },
        "paper": evaluate(found),
        "check": check,
    }
    write_json(arguments.out / "scale.json", record)
    return record


def _show(record: dict[str, Any], out: Path) -> None:
    table = markdown(record)
    write_atomically(out / "table.md", (table + "\n").encode())
    print(table)
    try:
        from genesis_moe.studies.scale.figures import draw
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        print(f"No figures; for them: {install_command('plots')}", file=sys.stderr)
        return
    for figure in draw(record, out / "figures"):
        print(figure)
