"""``import genesis_moe`` in fresh processes: what it loads, and in which order the imports may come."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import genesis_moe

SRC = str(Path(genesis_moe.__file__).parents[1])


def run(code: str, tmp_path: Path) -> str:
    """The standard output of a fresh interpreter that can import genesis_moe and modules in tmp_path."""
    setup = f"import sys; sys.path[:0] = [{SRC!r}, {str(tmp_path)!r}]\n"
    command = [sys.executable, "-c", setup + textwrap.dedent(code)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_package_loads_neither_torch_nor_transformers(tmp_path: Path) -> None:
    loaded = run(
        """
        import genesis_moe, genesis_moe.huggingface
        print([name for name in ("torch", "transformers", "numpy.testing") if name in sys.modules])
        """,
        tmp_path,
    )
    assert loaded == "[]"


def test_transformers_may_come_second(tmp_path: Path) -> None:
    # A package as small as the order of its imports: the real one takes many seconds.
    package = tmp_path / "transformers"
    (package / "integrations").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "integrations" / "__init__.py").touch()
    (package / "integrations" / "moe.py").write_text("print('moe')")
    (package / "modeling_utils.py").write_text(
        "import transformers.integrations.moe\nclass PreTrainedModel: pass\nprint('modeling_utils')"
    )
    out = run(
        """
        import types
        import genesis_moe
        for name, function in (("experts", lambda: print("experts") or True), ("restore", print)):
            sys.modules[f"genesis_moe.huggingface.{name}"] = types.SimpleNamespace(register=function)
        import transformers.modeling_utils
        print([f for f in sys.meta_path if type(f).__module__.startswith("genesis_moe")])
        """,
        tmp_path,
    )
    assert out.split("\n") == [
        "moe",
        "modeling_utils",
        "experts",
        "<class 'transformers.modeling_utils.PreTrainedModel'>",
        "[]",
    ]


def test_experts_are_registered_when_transformers_came_first() -> None:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    from transformers.modeling_utils import PreTrainedModel

    genesis_moe.huggingface.install()
    post_init = PreTrainedModel.post_init
    genesis_moe.huggingface.install()
    assert "genesis_moe" in ALL_EXPERTS_FUNCTIONS
    assert post_init.__name__ == "post_init"
    assert PreTrainedModel.post_init is post_init  # wrapped once


HOOK = """
import sys
from genesis_moe.huggingface.import_hook import when_imported
sys.meta_path[:] = [f for f in sys.meta_path if not type(f).__module__.startswith("genesis_moe")]
seen = []
"""


def test_the_callback_runs_after_the_module_and_only_once(tmp_path: Path) -> None:
    (tmp_path / "awaited.py").write_text("value = 42\n")
    out = run(
        HOOK
        + """
when_imported("awaited", lambda module: seen.append(module.value))
import awaited, importlib, inspect, importlib.machinery
importlib.reload(awaited)
when_imported("awaited", lambda module: seen.append("again"))
print(seen, type(awaited.__loader__) is importlib.machinery.SourceFileLoader, inspect.getsource(awaited).strip())
""",
        tmp_path,
    )
    assert out == "[42, 'again'] True value = 42"


def test_other_finders_are_asked_in_their_order_and_may_wrap_the_loader(tmp_path: Path) -> None:
    (tmp_path / "awaited.py").write_text("value = 42\n")
    out = run(
        HOOK
        + """
import importlib.abc, importlib.machinery
class Loader(importlib.abc.Loader):
    def create_module(self, spec): return None
    def exec_module(self, module): module.value = "theirs"
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, Loader()) if name == "awaited" else None
when_imported("awaited", lambda module: seen.append(module.value))
sys.meta_path.insert(1, Finder())
import awaited
print(seen, type(awaited.__loader__).__name__)
""",
        tmp_path,
    )
    assert out == "['theirs'] Loader"


def test_a_module_that_fails_or_is_missing_stays_awaited(tmp_path: Path) -> None:
    (tmp_path / "awaited.py").write_text(
        "import sys\nif not hasattr(sys, 'ready'): raise RuntimeError('not yet')\n"
    )
    out = run(
        HOOK
        + """
when_imported("awaited", lambda module: seen.append("awaited"))
when_imported("missing_module", lambda module: seen.append("missing"))
for name in ("missing_module", "awaited"):
    try: __import__(name)
    except (RuntimeError, ModuleNotFoundError) as error: print(type(error).__name__)
sys.ready = True
import awaited
print(seen)
""",
        tmp_path,
    )
    assert out.split("\n") == ["ModuleNotFoundError", "RuntimeError", "['awaited']"]


def test_an_older_transformers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    from genesis_moe.huggingface import experts

    monkeypatch.setitem(sys.modules, "transformers.integrations.moe", None)
    assert not experts.register()
    monkeypatch.delattr(transformers.PreTrainedModel, "set_experts_implementation")
    with pytest.raises(
        ImportError, match=r"has no PreTrainedModel.set_experts_implementation.*transformers>=5.7"
    ):
        genesis_moe.inject(None)
