"""The command ``genesis-moe``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from typing import Any

import genesis_moe
from genesis_moe import _monitor_command
from genesis_moe._extras import install_command

BENCHES = ("layer", "overhead")

# The extra that brings all that a command needs beyond NumPy.
NEEDS = {
    "compare": "torch",
    "mitosis": "torch",
    "scale": "torch",
    "calibrate": "transformers",
    "calibrate-energy": "torch",
    "bench": "transformers",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="genesis-moe",
        description="Mixture-of-Experts layers on one shared library: Hamiltonian routing, budgeted experts, dispatch.",
        epilog="`genesis-moe COMMAND --help` says more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"genesis-moe {genesis_moe.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    try:
        _add_doctor(commands)
        _add_compare(commands, chosen=arguments[:1] == ["compare"])
        _add_mitosis(commands, chosen=arguments[:1] == ["mitosis"])
        _add_scale(commands, chosen=arguments[:1] == ["scale"])
        _add_calibrate(commands)
        _add_bench(commands)
        _add_monitor(commands)
        _add_baseline(commands)
        _add_calibrate_energy(commands)
        _add_csv(commands)
        options = parser.parse_args(arguments)
        status = int(options.run(options))
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has seen enough: `genesis-moe doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except genesis_moe.GenesisMoeError as error:
        parser.exit(1, f"genesis-moe: {error}\n")
    except ImportError as error:
        parser.exit(1, f"genesis-moe: {_missing(arguments[0], error)}\n")
    except OSError as error:
        parser.exit(
            1,
            f"genesis-moe: {error.filename}: {error.strerror}\n"
            if error.filename
            else f"genesis-moe: {error}\n",
        )


def _missing(command: str, error: ImportError) -> str:
    package = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in ("torch", "transformers"):
        return f"{command} needs {package}, which is not installed: {install_command(NEEDS[command])}"
    return str(error)


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what was found on this machine and what is missing",
        description="Says which library was found, and what it found: processor, threads, BLAS, CUDA, NVML.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from genesis_moe._doctor import summary

    found = genesis_moe.doctor()
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join([*summary(found), "", "In detail:", *_lines(found)]))
    return 0


def _lines(value: Any, indent: str = "") -> list[str]:
    """Nested objects as indented lines, one fact a line."""
    if isinstance(value, dict):
        return [
            line for key, part in value.items() for line in _entry(f"{key.replace('_', ' ')}:", part, indent)
        ]
    return [line for part in value for line in _entry("-", part, indent)]


def _entry(label: str, part: Any, indent: str) -> list[str]:
    if isinstance(part, dict | list) and part and not _is_flat(part):
        return [indent + label, *_lines(part, indent + "  ")]
    return [f"{indent}{label} {_words(part)}"]


def _is_flat(value: Any) -> bool:
    return isinstance(value, list) and not any(isinstance(item, dict | list) for item in value)


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_words, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None or value in ("", {}) else str(value)


def _add_compare(commands: Any, chosen: bool) -> None:
    parser = commands.add_parser(
        "compare",
        help="train hamiltonian, mixtral and deepseek routers on real text and compare them",
        description="Trains models that differ in their router alone, on real text; compares loss, time and cost.",
    )
    # The study needs torch, which takes seconds to import: only when it is asked for.
    if chosen:
        study = importlib.import_module("genesis_moe.studies.compare")
        study.add_arguments(parser)
        parser.set_defaults(run=study.run)


def _add_mitosis(commands: Any, chosen: bool) -> None:
    parser = commands.add_parser(
        "mitosis",
        help="train a model whose experts split, beside its controls",
        description="Does growth pay? Splitting experts against fixed numbers, random times and random experts.",
    )
    if chosen:
        study = importlib.import_module("genesis_moe.studies.mitosis")
        study.add_arguments(parser)
        parser.set_defaults(run=study.run)


def _add_scale(commands: Any, chosen: bool) -> None:
    parser = commands.add_parser(
        "scale",
        help="say on paper what expert parallelism costs on 8 to 4,096 GPUs",
        description="A cost model of dispatch and combine over recorded routing traces, checked on local processes.",
    )
    if chosen:
        study = importlib.import_module("genesis_moe.studies.scale")
        study.add_arguments(parser)
        parser.set_defaults(run=study.run)


def _add_calibrate(commands: Any) -> None:
    from genesis_moe.calibration import command

    parser = commands.add_parser(
        "calibrate",
        help="make a dense Llama-family model sparse: shared and routed experts, without training",
        description="Turns the MLPs of a dense model into shared and routed experts and says what it cost.",
    )
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)


def _add_bench(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure the speed of the layer, or what a call costs",
        description="Measures on this machine and writes JSON.",
    )
    parser.add_argument(
        "study",
        choices=BENCHES,
        help="layer: beside Hugging Face's own experts; overhead: calls, import, size",
    )
    parser.add_argument("--out", default=".", metavar="FOLDER", help="where the JSON goes (default: here)")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="threads (default: torch's choice)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds, to see that it runs")
    parser.add_argument(
        "--part",
        dest="parts",
        action="append",
        choices=("calls", "metering", "console", "threads"),
        help="of overhead: only this; may be given several times (default: all)",
    )
    parser.set_defaults(run=_bench)


def _add_monitor(commands: Any) -> None:
    parser = commands.add_parser(
        "monitor",
        help="show runs in a browser: replay them, compare them, follow one that goes on",
        description="Serves the console of runs from their files of records, until it is interrupted.",
    )
    _monitor_command.add_arguments(parser)
    parser.set_defaults(run=_monitor_command.run)


def _bench(options: argparse.Namespace) -> int:
    study = importlib.import_module(f"genesis_moe.studies.{options.study}")
    return int(study.run(options))


def _add_baseline(commands: Any) -> None:
    parser = commands.add_parser(
        "baseline",
        help="make a baseline of the records of metered runs, for others to be compared with",
        description="Takes the energy per token of finished runs, one record for each seed, and writes it as JSON.",
    )
    parser.add_argument("records", nargs="+", metavar="RUN.JSONL", help="the record of each run")
    parser.add_argument("--name", required=True, help="what the baseline is called: mixtral")
    parser.add_argument("--phase", default="train", choices=("train", "prefill", "decode", "eval"))
    parser.add_argument("--out", required=True, metavar="FILE", help="where the JSON goes")
    parser.set_defaults(run=_baseline)


def _baseline(options: argparse.Namespace) -> int:
    energy = importlib.import_module("genesis_moe.energy.baseline")
    found = energy.baseline_of(options.records, options.name, options.phase)
    with open(options.out, "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
        file.write("\n")
    value = found["joules_per_token"]
    bound = "" if value["uncertainty"] is None else f" ± {value['uncertainty']:.3g}"
    print(f"{options.name}: {value['value']:.6g}{bound} J/token, {value['quality']}, {found['seeds']} runs")
    return 0


def _add_calibrate_energy(commands: Any) -> None:
    parser = commands.add_parser(
        "calibrate-energy",
        help="measure the prices of work on this device, by which a run's energy is divided",
        description="Idles, then runs a layer's router and its experts alone, with few and with many tokens, under the "
        "meter. Let nothing else run meanwhile. The JSON is the calibration of EnergyRecorder.",
    )
    for name, size in (("hidden", 2048), ("intermediate", 4096), ("experts", 8), ("top-k", 2)):
        parser.add_argument(
            f"--{name}", type=int, default=size, metavar="N", help=f"of the layer (default: {size})"
        )
    parser.add_argument("--device", default="cpu", help="torch's name of it: cpu, cuda (default: cpu)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--source",
        default="best",
        help="what to meter with (default: the best that is there); mock: invented, to try the command",
    )
    parser.add_argument(
        "--idle-watts", type=float, metavar="W", help="of all devices without work (default: measured first)"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="of each of the four parts (default: 10)"
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="where the JSON goes")
    parser.set_defaults(run=_calibrate_energy)


def _calibrate_energy(options: argparse.Namespace) -> int:
    torch = importlib.import_module("torch")
    energy = importlib.import_module("genesis_moe.energy")
    if not options.seconds > 0:
        raise genesis_moe.InvalidArgumentError(f"--seconds: {options.seconds}, want above 0")
    layer = genesis_moe.MoE(options.hidden, options.intermediate, options.experts, top_k=options.top_k)
    layer = layer.to(device=options.device, dtype=getattr(torch, options.dtype))
    with genesis_moe.EnergyMeter(options.source) as meter:
        idle_watts = options.idle_watts
        if idle_watts is None:
            idle_watts = meter.measure_idle(options.seconds)
        if idle_watts is None:
            raise genesis_moe.UnsupportedError(
                f"meter: none here, so there is nothing to calibrate ({meter.describe()['meter']})"
            )
        found = energy.calibrate(layer, meter, idle_watts=idle_watts, seconds=options.seconds)
        quality, source = meter.quality, meter.source
    with open(options.out, "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
        file.write("\n")
    print(
        f"{idle_watts:.4g} W idle, {found['joules_per_decision']:.3g} J a decision, "
        f"{found['joules_per_byte']:.3g} J a byte, {found['joules_per_flop']:.3g} J a FLOP; {quality}, {source}"
    )
    return 0


def _add_csv(commands: Any) -> None:
    parser = commands.add_parser(
        "csv",
        help="write the steps of a run's record as CSV",
        description="A row for each step; what is not known is an empty cell.",
    )
    parser.add_argument("record", metavar="RUN.JSONL")
    parser.add_argument("out", metavar="RUN.CSV")
    parser.set_defaults(run=_csv)


def _csv(options: argparse.Namespace) -> int:
    importlib.import_module("genesis_moe.energy.record").export_csv(options.record, options.out)
    return 0
