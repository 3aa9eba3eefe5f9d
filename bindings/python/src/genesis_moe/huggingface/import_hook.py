"""Run a function once a module has been imported, without importing it.

A finder at the front of ``sys.meta_path`` waits for the module, asks the other finders for
it in the usual order, and lets the loader that they return do all the work: only that one
loader's ``exec_module`` is followed by our callback. The finder leaves ``sys.meta_path``
when nothing is awaited any more. Import hooks of others (coverage, typeguard, editable
installs) see the same specs and loaders as without us.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Callback = Callable[[ModuleType], None]

_lock = threading.RLock()
_awaited: dict[str, Callback] = {}


def when_imported(name: str, callback: Callback) -> None:
    """Calls ``callback(module)`` once: now if the module is imported, else right after it is.

    name: the full dotted name. A second callback for a name still awaited replaces the first.
    An exception of the callback propagates to whoever imports the module.
    """
    with _lock:
        if name not in sys.modules:
            _awaited[name] = callback
            if _finder not in sys.meta_path:
                sys.meta_path.insert(0, _finder)
            return
    # Another thread may be importing it at this moment: this waits for that thread.
    callback(importlib.import_module(name))


def _arrived(name: str) -> Callback | None:
    with _lock:
        callback = _awaited.pop(name, None)
        if not _awaited and _finder in sys.meta_path:
            sys.meta_path.remove(_finder)
        return callback


class _Finder:
    """The waiting entry of ``sys.meta_path``."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _awaited:
            return None
        for finder in list(sys.meta_path):
            find_spec = getattr(finder, "find_spec", None)
            if find_spec is None or isinstance(finder, _Finder):
                continue
            spec: ModuleSpec | None = find_spec(name, path, target)
            if spec is not None:
                _follow(spec)
                return spec
        return None


def _follow(spec: ModuleSpec) -> None:
    """Makes the execution of this module end with the callback that awaits it.

    The method is shadowed on the loader instance, because the type of the loader matters to
    others: ``inspect`` and ``pkgutil`` dispatch on it.
    """
    loader: Any = spec.loader
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        callback = _arrived(module.__name__)
        if callback is not None:
            callback(module)

    loader.exec_module = exec_module


_finder = _Finder()
