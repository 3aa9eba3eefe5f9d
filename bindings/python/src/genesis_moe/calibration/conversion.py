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
from genesis_moe.calibration.cloze import questions, word_test
from genesis_moe.calibration.convert import Converted, convert, shapes
from genesis_moe.calibration.distill import distill
from genesis_moe.calibration.layer import LayerShape, SparseMLP
from genesis_moe.calibration.options import CalibrationOptions
from genesis_moe.calibration.quality import compare, token_log_probabilities
from genesis_moe.calibration.report import CalibrationReport, LayerReport
from genesis_moe.calibration.restore import record
from genesis_moe.calibration.shares import Profile, allocate, importance
from genesis_moe.calibration.stream import Stream
from genesis_moe.calibration.tokens import windows as cut
from genesis_moe.calibration.work import Work, key_of
from genesis_moe.energy.meter import EnergyMeter
from genesis_moe.errors import UnsupportedError
from genesis_moe.studies.progress import Progress

LEAST = 0.75  # of `active`: no layer gets less
DISTILL_TOKENS = 1 << 19  # at most, taken once before any is taken twice


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
    profile: Profile | None = None,
    **options: Any,
) -> CalibrationReport:
    """Turns the gated MLPs of a dense model into shared and routed experts, in place; trains with distill_minutes only.

    model: a transformers model of the Llama family (LLaMA, Mistral, Qwen2, Qwen3, SmolLM2, Gemma) on the CPU,
    in float32 or bfloat16; dequantised when it comes from GGUF. texts: documents, some
    tens of thousands of tokens of what the model is for. tokenizer: the model's; any callable that
    returns ``{"input_ids": [...]}`` for ``(text, add_special_tokens=False)``. active: the share of the MLPs'
    multiplications that is left, everything counted. experts: in each layer, or "auto". options: see
    :class:`CalibrationOptions`.

    held_out: texts by domain that are not among texts; with them the report has perplexities, the
    divergence from dense and the agreement with it, on at most held_out_tokens of each domain. work: a folder
    for the layers that are done, with which the same call goes on after a kill. progress: a bar with the
    time left, on a terminal. profile: for several calibrations of copies of one model on the same texts with
    the same seed, what they have in common; see :class:`genesis_moe.calibration.shares.Profile`.

    The result is saved by ``model.save_pretrained`` and loaded by ``from_pretrained`` in a process that has
    imported genesis_moe. UnsupportedError: MLPs that are not gated, tied, quantised or
    biased; InvalidArgumentError: too few tokens, NaN activations, experts that do not divide the width. After
    an error the model is as it was.
    """
    texts = list(texts) if not isinstance(texts, str) else texts
    chosen = CalibrationOptions(active=active, experts=experts, **options)  # type: ignore[arg-type]
    found = perceptrons.find(model)
    for one in found:
        shapes(one, chosen, chosen.active)
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
                folder = Work(work, "" if work is None else key_of(asdict(chosen), ids, model))
                layers = _layers(model, found, ids, chosen, folder, progress, profile)
                seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - begun_cpu
            distillation = None
            if chosen.distill_minutes:
                modules = [layer.module for layer in layers]
                more = cut(texts, tokenizer, DISTILL_TOKENS, chosen.length, chosen.seed)
                distillation = distill(
                    model,
                    found,
                    modules,
                    more,
                    chosen.distill_minutes,
                    chosen.distill_rate,
                    folder,
                    progress,
                )
            is_word = word_test(tokenizer)
            asked = {name: questions(one, is_word) for name, one in domains.items()}
            quality = compare(model, dense, domains, asked) if domains else None
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
        distillation=distillation,
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
    work: Work,
    progress: bool,
    profile: Profile | None,
) -> list[Converted]:
    """Converts every layer, each on what the converted ones before it give."""
    actives = [options.active] * len(found)
    if options.allocation == "importance":
        least = [LEAST * options.active] * len(found)
        importances = importance(model, found, ids) if profile is None else profile.importances
        actives = allocate(importances, options.active, least)
    known = None if profile is None else profile.dense
    stream = Stream(model, found, ids, options.target == "stream", known)
    layers: list[Converted] = []
    with Progress("layers", len(found), enabled=progress) as bar:
        for number, one in enumerate(found):
            bar.advance(one.name, 0, 1)
            given = stream.enter(number, one)
            layer = _from(work.load(number))
            if layer is None:
                layer = convert(one, given, actives[number], options)
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
            stream.through(number, one, layer.module)
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
