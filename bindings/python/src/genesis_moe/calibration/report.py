"""What a calibration did and what it cost: JSON and a readable page."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from genesis_moe.studies.record import write_atomically, write_json


@dataclass(frozen=True)
class LayerReport:
    """name: of the module. active: of the dense layer's multiplications, router included. error: energy that the
    residual stream behind the layer lacks, as a share of its own, on calibration tokens held back from the fit."""

    name: str
    shape: dict[str, Any]
    experts_per_token: float
    active: float
    error: float


@dataclass(frozen=True)
class CalibrationReport:
    """active: of the multiplications of all MLPs, counted on calibration tokens. quality: on held-out text,
    None without it. distillation: steps, tokens, minutes, rate and the loss of each step; None without.
    seconds, cpu_seconds: of the conversion; total_*: with the evaluation. energy: of
    the conversion, with its source; joules is None without a meter."""

    model: str
    options: dict[str, Any]
    tokens: int
    layers: list[LayerReport]
    active: float
    mlp_flops_saved_per_token: float
    mlp_bytes_saved_per_token: float
    quality: dict[str, Any] | None
    distillation: dict[str, Any] | None
    seconds: float
    cpu_seconds: float
    total_seconds: float
    total_cpu_seconds: float
    energy: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def page(self) -> str:
        """The report as Markdown."""
        joules = self.energy["joules"]
        energy = (
            "not measured (no meter)"
            if joules is None
            else f"{joules:.4g} J ({self.energy['quality']}, {self.energy['source']})"
        )
        lines = [
            f"# {self.model}, {self.active:.0%} of its MLPs active",
            "",
            f"- {self.tokens} calibration tokens, seed {self.options['seed']}, router {self.options['router']}",
            f"- {self.seconds:.0f} s ({self.cpu_seconds:.0f} s of processor time); energy: {energy}",
            f"- saved per token in the MLPs: {self.mlp_flops_saved_per_token / 1e6:.1f} MFLOP, and when one token is "
            f"decoded {self.mlp_bytes_saved_per_token / 2**20:.1f} MiB of weights that are not read",
        ]
        if self.distillation is not None:
            one = self.distillation
            lines.append(
                f"- distilled for {one['minutes']:.1f} min of processor time over threads: {one['steps']} steps, "
                f"{one['tokens']} tokens, KL {one['kl'][0]:.3f} to {sum(one['kl'][-8:]) / len(one['kl'][-8:]):.3f} nats"
            )
        if self.quality is not None:
            lines += [
                "",
                "| held-out text | dense perplexity | sparse | ratio | KL, nats | same first choice |",
            ]
            lines += ["|---|--:|--:|--:|--:|--:|"]
            if self.quality["cloze"] is not None:
                lines.insert(
                    -2,
                    f"- cloze questions answered: {self.quality['cloze']:.1%} "
                    f"(dense {self.quality['dense_cloze']:.1%}); "
                    f"active on this text: {self.quality['active'] or self.active:.1%}",
                )
                lines.insert(-2, "")
            for name, one in [*self.quality["domains"].items(), ("all", self.quality)]:
                lines.append(
                    f"| {name} | {one['dense_perplexity']:.2f} | {one['perplexity']:.2f} | {one['ratio']:.3f} "
                    f"| {one['kl']:.3f} | {one['top_1_agreement']:.1%} |"
                )
        lines += ["", "| layer | shared | experts | per token | active | stream lost |"]
        lines += ["|---|--:|--:|--:|--:|--:|"]
        for layer in self.layers:
            shape = layer.shape
            lines.append(
                f"| {layer.name} | {shape['shared_size']} of {shape['intermediate_size']} | {shape['num_experts']} of "
                f"{shape['expert_size']} | {layer.experts_per_token:.1f} | {layer.active:.1%} | {layer.error:.2%} |"
            )
        lines += [
            "",
            "Stream lost: the energy that the residual stream behind the layer lacks, as a share of its own.",
        ]
        return "\n".join(lines) + "\n"

    def save(self, folder: str | Path) -> None:
        """Writes calibration.json and calibration.md."""
        write_json(Path(folder) / "calibration.json", self.as_dict())
        write_atomically(Path(folder) / "calibration.md", self.page().encode())
