"""The layers that are done, kept on disk so that a killed calibration goes on where it was."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genesis_moe.errors import InvalidArgumentError
from genesis_moe.studies.record import write_atomically


class Work:
    """A folder with one file a layer, and one of the distillation, each written whole or not at all.

    Files of another model, text or other options are refused: key says what they have to be of.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, key: str) -> None:
        self._folder, self._key = None if folder is None else Path(folder), key

    def _path(self, part: int | str) -> Path | None:
        name = part if isinstance(part, str) else f"layer-{part:04d}"
        return None if self._folder is None else self._folder / f"{name}.pt"

    def load(self, part: int | str) -> dict[str, Any] | None:
        """What was saved of a layer, by its number, or under a name; None if nothing was."""
        path = self._path(part)
        if path is None or not path.exists():
            return None
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if found.get("key") != self._key:
            raise InvalidArgumentError(
                f"work: {path} is of another model, text or other options; delete the folder, or choose another"
            )
        return found

    def save(self, part: int | str, layer: dict[str, Any]) -> None:
        path = self._path(part)
        if path is not None:
            buffer = io.BytesIO()
            torch.save({**layer, "key": self._key}, buffer)
            write_atomically(path, buffer.getvalue())

    def clear(self) -> None:
        """Removes the layers, once all of them are in a saved model."""
        if self._folder is not None and self._folder.is_dir():
            for path in self._folder.glob("*.pt"):
                path.unlink()
            if not any(self._folder.iterdir()):
                self._folder.rmdir()


def key_of(options: dict[str, Any], windows: Tensor, model: nn.Module) -> str:
    """A fingerprint of all that decides a calibration's result."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    digest.update(windows.numpy().tobytes())
    for name, value in model.named_parameters():
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        sample = value.detach().flatten()[:: max(1, value.numel() // 64)]
        digest.update(sample.float().cpu().numpy().tobytes())
    return digest.hexdigest()
