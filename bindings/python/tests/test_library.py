"""Finding, opening and refusing the shared library; what an import does and does not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import genesis_moe as gm
from genesis_moe._extras import EXTRAS

SOURCE = str(Path(gm.__file__).parents[1])


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    variables = {**os.environ, "PYTHONPATH": SOURCE, **environment}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=variables
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light() -> None:
    found = json.loads(
        python(
            "import json, os, sys, time\n"
            "before = os.listdir('/proc/self/task')\n"
            "start = time.perf_counter(); import genesis_moe; seconds = time.perf_counter() - start\n"
            "print(json.dumps({'seconds': seconds, 'threads': len(os.listdir('/proc/self/task')) - len(before),"
            " 'modules': [m for m in ('torch', 'numpy', 'transformers', 'ctypes') if m in sys.modules],"
            " 'maps': 'libgenesis_moe' in open('/proc/self/maps').read()}))"
        )
    )
    assert found["threads"] == 0
    assert found["modules"] == []
    assert found["maps"] is False
    assert found["seconds"] < 0.5  # 0.02 on a quiet machine; the bench measures it


def test_numpy_needs_no_torch() -> None:
    code = """
import sys
sys.modules["torch"] = None
import numpy as np, genesis_moe as gm
y = gm.functional.experts(np.ones((1, 2), np.float32), np.zeros((1, 1), np.int64), np.ones((1, 1), np.float32),
                          np.ones((1, 2, 2), np.float32), np.ones((1, 2, 1), np.float32))
print(y.shape)
try:
    gm.MoE
except ImportError as error:
    print(error)
"""
    shape, message = python(code).splitlines()
    assert shape == "(1, 2)"
    assert message == "genesis_moe.MoE needs torch, which is not installed: pip install 'torch>=2.6'"


def test_every_public_name_is_there() -> None:
    for name in gm.__all__:
        assert getattr(gm, name) is not None
    assert callable(gm.step) and callable(gm.report) and callable(gm.doctor)
    assert set(gm.__all__) == set(dir(gm))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = gm.nonsense


REFUSED = """
import genesis_moe as gm
try:
    gm.doctor()
except gm.GenesisMoeError as error:
    print(type(error).__name__, isinstance(error, {base}), error)
"""


def test_a_missing_library_says_where_it_looked(tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere.so")
    output = python(REFUSED.format(base="OSError"), GENESIS_MOE_LIBRARY=missing)
    assert output.startswith("LibraryNotFoundError True")
    assert missing + ": not there" in output


def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "libgenesis_moe.so").write_text("not an ELF file")
    output = python(REFUSED.format(base="OSError"), GENESIS_MOE_LIBRARY=str(tmp_path))
    assert output.startswith("LibraryNotFoundError True")
    assert "invalid ELF header" in output or "file too short" in output


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("unsigned gmoe_abi_version(void) { return 99; }", "has ABI version 99, this Python package wants 1"),
        ("unsigned gmoe_abi_version(void) { return 1; }", "undefined symbol: gmoe_version"),
        ("int something_else;", "undefined symbol: gmoe_abi_version"),
    ],
)
def test_another_abi_is_refused(tmp_path: Path, source: str, said: str) -> None:
    (tmp_path / "other.c").write_text(source)
    library = str(tmp_path / "other.so")
    subprocess.run(["cc", "-shared", "-fPIC", str(tmp_path / "other.c"), "-o", library], check=True)
    output = python(REFUSED.format(base="RuntimeError"), GENESIS_MOE_LIBRARY=library)
    assert output.startswith("AbiMismatchError True")
    assert said in output


def test_versions_agree() -> None:
    found = gm.doctor()
    assert found["version"] == gm.__version__
    assert found["library"] == gm.library_path()
    assert found["packages"]["torch"]
    assert json.loads(json.dumps(found)) == found


FORK = """
import os, sys
import numpy as np
import genesis_moe as gm
{before}
child = os.fork()
if child == 0:
    try:
        x, weights = np.ones((4096, 64), np.float32), np.ones((4096, 1), np.float32)
        index = np.zeros((4096, 1), np.int64)
        gm.functional.experts(x, index, weights, np.ones((1, 128, 64), np.float32), np.ones((1, 64, 64), np.float32))
        print("ran", flush=True)
    except gm.ForkedError as error:
        print("forked", isinstance(error, RuntimeError), error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_a_forked_child_is_told() -> None:
    output = python(FORK.format(before="gm.doctor()"))
    assert output.startswith("forked True")
    assert "fork" in output.removeprefix("forked True")


@pytest.mark.parametrize(
    "before",
    ["", "import torch; torch.add(torch.ones(1 << 20), 1.0)"],
    ids=["alone", "after-a-parallel-region"],
)
def test_a_child_forked_before_the_first_use_works(before: str) -> None:
    """Also where the parent had a team of OpenMP's, which the child has not."""
    assert python(FORK.format(before=before)) == "ran\n"


def test_dataloader_workers_that_do_not_use_it_are_fine() -> None:
    code = """
import torch
from torch.utils.data import DataLoader
import genesis_moe as gm
layer = gm.MoE(8, 8, 4)
class Data(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): import genesis_moe; return torch.full((8,), float(i))
total = sum(layer(batch).sum().item() for batch in DataLoader(Data(), batch_size=2, num_workers=2))
print(total == total)
"""
    assert python(code) == "True\n"


def test_install_commands_are_of_what_the_extras_need() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    section = project.partition("[project.optional-dependencies]\n")[2].partition("\n\n")[0]
    declared = dict(re.findall(r"^(\w+) = (.*)$", section, re.M))
    assert {name: list(needs) for name, needs in EXTRAS.items()} == {
        name: json.loads(needs) for name, needs in declared.items()
    }


TEAM = """
import hashlib, json, torch, genesis_moe as gm
torch.set_num_threads({threads})
torch.manual_seed(0)
layer = gm.MoE(64, 96, 8, top_k=2)
x = torch.randn(512, 64, requires_grad=True)
layer(x).square().sum().backward()
found = [x.grad, *(p.grad for p in layer.parameters())]
digest = hashlib.sha256(b"".join(one.numpy().tobytes() for one in found)).hexdigest()
print(json.dumps([digest, gm.doctor()["openmp"]]))
"""


def test_finds_the_threads_of_torch() -> None:
    """Torch's runtime is found, and results do not depend on whose threads compute; capi/team_test.go sees whose do."""
    own, runtimes = json.loads(python(TEAM.format(threads=2), GENESIS_MOE_THREADS="own"))
    assert runtimes == []
    for threads in (1, 2, 3):
        digest, runtimes = json.loads(python(TEAM.format(threads=threads)))
        assert digest == own
        assert any("omp" in Path(path).name for path in runtimes)
