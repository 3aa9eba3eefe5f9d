"""``genesis-moe calibrate``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from genesis_moe.errors import InvalidArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a folder of a dense Llama-family model, or a .gguf file"
    )
    parser.add_argument(
        "--texts",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="UTF-8 text files to calibrate on",
    )
    parser.add_argument(
        "--held-out",
        nargs="*",
        type=Path,
        default=[],
        metavar="FILE",
        help="text files to measure quality on",
    )
    parser.add_argument(
        "--active", type=float, default=0.5, help="share of the MLPs' work left (default 0.5)"
    )
    parser.add_argument("--experts", default="auto", help="routed experts in each layer (default: auto)")
    parser.add_argument(
        "--shared",
        default="auto",
        help="share of shared neurons (default: auto, in each layer what loses least)",
    )
    parser.add_argument(
        "--distill-minutes",
        type=float,
        default=0.0,
        metavar="N",
        help="train the experts to match the dense model, for so long (default: not at all)",
    )
    parser.add_argument("--tokens", type=int, default=32768, help="calibration tokens (default 32768)")
    parser.add_argument("--length", type=int, default=512, help="tokens in a window (default 512)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="a folder that is not there yet"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Carries out the command. The folder appears when all in it is written; layers that are done are kept
    in DIR.work meanwhile, with which the same command goes on after a kill."""
    out: Path = arguments.out
    if out.exists():
        raise InvalidArgumentError(f"--out: {out} exists; want a new folder")
    experts = arguments.experts
    if experts != "auto":
        if not experts.isdecimal():
            raise InvalidArgumentError(f"--experts: {experts!r}, want 'auto' or a number")
        experts = int(experts)
    shared = arguments.shared
    if shared != "auto":
        try:
            shared = float(shared)
        except ValueError:
            raise InvalidArgumentError(f"--shared: {shared!r}, want 'auto' or a share") from None
    texts = [_read("--texts", path) for path in arguments.texts]
    held_out = {path.name: [_read("--held-out", path)] for path in arguments.held_out}
    model, tokenizer = _load(arguments.model)

    from genesis_moe.calibration import calibrate

    work = out.with_name(out.name + ".work")
    report = calibrate(
        model, texts, tokenizer=tokenizer, active=arguments.active, experts=experts, shared=shared,
        tokens=arguments.tokens, length=arguments.length, seed=arguments.seed, held_out=held_out, work=work,
        distill_minutes=arguments.distill_minutes, progress=not arguments.json,
    )  # fmt: skip
    save(model, tokenizer, report, out)
    shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(report.as_dict(), indent=1) if arguments.json else report.page())
    print(f"{out} holds the model, calibration.json and calibration.md.", file=sys.stderr)
    return 0


def save(model: Any, tokenizer: Any, report: Any, out: Path) -> None:
    """Writes all into a neighbour of the folder, which then takes its name: it is whole or not there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=out.name + "."))
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        report.save(temporary)
        temporary.chmod(0o755)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _read(option: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{option}: {path}: {error}") from error


def _load(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(name)
    if not path.exists():
        raise InvalidArgumentError(f"MODEL: {name} is not there; want a folder of a model, or a .gguf file")
    where: dict[str, Any] = {"local_files_only": True}
    if path.is_file():
        where["gguf_file"], path = path.name, path.parent
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype="auto", **where)
        return model.eval(), AutoTokenizer.from_pretrained(path, **where)
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"MODEL: {name}: {error}") from error
