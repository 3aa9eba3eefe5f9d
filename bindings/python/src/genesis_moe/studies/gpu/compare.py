"""The step ``compare``: as much of ``genesis-moe compare --tier h200`` as time is left for; the next run goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from genesis_moe.studies.gpu.timing import seconds_of_step
from genesis_moe.studies.record import read_json, write_json


def main(path: Path) -> int:
    out = path.parents[1] / "compare"
    # Before training comes the text, the first time; after it the last evaluation, figures and the record.
    seconds = max(1.0, seconds_of_step(450) - 30)
    command = [
        sys.executable,
        "-m",
        "genesis_moe.studies.compare",
        "--tier",
        "h200",
        "--seconds",
        f"{seconds:.0f}",
    ]
    done = subprocess.run([*command, "--out", str(out)])
    record = read_json(out / "compare.json") if (out / "compare.json").exists() else {"runs": []}
    finished = [f"{run['arm']} seed {run['seed']}" for run in record["runs"] if run["done"]]
    write_json(
        path, {"record": str(out / "compare.json"), "finished": finished, "partial": record.get("partial")}
    )
    print("finished:", *finished)
    return 0 if done.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
