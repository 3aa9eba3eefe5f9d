"""The step ``facts``: what machine this is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import genesis_moe as gm
from genesis_moe.studies.record import write_json

QUERY = (
    "name,driver_version,vbios_version,pstate,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,"
    "power.draw,temperature.gpu,memory.total,memory.used,ecc.mode.current,compute_mode,mig.mode.current"
)


def smi() -> list[dict[str, str]]:
    """What nvidia-smi says of each GPU now; empty without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    done = subprocess.run(
        [program, f"--query-gpu={QUERY}", "--format=csv,noheader"], capture_output=True, text=True, timeout=15
    )
    names = QUERY.split(",")
    return [
        dict(zip(names, (field.strip() for field in line.split(",")), strict=False))
        for line in done.stdout.splitlines()
    ]


def main(path: Path) -> int:
    found: dict[str, Any] = {"doctor": gm.doctor(), "nvidia_smi": smi()}
    cuda = found["doctor"]["devices"]["cuda"]
    if cuda["count"] > 0:
        import torch

        found["torch"] = {"cuda": torch.version.cuda, "available": torch.cuda.is_available()}
    write_json(path, found)
    details = cuda["details"]
    print(
        f"devices: {[d['name'] for d in details['devices']] or details.get('error')}; kernels: {details['kernels']}"
    )
    usable = cuda["count"] > 0 and not details["kernels"].startswith("none") and found["torch"]["available"]
    return 0 if usable else 3


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
