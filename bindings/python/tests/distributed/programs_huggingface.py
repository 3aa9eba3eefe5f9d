"""What the ranks of test_huggingface_experts.py do."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import genesis_moe as gm
from distributed.training import full

EXPERTS = 4


def configuration(family: str) -> Any:
    from transformers import MixtralConfig, Qwen3MoeConfig

    sizes = {
        "vocab_size": 32, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2,
    }  # fmt: skip
    if family == "mixtral":
        return MixtralConfig(**sizes, num_local_experts=EXPERTS)
    return Qwen3MoeConfig(
        **sizes, moe_intermediate_size=12, num_experts=EXPERTS, num_experts_per_tok=2, head_dim=8
    )


def saved(family: str, injection: dict[str, Any] | None, folder: str) -> None:
    """Writes a model with weights large enough that its experts matter."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(configuration(family))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(10 if "experts" in name else 5)
    if injection is not None:
        gm.inject(model, **injection)
    model.save_pretrained(folder)


def loaded(folder: str) -> Any:
    """By transformers: on several ranks with its own expert parallelism."""
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    settings: dict[str, Any] = {"experts_implementation": "genesis_moe"}
    if dist.get_world_size() > 1:
        settings["distributed_config"] = DistributedConfig(
            tp_size=dist.get_world_size(), enable_expert_parallel=True
        )
    return AutoModelForCausalLM.from_pretrained(folder, **settings)


def seen(model: Any) -> tuple[list[int], list[Tensor]]:
    """Watches the experts: their number here, and the indices that they get."""
    indices: list[Tensor] = []
    modules = [module for name, module in model.named_modules() if name.endswith("mlp.experts")]
    for module in modules:
        run = module.forward
        module.forward = lambda x, index, *rest, run=run: (
            indices.append(index.clone()),
            run(x, index, *rest),
        )[1]
    return [module.num_experts for module in modules], indices


def trained(folder: str) -> dict[str, Any]:
    """Two steps of SGD on the same tokens on every rank."""
    model = loaded(folder).train()
    numbers, indices = seen(model)
    ids = torch.randint(32, (3, 9), generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found: dict[str, Any] = {"losses": [], "numbers": numbers}
    for step in range(2):
        output = model(input_ids=ids, labels=ids)
        output.loss.backward()
        found["losses"].append(output.loss.item())
        if step == 0:
            found["logits"] = output.logits.detach()
            found["gradients"] = {
                name: full(parameter.grad)
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }
            found["index"] = indices[0]
        optimizer.step()
        optimizer.zero_grad()
        gm.step(model, (step + 1) / 2)
    found["prices"] = [r.price.clone() for r in model.modules() if isinstance(r, gm.Router)]
    return found


def injected_after_loading(folder: str) -> str:
    try:
        gm.inject(loaded(folder))
    except gm.UnsupportedError as error:
        return str(error)
    return "nothing was raised"
