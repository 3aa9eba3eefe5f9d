"""Published figures of the links between GPUs, each with its source. Nothing here was measured by us."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

GPUS_PER_NODE = 8
SWITCH_PORTS = 64  # of a fat tree's switches: half of them down, half up


@dataclass(frozen=True)
class Figure:
    """A number, what it is of, and who says so."""

    value: float
    unit: str
    of: str
    source: str


@dataclass(frozen=True)
class Fabric:
    """What connects the GPUs of different nodes; inside a node it is NVLink.

    alpha: seconds a message. bandwidth: bytes a second and direction, of one GPU. transceiver: joules
    a bit of one optical module.
    """

    name: str
    alpha: Figure
    bandwidth: Figure
    transceiver: Figure


_NCCL = "NVIDIA/nccl, src/graph/tuning.cc at 01afd20, hwLat, Ring, Simple protocol: https://github.com/NVIDIA/nccl"

NVLINK_ALPHA = Figure(3.4e-6, "s/message", "NVLink, as NCCL's own cost model has it", _NCCL)
NVLINK_BANDWIDTH = Figure(
    450e9,
    "B/s",
    "NVLink 4 of an H100, one direction (900 GB/s both)",
    "NVIDIA's MLPerf Inference 4.1 submission, 18x 4th Gen NVLink, 900GB/s: "
    "https://github.com/mlcommons/inference_results_v4.1 closed/NVIDIA/systems/H200-SXM-141GBx8_TRT_MaxQ.json",
)
NVLINK_ENERGY = Figure(
    1.3e-12,
    "J/bit",
    "one NVLink hop; NVIDIA does not say of which length, so a floor",
    "NVIDIA, What Is NVLink? (2023): https://blogs.nvidia.com/blog/what-is-nvidia-nvlink/",
)
NVLINK_HOPS = 2  # GPU to NVSwitch to GPU; what the NVSwitch itself takes is not published

_NETWORK_ALPHA = Figure(9.6e-6, "s/message", "network, as NCCL's own cost model has it", _NCCL)

FABRICS = (
    Fabric(
        "InfiniBand NDR, 400 Gb/s a GPU",
        _NETWORK_ALPHA,
        Figure(
            50e9,
            "B/s",
            "ConnectX-7 at 400 Gb/s; DeepEP measures 43 to 58 GB/s over it",
            "deepseek-ai/DeepEP, docs/legacy.md: https://github.com/deepseek-ai/DeepEP",
        ),
        Figure(
            9.0 / 400e9,
            "J/bit",
            "MMS4X00-NS400, 400 Gb/s single-port OSFP DR4: 9 W",
            "https://docs.nvidia.com/networking/display/mms4x00ns400/overview",
        ),
    ),
    Fabric(
        "Ethernet, 100 Gb/s a GPU",
        _NETWORK_ALPHA,
        Figure(12.5e9, "B/s", "line rate of 100GBASE", "IEEE 802.3-2022, clauses 80 to 95"),
        Figure(
            3.5 / 100e9,
            "J/bit",
            "QSFP28 module of power class 4: at most 3.5 W",
            "SFF-8636, power classes of the extended identifier, as DPDK reads them: "
            "https://github.com/DPDK/dpdk lib/ethdev/sff_8636.c",
        ),
    ),
)


def modules_on_the_way(gpus: int) -> int:
    """Optical modules that a bit passes between nodes of a fat tree over that many GPUs: two a cable.

    Up to 32 GPUs a rail share one switch; two tiers reach 64^2/2 of them, three what is asked for here.
    """
    switches = 1 if gpus <= SWITCH_PORTS // 2 else 3 if gpus <= SWITCH_PORTS**2 // 2 else 5
    return 2 * (switches + 1)


def described() -> dict[str, Any]:
    """All figures with their sources, for the record."""
    return {
        "gpus_per_node": GPUS_PER_NODE,
        "nvlink": {
            "alpha": asdict(NVLINK_ALPHA),
            "bandwidth": asdict(NVLINK_BANDWIDTH),
            "energy_per_hop": asdict(NVLINK_ENERGY),
            "hops": NVLINK_HOPS,
        },
        "fabrics": [asdict(fabric) for fabric in FABRICS],
    }
