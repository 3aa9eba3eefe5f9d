"""Distillation after the conversion: the sparse model learns to say what the dense one says."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from genesis_moe.calibration import products
from genesis_moe.calibration.layer import SparseMLP
from genesis_moe.calibration.perceptrons import Perceptron
from genesis_moe.calibration.work import Work
from genesis_moe.errors import InvalidArgumentError
from genesis_moe.studies.progress import Progress

WARM_UP = 0.05  # the share of the time over which the learning rate rises
SAVE_SECONDS = 60.0  # of wall time between two checkpoints
CLIP = 1.0  # the largest norm of a gradient
LARGE = 256  # tokens and hidden units from which on bfloat16 is worth it


class _Clock:
    """Minutes of the process's threads: what the work would take on a machine that does nothing else."""

    def __init__(self, spent: float) -> None:
        self._spent, self._start = spent, time.process_time()

    def minutes(self) -> float:
        return self._spent + (time.process_time() - self._start) / 60 / torch.get_num_threads()


def distill(
    model: Any,
    perceptrons: list[Perceptron],
    layers: list[nn.Module],
    windows: Tensor,
    minutes: float,
    rate: float,
    work: Work,
    progress: bool = False,
) -> dict[str, Any]:
    """Trains the experts of a converted model, one window [L] of windows [n, L] a step, until the time is over.

    The loss is the KL divergence of its next-token distribution from the dense model's, in nats a token. The
    routers stay as they were fitted; attention, norms and embeddings are left alone. Adam, the rate rising
    over WARM_UP of the time and falling as a cosine to 0 at its end. minutes: processor time over threads.
    perceptrons hold the dense MLPs, layers the sparse ones that stand in the model. Goes on from work.
    """
    trained = [
        parameter
        for layer in layers
        if isinstance(layer, SparseMLP)
        for name, parameter in layer.named_parameters()
        if not name.startswith("router.")
    ]
    if not trained:
        raise InvalidArgumentError(
            "distill_minutes: there is nothing to train; want router 'ridge' or experts=0"
        )
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    optimizer = torch.optim.Adam(trained, lr=rate, betas=(0.9, 0.95))
    step, losses, spent = 0, [], 0.0
    saved = work.load("distillation")
    if saved is not None:
        step, losses, spent = saved["step"], saved["losses"], saved["minutes"]
        for parameter, value in zip(trained, saved["parameters"], strict=True):
            parameter.data.copy_(value)
        optimizer.load_state_dict(saved["optimizer"])
    clock, written = _Clock(spent), time.monotonic()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    fast = windows.shape[1] >= LARGE and products.hardware() and trained[0].dtype == torch.float32
    try:
        with Progress("distillation", 1, enabled=progress) as bar:
            while (now := clock.minutes()) < minutes:
                part = now / minutes
                for group in optimizer.param_groups:
                    group["lr"] = rate * min(1.0, part / WARM_UP) * (1 + math.cos(math.pi * part)) / 2
                ids = windows[step % len(windows)][None]
                with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                    with torch.no_grad(), _dense(perceptrons, layers):
                        wanted = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
                    with torch.enable_grad():
                        found = model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
                        loss = (wanted.exp() * (wanted - found)).sum(-1).mean()
                if not bool(torch.isfinite(loss)):
                    raise InvalidArgumentError(
                        f"distill_rate: {rate}, but the loss is {float(loss)} in step {step}; want a smaller rate"
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, CLIP)
                optimizer.step()
                losses.append(float(loss.detach()))
                step += 1
                bar.advance("distillation", int(60 * now), max(1, int(60 * minutes)), f"KL {losses[-1]:.3f}")
                if time.monotonic() - written > SAVE_SECONDS:
                    work.save("distillation", _state(step, losses, clock.minutes(), trained, optimizer))
                    written = time.monotonic()
            work.save("distillation", _state(step, losses, clock.minutes(), trained, optimizer))
    finally:
        for parameter, wants in before.items():
            parameter.requires_grad_(wants)
        for parameter in trained:
            parameter.requires_grad_(True)
            parameter.grad = None
    return {
        "steps": step,
        "tokens": step * windows.shape[1],
        "minutes": clock.minutes(),
        "rate": rate,
        "kl": losses,
    }


def _state(
    step: int, losses: list[float], minutes: float, trained: list[nn.Parameter], optimizer: Any
) -> dict[str, Any]:
    return {
        "step": step, "losses": losses, "minutes": minutes, "parameters": [one.data for one in trained],
        "optimizer": optimizer.state_dict(),
    }  # fmt: skip


@contextlib.contextmanager
def _dense(perceptrons: list[Perceptron], layers: list[nn.Module]) -> Iterator[None]:
    """The dense MLPs stand in the model meanwhile."""
    for one in perceptrons:
        one.replace(one.module)
    try:
        yield
    finally:
        for one, layer in zip(perceptrons, layers, strict=True):
            one.replace(layer)
