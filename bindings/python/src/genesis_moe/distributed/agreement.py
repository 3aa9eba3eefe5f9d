"""What ranks must agree on before they may move prices together, and how a rank that does not is found.

The first step of a model compares everything that decides a collective's shape and an update's
result. Every step after that carries seven numbers more in its one all_reduce: enough to see,
on every rank at once, that some rank's prices have parted or that its tokens are NaN. All
ranks then raise together, where otherwise one would and the others would wait for it.
"""

from __future__ import annotations

import weakref
import zlib
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from genesis_moe.distributed.groups import failure, own_name
from genesis_moe.distributed.reduction import Reduction
from genesis_moe.errors import DistributedError
from genesis_moe.router import Router

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# The groups with which a model's routers have been compared.
_compared: weakref.WeakKeyDictionary[nn.Module, set[tuple[str, ...]]] = weakref.WeakKeyDictionary()


class Agreement:
    """Adds its numbers to a reduction that is about to run; ``check`` reads the totals."""

    def __init__(self, sums: Reduction, model: nn.Module, routers: dict[str, Router]) -> None:
        self.sums, self.active = sums, bool(sums.groups)
        if not self.active:
            return
        _compare_once(sums, model, routers)
        digest = _digest(routers)
        halves = digest & 0xFFFF, digest >> 16
        sick = int(any(_is_sick(router) for router in routers.values()))
        numbers = [part for half in halves for part in (half, half * half)]
        numbers += [sick, sick * dist.get_rank()]
        self.place = sums.add(torch.tensor(numbers, dtype=torch.int64))

    def check(self) -> None:
        """Raises DistributedError on every rank if the ranks' prices differ or a rank's tokens are NaN."""
        if not self.active:
            return
        low, low_squared, high, high_squared, sick, where = self.sums.total(self.place).tolist()
        ranks = self.sums.num_ranks
        # By Cauchy and Schwarz these are equal only where all ranks have the same digest.
        if ranks * low_squared != low * low or ranks * high_squared != high * high:
            raise DistributedError(
                f"gm.step: the prices and gaps of {ranks} ranks are not the same; load the same checkpoint on "
                f"every rank, and let nothing but gm.step write to them"
            )
        if sick:
            what = f"on rank {where}" if sick == 1 else f"on {sick} of {ranks} ranks"
            raise DistributedError(
                f"gm.step: NaN or infinity in the routing weights {what}; prices and gaps were not moved. "
                f"Look at that rank's batch and the loss before it, and go back to the last checkpoint"
            )


def _digest(routers: dict[str, Router]) -> int:
    """32 bits of all prices and gaps."""
    buffers = [b for router in routers.values() for b in (router.price, router.gap) if b is not None]
    digest = 0
    for buffer in buffers:
        digest = zlib.crc32(buffer.detach().cpu().contiguous().numpy().tobytes(), digest)
    return digest


def _is_sick(router: Router) -> bool:
    routing = router.last_routing
    return routing is not None and not bool(routing.weights.detach().sum().isfinite())


def _compare_once(sums: Reduction, model: nn.Module, routers: dict[str, Router]) -> None:
    key = tuple(group.group_name for group in sums.groups)
    if key in _compared.setdefault(model, set()):
        return
    compare({**described(routers), **_buffers(routers)}, sums.groups, "gm.step")
    _compared[model].add(key)


def compare(mine: dict[str, Any], groups: list[ProcessGroup], what: str) -> None:
    """Raises DistributedError on every rank, naming the first topic, if ranks do not say the same. A collective."""
    everyone = [(dist.get_rank(), mine)]
    for group in groups:
        gathered: list[Any] = [None] * group.size()
        try:
            dist.all_gather_object(gathered, everyone, group=group)
        except RuntimeError as error:
            raise failure(f"{what}: comparing the routers", error, group) from error
        everyone = [entry for entries in gathered for entry in entries]
    first_rank, first = everyone[0]
    for rank, other in everyone:
        for topic, value in first.items():
            if other.get(topic) != value:
                raise DistributedError(
                    f"{what}: ranks differ in {topic}: {_shown(value)} on rank {first_rank}, "
                    f"{_shown(other.get(topic))} on rank {rank}"
                )
        if extra := sorted(set(other) - set(first)):
            raise DistributedError(f"{what}: rank {rank} has {extra[0]}, and rank {first_rank} has it not")


def described(routers: dict[str, Router]) -> dict[str, Any]:
    """What ranks must have alike from the start, by topic."""
    import genesis_moe
    from genesis_moe._abi import ABI_VERSION

    said: dict[str, Any] = {
        "the version of genesis_moe": genesis_moe.__version__,
        "the version of its ABI": ABI_VERSION,
        "the number of routers": len(routers),
    }
    for name, router in routers.items():
        which = _which(name)
        said[which] = router.num_experts, router.hidden_size, repr(router.options)
        said[f"the budget and rates of {which}"] = (
            router.budget,
            router.price_rate,
            router.step_limit,
            router.gap_rate,
        )
    return said


def _buffers(routers: dict[str, Router]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for name, router in routers.items():
        for buffer in ("price", "gap"):
            tensor: Tensor | None = getattr(router, buffer)
            if tensor is not None:
                said[f"the {buffer} of {_which(name)}"] = str(tensor.dtype), tensor.detach().cpu().tolist()
    return said


def _which(name: str) -> str:
    return f"router {own_name(name) or 'of the model'}"


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
