"""The step ``benchmark``: the layer beside its rivals and under dense products, in bfloat16.

Every set of our kernels is a process of its own, the rivals are one more; all make the same weights, tokens and
routing. Outputs and gradients are compared with transformers' grouped_mm first. Then they run in turn, A B C A B C,
and a ratio is the median over rounds of the ratio within a round. Rates count the forward's 6 T k I H
operations, three times as many with the backward pass. Few tokens are replayed from CUDA graphs where an
implementation can be captured, and compared with reading the weights of the experts drawn at the rate of a copy.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genesis_moe.studies.gpu.facts import smi
from genesis_moe.studies.gpu.rivals import DENSE, OURS, RIVALS
from genesis_moe.studies.gpu.timing import cache_bytes, ceilings, forget, seconds_of_step
from genesis_moe.studies.gpu.workers import KERNELS, WorkerError, Workers
from genesis_moe.studies.layer import Shape
from genesis_moe.studies.record import write_json

ROUNDS, LEAST_ROUNDS = 7, 3
CASE_SECONDS = 5.0  # of rounds
SLOW_MILLISECONDS = 60.0  # an implementation that takes longer has LEAST_ROUNDS
FEW_TOKENS = 64
# Process and implementation of each arm.
ARMS = {
    **{name: (name, OURS) for name in KERNELS},
    **{name: ("rivals", name) for name in (*RIVALS, DENSE)},
}


@dataclass(frozen=True)
class Size:
    """A shape, tokens and what is timed of it."""

    shape: Shape
    tokens: int

    def __str__(self) -> str:
        return f"{self.shape} T={self.tokens}"

    @property
    def few(self) -> bool:
        return self.tokens <= FEW_TOKENS

    @property
    def passes(self) -> tuple[str, ...]:
        return ("forward",) if self.few else ("forward", "forward+backward")

    def arms(self) -> list[str]:
        """Without the kernels that are others' at this size: tiles differ from the portable ones for few tokens,
        and the order of tiles matters for many."""
        return [name for name in ARMS if name != ("hopper_plain" if self.few else "tiles")]


# I, E and k of the published figures of Hopper kernels, at H = 4096.
PUBLISHED = tuple(
    Shape(4096, i, e, k) for i, e, k in ((1024, 128, 8), (2048, 64, 4), (512, 128, 8), (256, 256, 16))
)
OTHERS = (
    Shape(1024, 512, 64, 8),
    Shape(2048, 768, 128, 8),
    Shape(1024, 2048, 8, 2),
    Shape(4096, 14336, 8, 2),
    Shape(576, 1536, 8, 2),
)
FEW = (Shape(4096, 1024, 128, 8), Shape(4096, 14336, 8, 2), Shape(2048, 768, 128, 8), Shape(1024, 512, 64, 8))


def sizes() -> list[Size]:
    """Those that say most first."""
    return [
        *(Size(shape, 32768) for shape in PUBLISHED),
        *(Size(shape, tokens) for shape in FEW for tokens in (1, 8, 16, 64)),
        *(Size(shape, 32768) for shape in OTHERS),
        *(Size(shape, tokens) for tokens in (2048, 512) for shape in (*PUBLISHED, *OTHERS)),
    ]


def measure(
    workers: Workers, size: Size, copy_bytes_per_second: float, cache: int = 0
) -> list[dict[str, Any]]:
    """One record for each of the passes; what failed is in it by name. cache: bytes of the device's L2."""
    shape = size.shape
    workers.revive()
    begun = workers.together(
        "begin",
        60.0,
        shape=[shape.hidden_size, shape.intermediate_size, shape.num_experts, shape.top_k],
        tokens=size.tokens,
    )
    checksums = {answer["checksum"] for answer in begun.values()}
    if len(checksums) != 1:
        raise RuntimeError(f"checksum: {sorted(checksums)}, want the same case in every process")
    drawn = next(iter(begun.values()))["experts_drawn"]
    records = []
    for passes in size.passes:
        record: dict[str, Any] = {
            "shape": asdict(shape), "tokens": size.tokens, "dtype": "bfloat16", "passes": passes, "failed": {},
            "difference": {}, "same_bits_twice": {}, "peak_bytes": {}, "graph": {},
        }  # fmt: skip
        ready = _prepared(workers, begun, size, passes, record)
        rounds = _rounds(workers, ready, passes, record)
        record |= _figures(size, passes, rounds)
        if size.few:
            weights = drawn * 3 * shape.hidden_size * shape.intermediate_size * 2
            least = weights / copy_bytes_per_second * 1e3
            record["reading"] = {"experts_drawn": drawn, "bytes": weights, "milliseconds": least}
            # Weights that a cache holds from one replay to the next are not read from memory.
            record["over_reading"] = {
                name: one["median"] / least
                for name, one in record["milliseconds"].items()
                if name != DENSE and weights >= 2 * cache
            }
        records.append(record)
    return records


