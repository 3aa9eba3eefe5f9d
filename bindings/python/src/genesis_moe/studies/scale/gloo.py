"""The model against measurement: all-to-alls of Gloo between processes of this machine.

Alpha and beta are fitted to even exchanges of some sizes; others, and uneven exchanges as a trace has them, are
predicted and measured.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
from torch.multiprocessing.spawn import start_processes

WIDTH = 256  # float32: 1 KiB a row
FITTED = (1, 4, 16, 64, 256, 1024)  # rows to each rank
PREDICTED = (2, 8, 32, 128, 512, 2048)
ROUNDS = 60


def measure(splits: list[np.ndarray], ranks: int, rounds: int = ROUNDS) -> list[dict[str, float]]:
    """Seconds of an all-to-all for each matrix [ranks, ranks] of rows that a rank (first axis) sends to another.

    Processes of this machine over loopback. A round takes all matrices in turn, so what else the machine
    does hits them alike; a time is of the slowest rank, and the median and quartiles of the rounds are given.
    """
    with tempfile.TemporaryDirectory(prefix="gmoe-scale-") as folder:
        start_processes(_rank, (ranks, splits, rounds, folder), nprocs=ranks, start_method="spawn")
        times = np.stack([np.load(Path(folder) / f"{rank}.npy") for rank in range(ranks)]).max(axis=0)
    quartiles = np.quantile(times, [0.25, 0.5, 0.75], axis=0)
    return [{"q25": float(a), "median": float(b), "q75": float(c)} for a, b, c in quartiles.T]


def _rank(rank: int, ranks: int, splits: list[np.ndarray], rounds: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=ranks)
    try:
        times = np.zeros((rounds, len(splits)))
        for round_ in range(-1, rounds):  # one round to warm up
            for i, split in enumerate(splits):
                sent, received = split[rank].tolist(), split[:, rank].tolist()
                rows, arriving = torch.zeros(sum(sent), WIDTH), torch.zeros(sum(received), WIDTH)
                distributed.barrier()
                begin = time.perf_counter()
                distributed.all_to_all_single(arriving, rows, received, sent)
                if round_ >= 0:
                    times[round_, i] = time.perf_counter() - begin
        np.save(Path(folder) / f"{rank}.npy", times)
    finally:
        distributed.destroy_process_group()


def even(rows: int, ranks: int) -> np.ndarray:
    """Every rank sends that many rows to every other, and keeps as many."""
    return np.full((ranks, ranks), rows, dtype=np.int64)


def load(split: np.ndarray) -> tuple[int, int]:
    """What the slowest rank has: its messages, and the bytes that it sends or receives, whichever is more."""
    others = split - np.diag(np.diag(split))
    messages = max(int((others > 0).sum(1).max()), int((others > 0).sum(0).max()))
    rows = max(int(others.sum(1).max()), int(others.sum(0).max()))
    return messages, rows * WIDTH * 4


def fit(splits: list[np.ndarray], seconds: list[float]) -> tuple[float, float]:
    """(alpha in seconds a message, beta in seconds a byte) of the least squared relative errors, neither below 0."""
    loads = np.array([load(split) for split in splits], dtype=np.float64)
    wanted = np.array(seconds)
    matrix = loads / wanted[:, None]
    one = np.ones(len(wanted))
    best = np.linalg.lstsq(matrix, one, rcond=None)[0]
    if best.min() < 0:  # one of them explains nothing: the other alone
        alone = [(np.linalg.lstsq(matrix[:, [i]], one, rcond=None)[:2], i) for i in range(2)]
        (solution, _), i = min(alone, key=lambda entry: float(entry[0][1][0]))
        best = np.zeros(2)
        best[i] = solution[0]
    return float(best[0]), float(best[1])


def predict(split: np.ndarray, alpha: float, beta: float) -> float:
    """Seconds of the exchange."""
    messages, size = load(split)
    return alpha * messages + beta * size


def as_traced(share: np.ndarray, tokens: int, ranks: int) -> np.ndarray:
    """The exchange of tokens a rank, of which the given share [ranks] needs each rank."""
    return np.tile(np.round(share * tokens).astype(np.int64), (ranks, 1))


def check(
    shares: dict[str, dict[int, np.ndarray]], tokens: int = 1024, rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """Fits and predicts with 2 and with 4 processes.

    shares: by name of a routing and number of ranks, the share of tokens that needs each rank.
    """
    found = []
    for ranks in (2, 4):
        cases = [("fitted", f"{rows} rows", even(rows, ranks)) for rows in FITTED]
        cases += [("predicted", f"{rows} rows", even(rows, ranks)) for rows in PREDICTED]
        cases += [
            ("predicted", name, as_traced(by_ranks[ranks], tokens, ranks))
            for name, by_ranks in shares.items()
        ]
        times = measure([split for _, _, split in cases], ranks, rounds)
        known = [
            (split, t["median"]) for (kind, _, split), t in zip(cases, times, strict=True) if kind == "fitted"
        ]
        alpha, beta = fit([split for split, _ in known], [seconds for _, seconds in known])
        points: list[dict[str, Any]] = []
        for (kind, name, split), measured in zip(cases, times, strict=True):
            messages, size = load(split)
            seconds = predict(split, alpha, beta)
            points.append(
                {
                    "kind": kind,
                    "exchange": name,
                    "messages": messages,
                    "bytes": size,
                    "measured_seconds": measured,
                    "predicted_seconds": seconds,
                    "relative_error": seconds / measured["median"] - 1,
                }
            )
        errors = [abs(point["relative_error"]) for point in points if point["kind"] == "predicted"]
        found.append(
            {
                "ranks": ranks,
                "rounds": rounds,
                # Of the machine, in the last minute: what ranks wait for a processor is in alpha too.
                "load_average": os.getloadavg()[0],
                "alpha_seconds_per_message": alpha,
                "bandwidth_bytes_per_second": None if beta == 0 else 1 / beta,
                "median_absolute_error": float(np.median(errors)),
                "largest_absolute_error": max(errors),
                "points": points,
            }
        )
    return found
