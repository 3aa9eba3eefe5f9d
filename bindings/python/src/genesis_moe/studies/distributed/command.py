"""The command line: `python -m genesis_moe.studies.distributed`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from genesis_moe.studies.compare.arms import ARMS
from genesis_moe.studies.compare.corpus import Corpus, build
from genesis_moe.studies.compare.training import Settings
from genesis_moe.studies.distributed.table import table
from genesis_moe.studies.distributed.training import LAYOUTS, DistributedRun
from genesis_moe.studies.record import environment, read_json, write_atomically, write_json

SCHEMA = 1
ARM = "hamiltonian-1.25"  # it has prices and a gap
RANKS = (1, 2, 4)
SEEDS = (0, 1, 2)
# Of a run in float64, which is there for its bits: they agree or part early, and a step takes twice the time.
DOUBLE_STEPS, DOUBLE_WINDOWS = 120, 64
Piece = tuple[str, str, int]  # layout, dtype, seed


def pieces(ranks: int) -> list[Piece]:
    """What runs on so many ranks: seed 0 in every layout; on one, the other seeds too, for their noise."""
    if ranks == 1:
        return [*(("one", "float32", seed) for seed in SEEDS), ("one", "float64", SEEDS[0])]
    return [(layout, dtype, SEEDS[0]) for dtype in ("float32", "float64") for layout in LAYOUTS]


def of_piece(settings: Settings, piece: Piece) -> Settings:
    if piece[1] == "float32":
        return settings
    return replace(
        settings,
        steps=min(settings.steps, DOUBLE_STEPS),
        final_windows=min(settings.final_windows, DOUBLE_WINDOWS),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m genesis_moe.studies.distributed", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/distributed"), help="folder of the study")
    parser.add_argument("--steps", type=int, default=600, help="of training (default: the smoke tier's 600)")
    parser.add_argument(
        "--windows", type=int, default=320, help="of each domain that are evaluated at the end"
    )
    parser.add_argument(
        "--collect", action="store_true", help="write the record of the runs that are there; train nothing"
    )
    parser.add_argument("--table", action="store_true", help="write the table of OUT's record; train nothing")
    options = parser.parse_args(arguments)
    record_path = options.out / "same_training.json"
    if options.table:
        record = read_json(record_path)
    else:
        settings = replace(Settings(), steps=options.steps, final_windows=options.windows)
        record = carry_out(settings, options.out, train=not options.collect)
        write_json(record_path, record)
    write_atomically(options.out / "same_training.md", table(record).encode())
    print(table(record))
    return 0


def carry_out(settings: Settings, out: Path, *, train: bool = True) -> dict[str, Any]:
    """Every run that OUT/runs has not yet, then the record of all."""
    corpus = build()
    runs, missing = [], []
    for ranks in RANKS:
        wanted = [piece for piece in pieces(ranks) if not _file(out, ranks, piece).exists()]
        if wanted and train:
            _on_ranks(ranks, wanted, settings, corpus, out)
        for piece in pieces(ranks):
            if _file(out, ranks, piece).exists():
                runs.append(read_json(_file(out, ranks, piece)))
            else:
                missing.append([piece[0], ranks, piece[1]])
    return {
        "schema": SCHEMA,
        "environment": environment(),
        "settings": asdict(settings),
        "settings_float64": asdict(of_piece(settings, ("one", "float64", 0))),
        "corpus": corpus.describe(),
        "threads_of_each_rank": 1,
        "runs": runs,
        "missing": missing,
    }


def _file(out: Path, ranks: int, piece: Piece) -> Path:
    layout, dtype, seed = piece
    return out / "runs" / f"{layout}-{ranks}-{dtype}-seed-{seed}.json"


def _on_ranks(ranks: int, wanted: list[Piece], settings: Settings, corpus: Corpus, out: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="gmoe-ranks-") as folder:
        arguments = (ranks, wanted, settings, corpus, out, f"file://{folder}/meet")
        processes = [context.Process(target=_rank, args=(rank, *arguments)) for rank in range(ranks)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    if codes := [process.exitcode for process in processes if process.exitcode]:
        raise RuntimeError(f"a rank of {ranks} ended with {codes[0]}")


def _rank(
    rank: int, ranks: int, wanted: list[Piece], settings: Settings, corpus: Corpus, out: Path, meet: str
) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=meet, rank=rank, world_size=ranks, timeout=timedelta(minutes=30)
    )
    for piece in wanted:
        layout, dtype, seed = piece
        kind = getattr(torch, dtype)
        result = DistributedRun(layout, ARMS[ARM], seed, of_piece(settings, piece), corpus, kind).train_here()
        if rank == 0:
            write_json(_file(out, ranks, piece), result)
            print(f"{layout} on {ranks}, {dtype}, seed {seed}: {result['held_out']:.4f}", file=sys.stderr)
    dist.destroy_process_group()