def _prepared(
    workers: Workers, begun: dict[str, Any], size: Size, passes: str, record: dict[str, Any]
) -> dict[str, float]:
    """Checks the outputs of each arm; milliseconds of one call of those that agree."""
    ready = {}
    for name in size.arms():
        process, implementation = ARMS[name]
        if process not in begun:
            if process in workers.all:
                record["failed"][name] = workers.last_failure(process)
            continue
        ask = workers.all[process].ask
        try:
            checked = ask("check", 40.0, name=implementation, passes=passes)
            for key in ("difference", "same_bits_twice", "peak_bytes"):
                if checked.get(key) is not None:
                    record[key][name] = checked[key]
            prepared = ask("prepare", name=implementation, passes=passes, graph=size.few)
            record["graph"][name] = prepared["graph"]
            ready[name] = prepared["milliseconds"]
        except WorkerError as error:
            record["failed"][name] = str(error)
    return ready


def _rounds(
    workers: Workers, ready: dict[str, float], passes: str, record: dict[str, Any]
) -> dict[str, list[float]]:
    """Milliseconds of each arm, round by round."""
    times: dict[str, list[float]] = {name: [] for name in ready}
    start = time.monotonic()
    for number in range(ROUNDS):
        if number >= LEAST_ROUNDS and time.monotonic() - start > CASE_SECONDS:
            break
        for name, taken in ready.items():
            if name in record["failed"] or (number >= LEAST_ROUNDS and taken > SLOW_MILLISECONDS):
                continue
            process, implementation = ARMS[name]
            try:
                answer = workers.all[process].ask("time", name=implementation, passes=passes)
                times[name].append(answer["milliseconds"])
            except WorkerError as error:
                record["failed"][name] = str(error)
    return {name: values for name, values in times.items() if name not in record["failed"]}


def _figures(size: Size, passes: str, rounds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, rates, and ratios within a round."""
    flops = size.shape.flops(size.tokens) * (1 if passes == "forward" else 3)
    medians = {name: statistics.median(values) for name, values in rounds.items()}

    def ratio(over: str, under: str) -> float:
        return statistics.median(a / b for a, b in zip(rounds[over], rounds[under], strict=False))

    ours = [name for name in rounds if name in KERNELS]
    found: dict[str, Any] = {
        "flops": flops,
        "milliseconds": {n: {"median": medians[n], "rounds": rounds[n]} for n in rounds},
        "teraflops_per_second": {n: flops / medians[n] / 1e9 for n in rounds},
        "speedup": {
            name: {other: ratio(other, name) for other in rounds if other not in (name, DENSE)}
            for name in ours
        },
    }
    if DENSE in rounds:
        found["of_dense"] = {name: ratio(DENSE, name) for name in rounds if name != DENSE}
    return found


def text(size: Size, record: dict[str, Any]) -> str:
    if size.few:
        figures = ", ".join(f"{n} {v:.2f}" for n, v in record["over_reading"].items())
        least = f"{1e3 * record['reading']['milliseconds']:.1f} us to read"
        return f"{size!s:40} {least}; times that: {figures or 'not told, the L2 may hold them'}"
    rates = ", ".join(f"{n} {v:.0f}" for n, v in record["teraflops_per_second"].items())
    return f"{size!s:40} {record['passes']:17} {rates} TFLOP/s"


def profile(workers: Workers, size: Size) -> dict[str, Any]:
    """Kernel by kernel, and what routing and plan are of the layer; of the case that was begun last."""
    found: dict[str, Any] = {"shape": asdict(size.shape), "tokens": size.tokens, "kernels": {}}
    for name, worker in workers.left().items():
        if name not in ("portable", "hopper"):
            continue
        try:
            found["kernels"][name] = worker.ask("kernels", name=OURS, passes="forward+backward")[
                "microseconds"
            ]
            found.setdefault("routing", {})[name] = worker.ask("routing")
        except WorkerError as error:
            found.setdefault("failed", {})[name] = str(error)
    return found


def run(path: Path, wanted: list[Size], environments: dict[str, dict[str, str]], seconds: float) -> int:
    start = time.monotonic()
    result: dict[str, Any] = {
        "ceilings": ceilings(),
        "cache_bytes": cache_bytes(),
        "nvidia_smi_before": smi(),
        "records": [],
        "profiles": [],
        "errors": [],
        "not_run": [],
    }
    forget()
    print(result["ceilings"], flush=True)
    copy = result["ceilings"]["copy_terabytes_per_second"] * 1e12
    with Workers({**environments, "rivals": {}}, path.parent) as workers:
        result["processes"] = workers.together("hello", 60.0)
        for size in wanted:
            if time.monotonic() - start > seconds:
                result["not_run"].append(str(size))
                continue
            try:
                records = measure(workers, size, copy, result["cache_bytes"])
                result["records"] += records
                for record in records:
                    print(text(size, record), flush=True)
                    # A rival that cannot run here is no failure of ours; its record says why it has no time.
                    result["errors"] += [
                        f"{size} {record['passes']}: {why}"
                        for name, why in record["failed"].items()
                        if name in KERNELS
                    ]
                if size.tokens == max(s.tokens for s in wanted) and size.shape in PUBLISHED:
                    result["profiles"].append(profile(workers, size))
            except Exception as error:
                result["errors"].append(f"{size}: {type(error).__name__}: {error}")
                print(result["errors"][-1], flush=True)
            result["lost"] = workers.failures
            write_json(path, result)
    result["nvidia_smi_after"] = smi()
    write_json(path, result)
    print(*result["errors"], sep="\n")
    return 1 if result["errors"] else 0


def main(path: Path) -> int:
    return run(path, sizes(), KERNELS, seconds_of_step(110))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
