"""Calibrated checkpoints: recorded in the model's configuration, rebuilt by ``from_pretrained``."""

from __future__ import annotations

from typing import Any

from genesis_moe.calibration.layer import LayerShape, SparseMLP
from genesis_moe.errors import InvalidArgumentError

RECORD = "genesis_moe_calibration"
RECORD_VERSION = 2


def record(model: Any, shapes: dict[str, LayerShape]) -> None:
    """Says in the configuration which modules are sparse; weights that came from GGUF are plain by now."""
    layers = {name: shape.as_dict() for name, shape in shapes.items()}
    setattr(model.config, RECORD, {"version": RECORD_VERSION, "layers": layers})
    _forget_gguf(model)


def _forget_gguf(model: Any) -> None:
    """A model that transformers read from GGUF and dequantised is refused by save_pretrained, as if it still were."""
    configuration = getattr(model.config, "quantization_config", None)
    method = configuration.get("quant_method") if isinstance(configuration, dict) else None
    method = method or getattr(configuration, "quant_method", None)
    if getattr(method, "value", method) == "gguf":
        del model.config.quantization_config
        model.hf_quantizer = None
        model.is_quantized = False


def restore(model: Any) -> None:
    """Puts the sparse layers that the configuration records, if any, in a model just built, without values."""
    found = getattr(model.config, RECORD, None)
    if found is None:
        return
    version = found.get("version") if isinstance(found, dict) else found
    if version != RECORD_VERSION:
        raise InvalidArgumentError(
            f"config.{RECORD}: version {version!r}, want {RECORD_VERSION}; "
            "the model was saved by another release of genesis_moe"
        )
    base = model.base_model
    for number, (name, sizes) in enumerate(found["layers"].items()):
        parent_name, _, attribute = name.rpartition(".")
        try:
            parent = base.get_submodule(parent_name)
            dense = getattr(parent, attribute)
        except AttributeError:
            continue  # a submodel without its layers
        if isinstance(dense, SparseMLP):
            continue
        weight = next(dense.parameters())
        module = SparseMLP(LayerShape(**sizes), dtype=weight.dtype, device=weight.device)
        module.layer_number = number + 1
        setattr(parent, attribute, module)
