"""``calibrate``: a dense model of the Llama family becomes sparse, in place."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from genesis_moe.calibration import perceptrons
from genesis_moe.calibration.convert import Converted, convert, plan
from genesis_moe.calibration.layer import LayerShape, SparseMLP
from genesis_moe.calibration.options import CalibrationOptions
from genesis_moe.calibration.quality import compare, token_log_probabilities
from genesis_moe.calibration.report import CalibrationReport, LayerReport
from genesis_moe.calibration.restore import record
from genesis_moe.calibration.stream import Stream
from genesis_moe.calibration.tokens import windows as cut
from genesis_moe.calibration.work import Work, key_of
from genesis_moe.energy.meter import EnergyMeter
from genesis_moe.errors import InvalidArgumentError, UnsupportedError
from genesis_moe.studies.progress import Progress


def calibrate(
    model: Any,
    texts: Iterable[str],
    *,
    tokenizer: Any,
    active: float = 0.5,
    experts: int | str = "auto",
    held_out: Mapping[str, Iterable[str]] | None = None,
    held_out_tokens: int = 2048,
    work: str | os.PathLike[str] | None = None,
    meter: EnergyMeter | None = None,
    progress: bool = False,
    **options: Any,
) -> CalibrationReport:
    """Turns the gated MLPs of a dense model into shared and routed experts, in place; no training.

    model: a transformers model of the Llama family (LLaMA, Mistral, Qwen2, Qwen3, SmolLM2, Gemma) on the CPU,
    in float32 or bfloat16; dequantised when it comes from GGUF. texts: documents, some
    tens of thousands of tokens of what the model is for. tokenizer: the model's; any callable that
    returns ``{"input_ids": [...]}`` for ``(text, add_special_tokens=False)``. active: the share of the MLPs'
    multiplications that is left, everything counted. experts: in each layer, or "auto". options: see
    :class:`CalibrationOptions`.

    held_out: texts by domain that are not among texts; with them the report has perplexities, the
    divergence from dense and the agreement with it, on at most held_out_tokens of each domain. work: a folder
    for the layers that are done, with which the same call goes on after a kill. progress: a bar with the
    time left, on a terminal.

    The result is saved by ``model.save_pretrained`` and loaded by ``from_pretrained`` in a process that has
    imported genesis_moe. UnsupportedError: MLPs that are not gated, tied, quantised or
    biased; InvalidArgumentError: too few tokens, NaN activations, experts that do not divide the width. After
    an error the model is as it was.
    """
    chosen = CalibrationOptions(active=active, experts=experts, **options)  # type: ignore[arg-type]
    found = perceptrons.find(model)
    for one in found:
        plan(one, chosen)
        device = one.module.gate_proj.weight.device
        if device.type != "cpu":
            raise UnsupportedError(f"model: is on {device}, want cpu; move it there and back again")
    ids = cut(texts, tokenizer, chosen.tokens, chosen.length, chosen.seed)
    domains = {
        name: cut(documents, tokenizer, held_out_tokens, chosen.length, 0)
        for name, documents in (held_out or {}).items()
    }
    training = model.training
    started, cpu = time.perf_counter(), time.process_time()
    own_meter = meter is None
    meter = EnergyMeter() if meter is None else meter
    model.eval()
    try:
        with torch.no_grad():
            dense = {name: token_log_probabilities(model, one) for name, one in domains.items()}
            with meter.window(wait=0.0) as window:
                begun, begun_cpu = time.perf_counter(), time.process_time()
                layers = _layers(model, found, ids, chosen, work, progress)
                seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - begun_cpu
            quality = compare(model, dense, domains) if domains else None
    except BaseException:
        for one in found:
            one.replace(one.module)
        raise
    finally:
        model.train(training)
        if own_meter:
            meter.close()
    if chosen.router == "ridge" or chosen.experts == 0:
        record(model, {one.name: one_layer.shape for one, one_layer in zip(found, layers, strict=True)})
    reports = [
        LayerReport(
            name=one.name,
            shape=layer.shape.as_dict(),
            experts_per_token=layer.experts_per_token,
            active=layer.shape.cost(layer.experts_per_token) / layer.shape.dense_cost,
            error=layer.error,
        )
        for one, layer in zip(found, layers, strict=True)
    ]
    dense_cost = sum(layer.shape.dense_cost for layer in layers)
    cost = sum(layer.shape.cost(layer.experts_per_token) for layer in layers)
    assert window.reading is not None
    return CalibrationReport(
        model=type(model).__name__,
        options=asdict(chosen),
        tokens=ids.numel(),
        layers=reports,
        active=cost / dense_cost,
        mlp_flops_saved_per_token=2 * (dense_cost - cost),
        mlp_bytes_saved_per_token=(dense_cost - cost) * found[0].module.gate_proj.weight.element_size(),
        quality=quality,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        total_seconds=time.perf_counter() - started,
        total_cpu_seconds=time.process_time() - cpu,
        energy={
            "joules": window.reading.joules,
            "uncertainty": window.reading.uncertainty,
            "source": window.reading.source,
            "quality": window.reading.quality,
        },
    )


def _layers(
    model: Any,
    found: list[perceptrons.Perceptron],
    ids: Tensor,
    options: CalibrationOptions,
    folder: str | os.PathLike[str] | None,
    progress: bool,
) -> list[Converted]:
    """Converts every layer, each on what the converted ones before it give."""
    work = Work(folder, "" if folder is None else key_of(asdict(options), ids, model))
    stream = Stream(model, found, ids)
    layers: list[Converted] = []
    with Progress("layers", len(found), enabled=progress) as bar:
        for number, one in enumerate(found):
            bar.advance(one.name, 0, 1)
            layer = _from(work.load(number))
            if layer is None:
                x, weight = stream.mlp_inputs(number, one)
                layer = convert(one, x, weight, options, options.seed)
                if isinstance(layer.module, SparseMLP):
                    work.save(
                        number,
                        {
                            "shape": layer.shape.as_dict(),
                            "experts_per_token": layer.experts_per_token,
                            "error": layer.error,
                            "state": layer.module.state_dict(),
                        },
                    )
            dtype = one.module.gate_proj.weight.dtype
            if isinstance(layer.module, SparseMLP):
                layer.module.to(dtype)
                layer.module.layer_number = number + 1
            one.replace(layer.module.eval())
            if not all(bool(torch.isfinite(state).all()) for state in stream.states):
                raise InvalidArgumentError(
                    f"model: activations before {one.name} are NaN or infinite; a wider dtype may help"
                )
            stream.through(number, one)
            layers.append(layer)
            bar.finish(one.name)
    return layers


def _from(saved: dict[str, Any] | None) -> Converted | None:
    if saved is None:
        return None
    shape = LayerShape(**saved["shape"])
    module = SparseMLP(shape)
    module.load_state_dict(saved["state"])
    return Converted(module, shape, saved["experts_per_token"], saved["error"])
