"""Reads the records of runs: files of JSON lines, see Go's package core/energy/record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genesis_moe._library import check, library
from genesis_moe.errors import InvalidArgumentError

SCHEMA = 1


def read_record(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a run, each a dict with its ``kind``; the first is the header, of kind "run".

    A last line that was cut off, as a killed process leaves it, is taken for the end. Lines of
    kinds that are not known may appear: pass over them.
    """
    with Path(path).open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                return
            try:
                line = json.loads(text)
            except ValueError as error:
                raise InvalidArgumentError(f"{path}: line {number}: {error}") from error
            if not isinstance(line, dict) or "kind" not in line:
                raise InvalidArgumentError(f"{path}: line {number}: no object with a kind")
            if number == 1 and (line["kind"] != "run" or not 1 <= line.get("schema", 0) <= SCHEMA):
                raise InvalidArgumentError(
                    f"{path}: line 1: kind {line['kind']!r}, schema {line.get('schema')}, want a run of schema {SCHEMA}"
                )
            yield line


def export_csv(path: str | Path, csv_path: str | Path) -> None:
    """Writes the steps of a run as CSV; what is not known is an empty cell."""
    check(library().gmoe_record_csv(str(path).encode(), str(csv_path).encode()))
