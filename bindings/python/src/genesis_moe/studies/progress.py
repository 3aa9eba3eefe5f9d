"""Progress bars with the time left; silent when the error stream is not a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from genesis_moe._extras import install_command


class Progress:
    """One bar per running piece of work and one for the whole, on standard error."""

    def __init__(self, description: str, total: int, *, enabled: bool = True) -> None:
        self._bars: dict[str, Any] = {}
        self._display: Any = None
        self._total = total
        self._description = description
        if enabled and sys.stderr.isatty():
            self._display = _rich_display()

    def __enter__(self) -> Progress:
        if self._display is not None:
            self._display.start()
            self._whole = self._display.add_task(self._description, total=self._total)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._display is not None:
            self._display.stop()

    def advance(self, name: str, completed: int, total: int, note: str = "") -> None:
        """Says that `completed` of `total` steps of the work `name` are done."""
        if self._display is None:
            return
        if name not in self._bars:
            self._bars[name] = self._display.add_task(name, total=total)
        self._display.update(self._bars[name], completed=completed, description=f"{name} {note}".rstrip())

    def finish(self, name: str) -> None:
        """Takes the bar of `name` away and moves the whole one piece on."""
        if self._display is None:
            return
        if name in self._bars:
            self._display.remove_task(self._bars.pop(name))
        self._display.advance(self._whole)


def _rich_display() -> Any:
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        print(f"No progress bars; for them: {install_command('plots')}", file=sys.stderr)
        return None
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
